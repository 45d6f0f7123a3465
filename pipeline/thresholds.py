"""Which buildings to keep: the score threshold of each category, chosen on validation ground.

The metric counts every building submitted, so that the cut is made before. A walk in falling rank
does not change above a cut, so one walk tells the counts at every threshold.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from annotated_types import Interval

from models.ranges import InnerShare, Natural, Positive, Share
from pipeline.bootstrap import Estimate, draw_blocks, f1_score
from pipeline.evidence import Evidence, Outcomes, TileSample, gather, outcomes
from pipeline.matching import MIN_IOU
from pipeline.rules import Rules
from pipeline.schema import Artifact

LEVELS = 256
"""Most thresholds that a drawing of blocks chooses from, evenly among the ranks."""
DOUBT = 2.0
"""Standard errors of F1 that a threshold may lack to the best one: what chance alone would bring."""


@dataclass(frozen=True)
class ThresholdRules(Rules):
    """How thresholds are chosen."""

    objective: Literal["mean_f1", "all_f1"] = "mean_f1"
    """What thresholds are optimised for: the mean of the categories' F1, with one threshold per category, or
    the F1 of all buildings regardless of category, with one threshold for all."""
    target_precision: Share = 0.0
    """Share of the published buildings that must be right on held-out ground: thresholds below that
    reach it are left out, or where none does the most precise is taken; 0 asks for none."""
    default: Share = 0.5
    """Threshold of a category without a single hit on the validation tiles."""
    min_iou: Annotated[float, Interval(ge=0, lt=1)] = MIN_IOU
    """Overlap that a match must exceed."""
    max_ignored_share: Share = 0.5
    """Share of a detection's area on ignored labels above which it is no false positive."""
    block_px: Positive = 1024.0
    """Side in pixels of the squares of ground that are drawn together for intervals."""
    resamples: Natural = 200
    """Number of bootstrap resamples for confidence intervals; 0 for no intervals."""
    confidence: InnerShare = 0.95
    """Share of the drawings inside an interval."""


class Cut(Artifact):
    """A threshold, what it keeps, and how sure both are."""

    threshold: Estimate
    """Keep `score >= threshold`."""
    f1: Estimate
    """At this threshold, on the ground it was chosen on."""
    precision: Estimate
    """Share of what is kept that is right, there."""
    f1_elsewhere: float | None
    """F1 that thresholds chosen on drawn blocks reach on the blocks not drawn, all drawings together; None
    without two blocks. What it lacks to `f1` is how far the choice flatters itself on so little ground."""
    hits: int
    kept: int
    truths: int


def choose_thresholds(
    samples: Iterable[TileSample], categories: Sequence[str], rules: ThresholdRules = ThresholdRules()
) -> dict[str, float]:
    """Threshold per category that makes its F1 over these samples best; keep `score >= threshold`.

    What training compares its epochs by. What is to be published elsewhere is cut by `choose_cut`.

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
    """The threshold that other ground of the same kind asks for, and its F1, with intervals.

    Where confidences mean what they say, F1 is best at half of the best F1. The best threshold of one
    piece of ground is mostly noise, so it is left for that half, as far as the drawings of blocks do not
    speak against it: of the thresholds whose F1 is less than `DOUBT` standard errors below the best, the
    one nearest to half of the best F1.

    Source: Z. Lipton, C. Elkan, B. Naryanaswamy, Optimal Thresholding of Classifiers to Maximize F1 Measure
    (2014), theorem 1; L. Breiman et al., Classification and Regression Trees (1984), for standard errors as
    the measure of what may be given up.

    Args:
        judged: of one category, or of all buildings.
        rules: the knobs. Without two blocks to draw from, only an equally good threshold is taken.
    """
    if not judged.hits.any():
        return _cut_by_default(judged, rules)
    levels = _levels(judged.scores, _best_threshold(judged, rules.default))
    draws = draw_blocks(len(judged.truths), rules.resamples)
    counts = _counts(judged, levels, np.ones((1, len(judged.truths))))
    drawn_counts = _counts(judged, levels, draws)
    f1, drawn = f1_score(*counts), f1_score(*drawn_counts)
    precision, drawn_precision = _precision(counts), _precision(drawn_counts)
    error = (drawn - drawn[:, [f1.argmax()]]).std(axis=0) if len(draws) else np.zeros(len(levels))
    gaps = _gaps(judged.scores, levels)
    target = rules.target_precision
    (threshold,), (at,) = _nearest_to_half(_precise(f1, precision, target), levels, gaps, error)
    thresholds, others = _nearest_to_half(_precise(drawn, drawn_precision, target), levels, gaps, error)
    elsewhere = _counts(judged, levels, (draws == 0).astype(float))
    return Cut(
        threshold=Estimate.of(float(threshold), thresholds, rules.confidence),
        f1=Estimate.of(float(f1[0, at]), drawn[:, at], rules.confidence),
        precision=Estimate.of(float(precision[0, at]), drawn_precision[:, at], rules.confidence),
        f1_elsewhere=_pooled_f1(elsewhere, others) if len(draws) else None,
        hits=int(counts[0][0, at]),
        kept=int(counts[1][0, at]),
        truths=int(counts[2][0, at]),
    )


def _precision(counts: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
    """float64[r, l], hits per kept, 0 where nothing is kept."""
    hits, kept, _ = counts
    return np.divide(hits, kept, out=np.zeros_like(hits), where=kept > 0)


def _precise(f1: np.ndarray, precision: np.ndarray, target: float) -> np.ndarray:
    """The F1 of levels that are precise enough, or the most precise of their row; of the others nothing."""
    asked = np.minimum(target, precision.max(axis=1, keepdims=True))
    return np.where(precision >= asked, f1, -np.inf)


def _nearest_to_half(
    f1: np.ndarray, levels: np.ndarray, gaps: np.ndarray, error: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Thresholds float64[r] and their levels int64[r], nearest to half of the best F1 and hardly worse.

    Args:
        f1: float64[r, l], a row for each drawing.
        levels: float64[l].
        gaps: float64[2, l], highest score that each level drops and lowest that it keeps: inside the gap a
            threshold may be anywhere.
        error: float64[l], standard error of what each level lacks to the best one.
    """
    best = f1.max(axis=1, keepdims=True)
    half, (dropped, kept) = best / 2, gaps
    beside = np.maximum(np.maximum(dropped - half, half - kept), 0)
    beside = np.where(f1 >= best - DOUBT * error, beside, np.inf)
    at = len(levels) - 1 - beside[:, ::-1].argmin(axis=1)  # a score at half is kept: the lower level's
    inside = (dropped[at] < half[:, 0]) & (half[:, 0] <= kept[at])
    return np.where(inside, half[:, 0], levels[at]), at


def _gaps(scores: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """float64[2, l], the highest score below each level, 0 without one, and the lowest from it on."""
    distinct = np.unique(scores)
    above = np.searchsorted(distinct, levels)
    return np.array([np.append(0.0, distinct)[above], distinct[above]])


def _pooled_f1(counts: tuple[np.ndarray, np.ndarray, np.ndarray], levels: np.ndarray) -> float:
    """F1 of all rows together, each at its own level."""
    hits, kept, truths = (np.take_along_axis(count, levels[:, None], axis=1).sum() for count in counts)
    return float(f1_score(hits, kept, truths))


def _cut_by_default(judged: Outcomes, rules: ThresholdRules) -> Cut:
    """The default, where nothing was right and no threshold is better than another."""
    kept, truths = int((judged.scores >= rules.default).sum()), int(judged.truths.sum())
    none = Estimate(value=0.0)
    return Cut(
        threshold=Estimate(value=rules.default),
        f1=none,
        precision=none,
        f1_elsewhere=None,
        hits=0,
        kept=kept,
        truths=truths,
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
