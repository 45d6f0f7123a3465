"""What a network's confidences mean and from which on its buildings are worth publishing.

First the temperature, then the thresholds: they are chosen on confidences as they will be published.
A detection is right when the walk of the metric gives it a truth of its category.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import shapely

from pipeline.bootstrap import Estimate
from pipeline.evidence import Evidence, TileSample, outcomes
from pipeline.matching import walk
from pipeline.schema import Versioned
from pipeline.temperature import BACKGROUND, Reliability, fit_temperature, reliability, temper
from pipeline.thresholds import Cut, ThresholdRules, choose_cut, evidence_of, expected_scores

UNLABELLED = -2
"""Label of a detection of which nobody knows what it should be."""


@dataclass(frozen=True)
class CalibrationRules:
    """How confidences are calibrated."""

    min_detections: int = 100
    """Minimum number of detections with known truth on held-out ground for confidences to be calibrated; at
    least 1."""

    def __post_init__(self) -> None:
        if self.min_detections < 1:
            raise ValueError(f"min_detections must be at least 1, not {self.min_detections}")


class Calibration(Versioned):
    """Calibration of a network's confidences, and its publication thresholds (`thresholds.json`)."""

    thresholds: dict[str, float]
    """Lowest confidence published by category, after temperature scaling."""
    temperature: float
    """Above 1 it lowers confidences; 1 leaves them unchanged."""
    objective: Literal["mean_f1", "all_f1"]
    """What the thresholds were optimised for."""
    mean_f1: Estimate
    """At `thresholds`, on the data they were chosen on."""
    all_f1: Estimate
    categories: dict[str, Cut]
    """The best threshold of each category by itself."""
    all_buildings: Cut
    """The best single threshold for all buildings."""
    before: Reliability
    """Before temperature scaling."""
    after: Reliability
    """After temperature scaling, of the same detections."""
    tiles: int
    """Number of validation tiles."""
    blocks: int
    """Number of square blocks that the bootstrap resamples."""
    truths: int
    """Number of buildings to be found."""
    validation: str
    """Digest of truths and ignored labels: equal for equal validation data."""
    weights: str
    """Digest of the network's weights."""

    @property
    def sentence(self) -> str:
        """The thresholds and what to expect of them, in words."""
        if not self.truths:
            return "No held-out ground to choose thresholds on: " + ", ".join(
                f"{name} {value:.2f}" for name, value in self.thresholds.items()
            )
        chosen = ", ".join(f"{name} {value:.2f}" for name, value in self.thresholds.items())
        return (
            f"{chosen} on {self.truths:,} held-out buildings: mean F1 {self.mean_f1}, all {self.all_f1}; "
            f"temperature {self.temperature:.2f}, expected calibration error "
            f"{self.before.expected_error:.3f} before, {self.after.expected_error:.3f} after"
        )


def calibrate(
    samples: Iterable[TileSample],
    categories: Sequence[str],
    thresholds: ThresholdRules,
    rules: CalibrationRules,
    *,
    tiles: int,
    weights: str,
) -> Calibration:
    """The temperature of a network's probabilities, and the thresholds that suit them then.

    The temperature is one number fitted to all labelled detections, so that its reliability on the ground
    it was fitted on is that elsewhere; of thresholds the same is not true (`Cut.f1_elsewhere`).

    Args:
        samples: of the validation ground, read once, probabilities as they are before any temperature:
            tiles, or better the buildings merged from them (`held_out.merged_sample`).
        categories: the k names.
        thresholds: how to choose them.
        rules: how to calibrate.
        tiles: how many the samples come from.
        weights: the network's digest.
    """
    digest = hashlib.sha256()
    evidence = evidence_of(_hashed(samples, digest), len(categories), thresholds)
    labels = true_labels(evidence)
    labelled = labels != UNLABELLED
    found, right = evidence.probabilities[labelled], labels[labelled]
    temperature = fit_temperature(found, right) if len(right) >= rules.min_detections else 1.0
    evidence = evidence._replace(probabilities=temper(evidence.probabilities, temperature))
    by_category, together = outcomes(evidence)
    cuts = {name: choose_cut(mine, thresholds) for name, mine in zip(categories, by_category, strict=True)}
    single = choose_cut(together, thresholds)
    chosen = cuts if thresholds.objective == "mean_f1" else dict.fromkeys(categories, single)
    limits = {name: cut.threshold.value for name, cut in chosen.items()}
    mean_f1, all_f1 = expected_scores(evidence, np.array(list(limits.values())), thresholds)
    return Calibration(
        thresholds=limits,
        temperature=temperature,
        objective=thresholds.objective,
        mean_f1=mean_f1,
        all_f1=all_f1,
        categories=cuts,
        all_buildings=single,
        before=reliability(found, right),
        after=reliability(temper(found, temperature), right),
        tiles=tiles,
        blocks=evidence.block_count,
        truths=len(evidence.truth_categories),
        validation=digest.hexdigest()[:12],
        weights=weights,
    )


def true_labels(evidence: Evidence) -> np.ndarray:
    """What each detection is by the walk over all buildings: int64[n].

    The index of the category of the truth it takes, `BACKGROUND` without one, `UNLABELLED` where the
    truth's condition is unknown, or where it takes none and lies mostly on ignored items.
    """
    taken = walk(evidence.pairs, evidence.probabilities.max(axis=1))
    labels = np.where(evidence.ignored, UNLABELLED, BACKGROUND)
    conditions = evidence.truth_categories[taken[taken >= 0]]
    labels[taken >= 0] = np.where(conditions >= 0, conditions, UNLABELLED)
    return labels


def _hashed(samples: Iterable[TileSample], digest: hashlib._Hash) -> Iterator[TileSample]:
    """The samples, their truths added to the digest on the way."""
    for sample in samples:
        for polygons in (sample.truth_polygons, sample.ignored_polygons):
            outlines = shapely.normalize(np.asarray(polygons, dtype=object))
            wkb = shapely.to_wkb(outlines, byte_order=1)
            digest.update(b"|".join(one or b"" for one in wkb))
        digest.update(np.asarray(sample.truth_categories, dtype="<i8").tobytes())
        yield sample
