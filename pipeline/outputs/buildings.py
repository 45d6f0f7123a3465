"""A building as every output holds it: its columns, their order, and frames of them."""

from __future__ import annotations

from collections.abc import Sequence

import geopandas
import numpy as np
from pydantic import Field

from pipeline.schema import Artifact, MergeStatus, RegularizeStatus

LONLAT = "OGC:CRS84"
AREA_DECIMALS = 2
CONFIDENCE_DECIMALS = 6
RAW = "raw_outline"
"""Column of a frame with the outlines as they were found."""


class Building(Artifact):
    """A building found in an image; its fields are the columns of every output, in this order.

    A shapefile's names have ten bytes at most: there `building_id` is `bldg_id`, `class_name` `class`,
    `confidence` `conf`, `conf_<category>` `c_<category>` cut off, `tile_count` `tile_n`, `merge_status`
    `merge`, `regularize_status` `outline` and `timestamp` `taken`. Its texts end after 254 bytes, each of its
    files at 2 GB. PMTiles and MBTiles hold a building once per zoom and tile: they are to be looked at, not
    counted. GDAL reads PMTiles from 3.8 on, GeoParquet where it is built with Arrow; the QGIS of Debian 12
    opens neither.
    """

    building_id: int = Field(ge=1)
    """Counts from 1, the row of the submission."""
    class_name: str
    """The category of the highest confidence."""
    confidence: float = Field(ge=0, le=1)
    """The highest confidence."""
    confidences: dict[str, float]
    """By category; written as one column `conf_<category>` each."""
    area_m2: float = Field(ge=0)
    """On the ground."""
    tile_id: str
    """The tile that saw most of it."""
    tile_count: int = Field(ge=1)
    """Tiles that saw it."""
    merge_status: MergeStatus
    regularize_status: RegularizeStatus
    model: str
    """Name and weights digest of the network."""
    timestamp: str
    """When the image was taken or, where it does not say, its file last changed; ISO 8601 in UTC."""


def building_columns(categories: Sequence[str]) -> tuple[str, ...]:
    """Columns of every output in their order, the geometry apart.

    >>> building_columns(["hut", "house"])[2:6]
    ('confidence', 'conf_hut', 'conf_house', 'area_m2')
    """
    expanded = {"confidences": [f"conf_{name}" for name in categories]}
    return tuple(column for field in Building.model_fields for column in expanded.get(field, [field]))


def building_frame(
    polygons_crs,
    probabilities: np.ndarray,
    categories: Sequence[str],
    *,
    crs: str,
    areas_m2: np.ndarray,
    tile_ids: Sequence[str],
    tile_counts: np.ndarray,
    merge_statuses: Sequence[MergeStatus],
    regularize_statuses: Sequence[RegularizeStatus],
    raw_crs,
    model: str,
    timestamp: str,
    first_id: int = 1,
) -> geopandas.GeoDataFrame:
    """Buildings with the columns of `building_columns`, their geometry in the image's CRS, and `RAW`.

    Args:
        polygons_crs: object[n] in `crs`, as published.
        probabilities: float64[n, k], confidence per category in [0, 1].
        categories: the k names.
        crs: of the image.
        areas_m2: float64[n], ground area.
        tile_ids: n names of the tile that saw most of each.
        tile_counts: int64[n], tiles that saw each.
        merge_statuses: n.
        regularize_statuses: n.
        raw_crs: object[n] in `crs`, the outlines as they were found.
        model: name and weights digest of the network.
        timestamp: when the image was taken, ISO 8601 in UTC.
        first_id: id of the first building, where the image comes in several batches.
    """
    n = len(polygons_crs)
    probabilities = np.asarray(probabilities, dtype=np.float64).reshape(n, len(categories))
    confidences = probabilities.round(CONFIDENCE_DECIMALS)
    columns = {
        "building_id": np.arange(first_id, first_id + n),
        "class_name": np.array(categories, dtype=object)[probabilities.argmax(axis=1)],
        "confidence": confidences.max(axis=1),
        **{f"conf_{name}": confidences[:, index] for index, name in enumerate(categories)},
        "area_m2": np.asarray(areas_m2, dtype=np.float64).round(AREA_DECIMALS),
        "tile_id": np.array(tile_ids, dtype=object),
        "tile_count": np.asarray(tile_counts, dtype=np.int64),
        "merge_status": np.array(merge_statuses, dtype=object),
        "regularize_status": np.array(regularize_statuses, dtype=object),
        "model": np.full(n, model, dtype=object),
        "timestamp": np.full(n, timestamp, dtype=object),
    }
    ordered = {name: columns[name] for name in building_columns(categories)}
    frame = geopandas.GeoDataFrame(ordered, geometry=np.array(polygons_crs, dtype=object), crs=crs)
    frame[RAW] = geopandas.GeoSeries(np.array(raw_crs, dtype=object), crs=crs)
    # Without rows pandas cannot tell text from anything else.
    texts = ["class_name", "tile_id", "merge_status", "regularize_status", "model", "timestamp"]
    return frame.astype({name: "str" for name in texts})


def empty_frame(categories: Sequence[str], crs: str) -> geopandas.GeoDataFrame:
    """A frame of no building, with every column."""
    nothing = np.empty(0)
    return building_frame(
        [],
        nothing,
        categories,
        crs=crs,
        areas_m2=nothing,
        tile_ids=[],
        tile_counts=nothing,
        merge_statuses=[],
        regularize_statuses=[],
        raw_crs=[],
        model="",
        timestamp="",
    )
