"""The regular shape of each building: right angles, with or without diagonals, or a circle."""

from __future__ import annotations

import math

import numpy as np
import shapely

from pipeline.regularize.acceptance import acceptable
from pipeline.regularize.outlines import SAMPLES, Outlines, direction, dot, fourfold, sample_outlines
from pipeline.regularize.rules import CIRCLE, IRREGULAR, RIGHT_ANGLES, RegularizeRules
from pipeline.regularize.walls import Walls, corners, find_runs, straight_walls

_CIRCLE_PRICE = 3.0
"""In prices of a wall: a centre and a radius, as against one offset."""
_TURNS = np.arange(32) * (2 * np.pi / 32)
_UNIT_CIRCLE = np.column_stack([np.cos(_TURNS), np.sin(_TURNS)])
_UNIT_AREA = 16 * math.sin(2 * np.pi / 32)


def regular_shapes(polygons: np.ndarray, rules: RegularizeRules) -> tuple[np.ndarray, np.ndarray]:
    """The regular shape of each polygon by itself.

    Args:
        polygons: object[n] of valid, non-empty Polygons, image pixels.
        rules: the knobs.

    Returns:
        object[n] of Polygon, and int64[n], RIGHT_ANGLES, CIRCLE or IRREGULAR; an irregular one is
        returned as it is.
    """
    outlines = sample_outlines(polygons, rules.detail_share)
    regular, cost = _right_angled(outlines, direction(fourfold(polygons)), np.arange(len(polygons)), rules)
    round_ = _are_circles(polygons, outlines, cost, rules)
    regular[round_] = _circles(polygons[round_])
    fits = acceptable(regular, polygons, rules)
    statuses = np.where(fits, np.where(round_, CIRCLE, RIGHT_ANGLES), IRREGULAR)
    return np.where(fits, regular, polygons), statuses


def aligned_shapes(polygons: np.ndarray, groups: np.ndarray, rules: RegularizeRules) -> np.ndarray:
    """object[n] of Polygon or None: right angles in one direction for all polygons of a group.

    Args:
        polygons: object[n] of valid, non-empty Polygons, image pixels.
        groups: int64[n], from 0.
        rules: the knobs.
    """
    turns = np.column_stack([np.bincount(groups, part) for part in fourfold(polygons).T])
    outlines = sample_outlines(polygons, rules.detail_share)
    return _right_angled(outlines, direction(turns), groups, rules)[0]


def _right_angled(
    outlines: Outlines, directions: np.ndarray, groups: np.ndarray, rules: RegularizeRules
) -> tuple[np.ndarray, np.ndarray]:
    """object[n] of Polygon or None, and float64[r], the cost of the description of each ring.

    Args:
        outlines: of n polygons.
        directions: float64[g, 2], about the direction of the walls of each group.
        groups: int64[n], the group of each polygon.
        rules: the knobs.
    """
    of_ring = groups[outlines.owner]
    runs = find_runs(outlines, directions[of_ring], rules.detail_share, rules.diagonals)
    return _polygons(straight_walls(runs, outlines, directions, of_ring), outlines), runs.cost


def _polygons(walls: Walls, outlines: Outlines) -> np.ndarray:
    """object[n] of Polygon, None where a ring has less than four walls."""
    polygons = np.full(len(outlines.origin), None, dtype=object)
    flat = np.bincount(walls.ring, minlength=len(outlines.owner)) < 4
    kept = ~np.isin(outlines.owner, outlines.owner[flat])
    if kept.any():
        xy = corners(walls) + outlines.origin[outlines.owner[walls.ring]]
        inside = kept[walls.ring]
        rings = shapely.linearrings(xy[inside], indices=(np.cumsum(kept) - 1)[walls.ring[inside]])
        whole, index = np.unique(outlines.owner[kept], return_inverse=True)
        polygons[whole] = shapely.orient_polygons(shapely.polygons(rings, indices=index))
    return polygons


def _are_circles(
    polygons: np.ndarray, outlines: Outlines, cost: np.ndarray, rules: RegularizeRules
) -> np.ndarray:
    """bool[n]: polygons without holes of which a circle is a shorter description than walls."""
    size = np.bincount(outlines.owner, minlength=len(polygons))
    exterior = np.cumsum(size) - size
    centre = shapely.get_coordinates(shapely.centroid(polygons)) - outlines.origin
    spoke = outlines.points[exterior] - centre[:, None]
    apart = np.sqrt(dot(spoke, spoke)) - np.sqrt(shapely.area(polygons) / np.pi)[:, None]
    length = outlines.lengths[exterior]
    squares = np.cumsum(apart * apart, axis=1)[:, -1] * length / SAMPLES
    price = (rules.detail_share * length) ** 3
    return (size == 1) & (squares / price + _CIRCLE_PRICE < cost[exterior])


def _circles(polygons: np.ndarray) -> np.ndarray:
    """object[n]: polygons of 32 corners, with the centroids and the areas of the given ones."""
    centre = shapely.get_coordinates(shapely.centroid(polygons))
    radius = np.sqrt(shapely.area(polygons) / _UNIT_AREA)
    return shapely.polygons(centre[:, None] + radius[:, None, None] * _UNIT_CIRCLE)
