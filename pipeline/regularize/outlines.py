"""Outlines as points at equal steps, and the direction most of their walls run in.

No trigonometry: sums, products and square roots round the same way for one outline and for a
million, so a result does not depend on what it was computed beside.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import shapely

SAMPLES = 64
"""Points per ring: one for every other cell along the outline of a 28 x 28 mask."""


class Outlines(NamedTuple):
    """The rings of n polygons as points at equal steps; seen with y up, all run anticlockwise."""

    points: np.ndarray
    """float64[r, SAMPLES, 2], pixels from the owner's `origin`."""
    lengths: np.ndarray
    """float64[r], length of the ring in pixels."""
    owner: np.ndarray
    """int64[r], the ring's polygon, in rising order; its exterior comes first."""
    origin: np.ndarray
    """float64[n, 2], image pixels."""


def dot(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """float64[...]: the scalar products of vectors, float64[..., 2]."""
    return one[..., 0] * other[..., 0] + one[..., 1] * other[..., 1]


def sample_outlines(polygons: np.ndarray, detail_share: float) -> Outlines:
    """The outlines of polygons, without holes smaller than a square of the smallest detail.

    Args:
        polygons: object[n] of valid, non-empty Polygons, image pixels.
        detail_share: length of the smallest detail as a share of the exterior's.
    """
    rings, owner = shapely.get_rings(polygons, return_index=True)
    discs = shapely.orient_polygons(shapely.polygons(rings))
    least = (detail_share * shapely.length(shapely.get_exterior_ring(polygons))) ** 2
    kept = (np.diff(owner, prepend=-1) > 0) | (shapely.area(discs) >= least[owner])
    rings, owner = shapely.get_exterior_ring(discs[kept]), owner[kept]
    origin = shapely.bounds(polygons).reshape(-1, 4)[:, :2]
    xy, ring = shapely.get_coordinates(rings, return_index=True)
    xy -= origin[owner[ring]]
    count = np.bincount(ring, minlength=len(rings))
    first = np.cumsum(count) - count
    place = np.arange(len(xy)) - first[ring]
    # Padded rows, not one running sum: its rounding would depend on the rings before.
    edge, steps = np.diff(xy, axis=0), np.zeros((len(rings), count.max(initial=1)))
    steps[ring[1:], place[1:]] = np.where(place[1:] > 0, np.sqrt(dot(edge, edge)), 0)
    walked = np.cumsum(steps, axis=1)
    lengths = walked[:, -1:]
    # How many points lie before each corner says how many corners lie before each point.
    passed = np.ceil(walked[ring, place] / lengths[ring, 0] * SAMPLES - 0.5).astype(np.int64)
    corners = np.bincount(ring * (SAMPLES + 1) + passed, minlength=len(rings) * (SAMPLES + 1))
    before = np.cumsum(corners.reshape(-1, SAMPLES + 1), axis=1)[:, :SAMPLES] - 1
    row = np.arange(len(rings))[:, None]
    sought = lengths * ((np.arange(SAMPLES) + 0.5) / SAMPLES)
    share = (sought - walked[row, before]) / steps[row, before + 1]
    start, end = xy[first[:, None] + before], xy[first[:, None] + before + 1]
    return Outlines(start + share[..., None] * (end - start), lengths[:, 0], owner, origin)


def fourfold(polygons: np.ndarray) -> np.ndarray:
    """float64[n, 2]: the sum of each polygon's edges as vectors of four times their angle.

    Angles that differ by a right angle fall together, so the sum points to four times the dominant
    direction, the circular mean weighted by length; the sums of neighbours add up to theirs.

    Args:
        polygons: object[n] of valid, non-empty Polygons, image pixels.
    """
    rings, owner = shapely.get_rings(polygons, return_index=True)
    xy, ring = shapely.get_coordinates(rings, return_index=True)
    inner = ring[1:] == ring[:-1]
    edges, owner = np.diff(xy, axis=0)[inner], owner[ring[1:][inner]]
    length = np.sqrt(dot(edges, edges))
    x, y = edges.T / np.where(length > 0, length, 1.0)
    for _ in range(2):
        x, y = x * x - y * y, 2 * x * y
    return np.column_stack([np.bincount(owner, length * part, len(polygons)) for part in (x, y)])


def direction(fourfold: np.ndarray) -> np.ndarray:
    """float64[n, 2]: unit vectors at a quarter of the angle of `fourfold`, within 45 degrees of the x axis.

    Args:
        fourfold: float64[n, 2], vectors of any length; the x axis stands for one without.
    """
    length = np.sqrt(dot(fourfold, fourfold))
    x, y = np.where(length > 0, fourfold.T / np.where(length > 0, length, 1.0), [[1.0], [0.0]])
    for _ in range(2):
        larger = np.sqrt((1 + np.abs(x)) / 2)
        smaller = np.abs(y) / (2 * larger)
        turn = np.where(y < 0, -1.0, 1.0)
        x, y = np.where(x >= 0, larger, smaller), turn * np.where(x >= 0, smaller, larger)
    return np.column_stack([x, y])
