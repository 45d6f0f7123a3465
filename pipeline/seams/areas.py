"""Areas that pairs of polygons cover inside rectangles, alone and together, in closed form.

A polygon's area is the signed sum of the trapezoids between its edges and a floor: those of edges that run
one way count, those of edges that run back count against. So the area of two polygons' intersection
is the signed sum, over all pairs of their edges, of the area below both edges, and that is the integral
of the smaller of two linear functions. No intersection is ever constructed: no case is degenerate,
invalid or nearly so, and two thousand pairs are a few passes over arrays.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import shapely

_BATCH = 2_000  # pairs of polygons whose edges are in memory at once
_CELLS = 2**16  # pairs of edges compared at once: few enough for the processor's cache


class Areas(NamedTuple):
    """What pairs of polygons cover of their rectangles."""

    first: np.ndarray
    """float64[p], by the first polygon."""
    second: np.ndarray
    """float64[p], by the second."""
    shared: np.ndarray
    """float64[p], by both."""
    torn: np.ndarray
    """bool[p], whether one of them may be in several parts there; where it is False, neither is."""


class _Edges(NamedTuple):
    """Edges as their rings run, rows sorted by polygon."""

    polygon: np.ndarray
    x1: np.ndarray
    y1: np.ndarray
    x2: np.ndarray
    y2: np.ndarray


class _Roofs(NamedTuple):
    """Edges above the floors of rectangles, rows sorted by pair."""

    pair: np.ndarray
    left: np.ndarray
    right: np.ndarray
    height: np.ndarray
    """Of the left end above the floor."""
    slope: np.ndarray
    sign: np.ndarray
    """1 where the edge runs to the right, -1 where it runs to the left."""


def areas_inside(
    polygons: np.ndarray, first: np.ndarray, second: np.ndarray, low: np.ndarray, high: np.ndarray
) -> Areas:
    """What pairs of polygons cover of their rectangles.

    Time grows with the product of a pair's numbers of edges, at about a nanosecond each.

    Args:
        polygons: object[n] of valid shapely Polygons.
        first: int64[p], rows of `polygons`.
        second: int64[p], rows of `polygons`.
        low: float64[p, 2], the corner of smallest x and y of each rectangle.
        high: float64[p, 2], the opposite corner.
    """
    found = Areas(*(np.zeros(len(first), kind) for kind in (float, float, float, bool)))
    for begin in range(0, len(first), _BATCH):
        part = slice(begin, begin + _BATCH)
        used, rows = np.unique([first[part], second[part]], return_inverse=True)
        edges, bounds = _edges(polygons[used]), shapely.bounds(polygons[used])
        roofs = []
        for area, row in zip(found[:2], rows.reshape(2, -1), strict=True):
            side, torn = _roofs(edges, bounds, row, low[part], high[part])
            area[part] = _areas(side, len(row))
            found.torn[part] |= torn
            roofs.append(side)
        found.shared[part] = _shared_areas(roofs[0], roofs[1], len(row))
    return found


def _edges(polygons: np.ndarray) -> _Edges:
    """All edges of the polygons, those of holes running against those of their shells."""
    plain = shapely.get_num_interior_rings(polygons) == 0
    rings, owner = shapely.get_rings(shapely.orient_polygons(polygons[~plain]), return_index=True)
    owner = np.concatenate([np.flatnonzero(plain), np.flatnonzero(~plain)[owner]])
    order = np.argsort(owner, kind="stable")
    xy, ring = shapely.get_coordinates(np.concatenate([polygons[plain], rings])[order], return_index=True)
    x, y = np.ascontiguousarray(xy.T)
    start = np.flatnonzero(ring[1:] == ring[:-1])
    return _Edges(owner[order][ring[start]], x[start], y[start], x[start + 1], y[start + 1])


def _roofs(
    edges: _Edges, bounds: np.ndarray, rows: np.ndarray, low: np.ndarray, high: np.ndarray
) -> tuple[_Roofs, np.ndarray]:
    """The edges of the polygons `rows` above the floors of their rectangles, and which polygons are torn."""
    index, pair = _ranges(*np.searchsorted(edges.polygon, [rows, rows + 1]))
    x1, y1, x2, y2 = (column[index] for column in edges[1:])
    (left, floor), (right, ceiling) = low[pair].T, high[pair].T
    crossings = np.zeros(len(pair))
    for start, stop, side in ((x1, x2, left), (x1, x2, right), (y1, y2, floor), (y1, y2, ceiling)):
        crossings += (start > side) != (stop > side)
    # A polygon crosses each side's line twice; if it does so more often, the line may tear it apart.
    sides = np.concatenate([low, high], axis=1)
    crossed = (bounds[rows][:, [0, 1, 0, 1]] <= sides) & (bounds[rows][:, [2, 3, 2, 3]] > sides)
    torn = np.bincount(pair, crossings, minlength=len(rows)) > 2 * crossed.sum(axis=1)

    start, stop = np.clip(x1, left, right), np.clip(x2, left, right)
    kept = np.flatnonzero(start != stop)
    pair, start, stop, x1, floor = pair[kept], start[kept], stop[kept], x1[kept], floor[kept]
    slope = (y2[kept] - y1[kept]) / (x2[kept] - x1)
    base = y1[kept] - floor
    heights = base + slope * (start - x1), base + slope * (stop - x1)
    return _flattened(pair, start, stop, *heights, ceiling[kept] - floor), torn


def _flattened(pair, start, stop, rise_from, rise_to, ceiling) -> _Roofs:
    """Edges from one height to another, laid on the ceiling where above it; what is below the floor goes."""
    low, high = np.clip(rise_from, 0, ceiling), np.clip(rise_to, 0, ceiling)
    bent = (low != high) & ((low != rise_from) | (high != rise_to))
    whole = np.flatnonzero(~bent & (low + high > 0))
    columns = [column[whole] for column in (pair, start, stop, low, high)]
    bent = np.flatnonzero(bent)
    if len(bent):
        height, rise, top = rise_from[bent], (rise_to - rise_from)[bent], ceiling[bent]
        passing = np.sort(np.clip([-height / rise, (top - height) / rise], 0, 1), axis=0)
        share = np.concatenate([np.zeros((1, len(bent))), passing, np.ones((1, len(bent)))])
        x, y = start[bent] + share * (stop - start)[bent], np.clip(height + share * rise, 0, top)
        pieces = [np.tile(pair[bent], 3), *(c.ravel() for c in (x[:-1], x[1:], y[:-1], y[1:]))]
        solid = np.flatnonzero((pieces[1] != pieces[2]) & (pieces[3] + pieces[4] > 0))
        columns = [np.concatenate([c, more[solid]]) for c, more in zip(columns, pieces, strict=True)]
        order = np.argsort(columns[0], kind="stable")
        columns = [column[order] for column in columns]
    pair, start, stop, low, high = columns
    width = stop - start
    left_height = np.where(width > 0, low, high)
    return _Roofs(
        pair,
        np.minimum(start, stop),
        np.maximum(start, stop),
        left_height,
        (high - low) / width,
        np.sign(width),
    )


def _ranges(start: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers from `start` to `stop` of every row one after another, and their rows."""
    count = stop - start
    row = np.repeat(np.arange(len(start)), count)
    return np.arange(len(row)) + np.repeat(start - np.cumsum(count) + count, count), row


def _areas(roofs: _Roofs, count: int) -> np.ndarray:
    """Area under the roofs of each of `count` pairs."""
    width = roofs.right - roofs.left
    signed = roofs.sign * width * (roofs.height + roofs.slope * width / 2)
    return np.abs(np.bincount(roofs.pair, signed, minlength=count))


def _shared_areas(one: _Roofs, other: _Roofs, count: int) -> np.ndarray:
    """Area under the roofs of both for each of `count` pairs."""
    area = np.zeros(count)
    number = [np.bincount(roofs.pair, minlength=count) for roofs in (one, other)]
    start = [np.cumsum(n) - n for n in number]
    for rows in _by_size(*number):
        first, left, right = _table(one, start[0][rows], number[0][rows])
        second, other_left, other_right = _table(other, start[1][rows], number[1][rows])
        overlap = left[:, :, None] < other_right[:, None, :]
        overlap &= other_left[:, None, :] < right[:, :, None]
        cell = np.flatnonzero(overlap)
        i = cell // second.shape[1]
        row = i // first.shape[1]
        j = cell + (row - i) * second.shape[1]
        below = _below_both(one, first.ravel()[i], other, second.ravel()[j])
        area[rows] = np.bincount(row, below, minlength=len(rows))
    return np.abs(area)


def _by_size(first: np.ndarray, second: np.ndarray) -> Iterator[np.ndarray]:
    """Rows of similar numbers of edges, so many at a time that they make no more than `_CELLS` pairs."""
    order = np.lexsort((first, second))
    order = order[(first * second)[order] > 0]
    while len(order):
        most = np.maximum.accumulate(first[order]) * second[order]
        stop = max(1, int(np.searchsorted(most * np.arange(1, len(most) + 1), _CELLS)))
        yield order[:stop]
        order = order[stop:]


def _table(roofs: _Roofs, start: np.ndarray, number: np.ndarray) -> tuple[np.ndarray, ...]:
    """Rows of the roofs of each pair, int64[p, most], and their left and right ends, inside out for none."""
    column = np.arange(number.max())
    index = np.minimum(start[:, None] + column, len(roofs.pair) - 1)
    none = column >= number[:, None]
    return index, np.where(none, np.inf, roofs.left[index]), np.where(none, -np.inf, roofs.right[index])


def _below_both(one: _Roofs, i: np.ndarray, other: _Roofs, j: np.ndarray) -> np.ndarray:
    """Signed area below both of two roofs each: the integral of the smaller of two linear functions."""
    start, other_start, slope, other_slope = one.left[i], other.left[j], one.slope[i], other.slope[j]
    left = np.maximum(start, other_start)
    width = np.minimum(one.right[i], other.right[j]) - left
    height = one.height[i] + slope * (left - start)
    above = height - other.height[j] - other_slope * (left - other_start)
    above_right = above + (slope - other_slope) * width
    # Where the first is above the second, from 0 or to 0, the triangle or trapezoid between them goes.
    excess = np.maximum(above, 0) + np.maximum(above_right, 0)
    apart = np.abs(above) + np.abs(above_right)
    lost = excess * excess / np.where(apart > 0, apart, 1)
    return one.sign[i] * other.sign[j] * (height + (slope * width - lost) / 2) * width
