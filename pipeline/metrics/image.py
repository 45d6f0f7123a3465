"""All metrics of one image beside the challenge's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely

from models.ranges import Positive
from pipeline.errors import SettingsError
from pipeline.evaluate import Matches
from pipeline.matching import overlapping_pairs, valid_polygons
from pipeline.metrics.average_precision import MIN_IOU, AveragePrecision, average_precision
from pipeline.metrics.boundary import BoundaryQuality, boundary_ious
from pipeline.metrics.breakdown import Confusion, SizeClass, confuse, match_indices, score_by_size
from pipeline.rules import Rules
from pipeline.schema import Artifact
from pipeline.temperature import BACKGROUND, Reliability, reliability


@dataclass(frozen=True)
class MetricRules(Rules):
    """Parameters of the metrics that are reported in addition to the challenge's."""

    size_limits_m2: tuple[float, ...] = (50.0, 200.0)
    """Ground areas in square metres, ascending, that separate small, medium and large buildings."""
    boundary_m: Positive = 0.5
    """Width in metres of the band inside an outline that boundary IoU compares."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if list(self.size_limits_m2) != sorted({limit for limit in self.size_limits_m2 if limit > 0}):
            raise SettingsError("must rise from above 0", where="size_limits_m2", found=self.size_limits_m2)


class ImageMetrics(Artifact):
    """What the challenge's metric does not tell."""

    outlines: AveragePrecision
    """By IoU of the outlines (COCO's `segm`)."""
    boxes: AveragePrecision
    """By IoU of their bounding boxes (COCO's `bbox`)."""
    boundaries: AveragePrecision
    """By the lower of IoU and boundary IoU (Boundary AP)."""
    boundary: BoundaryQuality
    """Of the metric's matches."""
    confusion: Confusion
    sizes: list[SizeClass]
    reliability: Reliability
    """Of the confidences as published; buildings on truths of unknown condition left out."""


def measure_image(
    polygons_m,
    probabilities: np.ndarray,
    truth_polygons_m,
    truth_categories: np.ndarray,
    categories: Sequence[str],
    matches: Matches,
    rules: MetricRules,
) -> ImageMetrics:
    """All metrics of one image's proposals.

    Args:
        polygons_m: object[n], in the order of the submission, in metres on the ground with the axes of
            the image, as its pixels times `Grid.ground_m_per_px` are.
        probabilities: float64[n, k], confidence per category in [0, 1].
        truth_polygons_m: object[m], same frame, as labelled: an invalid one can never be found.
        truth_categories: int64[m], index into `categories`, -1 where unknown.
        categories: the k names.
        matches: of the same proposals and truths, by `evaluate.score_image`.
        rules: the knobs.
    """
    polygons, truths = valid_polygons(polygons_m), np.array(truth_polygons_m, dtype=object)
    probabilities = np.asarray(probabilities, dtype=np.float64).reshape(len(polygons), len(categories))
    truth_categories = np.asarray(truth_categories, dtype=np.int64)
    truth_areas_m2 = shapely.area(truths)
    truths[~shapely.is_valid(truths)] = None

    outlines = overlapping_pairs(polygons, truths, MIN_IOU)
    taken = match_indices(matches)
    # Most matches are among the pairs; bands are the dearest of all, so each is compared once.
    both = np.concatenate([np.column_stack([outlines.proposals, outlines.truths]), taken])
    compared, rows = np.unique(both, axis=0, return_inverse=True)
    boundary = boundary_ious(polygons[compared[:, 0]], truths[compared[:, 1]], rules.boundary_m)[rows]
    boundaries = outlines._replace(ious=np.minimum(outlines.ious, boundary[: len(outlines.ious)]))
    boxes = overlapping_pairs(shapely.envelope(polygons), shapely.envelope(truths), MIN_IOU)
    precisions = (
        average_precision(pairs, probabilities, truth_categories, categories)
        for pairs in (outlines, boxes, boundaries)
    )
    return ImageMetrics(
        **dict(zip(("outlines", "boxes", "boundaries"), precisions, strict=True)),
        boundary=BoundaryQuality.of(
            rules.boundary_m, np.array([pair.iou for pair in matches.pairs]), boundary[len(outlines.ious) :]
        ),
        confusion=confuse(matches, probabilities.argmax(axis=1), truth_categories, categories),
        sizes=score_by_size(matches, shapely.area(polygons), truth_areas_m2, rules.size_limits_m2),
        reliability=_reliability(probabilities, taken, truth_categories),
    )


def _reliability(probabilities: np.ndarray, taken: np.ndarray, truth_categories: np.ndarray) -> Reliability:
    labels = np.full(len(probabilities), BACKGROUND)
    labels[taken[:, 0]] = truth_categories[taken[:, 1]]
    unknown = taken[truth_categories[taken[:, 1]] < 0, 0]
    return reliability(np.delete(probabilities, unknown, axis=0), np.delete(labels, unknown))
