"""Validation ground reduced to arithmetic: who overlaps whom, who is a hit, on which block of ground.

Overlaps do not depend on scores, so they are found once; calibrated scores are judged again without
touching a polygon. Thresholds and calibration rest on these arrays.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import shapely

from pipeline.matching import Pairs, overlapping_pairs, valid_polygons, walk


class TileSample(NamedTuple):
    """Detections and truth of one validation tile, or merged of one image's ground, all in one frame."""

    polygons: np.ndarray
    """object[n], the detections."""
    probabilities: np.ndarray
    """float64[n, k], probability per category in [0, 1]."""
    truth_polygons: np.ndarray
    """object[m], the buildings that should be found."""
    truth_categories: np.ndarray
    """int64[m], index of the category; -1 where unknown, which counts only among all buildings."""
    ignored_polygons: np.ndarray
    """object[i], items nobody is asked to find: barely visible."""


class Evidence(NamedTuple):
    """What all samples say together, geometry left behind."""

    probabilities: np.ndarray
    """float64[n, k], of the detections."""
    truth_categories: np.ndarray
    """int64[m], -1 where unknown."""
    pairs: Pairs
    """Detections and truths that overlap enough, never of two samples."""
    ignored: np.ndarray
    """bool[n], detections mostly on ignored items."""
    blocks: np.ndarray
    """int64[n], the block of ground that each detection's centre lies in, from 0 without gaps."""
    truth_blocks: np.ndarray
    """int64[m], the same of each truth."""

    @property
    def block_count(self) -> int:
        """Blocks that hold anything."""
        return int(max(self.blocks.max(initial=-1), self.truth_blocks.max(initial=-1))) + 1


class Outcomes(NamedTuple):
    """Detections that count, of one category or of all, and whether they are hits."""

    scores: np.ndarray
    """float64[n]."""
    hits: np.ndarray
    """bool[n]."""
    blocks: np.ndarray
    """int64[n]."""
    truths: np.ndarray
    """int64[b], buildings that should be found, per block."""


def gather(
    samples: Iterable[TileSample], k: int, *, min_iou: float, max_ignored_share: float, block_px: float
) -> Evidence:
    """Who overlaps whom in all samples, and on which block of ground everything lies.

    Args:
        samples: read once; their polygons are let go one after the other.
        k: number of categories.
        min_iou: overlap that a match must exceed, share in [0, 1).
        max_ignored_share: share of a detection's area on ignored items above which it is ignored.
        block_px: side of a block in pixels of the samples; blocks of different samples are different.
    """
    parts, cells, truth_cells = [_nothing(k)], [np.empty((0, 3), np.int64)], [np.empty((0, 3), np.int64)]
    n = m = 0
    for number, sample in enumerate(samples):
        polygons = valid_polygons(sample.polygons)
        pairs = overlapping_pairs(polygons, sample.truth_polygons, min_iou)
        parts.append(
            _nothing(k)._replace(
                probabilities=np.asarray(sample.probabilities, dtype=np.float64).reshape(len(polygons), k),
                truth_categories=np.asarray(sample.truth_categories, dtype=np.int64),
                pairs=Pairs(pairs.proposals + n, pairs.truths + m, pairs.ious),
                ignored=_ignored_shares(polygons, sample.ignored_polygons) > max_ignored_share,
            )
        )
        cells.append(_cells(polygons, number, block_px))
        truth_cells.append(_cells(sample.truth_polygons, number, block_px))
        n, m = n + len(polygons), m + len(sample.truth_polygons)
    _, blocks = np.unique(np.concatenate(cells + truth_cells), axis=0, return_inverse=True)
    pairs = Pairs(*(np.concatenate(column) for column in zip(*(part.pairs for part in parts), strict=True)))
    return Evidence(
        probabilities=np.concatenate([part.probabilities for part in parts]),
        truth_categories=np.concatenate([part.truth_categories for part in parts]),
        pairs=pairs,
        ignored=np.concatenate([part.ignored for part in parts]),
        blocks=blocks[:n],
        truth_blocks=blocks[n:],
    )


def _nothing(k: int) -> Evidence:
    none = np.empty(0, dtype=np.int64)
    pairs = Pairs(none, none, np.empty(0))
    return Evidence(np.empty((0, k)), none, pairs, np.empty(0, dtype=bool), none, none)


def _cells(polygons: np.ndarray, sample: int, block_px: float) -> np.ndarray:
    """int64[n, 3]: the sample, and column and row of the block; the first for what has no centre."""
    centres = shapely.centroid(np.asarray(polygons, dtype=object))
    xy = np.column_stack([shapely.get_x(centres), shapely.get_y(centres)]).reshape(-1, 2)
    return np.insert(np.floor(np.nan_to_num(xy) / block_px).astype(np.int64), 0, sample, axis=1)


def _ignored_shares(polygons: np.ndarray, ignored_polygons: np.ndarray) -> np.ndarray:
    """float64[n], share of each polygon's area on ignored items; NaN for what has no area."""
    # Parts of a union share no area, so that what is lost to each of them adds up.
    parts = shapely.get_parts(shapely.union_all(valid_polygons(ignored_polygons)))
    mine, part = shapely.STRtree(parts).query(polygons, predicate="intersects")
    shared = shapely.area(shapely.intersection(polygons[mine], parts[part]))
    areas = shapely.area(polygons)
    lost = np.bincount(mine, shared, minlength=len(polygons))
    return np.divide(lost, areas, out=np.full(len(polygons), np.nan), where=areas > 0)


def outcomes(evidence: Evidence, kept: np.ndarray | None = None) -> tuple[list[Outcomes], Outcomes]:
    """Judged detections by category, and judged without regard to category.

    Args:
        evidence: of all samples.
        kept: bool[n], the detections that take part; None for all.
    """
    k = evidence.probabilities.shape[1]
    proposed, scores = evidence.probabilities.argmax(axis=1), evidence.probabilities.max(axis=1)
    pairs = evidence.pairs if kept is None else evidence.pairs.where(kept[evidence.pairs.proposals])
    alike = proposed[pairs.proposals] == evidence.truth_categories[pairs.truths]
    # Categories share no detection and no truth, so that one walk over equals serves all of them.
    within, together = walk(pairs.where(alike), scores) >= 0, walk(pairs, scores) >= 0
    judged = np.ones(len(scores), dtype=bool) if kept is None else kept

    def collect(rows: np.ndarray, hits: np.ndarray, truths: np.ndarray) -> Outcomes:
        rows = rows & judged & (hits | ~evidence.ignored)
        present = np.bincount(evidence.truth_blocks[truths], minlength=evidence.block_count)
        return Outcomes(scores[rows], hits[rows], evidence.blocks[rows], present)

    by_category = [
        collect(proposed == index, within, evidence.truth_categories == index) for index in range(k)
    ]
    everything = np.ones(len(scores), dtype=bool), together, np.ones(len(evidence.truth_categories), bool)
    return by_category, collect(*everything)
