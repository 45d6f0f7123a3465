"""The buildings of an image as files for maps and analysis: GeoJSON, GeoPackage, GeoParquet.

All three hold the columns of `building_columns`, and the same buildings give the same bytes: nothing
written here looks at the clock.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

import geopandas
import numpy as np
import orjson
import pyogrio
import shapely
from pyarrow import parquet
from pydantic import Field

from pipeline.rounding import round_polygons
from pipeline.schema import Artifact, MergeStatus, RegularizeStatus

FORMATS = ("csv", "geojson", "gpkg", "parquet")
"""What an image's buildings can be published as; `csv` is the submission."""
LONLAT = "OGC:CRS84"
LONLAT_DECIMALS = 8
"""About 1 mm."""
AREA_DECIMALS = 2
CONFIDENCE_DECIMALS = 6
LAYER = "buildings"
RAW_LAYER = "raw_outlines"
"""Layer of the GeoPackage with every building's outline as it was found, by `building_id`."""
RAW = "raw_outline"
"""Column of a frame with these outlines."""
GPKG_LAST_CHANGE = "1970-01-01T00:00:00.000Z"
"""GeoPackage insists on a date of last change per layer; a fixed one keeps the file reproducible."""


class Building(Artifact):
    """A building found in an image; its fields are the columns of every output, in this order."""

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
    """When the image was taken, ISO 8601 in UTC."""


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


def write_geojson(path: Path, batches: Iterable[geopandas.GeoDataFrame]) -> int:
    """Number of Features written to `path`, GeoJSON of RFC 7946, one Feature per line.

    Longitude before latitude at 8 decimals, exterior rings counterclockwise. Polygons stay valid at
    these decimals, see `round_polygons`.

    Args:
        path: where the file goes.
        batches: frames of `building_frame`, one in memory at a time.
    """
    count = 0
    with open(path, "wb") as file:
        file.write(b'{"type":"FeatureCollection","features":[')
        for batch in batches:
            records = batch.drop(columns=[batch.geometry.name, RAW]).to_dict("records")
            for properties, geometry in zip(records, _lonlat_geojson(batch, path), strict=True):
                file.write(b",\n" if count else b"\n")
                file.write(b'{"type":"Feature","properties":' + orjson.dumps(properties))
                file.write(b',"geometry":' + geometry.encode() + b"}")
                count += 1
        file.write(b"\n]}\n")
    return count


def write_gpkg(
    path: Path, batches: Iterable[geopandas.GeoDataFrame], categories: Sequence[str], crs: str
) -> None:
    """Layers `buildings` and `raw_outlines` in the image's CRS, written to `path` as GeoPackage.

    Args:
        path: where the file goes.
        batches: frames of `building_frame`, one in memory at a time.
        categories: names that give the columns, with or without rows.
        crs: of the image.
    """
    before = pyogrio.get_gdal_config_option("OGR_CURRENT_DATE")
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": GPKG_LAST_CHANGE})
    try:
        options = {"driver": "GPKG", "engine": "pyogrio", "geometry_type": "Polygon"}
        for number, batch in enumerate(chain([_empty_frame(categories, crs)], batches)):
            mode = "a" if number else "w"
            batch.drop(columns=RAW).to_file(path, layer=LAYER, mode=mode, **options)
            raw = batch[["building_id", RAW]].set_geometry(RAW).rename_geometry("geometry")
            raw.to_file(path, layer=RAW_LAYER, mode="a", **options)
    finally:
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": before})


def write_parquet(
    path: Path, batches: Iterable[geopandas.GeoDataFrame], categories: Sequence[str], crs: str
) -> None:
    """Buildings in the image's CRS with a bounding box column, written to `path` as GeoParquet 1.1.

    Args:
        path: where the file goes.
        batches: frames of `building_frame`, one in memory at a time, a row group each.
        categories: names that give the columns, with or without rows.
        crs: of the image.
    """
    first = _parquet_table(_empty_frame(categories, crs))
    geo = orjson.loads(first.schema.metadata[b"geo"])
    bounds = np.empty((0, 4))
    with parquet.ParquetWriter(path, first.schema.remove_metadata(), compression="zstd") as writer:
        for batch in batches:
            writer.write_table(_parquet_table(batch).replace_schema_metadata())
            bounds = np.vstack([bounds, batch.total_bounds])
        geo["columns"]["geometry"]["geometry_types"] = ["Polygon"]
        geo["columns"]["geometry"].pop("bbox", None)
        if len(bounds):
            box = np.r_[np.nanmin(bounds[:, :2], axis=0), np.nanmax(bounds[:, 2:], axis=0)]
            geo["columns"]["geometry"]["bbox"] = box.tolist()
        # The box of everything is known only now.
        writer.add_key_value_metadata({"geo": orjson.dumps(geo).decode()})


def _parquet_table(frame: geopandas.GeoDataFrame):
    buffer = io.BytesIO()
    frame.drop(columns=RAW).to_parquet(buffer, index=False, schema_version="1.1.0", write_covering_bbox=True)
    return parquet.read_table(buffer)


def _empty_frame(categories: Sequence[str], crs: str) -> geopandas.GeoDataFrame:
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


def _lonlat_geojson(batch: geopandas.GeoDataFrame, path: Path) -> list[str]:
    degrees = round_polygons(batch.geometry.to_crs(LONLAT), LONLAT_DECIMALS, where=path)
    return shapely.to_geojson(shapely.orient_polygons(degrees)).tolist()
