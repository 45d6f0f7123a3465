"""Which buildings to keep: the score threshold of each category, chosen on validation ground.

The metric counts every building submitted, so that the cut is made before. A walk in falling rank
does not change above a cut, so one walk tells the counts at every threshold.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.bootstrap import Estimate, draw_blocks, f1_score
from pipeline.evidence import Evidence, Outcomes, TileSample, gather, outcomes
from pipeline.matching import MIN_IOU
from pipeline.schema import Artifact

LEVELS = 256
"""Most thresholds that a drawing of blocks chooses from, evenly among the ranks."""


@dataclass(frozen=True)
class ThresholdRules:
    """How thresholds are chosen."""

    objective: Literal["mean_f1", "all_f1"] = "mean_f1"
    """What the thresholds make best: the mean of the categories' F1, each category with a threshold of its
    own, or the F1 of all buildings, with one threshold for all."""
    default: float = 0.5
    """Threshold of a category without a single hit on the validation tiles; score in [0, 1]."""
    min_iou: float = MIN_IOU
    """Overlap that a match must exceed; share in [0, 1)."""
    max_ignored_share: float = 0.5
    """Share of a detection's area on ignored items above which its failure does not count."""
    block_px: float = 1024.0
    """Side in pixels of the squares of ground that are drawn together for intervals; above 0."""
    resamples: int = 200
    """Drawings of blocks behind an interval; 0 for no intervals."""
    confidence: float = 0.95
    """Share of the drawings inside an interval, in (0, 1)."""

    def __post_init__(self) -> None:
        if not (self.block_px > 0 and self.resamples >= 0 and 0 < self.confidence < 1):
            raise ValueError("block_px must be above 0, resamples not below 0 and confidence inside (0, 1)")


class Cut(Artifact):
    """A threshold, what it keeps, and how sure both are."""

    threshold: Estimate
    """Keep `score >= threshold`."""
    f1: Estimate
    """At this threshold, on the ground it was chosen on."""
    f1_elsewhere: float | None
    """F1 that thresholds chosen on drawn blocks reach on the blocks not drawn, all drawings together; None
    without two blocks. What it lacks to `f1` is how far the choice flatters itself on so little ground."""
    hits: int
    kept: int
    truths: int


def choose_thresholds(
    samples: Iterable[TileSample], categories: Sequence[str], rules: ThresholdRules = ThresholdRules()
) -> dict[str, float]:
    """Threshold per category that makes its F1 over all samples best; keep `score >= threshold`.

    Each sample is judged by itself, the counts are pooled. The threshold is the middle of the gap
    between the lowest score kept and the highest dropped (0 when none is); among equally good cuts
    the one in the widest gap, then the higher.

    Args:
        samples: the validation tiles, read once.
        categories: the k names.
        rules: how to choose; each category by itself, whatever `objective` says.
    """
    by_category, _ = outcomes(evidence_of(samples, len(categories), rules))
    return {
        name: _best_threshold(mine, rules.default) for name, mine in zip(categories, by_category, strict=True)
    }


def evidence_of(samples: Iterable[TileSample], k: int, rules: ThresholdRules) -> Evidence:
    """What the samples say by these rules; `k` is the number of categories."""
    return gather(
        samples,
        k,
        min_iou=rules.min_iou,
        max_ignored_share=rules.max_ignored_share,
        block_px=rules.block_px,
    )


def _best_threshold(judged: Outcomes, default: float) -> float:
    if not judged.hits.any():
        return default
    order = np.argsort(-judged.scores, kind="stable")
    scores, found = judged.scores[order], np.cumsum(judged.hits[order])
    f1 = 2 * found / (np.arange(1, len(scores) + 1) + judged.truths.sum())
    # Equal scores are kept or dropped together.
    ends = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    kept, dropped = scores[ends], np.append(scores[ends][1:], 0.0)
    best = np.flatnonzero(f1[ends] == f1[ends].max())
    cut = best[np.argmax((kept - dropped)[best])]
    middle = float((kept[cut] + dropped[cut]) / 2)
    return middle if middle > dropped[cut] else float(kept[cut])


def choose_cut(judged: Outcomes, rules: ThresholdRules) -> Cut:
    """The best threshold and its F1, with intervals from drawings of blocks.

    A drawing chooses among at most `LEVELS` thresholds; equally good ones share its vote.

    Args:
        judged: of one category, or of all buildings.
        rules: the knobs.
    """
    threshold = _best_threshold(judged, rules.default)
    levels = _levels(judged.scores, threshold)
    at = int(np.flatnonzero(levels == threshold)[0])
    found = [int(count.flat[at]) for count in _counts(judged, levels, np.ones((1, len(judged.truths))))]
    draws = draw_blocks(len(judged.truths), rules.resamples if judged.hits.any() else 0)
    drawn = f1_score(*_counts(judged, levels, draws))
    best = drawn == drawn.max(axis=1, keepdims=True)
    votes = best / best.sum(axis=1, keepdims=True)
    chosen = np.where(drawn.any(axis=1), votes @ levels, rules.default)
    left_out = [(votes * count).sum() for count in _counts(judged, levels, (draws == 0).astype(float))]
    return Cut(
        threshold=Estimate.of(threshold, chosen, rules.confidence),
        f1=Estimate.of(float(f1_score(*np.array(found))), drawn[:, at], rules.confidence),
        f1_elsewhere=float(f1_score(*np.array(left_out))) if len(draws) else None,
        hits=found[0],
        kept=found[1],
        truths=found[2],
    )


def _levels(scores: np.ndarray, threshold: float) -> np.ndarray:
    """Falling thresholds between the scores, evenly thinned, `threshold` among them."""
    distinct = np.unique(scores)
    between = (distinct + np.append(0.0, distinct)[:-1]) / 2
    thinned = between[:: max(1, -(-len(between) // LEVELS))]
    return np.union1d(thinned, [threshold])[::-1]


def _counts(
    judged: Outcomes, levels: np.ndarray, draws: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hits, rows kept and truths of each drawing at each level, whole numbers in float64[r, l] each."""
    level = np.searchsorted(-levels, -judged.scores)  # the highest that keeps the row
    shape = len(judged.truths), len(levels) + 1
    cell = judged.blocks * shape[1] + level

    def kept(rows: np.ndarray) -> np.ndarray:
        table = np.bincount(cell[rows], minlength=shape[0] * shape[1]).reshape(shape)
        return draws @ table[:, :-1].cumsum(axis=1).astype(float)

    truths = np.repeat((draws @ judged.truths)[:, None], len(levels), axis=1)
    return kept(judged.hits), kept(np.ones_like(judged.hits)), truths


def expected_scores(
    evidence: Evidence, thresholds: np.ndarray, rules: ThresholdRules
) -> tuple[Estimate, Estimate]:
    """Mean F1 and F1 of all buildings at given thresholds, with intervals from drawings of blocks.

    Args:
        evidence: of all samples.
        thresholds: float64[k], by category.
        rules: the knobs.
    """
    best, scores = evidence.probabilities.argmax(axis=1), evidence.probabilities.max(axis=1)
    by_category, together = outcomes(evidence, scores >= np.asarray(thresholds)[best])
    draws = draw_blocks(evidence.block_count, rules.resamples)
    everything = np.ones((1, evidence.block_count))

    def estimate(parts: Sequence[Outcomes]) -> Estimate:
        value, drawn = (
            np.mean([f1_score(*_counts(part, np.zeros(1), rows))[:, 0] for part in parts], axis=0)
            for rows in (everything, draws)
        )
        return Estimate.of(float(value[0]), drawn, rules.confidence)

    return estimate(by_category), estimate([together])
