"""The knobs of the checks, and the words of what they find."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from models.ranges import Amount, Positive, Share
from pipeline.rules import Rules

RULES = {
    "empty_geometry": "nothing with an area",
    "invalid_geometry": "a ring that crosses itself",
    "duplicate": "drawn twice",
    "conflicting_condition": "drawn twice with different conditions",
    "overlap": "lies on a neighbour",
    "area_outlier": "far larger or smaller than the others",
    "shape_outlier": "a thread or a star rather than a building",
    "outside_image": "outside the image",
    "on_nodata": "where the image shows nothing",
    "missed": "a label that no prediction shows",
    "unlabelled": "a confident prediction without a label",
    "doubtful_condition": "a confident prediction of another condition",
    "unlabelled_region": "ground with confident predictions and no label at all",
}
"""What may be found, in the order of the table."""

_LENGTH = "_m"
"""Ending of the knobs that are lengths on the ground."""


@dataclass(frozen=True)
class CheckRules(Rules):
    """What counts as a label error."""

    duplicate_iou: Share = 0.5
    """Intersection over union above which two labels are one building drawn twice."""
    overlap_share: Share = 0.1
    """Share of the smaller of two labels, above which their overlap is reported."""
    area_deviations: Amount = 5.0
    """Robust standard deviations of the log area above which a label is an outlier."""
    outlier_rows: Amount = 10
    """Minimum number of labels for area outliers to be reported."""
    compactness: Share = 0.15
    """4 pi area / perimeter^2 below which a shape is an outlier; a square has 0.79, 1 : 10 has 0.26."""
    outside_share: Share = 0.1
    """Share of a label outside the image, or on nodata, above which it is reported."""
    match_iou: Share = 0.3
    """Intersection over union above which a label and a prediction show the same building."""
    confident_score: Share = 0.7
    """Confidence from which a prediction may contradict a label."""
    region_m: Positive = 50.0
    """Side of the squares in which unlabelled areas are searched for, in metres."""
    region_predictions: Amount = 4
    """Minimum number of confident predictions for a square without labels to count as unlabelled."""
    shift_search_m: Amount = 8.0
    """Largest offset between labels and buildings that is searched for along each axis, in metres."""
    shift_cell_m: Positive = 1.0
    """Cell size of the histogram of offsets, in metres."""
    shift_m: Amount = 0.75
    """Smallest offset for labels to count as shifted, in metres."""
    shift_support: Share = 0.3
    """Share of the labels that must have the offset for it to count."""
    shift_labels: Amount = 5
    """Minimum number of labels that must have the same offset."""

    def limits(self, units_per_m: Sequence[float]) -> dict[str, float]:
        """The knobs by name, lengths without their `_m`, and `units_x` and `units_y` of a metre.

        Args:
            units_per_m: units of the CRS in a metre on the ground, along x and along y: degrees of longitude
                are shorter than those of latitude.
        """
        units_x, units_y = units_per_m
        knobs = {field.name.removesuffix(_LENGTH): float(getattr(self, field.name)) for field in fields(self)}
        return knobs | {"units_x": float(units_x), "units_y": float(units_y)}


def units_of(limits: Mapping[str, float]) -> np.ndarray:
    """float64[2], units of the CRS in a metre along x and along y."""
    return np.array([limits["units_x"], limits["units_y"]])
