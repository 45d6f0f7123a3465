"""The knobs of regularising, its statuses, and what its stages hand on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from annotated_types import Interval

from models.ranges import PositiveShare
from pipeline.rules import Rules

RIGHT_ANGLES, CIRCLE, IRREGULAR, CROWDED, UNTOUCHED = range(5)
STATUSES = np.array(["right_angles", "circle", "raw_irregular", "raw_crowded", "raw"], dtype=object)
"""schema.RegularizeStatus by the codes that this package computes with."""
BUILDING = np.dtype([("place", "i8"), ("raw", "O"), ("shape", "O"), ("status", "i8")])
"""A building between stages: place in the input, outline as found, shape and status so far."""
REACH_PX = 64.0
"""How far a shape may reach beyond the bounds of its outline: it bounds what a sweep has to hold."""


@dataclass(frozen=True)
class RegularizeRules(Rules):
    """How outlines become footprints of right angles."""

    regularize: Literal["right_angles", "none"] = "right_angles"
    """right_angles: publish right-angled outlines and circles where they fit; none: outlines as predicted."""
    diagonals: bool = False
    """Whether walls may also run at 45 degrees to the others."""
    detail_share: Annotated[float, Interval(gt=0, le=0.1)] = 0.0125
    """Length of the shortest wall as a share of the outline's; what is smaller is smoothed."""
    wall_px: Annotated[float, Interval(ge=0, le=16)] = 3.0
    """Gap in pixels up to which facing walls of two buildings are one wall."""
    min_regular_iou: PositiveShare = 0.92
    """IoU with the outline as found from which a regular shape is accepted."""
    max_area_change: Annotated[float, Interval(ge=0, lt=1)] = 0.15
    """Share of its area by which regularising may change a building."""
