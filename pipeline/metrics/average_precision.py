"""COCO's average precision, computed on polygons.

Rasterising an orthomosaic for pycocotools would take gigabytes, and IoUs of polygons are exact anyway.
The rules are COCO's: at each overlap from 0.50 to 0.95, proposals in falling score take the truth of
their category that they overlap best (at least so much; of equals the last), and precision, made
falling, is averaged over 101 recalls. Three things differ, for an image is not a photograph: all
proposals count, not the 100 best; there is one image; a proposal has one category, that of its highest
probability, which is its score.

Source: T.-Y. Lin et al., Microsoft COCO (ECCV 2014), and its evaluation program, `COCOeval`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.matching import Pairs, walk
from pipeline.schema import Artifact

IOUS = np.linspace(0.5, 0.95, 10)
"""Overlaps that a match must reach, one after the other."""
RECALLS = np.linspace(0, 1, 101)
"""Recalls at which precision is read."""
MIN_IOU = float(np.nextafter(0.5, 0))
"""For `overlapping_pairs`, whose pairs lie above it: 0.5 itself is a match to COCO."""


class AveragePrecision(Artifact):
    """COCO's headline numbers; None where there is no truth to find."""

    ap: float | None
    """Mean over the overlaps from 0.50 to 0.95 and over the categories that have truths."""
    ap50: float | None
    """At an overlap of 0.50."""
    ap75: float | None
    """At an overlap of 0.75."""
    categories: dict[str, float | None]
    """`ap` of each category."""
    all_buildings: float | None
    """`ap` without regard to category; truths of unknown condition count here alone."""


def average_precision(
    pairs: Pairs,
    probabilities: np.ndarray,
    truth_categories: np.ndarray,
    categories: Sequence[str],
) -> AveragePrecision:
    """COCO's average precision of proposals whose overlaps are known.

    Args:
        pairs: all pairs of proposal and truth with an IoU of at least 0.5, of masks, boxes or what else.
        probabilities: float64[n, k] by category; equal scores rank in the order given.
        truth_categories: int64[m], index into `categories`, -1 where unknown.
        categories: the k names.
    """
    proposed, scores = probabilities.argmax(axis=1), probabilities.max(axis=1)
    order = np.argsort(-scores, kind="stable")
    alike = proposed[pairs.proposals] == truth_categories[pairs.truths]
    # Numbered backwards, the last of equals is the first, which is the one that the walk takes.
    backwards = pairs._replace(truths=len(truth_categories) - 1 - pairs.truths)
    truths = [int(np.count_nonzero(truth_categories == index)) for index in range(len(categories))]
    table = np.full((len(categories) + 1, len(IOUS)), np.nan)
    for column, iou in enumerate(IOUS):
        enough = pairs.ious >= iou
        within = (walk(backwards.where(enough & alike), scores) >= 0)[order]
        together = (walk(backwards.where(enough), scores) >= 0)[order]
        for index, count in enumerate(truths):
            table[index, column] = _precision(within[proposed[order] == index], count)
        table[-1, column] = _precision(together, len(truth_categories))
    known = table[:-1][np.array(truths, dtype=int) > 0]
    by_category = [_mean(row) for row in table]
    return AveragePrecision(
        ap=_mean(known),
        ap50=_mean(known[:, 0]),
        ap75=_mean(known[:, 5]),
        categories=dict(zip(categories, by_category[:-1], strict=True)),
        all_buildings=by_category[-1],
    )


def _precision(hits: np.ndarray, truths: int) -> float:
    """Precision averaged over `RECALLS`, of bool[n] in falling rank; NaN without a truth."""
    if not truths:
        return np.nan
    found = np.cumsum(hits)
    precision = found / np.arange(1, len(hits) + 1)
    falling = np.maximum.accumulate(precision[::-1])[::-1]
    # A recall that is never reached has precision 0.
    return float(np.append(falling, 0.0)[np.searchsorted(found / truths, RECALLS)].mean())


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if values.size and not np.isnan(values).any() else None
