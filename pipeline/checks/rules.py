"""The knobs of the checks, and the words of what they find."""

from __future__ import annotations

from dataclasses import dataclass, fields

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
    """What counts as a label error."""

    duplicate_iou: float = 0.5
    """IoU above which two labels are one building drawn twice, 0 to 1."""
    overlap_share: float = 0.1
    """Share of the smaller label's area above which an overlap of two labels is reported, 0 to 1."""
    area_deviations: float = 5.0
    """Robust standard deviations of the log area above which a label is an outlier."""
    outlier_rows: float = 10
    """Minimum number of labels for area outliers to be reported."""
    compactness: float = 0.15
    """4 pi area / perimeter^2 below which a shape is an outlier; a square has 0.79, 1 : 10 has 0.26."""
    outside_share: float = 0.1
    """Share of a label's area outside the image or on invalid pixels above which it is reported, 0 to 1."""
    match_iou: float = 0.3
    """IoU above which a label and a prediction are the same building, 0 to 1."""
    confident_score: float = 0.7
    """Confidence from which a prediction may contradict a label, 0 to 1."""
    region_m: float = 50.0
    """Side of the squares in which unlabelled areas are searched for, in metres."""
    region_predictions: float = 4
    """Minimum number of confident predictions for a square without labels to count as unlabelled."""
    shift_search_m: float = 8.0
    """Largest offset between labels and buildings that is searched for along each axis, in metres."""
    shift_cell_m: float = 1.0
    """Cell size of the histogram of offsets, in metres."""
    shift_m: float = 0.75
    """Smallest offset for labels to count as shifted, in metres."""
    shift_support: float = 0.3
    """Minimum share of the labels that must have the same offset, 0 to 1."""
    shift_labels: float = 5
    """Minimum number of labels that must have the same offset."""

    def __post_init__(self) -> None:
        """Refuse what cannot be honoured.

        Raises:
            SettingsError: a value is outside its range.
        """
        check_limits(self, _LIMITS)

    def limits(self, units_per_m: float) -> dict[str, float]:
        """The knobs by name, lengths in units of a CRS and named without `_m`.

        Args:
            units_per_m: units of the CRS in a metre on the ground, about.
        """
        values = {field.name: float(getattr(self, field.name)) for field in fields(self)}
        return {
            name.removesuffix(_LENGTH): value * (units_per_m if name.endswith(_LENGTH) else 1.0)
            for name, value in values.items()
        }
