"""The buildings of an image in the formats of maps and analysis.

All hold the columns of `building_columns`, shapefiles under shorter names, and are written batch by batch.
The same buildings give the same bytes: nothing written here looks at the clock.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import orjson
import pyarrow
import pyogrio
import shapely
from pyarrow import parquet

from pipeline.outputs.buildings import LONLAT, RAW, building_columns, empty_frame
from pipeline.rounding import round_polygons

LONLAT_DECIMALS = 8
"""About 1 mm."""
FEATURE = b'{"type":"Feature",'
"""What each line of a GeoJSON that holds a building begins with."""
NO_CLOCK = "1970-01-01"
"""Some formats insist on a date of last change; a fixed one keeps files reproducible."""
FIELD_NAME_BYTES = 10
"""Of a shapefile's fields at most."""
SHAPEFILE_NAMES = {
    "building_id": "bldg_id",
    "class_name": "class",
    "confidence": "conf",
    "tile_count": "tile_n",
    "merge_status": "merge",
    "regularize_status": "outline",
    "timestamp": "taken",
}
"""What columns with names too long for a shapefile are called; `conf_<category>` becomes `c_<8 letters>`."""
MAX_ZOOM = 20
"""Of map tiles: about 0.15 m per screen pixel."""


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
                file.write(FEATURE + b'"properties":' + orjson.dumps(properties))
                file.write(b',"geometry":' + geometry.encode() + b"}")
                count += 1
        file.write(b"\n]}\n")
    return count


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
    first = _parquet_table(empty_frame(categories, crs))
    geo = orjson.loads(first.schema.metadata[b"geo"])
    bounds = np.empty((0, 4))
    with parquet.ParquetWriter(path, first.schema.remove_metadata(), compression="zstd") as writer:
        for batch in filter(len, batches):
            writer.write_table(_parquet_table(batch).replace_schema_metadata())
            bounds = np.vstack([bounds, batch.total_bounds])
        geo["columns"]["geometry"]["geometry_types"] = ["Polygon"]
        geo["columns"]["geometry"].pop("bbox", None)
        if len(bounds):
            box = np.r_[bounds[:, :2].min(axis=0), bounds[:, 2:].max(axis=0)]
            geo["columns"]["geometry"]["bbox"] = box.tolist()
        # The box of everything is known only now.
        writer.add_key_value_metadata({"geo": orjson.dumps(geo).decode()})


def _parquet_table(frame: geopandas.GeoDataFrame):
    buffer = io.BytesIO()
    frame.drop(columns=RAW).to_parquet(buffer, index=False, schema_version="1.1.0", write_covering_bbox=True)
    return parquet.read_table(buffer)


def _lonlat_geojson(batch: geopandas.GeoDataFrame, path: Path) -> list[str]:
    degrees = round_polygons(batch.geometry.to_crs(LONLAT), LONLAT_DECIMALS, where=path)
    return shapely.to_geojson(shapely.orient_polygons(degrees)).tolist()


def write_flatgeobuf(
    path: Path, batches: Iterable[geopandas.GeoDataFrame], categories: Sequence[str], crs: str
) -> None:
    """Buildings in the image's CRS with a spatial index, written to `path` as FlatGeobuf.

    Args:
        path: where the file goes.
        batches: frames of `building_frame`, one in memory at a time.
        categories: names that give the columns, with or without rows.
        crs: of the image.
    """
    _stream(path, batches, categories, crs, "FlatGeobuf", layer_options={"SPATIAL_INDEX": "YES"})


def write_shapefile(
    path: Path, batches: Iterable[geopandas.GeoDataFrame], categories: Sequence[str], crs: str
) -> None:
    """Buildings in the image's CRS, written to `path` and the files beside it as an ESRI shapefile.

    Its fields have names of at most 10 letters (`SHAPEFILE_NAMES`), texts of at most 254; each of its files
    holds at most 2 GB.

    Args:
        path: where the file goes.
        batches: frames of `building_frame`, one in memory at a time.
        categories: names that give the columns, with or without rows.
        crs: of the image.
    """
    names = shapefile_names(building_columns(categories))
    options = {"ENCODING": "UTF-8", "DBF_DATE_LAST_UPDATE": NO_CLOCK, "RESIZE": "YES"}
    _stream(path, batches, categories, crs, "ESRI Shapefile", names=names, layer_options=options)


def shapefile_names(columns: Sequence[str]) -> dict[str, str]:
    """What each column is called in a shapefile, in at most 10 bytes, all different.

    >>> shapefile_names(["building_id", "conf_foundation", "conf_found", "area_m2"])
    {'building_id': 'bldg_id', 'conf_foundation': 'c_foundati', 'conf_found': 'c_found', 'area_m2': 'area_m2'}
    """
    names: dict[str, str] = {}
    for column in columns:
        wanted = SHAPEFILE_NAMES.get(column, column.replace("conf_", "c_", 1))
        short, number = _cut(wanted, FIELD_NAME_BYTES), 1
        while short.lower() in {name.lower() for name in names.values()}:
            number += 1
            short = _cut(wanted, FIELD_NAME_BYTES - len(str(number))) + str(number)
        names[column] = short
    return names


def _cut(text: str, size: int) -> str:
    return text.encode()[:size].decode(errors="ignore")


def write_map_tiles(
    path: Path, batches: Iterable[geopandas.GeoDataFrame], categories: Sequence[str], crs: str
) -> None:
    """Buildings as vector tiles for web maps, written to `path`, PMTiles or MBTiles by its ending.

    Tiles hold outlines at the precision of their zoom, at most `MAX_ZOOM`. Without a building there is
    nothing to tile, and no file.

    Args:
        path: where the file goes.
        batches: frames of `building_frame`, one in memory at a time.
        categories: names that give the columns, with or without rows.
        crs: of the image.
    """
    some = iter(batches)
    first = next((batch for batch in some if len(batch)), None)
    if first is None:
        return
    driver = {".pmtiles": "PMTiles", ".mbtiles": "MBTiles"}[path.suffix]
    options = {"MINZOOM": "10", "MAXZOOM": str(MAX_ZOOM), "NAME": path.stem, "MAX_SIZE": "2000000"}
    _stream(path, chain([first], some), categories, crs, driver, in_crs="EPSG:3857", dataset_options=options)


def _stream(
    path: Path,
    batches: Iterable[geopandas.GeoDataFrame],
    categories: Sequence[str],
    crs: str,
    driver: str,
    *,
    names: dict[str, str] | None = None,
    in_crs: str | None = None,
    **options: Any,
) -> None:
    """Buildings through GDAL, which takes them batch by batch."""

    def tables() -> Iterator[pyarrow.Table]:
        for batch in chain([empty_frame(categories, crs)], batches):
            frame = batch.drop(columns=RAW).rename(columns=names or {})
            frame = frame.to_crs(in_crs) if in_crs else frame
            table = pyarrow.table(frame.to_arrow(index=False, geometry_encoding="WKB"))
            yield table.cast(_plain(table.schema))

    stream = tables()
    schema = next(stream).schema
    reader = pyarrow.RecordBatchReader.from_batches(
        schema, (part for table in stream for part in table.to_batches())
    )
    with no_clock():
        pyogrio.write_arrow(
            reader,
            path,
            layer="buildings",
            driver=driver,
            geometry_name="geometry",
            geometry_type="Polygon",
            crs=in_crs or crs,
            **options,
        )


def _plain(schema: pyarrow.Schema) -> pyarrow.Schema:
    """A schema whose texts are of the kind that GDAL knows."""
    plain = {pyarrow.large_string(): pyarrow.string(), pyarrow.string_view(): pyarrow.string()}
    return pyarrow.schema([field.with_type(plain.get(field.type, field.type)) for field in schema])


@contextmanager
def no_clock() -> Iterator[None]:
    """GDAL writes `NO_CLOCK` where it would write today's date; afterwards it is as it was."""
    before = pyogrio.get_gdal_config_option("OGR_CURRENT_DATE")
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": f"{NO_CLOCK}T00:00:00.000Z"})
    try:
        yield
    finally:
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": before})


Writer = Callable[[Path, Iterable[geopandas.GeoDataFrame], Sequence[str], str], object]

WRITERS: dict[str, Writer] = {
    "geojson": lambda path, batches, categories, crs: write_geojson(path, batches),
    "parquet": write_parquet,
    "fgb": write_flatgeobuf,
    "shp": write_shapefile,
    "pmtiles": write_map_tiles,
    "mbtiles": write_map_tiles,
}
"""By the ending of what they write."""
