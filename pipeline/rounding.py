"""Coordinates of a fixed number of decimals, as text formats carry them, without breaking polygons."""

from __future__ import annotations

import numpy as np
import shapely

from pipeline.errors import ArtifactError
from pipeline.polygons import node_on_grid


def round_polygons(polygons, decimals: int, *, where: object = None) -> np.ndarray:
    """Polygons on the grid of `decimals` decimals, object[n], valid and with their vertices in order.

    A polygon that rounding would make invalid is noded anew; where that parts it, at a neck thinner
    than the grid, its largest part stays.

    Args:
        polygons: object[n] of valid polygons, any frame.
        decimals: how many to keep.
        where: file the polygons go to, for the error.

    Raises:
        ArtifactError: a polygon vanishes.
    """
    given = np.array(polygons, dtype=object)
    grid = 10.0**-decimals
    rounded = shapely.set_precision(given, grid, mode="pointwise")
    broken = ~shapely.is_valid(rounded) | shapely.is_empty(rounded)
    rounded[broken] = node_on_grid(given[broken], grid)
    for index in np.flatnonzero(shapely.is_missing(rounded)):
        raise ArtifactError(
            f"a polygon vanishes at {decimals} decimals",
            where=where,
            found=shapely.to_wkt(given[index]),
            remedy="Drop buildings as small as that before writing.",
        )
    # The grid's multiples need up to 17 digits; rounded, they are the shortest of their value.
    return shapely.transform(rounded, lambda xy: xy.round(decimals))
