"""Which buildings to keep: the score threshold of each category, chosen on validation tiles.

The metric counts every building submitted, so that the cut is made before. A walk in falling rank
does not change above a cut, so one walk per tile tells the counts at every threshold.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import shapely

from pipeline.matching import MIN_IOU, overlapping_pairs, valid_polygons, walk


@dataclass(frozen=True)
class ThresholdRules:
    """How thresholds are chosen."""

    default: float = 0.5
    """Threshold of a category without a single hit on the validation tiles; score in [0, 1]."""
    min_iou: float = MIN_IOU
    """Overlap that a match must exceed; share in [0, 1)."""
    max_ignored_share: float = 0.5
    """Share of a detection's area on ignored items above which its failure does not count."""


class TileSample(NamedTuple):
    """Detections and truth of one validation tile, all in one frame."""

    polygons: np.ndarray
    """object[n], the detections."""
    probabilities: np.ndarray
    """float64[n, k], probability per category in [0, 1]."""
    truth_polygons: np.ndarray
    """object[m], the buildings that should be found."""
    truth_categories: np.ndarray
    """int64[m], index of the category."""
    ignored_polygons: np.ndarray
    """object[i], items nobody is asked to find: barely visible, or of unknown condition."""


class _Outcomes(NamedTuple):
    """Judged detections: category int64[n], score float64[n], whether it is a hit bool[n]."""

    categories: np.ndarray
    scores: np.ndarray
    hits: np.ndarray


def choose_thresholds(
    samples: Iterable[TileSample], categories: Sequence[str], rules: ThresholdRules = ThresholdRules()
) -> dict[str, float]:
    """Threshold per category that makes its F1 over all samples best; keep `score >= threshold`.

    Each tile is judged by itself, the counts are pooled. The threshold is the middle of the gap
    between the lowest score kept and the highest dropped (0 when none is); among equally good cuts
    the one in the widest gap, then the higher.

    Args:
        samples: the validation tiles, read once.
        categories: the k names.
        rules: how to choose.
    """
    truths = np.zeros(len(categories), dtype=np.int64)
    judged = [_Outcomes(np.empty(0, dtype=np.int64), np.empty(0), np.empty(0, dtype=bool))]
    for sample in samples:
        known = np.asarray(sample.truth_categories, dtype=np.int64)
        truths += np.bincount(known[known >= 0], minlength=len(categories))
        judged.append(_judge(sample, len(categories), rules))
    outcomes = _Outcomes(*(np.concatenate(column) for column in zip(*judged, strict=True)))
    thresholds = {}
    for index, name in enumerate(categories):
        mine = outcomes.categories == index
        cut = _best_cut(outcomes.scores[mine], outcomes.hits[mine], int(truths[index]))
        thresholds[name] = rules.default if cut is None else cut
    return thresholds


def _judge(sample: TileSample, k: int, rules: ThresholdRules) -> _Outcomes:
    probabilities = np.asarray(sample.probabilities, dtype=np.float64).reshape(len(sample.polygons), k)
    proposed, scores = probabilities.argmax(axis=1), probabilities.max(axis=1)
    truth_categories = np.asarray(sample.truth_categories, dtype=np.int64)
    polygons = valid_polygons(sample.polygons)
    pairs = overlapping_pairs(polygons, sample.truth_polygons, rules.min_iou)
    hits = walk(pairs.where(proposed[pairs.proposals] == truth_categories[pairs.truths]), scores) >= 0
    ignored = shapely.union_all(valid_polygons(sample.ignored_polygons))
    lost = shapely.area(shapely.intersection(polygons, ignored))
    counted = hits | ~(lost > rules.max_ignored_share * shapely.area(polygons))
    return _Outcomes(proposed[counted], scores[counted], hits[counted])


def _best_cut(scores: np.ndarray, hits: np.ndarray, truths: int) -> float | None:
    if not hits.any():
        return None
    order = np.argsort(-scores, kind="stable")
    scores, found = scores[order], np.cumsum(hits[order])
    f1 = 2 * found / (np.arange(1, len(scores) + 1) + truths)
    # Equal scores are kept or dropped together.
    ends = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    kept, dropped = scores[ends], np.append(scores[ends][1:], 0.0)
    best = np.flatnonzero(f1[ends] == f1[ends].max())
    cut = best[np.argmax((kept - dropped)[best])]
    middle = float((kept[cut] + dropped[cut]) / 2)
    return middle if middle > dropped[cut] else float(kept[cut])
