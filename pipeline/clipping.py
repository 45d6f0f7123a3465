"""Polygons clipped to boxes, all at once.

Tiles stand in rows and columns, so which boxes a polygon meets is arithmetic on its bounds, without a
tree: a rank among the columns' edges and one among the rows'. What lies wholly in its box stays as it
is; the rest is cut by GEOS's rectangle clipper, box by box, which is several times faster than an
intersection and equal to it wherever its result is valid. Boxes that stand anyhow, or turned, go
through an STRtree and intersections.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import shapely

from pipeline.polygons import polygonal


class Clipped(NamedTuple):
    """The parts of polygons in boxes, by box and then by polygon."""

    box: np.ndarray
    """int64[n], index of the box."""
    polygon: np.ndarray
    """int64[n], index of the polygon."""
    parts: np.ndarray
    """object[n], Polygon or MultiPolygon; empty where the two only touch."""


def clip_to_boxes(polygons: np.ndarray, boxes: np.ndarray) -> Clipped:
    """The part of each polygon in each box that it meets.

    Args:
        polygons: object[p], valid Polygons.
        boxes: object[b], rectangles as Polygons; upright ones in rows and columns are fastest.
    """
    lattice = _lattice(boxes)
    if lattice is None:
        return _clip_by_tree(polygons, boxes)
    box, polygon = _meetings(shapely.bounds(polygons).reshape(-1, 4), *lattice)
    return Clipped(box, polygon, _cut(polygons, polygon, shapely.bounds(boxes), box))


def _clip_by_tree(polygons: np.ndarray, boxes: np.ndarray) -> Clipped:
    box, polygon = shapely.STRtree(polygons).query(boxes, predicate="intersects")
    order = np.lexsort((polygon, box))
    box, polygon = box[order], polygon[order]
    shapely.prepare(boxes)
    parts = polygons[polygon].copy()
    cut = ~shapely.covers(boxes[box], parts)
    parts[cut] = polygonal(shapely.intersection(parts[cut], boxes[box[cut]]))
    return Clipped(box, polygon, parts)


def _lattice(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Columns [c, 2] and rows [r, 2] as low and high edge, rising, and the box of each row and column.

    The last is int64[r, c], -1 where there is none. None where boxes are not upright, or overlap so that
    rows and columns are no help.
    """
    if not len(boxes):
        return None
    bounds = shapely.bounds(boxes)
    upright = np.isclose(
        shapely.area(boxes), np.prod(bounds[:, 2:] - bounds[:, :2], axis=1), rtol=1e-9, atol=0
    )
    columns, column = np.unique(bounds[:, [0, 2]], axis=0, return_inverse=True)
    rows, row = np.unique(bounds[:, [1, 3]], axis=0, return_inverse=True)
    single = all((np.diff(edges, axis=0) > 0).all() for edges in (columns, rows))
    if not upright.all() or not single or len(columns) * len(rows) > 16 * len(boxes) + 1024:
        return None
    places = np.full((len(rows), len(columns)), -1, dtype=np.int64)
    places[row.ravel(), column.ravel()] = np.arange(len(boxes))
    return columns, rows, places


def _meetings(
    bounds: np.ndarray, columns: np.ndarray, rows: np.ndarray, places: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Box and polygon of every pair whose bounds meet, by box and then by polygon."""
    # A box begins before the polygon ends and ends after it begins; both edges rise with its number.
    first_column = np.searchsorted(columns[:, 1], bounds[:, 0], side="left")
    last_column = np.searchsorted(columns[:, 0], bounds[:, 2], side="right")
    first_row = np.searchsorted(rows[:, 1], bounds[:, 1], side="left")
    last_row = np.searchsorted(rows[:, 0], bounds[:, 3], side="right")
    wide, high = np.maximum(last_column - first_column, 0), np.maximum(last_row - first_row, 0)
    polygon = np.repeat(np.arange(len(bounds)), wide * high)
    nth = np.arange(len(polygon)) - np.repeat(np.cumsum(wide * high) - wide * high, wide * high)
    down, across = np.divmod(nth, wide[polygon])
    box = places[first_row[polygon] + down, first_column[polygon] + across]
    there = box >= 0
    box, polygon = box[there], polygon[there]
    order = np.argsort(box, kind="stable")
    return box[order], polygon[order]


def _cut(polygons: np.ndarray, polygon: np.ndarray, bounds: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The parts of `polygons[polygon]` in the boxes of `bounds[box]`, pairs in the order of their boxes."""
    parts, frames, reach = polygons[polygon].copy(), bounds[box], shapely.bounds(polygons)[polygon]
    within = (reach[:, :2] >= frames[:, :2]).all(axis=1) & (reach[:, 2:] <= frames[:, 2:]).all(axis=1)
    crossing = np.flatnonzero(~within)
    edges = np.flatnonzero(np.diff(box[crossing], prepend=-1, append=-1))
    for start, stop in pairwise(edges):
        rows = crossing[start:stop]
        parts[rows] = shapely.clip_by_rect(parts[rows], *frames[rows[0]])
    # The clipper may leave what is not valid, or more than polygons: rare, and cut again by the book.
    doubtful = crossing[~shapely.is_valid(parts[crossing]) | _mixed(parts[crossing])]
    whole = polygons[polygon[doubtful]]
    parts[doubtful] = polygonal(shapely.intersection(whole, shapely.box(*frames[doubtful].T)))
    return parts


def _mixed(geometries: np.ndarray) -> np.ndarray:
    """Which geometries hold something, and not only polygons."""
    kinds = shapely.get_type_id(geometries)
    other = (kinds != shapely.GeometryType.POLYGON) & (kinds != shapely.GeometryType.MULTIPOLYGON)
    return other & ~shapely.is_empty(geometries)
