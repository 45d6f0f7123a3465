"""The knobs of the checks, and the words of what they find."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from pipeline.limits import AMOUNT, SHARE, check_limits

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
_LIMITS = {
    **dict.fromkeys(("duplicate_iou", "overlap_share", "compactness", "outside_share", "match_iou"), SHARE),
    **dict.fromkeys(("confident_score", "shift_support"), SHARE),
    **dict.fromkeys(("area_deviations", "outlier_rows", "region_predictions"), AMOUNT),
    **dict.fromkeys(("shift_search_m", "shift_m", "shift_labels"), AMOUNT),
    **dict.fromkeys(("region_m", "shift_cell_m"), "(0, inf)"),
}


@dataclass(frozen=True)
class CheckRules:
    """What counts as wrong with a label."""

    duplicate_iou: float = 0.5
    """Intersection over union above which two labels are one building drawn twice, 0 to 1."""
    overlap_share: float = 0.1
    """Share of the smaller of two labels, above which their overlap is reported, 0 to 1."""
    area_deviations: float = 5.0
    """Robust standard deviations of the logarithm of the area, above which a label is an outlier."""
    outlier_rows: float = 10
    """Labels below which no area is called an outlier."""
    compactness: float = 0.15
    """4 pi area / perimeter^2 below which a shape is an outlier; a square has 0.79, 1 : 10 has 0.26."""
    outside_share: float = 0.1
    """Share of a label outside the image, or on nodata, above which it is reported, 0 to 1."""
    match_iou: float = 0.3
    """Intersection over union above which a label and a prediction show the same building, 0 to 1."""
    confident_score: float = 0.7
    """Confidence from which a prediction may contradict a label, 0 to 1."""
    region_m: float = 50.0
    """Side of the squares in which ground without any label is looked for, in metres."""
    region_predictions: float = 4
    """Confident predictions from which a square without labels is an unlabelled region."""
    shift_search_m: float = 8.0
    """Longest offset between labels and buildings that is looked for along an axis, in metres."""
    shift_cell_m: float = 1.0
    """Side of the cells in which offsets are counted, in metres."""
    shift_m: float = 0.75
    """Offset from which labels count as shifted, in metres."""
    shift_support: float = 0.3
    """Share of the labels that must have the offset for it to count, 0 to 1."""
    shift_labels: float = 5
    """Labels that must have the offset for it to count."""

    def __post_init__(self) -> None:
        """Refuse what cannot be honoured.

        Raises:
            SettingsError: a value is outside its range.
        """
        check_limits(self, _LIMITS)

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
