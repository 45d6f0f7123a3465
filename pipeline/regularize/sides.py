"""Sides of neighbours: which of them are one wall, and how one shape gives way to another.

A side moves along its normal, and its ends slide along the sides it meets: directions, and with
them right angles, stay as they are.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import shapely

from pipeline.polygons import polygonal
from pipeline.regularize.grouping import components, following, products, spans
from pipeline.regularize.outlines import dot

_OPPOSITE = -0.9962  # cosine: facing sides differ by at most 5 degrees
_MIN_OVERLAP = 0.3  # share of the shorter of two facing sides that runs along the other
_DEEP = 3.0  # widths of the gap by which shapes may cover each other along one wall
_PARALLEL = 1e-6  # sine
_ROUNDING_PX = 1e-6


class Sides(NamedTuple):
    """The sides of polygons, ring by ring in the order in which they meet."""

    start: np.ndarray
    """float64[m, 2], pixels."""
    along: np.ndarray
    """float64[m, 2], unit vectors from start to end; the polygon lies to their left, seen with y up."""
    length: np.ndarray
    """float64[m], pixels."""
    ring: np.ndarray
    """int64[m], in rising order."""
    owner: np.ndarray
    """int64[m], the polygon, in rising order."""

    @property
    def normal(self) -> np.ndarray:
        """float64[m, 2], unit vectors out of the polygon."""
        return np.column_stack([self.along[:, 1], -self.along[:, 0]])


def sides_of(polygons: np.ndarray) -> Sides:
    """The sides of polygons that are oriented as `shapely.orient_polygons` does.

    Args:
        polygons: object[n] of Polygon.
    """
    rings, owner = shapely.get_rings(polygons, return_index=True)
    xy, ring = shapely.get_coordinates(rings, return_index=True)
    inner = ring[1:] == ring[:-1]
    step, start, ring = np.diff(xy, axis=0)[inner], xy[:-1][inner], ring[1:][inner]
    length = np.sqrt(dot(step, step))
    return Sides(start, step / length[:, None], length, ring, owner[ring])


def facing_sides(
    sides: Sides, count: int, one: np.ndarray, other: np.ndarray, gap_px: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sides that look at each other across a gap of at most `gap_px`, along a good part.

    Args:
        sides: of `count` polygons.
        count: number of polygons.
        one: int64[p], a polygon of each pair to look at.
        other: int64[p], the other polygon.
        gap_px: widest gap; shapes may also cover each other by three times as much.

    Returns:
        int64[q] each: the pair, the side of its one polygon and that of the other.
    """
    of = spans(sides.owner, count)
    pair, first, second = products(of[one], of[other])
    opposite = dot(sides.along[first], sides.along[second]) <= _OPPOSITE
    pair, first, second = pair[opposite], first[opposite], second[opposite]
    away = sides.start[second] - sides.start[first]
    # From the start of the second side backwards: it runs the other way.
    begin = dot(away, sides.along[first])
    slope = dot(sides.along[second], sides.along[first])
    finish = begin + slope * sides.length[second]
    low, high = np.maximum(finish, 0), np.minimum(begin, sides.length[first])
    shorter = np.minimum(sides.length[first], sides.length[second])
    middle = sides.along[second] * (((low + high) / 2 - begin) / slope)[:, None]
    gap = dot(away + middle, sides.normal[first])
    near = (high - low >= _MIN_OVERLAP * shorter) & (gap <= gap_px) & (gap >= -_DEEP * gap_px)
    return pair[near], first[near], second[near]


def share_walls(polygons: np.ndarray, one: np.ndarray, other: np.ndarray, gap_px: float) -> np.ndarray:
    """The polygons with facing sides of neighbours moved onto one line between them.

    Args:
        polygons: object[n], oriented, those of a pair with sides in the same directions.
        one: int64[p], a polygon of each pair of neighbours.
        other: int64[p], the other polygon.
        gap_px: widest gap between walls that are one.

    Returns:
        object[n], not necessarily valid.
    """
    sides = sides_of(polygons)
    _, first, second = facing_sides(sides, len(polygons), one, other, gap_px)
    wall = components(len(sides.owner), first, second)
    _, lead, wall = np.unique(wall, return_index=True, return_inverse=True)
    place = dot(sides.start - sides.start[lead[wall]], sides.normal[lead[wall]])
    weight = np.bincount(wall, sides.length)
    step = np.bincount(wall, sides.length * place)[wall] / weight[wall] - place
    step[np.bincount(wall)[wall] == 1] = 0
    return move_sides(polygons, sides, step * np.sign(dot(sides.normal, sides.normal[lead[wall]])))


def step_back(polygons: np.ndarray, obstacles: np.ndarray) -> np.ndarray:
    """The polygons with one side each moved inwards until it leaves the obstacle, where one can.

    Of the sides in front of all that is shared, the one whose move costs the least area moves.

    Args:
        polygons: object[n], oriented.
        obstacles: object[n], each overlapping its polygon.

    Returns:
        object[n], not necessarily valid, nor clear of the obstacle.
    """
    sides = sides_of(polygons)
    shared = polygonal(shapely.intersection(polygons, obstacles))
    xy, owner = shapely.get_coordinates(shared, return_index=True)
    owners = np.arange(len(polygons))
    of, corners = spans(sides.owner, len(polygons)), spans(owner, len(polygons))
    _, side, corner = products(of[owners], corners[owners])
    away = xy[corner] - sides.start[side]
    depth, reach = -dot(away, sides.normal[side]), dot(away, sides.along[side])
    deepest = np.zeros(len(sides.owner))
    np.maximum.at(deepest, side, depth)
    beside = np.zeros(len(sides.owner), bool)
    beside[side[(reach < -_ROUNDING_PX) | (reach > sides.length[side] + _ROUNDING_PX)]] = True
    loss = np.where(beside, np.inf, deepest * sides.length)
    order = np.lexsort((loss, sides.owner))
    best = order[of[:, 0]]
    step = np.zeros(len(loss))
    step[best] = -deepest[best]
    return move_sides(polygons, sides, step)


def move_sides(polygons: np.ndarray, sides: Sides, steps: np.ndarray) -> np.ndarray:
    """The polygons with each side moved outwards by its step.

    Args:
        polygons: object[n], oriented.
        sides: their sides.
        steps: float64[m], pixels.

    Returns:
        object[n], not necessarily valid; a side that has come to nothing is gone.
    """
    before = np.argsort(following(sides.ring))
    # A corner goes where both its sides have gone; between parallel ones there is no such place.
    one, other, by, to = sides.normal[before], sides.normal, steps[before], steps
    cross = one[:, 0] * other[:, 1] - one[:, 1] * other[:, 0]
    cross = np.where(np.abs(cross) > _PARALLEL, cross, np.inf)
    x = (by * other[:, 1] - to * one[:, 1]) / cross
    y = (to * one[:, 0] - by * other[:, 0]) / cross
    rings = shapely.linearrings(sides.start + np.column_stack([x, y]), indices=sides.ring)
    moved = shapely.polygons(rings, indices=sides.owner[np.diff(sides.ring, prepend=-1) > 0])
    valid = shapely.is_valid(moved)
    moved[valid] = shapely.simplify(moved[valid], _ROUNDING_PX)
    return moved
