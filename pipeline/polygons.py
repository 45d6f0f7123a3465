"""Small repairs on arrays of polygons, for what makes them (vectorize) and what joins them (seams)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import shapely

_POLYGON, _MULTIPOLYGON = 3, 6  # shapely's type ids


def largest_parts(geometries: np.ndarray) -> np.ndarray:
    """The polygon of largest area inside each geometry, None where there is none.

    Args:
        geometries: object[n] of any geometry; None and empty are allowed.

    Returns:
        object[n] of Polygon or None. A geometry that is a Polygon already is returned as it is.
    """
    geometries = np.asarray(geometries, dtype=object)
    largest = geometries.copy()
    compound = (shapely.get_type_id(geometries) != _POLYGON) | shapely.is_empty(geometries)
    if not compound.any():
        return largest
    # Twice: a collection may hold multipolygons.
    parts, owner = shapely.get_parts(geometries[compound], return_index=True)
    parts, inner = shapely.get_parts(parts, return_index=True)
    owner = owner[inner]
    area = shapely.area(parts)
    solid = (shapely.get_type_id(parts) == _POLYGON) & (area > 0)
    parts, owner, area = parts[solid], owner[solid], area[solid]
    found = np.full(np.count_nonzero(compound), None, dtype=object)
    order = np.lexsort((area, owner))
    found[owner[order]] = parts[order]  # the last write of an owner is its largest part
    largest[compound] = found
    return largest


def node_on_grid(polygons: np.ndarray, steps: float | np.ndarray) -> np.ndarray:
    """The polygons with all vertices and crossings on a grid: each largest part, None where none is left.

    A polygon of whose holes GEOS cannot tell where they belong, once they are narrower than the grid, loses
    its holes.

    Args:
        polygons: object[n] of valid Polygon.
        steps: of the grid, one for all or float[n].
    """
    noded = [_on_grid(*given) for given in np.broadcast(polygons, steps)]
    return largest_parts(np.array(noded, dtype=object))


def _on_grid(polygon: shapely.Polygon, step: float) -> shapely.Geometry:
    try:
        return shapely.set_precision(polygon, step)
    except shapely.GEOSException:
        return shapely.set_precision(shapely.Polygon(polygon.exterior), step)


def polygonal(geometries: np.ndarray) -> np.ndarray:
    """The geometries without the points and lines that intersections and repairs leave behind.

    Args:
        geometries: object[n] of any geometry but None.

    Returns:
        object[n] of Polygon or MultiPolygon; what holds nothing but polygons is returned as it is.
    """
    clean = np.asarray(geometries, dtype=object).copy()
    mixed = np.flatnonzero(~np.isin(shapely.get_type_id(clean), (_POLYGON, _MULTIPOLYGON)))
    if len(mixed):
        parts, owner = shapely.get_parts(clean[mixed], return_index=True)
        # A repair may leave a line beside a MultiPolygon.
        parts, holder = shapely.get_parts(parts, return_index=True)
        owner = owner[holder]
        solid = shapely.get_type_id(parts) == _POLYGON
        clean[mixed] = shapely.MultiPolygon()
        held, index = np.unique(owner[solid], return_inverse=True)
        clean[mixed[held]] = shapely.multipolygons(parts[solid], indices=index)
    return clean


def clip_to_frame(
    polygons: np.ndarray, frame: tuple[float, float, float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """The largest part of each polygon inside a rectangle, None where nothing is inside.

    Args:
        polygons: object[n] of valid Polygon or None.
        frame: x1, y1, x2, y2.

    Returns:
        object[n]; a polygon that lies inside is returned as it is. And bool[n], which ones do not.
    """
    clipped = np.asarray(polygons, dtype=object).copy()
    bounds = shapely.bounds(clipped).reshape(-1, 4)
    beyond = (bounds[:, :2] < frame[:2]).any(axis=1) | (bounds[:, 2:] > frame[2:]).any(axis=1)
    clipped[beyond] = largest_parts(shapely.intersection(clipped[beyond], shapely.box(*frame)))
    return clipped, beyond


def areas_on(polygons: np.ndarray, ground: Sequence[shapely.Geometry] | np.ndarray) -> np.ndarray:
    """Area of each polygon on a ground, float64[n].

    Args:
        polygons: object[n] of valid Polygon.
        ground: object[g] of valid geometries, which may overlap.
    """
    parts = shapely.get_parts(ground)
    mine, near = np.unique(shapely.STRtree(parts).query(polygons), axis=1)
    held, owner = np.unique(mine, return_inverse=True)
    pieces = shapely.geometrycollections(shapely.intersection(polygons[mine], parts[near]), indices=owner)
    areas = np.zeros(len(polygons))
    areas[held] = shapely.area(shapely.union_all(pieces[:, None], axis=1))
    return areas


def stand_on(polygons: np.ndarray, ground: shapely.Geometry) -> np.ndarray:
    """bool[n], which polygons have an inner point on a ground of the same frame; an empty one has none."""
    shapely.prepare(ground)
    return shapely.intersects(ground, shapely.point_on_surface(polygons))


def fill_holes(polygons: np.ndarray, min_hole_px2: float) -> np.ndarray:
    """The polygons without their holes of less than `min_hole_px2`.

    Args:
        polygons: object[n] of Polygon or None, in pixels.
        min_hole_px2: area in square pixels from which a hole is kept.

    Returns:
        object[n]; a polygon without such a hole is returned as it is.
    """
    filled = np.asarray(polygons, dtype=object).copy()
    pierced = np.flatnonzero(shapely.get_num_interior_rings(filled) > 0)
    if not len(pierced):
        return filled
    rings, owner = shapely.get_rings(filled[pierced], return_index=True)
    shell = np.r_[True, owner[1:] != owner[:-1]]
    small = ~shell & (shapely.area(shapely.polygons(rings)) < min_hole_px2)
    changed = np.zeros(len(pierced), dtype=bool)
    changed[owner[small]] = True
    keep = changed[owner] & ~small
    if keep.any():
        # `indices` must count from 0 without gaps.
        target = np.cumsum(changed)[owner[keep]] - 1
        filled[pierced[changed]] = shapely.polygons(rings[keep], indices=target)
    return filled


def cut_away(polygons: np.ndarray, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The polygons without the others that are to be taken from them.

    Args:
        polygons: object[n] of valid Polygon.
        rows: int64[m], rows of `polygons`, ascending.
        others: object[m] of valid Polygon, what each of these rows loses, one after another.

    Returns:
        object[n] of Polygon or MultiPolygon; a polygon that loses nothing is returned as it is.
    """
    rest = np.asarray(polygons, dtype=object).copy()
    turn = np.arange(len(rows)) - np.searchsorted(rows, rows)
    for step in range(turn.max(initial=-1) + 1):
        now = turn == step
        rest[rows[now]] = shapely.difference(rest[rows[now]], others[now])
    return rest


def without_slivers(polygons: np.ndarray, width_px: float) -> np.ndarray:
    """The polygons without what of them is thinner than a width, and with nothing that they did not have.

    Args:
        polygons: object[n] of valid Polygon, in pixels.
        width_px: from which a part is no sliver.

    Returns:
        object[n] of valid Polygon, the largest part of each; one that is as thin all over as it was.
    """
    cores = shapely.buffer(polygons, -width_px / 2, join_style="mitre")
    opened = shapely.buffer(cores, width_px / 2, join_style="mitre")
    thick = largest_parts(shapely.intersection(opened, polygons))
    return np.where(shapely.is_missing(thick), polygons, thick)
