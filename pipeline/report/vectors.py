"""Outlines for the map and for the overview: as GeoJSON and as SVG, in image pixels, of a bounded size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import orjson
import shapely

VECTOR_BYTES = 9 * 2**19
"""What the buildings' outlines, or the labels', hold at most as GeoJSON."""
STRAY = 0.4
"""How far an outline may stray from its polygon, in pixels of the picture it is drawn on."""


_AT_ONCE = 5000
"""Polygons that are simplified and written together: the most that is made without being shown."""


class Layer(NamedTuple):
    """Outlines of one kind, and how many there are to show."""

    geojson: bytes
    """A FeatureCollection without a `<`, so that it may stand inside of HTML."""
    rows: np.ndarray
    """int64[s], which of the polygons are in it, rising."""
    total: int
    """Polygons that could be drawn."""


def map_layer(
    polygons_px: Sequence[Any] | np.ndarray, properties: Callable[[int], dict[str, Any]], px_per_drawn: float
) -> Layer:
    """Polygons as GeoJSON in image pixels, the largest where all would exceed `VECTOR_BYTES`.

    Args:
        polygons_px: object[n]; None and what has no area is left out.
        properties: of the polygon at a place.
        px_per_drawn: image pixels per pixel of the sharpest imagery they lie on.
    """
    polygons = np.array(polygons_px, dtype=object)
    drawable = np.flatnonzero(shapely.area(polygons) > 0)
    drawable = np.union1d(
        drawable, np.flatnonzero(~shapely.is_valid(polygons) & ~shapely.is_missing(polygons))
    )
    largest = drawable[np.argsort(-shapely.area(polygons[drawable]), kind="stable")]
    features, held = [], 0
    for feature in _features(polygons, largest, properties, px_per_drawn):
        held += len(feature)
        if held > VECTOR_BYTES:
            break
        features.append(feature)
    order = np.argsort(largest[: len(features)])
    collection = b'{"type":"FeatureCollection","features":[%b]}' % b",".join(features[i] for i in order)
    return Layer(collection.replace(b"<", b"\\u003c"), largest[order], len(largest))


def _features(
    polygons: np.ndarray, rows: np.ndarray, properties: Callable[[int], dict[str, Any]], px_per_drawn: float
) -> Iterator[bytes]:
    """The polygons of these rows as GeoJSON, one after the other."""
    for start in range(0, len(rows), _AT_ONCE):
        some = rows[start : start + _AT_ONCE]
        drawn = shapely.simplify(polygons[some], STRAY * px_per_drawn, preserve_topology=True)
        geometries = shapely.to_geojson(shapely.transform(drawn, lambda xy: xy.round(1) + 0.0))
        for row, text in zip(some.tolist(), geometries.tolist(), strict=True):
            yield b'{"type":"Feature","properties":%b,"geometry":%b}' % (
                orjson.dumps(properties(row)),
                text.encode(),
            )


def svg_path(polygons_px: Sequence[Any] | np.ndarray, px_per_drawn: float) -> str:
    """SVG path data of all polygons together, in whole image pixels or tenths, even-odd; '' for none.

    Args:
        polygons_px: object[n].
        px_per_drawn: image pixels per pixel of the picture they are drawn on.
    """
    polygons = shapely.simplify(np.array(polygons_px, dtype=object), STRAY * px_per_drawn)
    decimals = 0 if px_per_drawn > 2 else 1
    return "".join(_rings(polygons, decimals))


def _rings(polygons: np.ndarray, decimals: int) -> Iterator[str]:
    for ring in shapely.get_rings(shapely.get_parts(polygons)):
        corners = shapely.get_coordinates(ring)[:-1].round(decimals) + 0.0  # no minus before a zero
        yield "M" + " ".join(f"{x:.10g} {y:.10g}" for x, y in corners.tolist()) + "Z"
