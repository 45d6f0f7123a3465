"""The knobs of regularising, its statuses, and what its stages hand on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

RIGHT_ANGLES, CIRCLE, IRREGULAR, CROWDED, UNTOUCHED = range(5)
STATUSES = np.array(["right_angles", "circle", "raw_irregular", "raw_crowded", "raw"], dtype=object)
"""schema.RegularizeStatus by the codes that this package computes with."""
BUILDING = np.dtype([("place", "i8"), ("raw", "O"), ("shape", "O"), ("status", "i8")])
"""A building between stages: place in the input, outline as found, shape and status so far."""
REACH_PX = 64.0
"""How far a shape may reach beyond the bounds of its outline: it bounds what a sweep has to hold."""


@dataclass(frozen=True)
class RegularizeRules:
    """How outlines become footprints of right angles.

    Raises:
        ValueError: a value out of its range.
    """

    regularize: Literal["right_angles", "none"] = "right_angles"
    """right_angles: publish right-angled outlines and circles where they fit; none: outlines as predicted."""
    diagonals: bool = False
    """Whether walls may also run at 45 degrees to the others."""
    detail_share: float = 0.0125
    """Shortest wall as a share of the outline's length, in (0, 0.1]; smaller detail is smoothed away."""
    wall_px: float = 3.0
    """Gap in pixels up to which facing walls of two buildings become a shared wall, at most 16."""
    min_regular_iou: float = 0.92
    """IoU with the predicted outline from which a regular shape is accepted, in (0, 1]."""
    max_area_change: float = 0.15
    """Largest relative change of a building's area by regularisation, in [0, 1)."""

    def __post_init__(self) -> None:
        for name, sound in (
            ("detail_share", 0 < self.detail_share <= 0.1),
            ("wall_px", 0 <= self.wall_px <= 16),
            ("min_regular_iou", 0 < self.min_regular_iou <= 1),
            ("max_area_change", 0 <= self.max_area_change < 1),
        ):
            if not sound:
                raise ValueError(f"{name} is {getattr(self, name):g}")
