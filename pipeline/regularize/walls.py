"""The walls of outlines: where they run in given directions, and the directions made exact.

A wall costs a price, a point its squared distance from its wall, and the walls whose description of
the outline is shortest are taken. The price is the cube of the shortest credible wall: a notch of
about that width and depth is just worth its walls.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from pipeline.regularize.division import divide
from pipeline.regularize.grouping import following
from pipeline.regularize.outlines import SAMPLES, Outlines, dot

_DIAGONAL_PRICE = 2.0
"""In prices of a wall: at 1, the corners that masks round off would become walls."""
_SHARP = -0.5
"""Cosine of the turn from which a corner is too sharp for a building's."""
_MAX_TURN = 0.3
"""Tangent of the largest angle by which the points along the walls correct a direction."""


class Runs(NamedTuple):
    """Rings of S points divided into runs, each of which one wall stands for."""

    starts: np.ndarray
    """bool[r, S], the first point of each run."""
    kinds: np.ndarray
    """int8[r, S], at the first point of a run the kind of its wall, a row of `normals`."""
    corner: np.ndarray
    """int64[r], a point between two runs that belongs to neither."""
    cost: np.ndarray
    """float64[r], of the description, in prices of a wall."""


class Walls(NamedTuple):
    """The walls of rings, ring by ring in the order in which they meet."""

    ring: np.ndarray
    """int64[m], in rising order."""
    normal: np.ndarray
    """float64[m, 2], unit vectors across the wall."""
    centre: np.ndarray
    """float64[m, 2], the mean of the points that the wall stands for."""


def normals(directions: np.ndarray) -> np.ndarray:
    """float64[4, n, 2]: the normals of walls along and across each direction, and of the two diagonals."""
    x, y = directions.T
    left, half = np.column_stack([-y, x]), math.sqrt(0.5)
    return np.stack([left, directions, (left + directions) * half, (left - directions) * half])


def find_runs(outlines: Outlines, directions: np.ndarray, detail_share: float, diagonals: bool) -> Runs:
    """The points of each wall; no wall is too short, unless a ring has no more than four.

    Args:
        outlines: r rings.
        directions: float64[r, 2], unit vectors.
        detail_share: length of the shortest wall as a share of the exterior's.
        diagonals: whether walls may run at 45 degrees.
    """
    scale = np.sqrt(outlines.lengths / SAMPLES / (detail_share * outlines.lengths) ** 3)
    limits = detail_share * outlines.lengths[np.searchsorted(outlines.owner, outlines.owner)]
    runs = _shortest(outlines.points * scale[:, None, None], directions, diagonals)
    rows = np.arange(len(limits))
    while len(rows):
        rows = rows[_merge_shortest(runs, rows, outlines.points[rows], directions[rows], limits[rows])]
    return runs


def _shortest(points: np.ndarray, directions: np.ndarray, diagonals: bool) -> Runs:
    """The shortest descriptions; with diagonals where they shorten that of more than a rectangle."""
    across = normals(directions)
    runs = _from_corner(points, across[:2], (1.0, 1.0), (0,), (1,), across[0] + across[1])
    if diagonals:
        more = np.flatnonzero(runs.starts.sum(axis=1) > 4)
        across = across[:, more]
        prices = (1.0, 1.0, _DIAGONAL_PRICE, _DIAGONAL_PRICE)
        towards = across[0] + across[1] * (1 + math.sqrt(2))
        other = _from_corner(points[more], across, prices, (0, 2), (1, 3), towards)
        better = (other.cost < runs.cost[more]) & ~_are_sharp(other, points[more], directions[more])
        for mine, theirs in zip(runs, other, strict=True):
            mine[more[better]] = theirs[better]
    return runs


def _are_sharp(runs: Runs, points: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """bool[r]: rings with a corner sharper than a right angle."""
    walls = walls_of(runs, points, directions)[0]
    step, ahead = _vectors(walls), following(walls.ring)
    size = np.sqrt(dot(step, step))
    sharp = dot(step, step[ahead]) < _SHARP * size * size[ahead]
    return np.bincount(walls.ring, sharp, len(points)) > 0


def _from_corner(points, across, prices, first, last, towards) -> Runs:
    """The runs that start at the point furthest in a direction that no wall faces.

    A corner must be there: the wall before it faces more to the right, of a kind in `last`, and the
    one after it more to the left, of a kind in `first`. The point itself is left out, for either may
    have it.
    """
    size = points.shape[1]
    corner = dot(points, towards[:, None]).argmax(axis=1)
    order = (np.arange(1, size) + corner[:, None]) % size
    turned = np.take_along_axis(points, order[..., None], axis=1)
    distances = np.stack([dot(turned, normal[:, None]) for normal in across])
    starts, kinds, cost = divide(distances, prices, first, last)
    runs = Runs(np.zeros(points.shape[:2], bool), np.zeros(points.shape[:2], np.int8), corner, cost)
    np.put_along_axis(runs.starts, order, starts, axis=1)
    np.put_along_axis(runs.kinds, order, kinds, axis=1)
    return runs


def _merge_shortest(runs: Runs, rows, points, directions, limits) -> np.ndarray:
    """Merges the shortest run of each ring of `rows` with its neighbours where its wall is too short.

    Returns:
        int64[q], the places in `rows` of the rings that have lost a wall.
    """
    part = Runs(*(values[rows] for values in runs))
    walls = walls_of(part, points, directions)[0]
    ahead = following(walls.ring)
    behind = np.argsort(ahead)
    step = _vectors(walls)
    length = np.sqrt(dot(step, step))
    order = np.lexsort((length, walls.ring))
    short = order[np.diff(walls.ring[order], prepend=-1) > 0]
    # Between parallel walls the three become one; else the wall behind gets the points.
    kind = part.kinds[part.starts]
    parallel = kind[behind[short]] == kind[ahead[short]]
    enough = np.bincount(walls.ring)[walls.ring[short]] >= np.where(parallel, 6, 5)
    lost = enough & (length[short] < limits[walls.ring[short]])
    short, parallel = short[lost], parallel[lost]
    ring, place = np.nonzero(part.starts)
    for gone in (short, ahead[short[parallel]]):
        runs.starts[rows[ring[gone]], place[gone]] = False
    return walls.ring[short]


def walls_of(runs: Runs, points: np.ndarray, directions: np.ndarray) -> tuple[Walls, np.ndarray, np.ndarray]:
    """The walls of runs.

    Args:
        runs: of r rings.
        points: float64[r, S, 2].
        directions: float64[r, 2], unit vectors.

    Returns:
        The walls, float64[q, 2], the points they stand for, and int64[q], the wall of each point.
    """
    count = runs.starts.sum(axis=1)
    ring = np.repeat(np.arange(len(count)), count)
    # The points before a ring's first start belong to its last run.
    wall = (np.cumsum(runs.starts, axis=1) - 1) % count[:, None] + (np.cumsum(count) - count)[:, None]
    used = np.arange(points.shape[1]) != runs.corner[:, None]
    wall, points = wall[used], points[used]
    centre = np.column_stack([np.bincount(wall, part) for part in points.T]) / np.bincount(wall)[:, None]
    return Walls(ring, _facing(runs, ring, directions), centre), points, wall


def _facing(runs: Runs, ring: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """float64[m, 2]: the normals of the walls of runs."""
    return normals(directions)[runs.kinds[runs.starts], ring]


def straight_walls(runs: Runs, outlines: Outlines, directions: np.ndarray, groups: np.ndarray) -> Walls:
    """The walls of runs, all of a group turned to where the points along them run, by least squares.

    Args:
        runs: of r rings.
        outlines: the rings.
        directions: float64[g, 2], the direction of each group.
        groups: int64[r], the group of each ring.
    """
    walls, points, wall = walls_of(runs, outlines.points, directions[groups])
    apart, normal, group = points - walls.centre[wall], walls.normal[wall], groups[walls.ring[wall]]
    across, along = dot(apart, normal), apart[:, 0] * normal[:, 1] - apart[:, 1] * normal[:, 0]
    squares = np.bincount(group, along * along, len(directions))
    tangent = np.bincount(group, across * along, len(directions)) / np.where(squares > 0, squares, 1.0)
    tangent = np.clip(tangent, -_MAX_TURN, _MAX_TURN)[:, None]
    turned = directions + tangent * np.column_stack([-directions[:, 1], directions[:, 0]])
    turned /= np.sqrt(dot(turned, turned))[:, None]
    return walls._replace(normal=_facing(runs, walls.ring, turned[groups]))


def corners(walls: Walls) -> np.ndarray:
    """float64[m, 2]: where each wall meets the next of its ring."""
    ahead = following(walls.ring)
    one, other = walls.normal, walls.normal[ahead]
    offset = dot(one, walls.centre)
    x = offset * other[:, 1] - offset[ahead] * one[:, 1]
    y = offset[ahead] * one[:, 0] - offset * other[:, 0]
    return np.column_stack([x, y]) / (one[:, 0] * other[:, 1] - one[:, 1] * other[:, 0])[:, None]


def _vectors(walls: Walls) -> np.ndarray:
    """float64[m, 2]: from the start of each wall to its end."""
    ends = corners(walls)
    return ends - ends[np.argsort(following(walls.ring))]
