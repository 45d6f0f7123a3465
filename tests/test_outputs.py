"""Buildings in every format: what the specifications ask, that they come back, and the same bytes twice."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import geopandas
import numpy as np
import pyogrio
import pyproj
import pytest
import shapely
from pyarrow import parquet

from pipeline.outputs import RAW, WRITERS, Building, building_columns, building_frame, write_geojson
from pipeline.outputs.formats import FIELD_NAME_BYTES, shapefile_names
from pipeline.outputs.geopackage import write_gpkg
from pipeline.outputs.qgis import layer_styles

CATEGORIES = ("foundation", "unfinished", "completed")
ORDER = [
    "building_id",
    "class_name",
    "confidence",
    "conf_foundation",
    "conf_unfinished",
    "conf_completed",
    "area_m2",
    "tile_id",
    "tile_count",
    "merge_status",
    "regularize_status",
    "model",
    "timestamp",
]


def frame(n=3, first_id=1):
    corners = 534_000 + 40.0 * np.arange(n)
    # Clockwise rings: RFC 7946 wants the other way round.
    polygons = shapely.box(corners, 9_365_000, corners + 20, 9_365_010, ccw=False)
    return building_frame(
        polygons,
        np.tile([[0.02, 0.05, 0.93]], (n, 1)),
        CATEGORIES,
        crs="EPSG:32737",
        areas_m2=np.full(n, 199.9871),
        tile_ids=["r0000_c0001"] * n,
        tile_counts=np.full(n, 2),
        merge_statuses=["stitched"] * n,
        regularize_statuses=["right_angles"] * n,
        raw_crs=shapely.box(corners, 9_365_000, corners + 19, 9_365_011),
        model="maskrcnn_resnet50_fpn_v2:0123abcd",
        timestamp="2018-05-01T00:00:00Z",
        first_id=first_id,
    )


def test_columns_are_those_of_a_building():
    assert list(building_columns(CATEGORIES)) == ORDER
    assert list(frame().columns) == [*ORDER, "geometry", RAW]


def test_rows_are_buildings():
    row = frame().drop(columns=["geometry", RAW]).to_dict("records")[1]
    confidences = {name: row.pop(f"conf_{name}") for name in CATEGORIES}
    building = Building(confidences=confidences, **row)
    assert (building.building_id, building.class_name, building.area_m2) == (2, "completed", 199.99)


def test_geojson_follows_rfc_7946(tmp_path):
    path = tmp_path / "buildings.geojson"
    assert write_geojson(path, iter([frame(2), frame(0), frame(1, first_id=3)])) == 3
    collection = json.loads(path.read_text())
    assert sorted(collection) == ["features", "type"]
    assert [list(feature["properties"]) for feature in collection["features"]] == [ORDER] * 3
    assert [feature["properties"]["building_id"] for feature in collection["features"]] == [1, 2, 3]
    ring = collection["features"][0]["geometry"]["coordinates"][0]
    assert ring[0] == ring[-1]
    assert shapely.is_ccw(shapely.LinearRing(ring))
    longitude, latitude = ring[0]
    assert 39 < longitude < 40
    assert -6 < latitude < -5
    assert all(len(repr(value).partition(".")[2]) <= 8 for point in ring for value in point)


def test_geojson_lies_where_the_buildings_are(tmp_path):
    write_geojson(tmp_path / "buildings.geojson", [frame()])
    back = geopandas.read_file(tmp_path / "buildings.geojson")
    moved = back.to_crs("EPSG:32737").geometry.hausdorff_distance(frame().geometry)
    assert moved.max() < 0.002
    area, _ = pyproj.Geod(ellps="WGS84").geometry_area_perimeter(back.geometry[0])
    assert area == pytest.approx(200, rel=0.01)


def test_one_feature_per_line(tmp_path):
    write_geojson(tmp_path / "buildings.geojson", [frame()])
    lines = (tmp_path / "buildings.geojson").read_text().splitlines()
    assert json.loads(lines[2].rstrip(","))["properties"]["building_id"] == 2


CRS = "EPSG:32737"


def batches(n):
    """Frames of n buildings each, none at all for n = 0."""
    return [frame(n), frame(n, first_id=n + 1)] if n else []


def write(name, path, frames):
    if name == "gpkg":
        write_gpkg(path, iter(frames), CATEGORIES, CRS, styles=layer_styles(CATEGORIES))
    else:
        WRITERS[name](path, iter(frames), CATEGORIES, CRS)


@pytest.mark.parametrize("name", ["gpkg", *WRITERS])
def test_the_same_buildings_give_the_same_bytes_whatever_the_day(tmp_path, name):
    today = datetime.now(UTC).date().isoformat().encode()
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        write(name, tmp_path / folder / f"b.{name}", batches(3))
    files = sorted((tmp_path / "one").iterdir())
    assert f"b.{name}" in {path.name for path in files}
    for path in files:
        content = path.read_bytes()
        assert content == (tmp_path / "two" / path.name).read_bytes() and today not in content, path.name


@pytest.mark.parametrize("n", [0, 3])
@pytest.mark.parametrize("name", ["gpkg", "parquet", "fgb", "shp"])
def test_buildings_come_back(tmp_path, name, n):
    path = tmp_path / f"b.{name}"
    write(name, path, batches(n))
    back = geopandas.read_parquet(path) if name == "parquet" else geopandas.read_file(path)
    assert back.crs == CRS
    short = shapefile_names(ORDER) if name == "shp" else dict(zip(ORDER, ORDER, strict=True))
    assert [column for column in back.columns if column not in ("geometry", "bbox")] == list(short.values())
    expected = [polygon for batch in batches(n) for polygon in batch.geometry]
    order = np.argsort(back[short["building_id"]].to_numpy())  # FlatGeobuf sorts by place
    back = back.iloc[order]
    shapes = np.array(back.geometry, dtype=object)
    assert shapely.equals(shapes, np.array(expected, dtype=object)).all() and len(shapes) == 2 * n
    assert back[short["building_id"]].tolist() == list(range(1, 2 * n + 1))
    assert back[short["class_name"]].tolist() == ["completed"] * 2 * n
    assert back[short["conf_completed"]].tolist() == [0.93] * 2 * n


@pytest.mark.filterwarnings("error")
def test_batches_without_a_building_say_nothing_of_a_geoparquet_s_box(tmp_path):
    for name, frames in (("some", [frame(0), frame(2)]), ("none", [frame(0), frame(0)])):
        write("parquet", tmp_path / name, frames)
    some, none = (
        json.loads(parquet.read_metadata(tmp_path / name).metadata[b"geo"])["columns"]["geometry"]
        for name in ("some", "none")
    )
    assert some["bbox"] == frame(2).total_bounds.tolist() and "bbox" not in none


@pytest.mark.parametrize("name", ["pmtiles", "mbtiles"])
def test_map_tiles_hold_every_building_near_its_place(tmp_path, name):
    path = tmp_path / f"b.{name}"
    write(name, path, batches(3))
    back = pyogrio.read_dataframe(path)
    assert set(back["building_id"]) == set(range(1, 7))
    assert set(ORDER) < set(back.columns)
    moved = back.dissolve("building_id").to_crs(CRS).geometry
    first = frame(1).geometry.iloc[0]
    assert moved.loc[1].hausdorff_distance(first) < 0.2
    write(name, tmp_path / f"none.{name}", [frame(0)])
    assert not (tmp_path / f"none.{name}").exists(), "nothing to tile"


def test_shapefile_names_are_short_and_all_different():
    columns = [*ORDER, "conf_foundations", "conf_foundationally", "conf_дом_недостроенный"]
    names = shapefile_names(columns)
    assert len({name.lower() for name in names.values()}) == len(columns)
    assert all(len(name.encode()) <= FIELD_NAME_BYTES for name in names.values())


@pytest.mark.parametrize("n", [0, 3])
def test_the_geopackage_keeps_the_outlines_as_they_were_found(tmp_path, n):
    write("gpkg", tmp_path / "b.gpkg", batches(n))
    raw = geopandas.read_file(tmp_path / "b.gpkg", layer="raw_outlines")
    expected = [polygon for batch in batches(n) for polygon in batch[RAW]]
    assert raw.crs == CRS and list(raw.columns) == ["building_id", "geometry"]
    assert raw["building_id"].tolist() == list(range(1, 2 * n + 1))
    assert shapely.equals(np.array(raw.geometry, dtype=object), np.array(expected, dtype=object)).all()
    for layer in ("buildings", "raw_outlines"):
        assert pyogrio.read_info(tmp_path / "b.gpkg", layer=layer)["geometry_type"] == "Polygon"


def test_geoparquet_is_found_by_its_box(tmp_path):
    write("parquet", tmp_path / "b.parquet", [frame(6), frame(3, first_id=7)])
    geo = json.loads(parquet.read_metadata(tmp_path / "b.parquet").metadata[b"geo"])
    assert geo["columns"]["geometry"]["bbox"] == frame(6).total_bounds.tolist()
    near = geopandas.read_parquet(tmp_path / "b.parquet", bbox=(534_000, 9_365_000, 534_001, 9_365_001))
    assert near["building_id"].tolist() == [1, 7]


def test_writing_leaves_gdals_options_as_they_were(tmp_path):
    write("gpkg", tmp_path / "b.gpkg", [frame(1)])
    assert pyogrio.get_gdal_config_option("OGR_CURRENT_DATE") is None


def test_no_batches_at_all(tmp_path):
    assert write_geojson(tmp_path / "b.geojson", []) == 0
    assert json.loads((tmp_path / "b.geojson").read_text())["features"] == []


def test_no_building_is_an_empty_frame():
    empty = frame(0)
    assert list(empty.columns) == [*ORDER, "geometry", RAW]
    assert empty.crs == CRS
