"""The two frames of an image and the way between them: pixels, its CRS, and the ground.

`_px` is full-image pixels (x = column, y = row, integers at pixel edges, so the first pixel's
centre is at 0.5, 0.5); `_crs` is the image's own CRS in the x, y order of GIS files, whatever
axis order its authority defines. A CRS's unit is not a ground metre: EPSG:4326 counts degrees
and EPSG:3857 stretches with latitude, so lengths and areas on the ground are measured here.

A north-up transform mirrors y, and with it the winding of rings: writers that care orient
them with `shapely.orient_polygons`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import shapely
from pyproj import CRS, Geod, Transformer
from pyproj.exceptions import ProjError

from pipeline.errors import LabelError, RasterError
from pipeline.schema import Grid, Window

LONLAT = "OGC:CRS84"
"""WGS 84 longitude, latitude: the CRS of RFC 7946."""

_WGS84 = Geod(ellps="WGS84")


def px_to_crs(geoms: Iterable[Any], transform: Sequence[float]) -> np.ndarray:
    """Geometries in the image's CRS, from geometries in pixels.

    Args:
        geoms: object[n] of shapely geometries in image pixels; None stays None.
        transform: the image's (a, b, c, d, e, f) in rasterio's order, or its `Affine`.

    Returns:
        object[n] in the image's CRS, two-dimensional.
    """
    a, b, c, d, e, f = tuple(transform)[:6]
    matrix = np.array([[a, d], [b, e]])
    return shapely.transform(_objects(geoms), lambda xy: xy @ matrix + (c, f))


def crs_to_px(geoms: Iterable[Any], transform: Sequence[float]) -> np.ndarray:
    """Geometries in pixels, from geometries in the image's CRS: the inverse of `px_to_crs`.

    Args:
        geoms: object[n] of shapely geometries in the image's CRS; None stays None.
        transform: the image's (a, b, c, d, e, f) in rasterio's order, or its `Affine`.

    Returns:
        object[n] in image pixels, two-dimensional.
    """
    a, b, c, d, e, f = tuple(transform)[:6]
    inverse = np.linalg.inv(np.array([[a, d], [b, e]]))
    # Northings are a million times a pixel: leaving them first keeps the digits of the rest.
    return shapely.transform(_objects(geoms), lambda xy: (xy - (c, f)) @ inverse)


def reproject(geoms: Iterable[Any], src_crs: Any, dst_crs: Any, *, where: object = None) -> np.ndarray:
    """Geometries in another CRS.

    Args:
        geoms: object[n] of shapely geometries in `src_crs`, coordinates in x, y order; None stays None.
        src_crs: anything pyproj reads as a CRS, or a rasterio CRS.
        dst_crs: the same, of the result.
        where: what an error names as the geometries' origin, usually a file.

    Returns:
        object[n] in `dst_crs`, two-dimensional.

    Raises:
        LabelError: a CRS is unknown, or a coordinate has no place in `dst_crs`.
    """
    source, target = _crs_text(src_crs), _crs_text(dst_crs)
    transformer = _transformer(source, target, where)

    def move(xy: np.ndarray) -> np.ndarray:
        moved = xy if transformer is None else np.column_stack(transformer.transform(xy[:, 0], xy[:, 1]))
        lost = ~np.isfinite(moved).all(axis=1)
        if lost.any():
            raise LabelError(
                f"{lost.sum()} of {len(xy)} coordinates cannot be placed in {_short(target)}",
                where=where,
                found=tuple(xy[lost][0].tolist()),
                remedy=f"Check that the coordinates are in the CRS the file states, {_short(source)}.",
            )
        return moved

    return shapely.transform(_objects(geoms), move)


def exact_crs(crs: Any) -> str:
    """'EPSG:<code>' where a CRS is that code's and not merely like it, else WKT 2.

    Args:
        crs: anything pyproj reads as a CRS.
    """
    known = CRS.from_user_input(crs)
    # The code that PROJ finds is the likeliest: of a datum without a name one by its ellipsoid.
    code = known.to_epsg()
    exact = code is not None and known.equals(CRS.from_epsg(code), ignore_axis_order=True)
    return f"EPSG:{code}" if exact else known.to_wkt()


def ground_areas(geoms_crs: Iterable[Any], crs: Any) -> np.ndarray:
    """True areas on the ground, in m2.

    Args:
        geoms_crs: object[n] of shapely geometries in `crs`.
        crs: anything pyproj reads as a CRS.

    Returns:
        float64[n], within 0.1 % of the geodesic area for anything the size of a settlement;
        0 for empty geometries and lines, NaN for None.

    Raises:
        LabelError: as `reproject`.
    """
    lonlat = reproject(geoms_crs, crs, LONLAT)
    coordinates = shapely.get_coordinates(lonlat)
    if not len(coordinates):
        return shapely.area(lonlat)
    # The projection is equal-area wherever it is centred; whole degrees let the cache serve it again.
    lon, lat = coordinates.mean(axis=0).round().tolist()
    return shapely.area(reproject(lonlat, LONLAT, f"+proj=laea +lat_0={lat} +lon_0={lon} +datum=WGS84"))


def ground_m_per_px(
    transform: Sequence[float], width: int, height: int, crs: Any, *, where: object = None
) -> tuple[float, float]:
    """Ground length of one pixel's width and height at the image's centre, in metres.

    Args:
        transform: the image's (a, b, c, d, e, f) in rasterio's order, or its `Affine`.
        width: columns of the image.
        height: rows of the image.
        crs: the image's CRS.
        where: what an error names, usually the image's path.

    Raises:
        RasterError: the CRS is unknown or has no place on the earth, or the centre lies outside it.
    """
    x, y = width / 2, height / 2
    ends = np.array([[x - 0.5, y], [x + 0.5, y], [x, y - 0.5], [x, y + 0.5]])
    cause: LabelError | None = None
    lengths = np.zeros(2)
    try:
        lon, lat = lonlat_of_px(ends, transform, crs).T
        _, _, lengths = _WGS84.inv(lon[[0, 2]], lat[[0, 2]], lon[[1, 3]], lat[[1, 3]])
    except LabelError as error:
        cause = error
    if not (np.isfinite(lengths).all() and (lengths > 0).all()):
        raise RasterError(
            "the image's centre has no place on the earth",
            where=where,
            found=_short(_crs_text(crs)),
            remedy="Give the file the CRS its coordinates are in, as in rio edit-info --crs EPSG:32737.",
        ) from cause
    return float(lengths[0]), float(lengths[1])


def lonlat_of_px(points_px: np.ndarray, transform: Sequence[float], crs: Any) -> np.ndarray:
    """Longitudes and latitudes of points, float64[n, 2] in degrees (WGS 84).

    Args:
        points_px: float64[n, 2] of x, y in image pixels.
        transform: the image's (a, b, c, d, e, f) in rasterio's order, or its `Affine`.
        crs: the image's CRS.

    Raises:
        LabelError: as `reproject`.
    """
    points = shapely.MultiPoint(np.asarray(points_px, dtype=float).reshape(-1, 2))
    return shapely.get_coordinates(reproject(px_to_crs([points], transform), crs, LONLAT))


def grid_lonlat_bounds(grid: Grid) -> tuple[float, float, float, float]:
    """West, south, east, north of an image in degrees (WGS 84)."""
    west, south, east, north = shapely.bounds(grid_lonlat_outline(grid)).tolist()
    return west, south, east, north


def grid_lonlat_outline(grid: Grid) -> shapely.Polygon:
    """What an image covers, in degrees (WGS 84); its edges are curves there, which are followed."""
    frame = shapely.segmentize(shapely.box(0, 0, grid.width, grid.height), max(grid.width, grid.height) / 20)
    return reproject(px_to_crs([frame], grid.transform), grid.crs, LONLAT)[0]


def footprint(grid: Grid) -> shapely.Polygon:
    """The image's outline in its CRS."""
    return px_to_crs([shapely.box(0, 0, grid.width, grid.height)], grid.transform)[0]


def window_box(window: Window | Sequence[int]) -> shapely.Polygon:
    """The window's rectangle in image pixels."""
    col_off, row_off, width, height = window
    return shapely.box(col_off, row_off, col_off + width, row_off + height)


def window_boxes(windows: np.ndarray | Sequence[Window]) -> np.ndarray:
    """The windows' rectangles in image pixels, object[t].

    Args:
        windows: int64[t, 4] of col_off, row_off, width, height.
    """
    col_off, row_off, width, height = np.asarray(windows, dtype=np.int64).reshape(-1, 4).T
    return shapely.box(col_off, row_off, col_off + width, row_off + height)


def _objects(geoms: Iterable[Any]) -> np.ndarray:
    return np.asarray(geoms, dtype=object)


def _crs_text(crs: Any) -> str:
    """A hashable CRS: text stays, pyproj's and rasterio's objects become WKT, numbers EPSG codes."""
    if isinstance(crs, int | np.integer):
        return f"EPSG:{crs}"
    return crs.to_wkt() if hasattr(crs, "to_wkt") else str(crs)


def _short(crs: str) -> str:
    """The beginning of a CRS's text, since WKT would fill a message."""
    return crs if len(crs) <= 40 else crs[:40] + "..."


@lru_cache(maxsize=64)
def _cached_transformer(source: str, target: str) -> Transformer | None:
    src, dst = CRS.from_user_input(source), CRS.from_user_input(target)
    return None if src.equals(dst, ignore_axis_order=True) else Transformer.from_crs(src, dst, always_xy=True)


def _transformer(source: str, target: str, where: object) -> Transformer | None:
    """The way from one CRS to the other, None where they are the same."""
    if source == target:
        return None
    try:
        return _cached_transformer(source, target)
    except ProjError as error:
        raise LabelError(
            f"no way leads from CRS {_short(source)} to {_short(target)}",
            where=where,
            remedy="Use an EPSG code, as in 'EPSG:32737', or the WKT of a CRS on the earth.",
        ) from error
