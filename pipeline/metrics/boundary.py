"""How well outlines agree: boundary IoU.

The IoU of two large polygons is high however ragged their outlines are. Boundary IoU compares only the
bands inside the outlines, all of one width, so that a decimetre counts the same on a hut and on a hall.
Of what is thinner than two widths the band is the whole, and boundary IoU is IoU.

Source: B. Cheng, R. Girshick, P. Dollar, A. Berg, A. Kirillov, Boundary IoU (CVPR 2021), with the width
in ground units instead of a share of the picture's diagonal.
"""

from __future__ import annotations

from typing import Self

import numpy as np
import shapely

from pipeline.schema import Artifact

_BATCH = 10_000  # pairs whose bands are in memory at once


class BoundaryQuality(Artifact):
    """How well the outlines of matched buildings agree; None without a match."""

    width_m: float
    """Of the band inside an outline, metres on the ground."""
    matches: int
    mean_boundary_iou: float | None
    mean_iou: float | None
    """Of the same matches, for comparison."""

    @classmethod
    def of(cls, width_m: float, ious: np.ndarray, boundary: np.ndarray) -> Self:
        """Quality of the matches with these IoUs, float64[p] each."""
        return cls(
            width_m=width_m,
            matches=len(ious),
            mean_boundary_iou=float(boundary.mean()) if len(ious) else None,
            mean_iou=float(ious.mean()) if len(ious) else None,
        )


def boundary_ious(polygons: np.ndarray, others: np.ndarray, width: float) -> np.ndarray:
    """Boundary IoU of each pair, float64[p] in [0, 1]; 0 where neither has an area.

    Args:
        polygons: object[p], valid.
        others: object[p], valid, same frame.
        width: of the band inside an outline, in units of the frame, above 0.
    """
    ious = np.zeros(len(polygons))
    for start in range(0, len(polygons), _BATCH):
        part = slice(start, start + _BATCH)
        one, other = polygons[part], others[part]
        core, other_core = (shapely.buffer(sides, -width, quad_segs=4) for sides in (one, other))
        # What two bands share, without drawing the bands, whose outlines are twice as long.
        common = shapely.difference(shapely.intersection(one, other), shapely.union(core, other_core))
        shared = shapely.area(common)
        bands = shapely.area(one) - shapely.area(core) + shapely.area(other) - shapely.area(other_core)
        joint = bands - shared
        np.divide(shared, joint, out=ious[part], where=joint > 0)
    return np.minimum(ious, 1.0)
