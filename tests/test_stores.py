"""One contract for both label stores, and what is special to each."""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import pytest
import shapely
import sqlalchemy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.pool import NullPool

from pipeline.errors import PipelineError, SettingsError, StoreError
from pipeline.frames import reproject
from pipeline.labels import clean_labels, read_label_file
from pipeline.stores import ITEM_COLUMNS, LABEL_COLUMNS, database, open_store
from sql import read_sql

ROOT = Path(__file__).parents[1]
GRID_001 = ROOT.parent / "shared" / "data" / "zanzibar" / "grid_001.geojson"
UTM = "EPSG:32737"
# An azimuthal projection of one's own: no authority knows it.
LOCAL = "+proj=laea +lat_0=-5.75 +lon_0=39.3 +datum=WGS84 +units=m"
REPORT = {"source_rows": 3, "set_aside": {"duplicate": 2}, "note": "Wohnhäuser 'x' \"y\" %s :z"}

pytestmark = pytest.mark.timeout(120)


def psycopg2(url: str) -> sqlalchemy.URL:
    return sqlalchemy.make_url(url).set(drivername="postgresql+psycopg2")


def sql(url: str, statement: str, **parameters) -> list:
    """Rows of a statement run as it stands, committed."""
    engine = sqlalchemy.create_engine(psycopg2(url), poolclass=NullPool)
    with engine.begin() as connection:
        result = connection.execute(sqlalchemy.text(statement), parameters)
        return result.all() if result.returns_rows else []


@pytest.fixture(params=["geopackage", pytest.param("postgis", marks=pytest.mark.postgis)])
def store(request, tmp_path):
    """An empty store of either kind."""
    if request.param == "geopackage":
        return open_store("", tmp_path / "labels")
    url = request.getfixturevalue("postgis_url")
    sql(url, "DROP SCHEMA IF EXISTS jengo CASCADE")
    return open_store(url, tmp_path)


@pytest.fixture
def fresh_url(postgis_url) -> str:
    """The URL of a database without the schema."""
    sql(postgis_url, "DROP SCHEMA IF EXISTS jengo CASCADE")
    return postgis_url


def labels_of(geoms: list, categories: list | None = None, crs: str = UTM) -> gpd.GeoDataFrame:
    categories = ["completed"] * len(geoms) if categories is None else categories
    columns = {
        "label_id": np.arange(1, len(geoms) + 1),
        "source_row": np.arange(len(geoms)) * 2,
        "category": pd.Series(categories, dtype=object),
    }
    return gpd.GeoDataFrame(columns, geometry=geoms, crs=crs)


def tiles_of(geoms: list, crs: str = UTM) -> gpd.GeoDataFrame:
    return gpd.GeoDataFrame(
        {"tile_id": [f"r{i:04d}_c0000" for i in range(len(geoms))]}, geometry=geoms, crs=crs
    )


def squares(count: int) -> list:
    return [shapely.box(533000 + 20 * i, 9367000, 533010 + 20 * i, 9367010) for i in range(count)]


def assert_same(found: gpd.GeoDataFrame, expected: gpd.GeoDataFrame) -> None:
    assert list(found.columns) == LABEL_COLUMNS
    assert found["label_id"].tolist() == expected["label_id"].tolist()
    assert found["source_row"].tolist() == expected["source_row"].tolist()
    assert found["category"].tolist() == expected["category"].tolist()
    assert [geom.wkb for geom in found.geometry] == [geom.wkb for geom in expected.geometry]
    assert found.crs.equals(expected.crs, ignore_axis_order=True)


# The contract -----------------------------------------------------------------------------------------------


HOSTILE = [
    "completed",
    None,
    "'; DROP TABLE jengo.labels; --",
    'a"b',
    "tab\tline\n",
    "\\N",
    "%s %(x)s :id",
    "ß€",
    "",
]


def test_labels_come_back_as_they_went(store):
    holed = shapely.box(533000, 9367100, 533050, 9367150).difference(
        shapely.box(533010, 9367110, 533020, 9367120)
    )
    labels = labels_of([*squares(len(HOSTILE)), holed], [*HOSTILE, None])
    store.replace_labels("grid_001", "abc", labels, REPORT)
    assert_same(store.read_labels("grid_001"), labels)
    assert store.read_report("grid_001") == REPORT
    items = store.items_in_tiles("grid_001", tiles_of([shapely.box(532000, 9366000, 534000, 9368000)]))
    assert items["category"].tolist() == [*HOSTILE, None]


def test_marker_tells_which_labels_are_there(store):
    assert not store.is_current("a", "one")
    store.replace_labels("a", "one", labels_of(squares(2)), {})
    assert store.is_current("a", "one")
    assert not store.is_current("a", "two") and not store.is_current("b", "one")


def test_replacing_leaves_nothing_behind_and_others_alone(store):
    store.replace_labels("a", "one", labels_of(squares(5)), {"n": 1})
    store.replace_labels("b", "one", labels_of(squares(3)), {"n": 2})
    store.replace_labels("a", "two", labels_of(squares(2)), {"n": 3})
    assert len(store.read_labels("a")) == 2 and store.read_report("a") == {"n": 3}
    assert len(store.read_labels("b")) == 3 and store.is_current("b", "one")
    assert not store.is_current("a", "one")


def test_no_labels_are_labels(store):
    store.replace_labels("a", "one", labels_of([]), {})
    assert store.is_current("a", "one")
    assert_same(store.read_labels("a"), labels_of([]))
    items = store.items_in_tiles("a", tiles_of(squares(2)))
    assert items.empty and list(items.columns) == ITEM_COLUMNS and items.crs == UTM


def test_no_tiles_have_no_items(store):
    store.replace_labels("a", "one", labels_of(squares(2)), {})
    items = store.items_in_tiles("a", tiles_of([]))
    assert items.empty and list(items.columns) == ITEM_COLUMNS


def test_absent_image_is_said_so(store):
    store.replace_labels("b", "one", labels_of(squares(1)), {})
    for call in (
        store.read_labels,
        store.read_report,
        lambda image_id: store.items_in_tiles(image_id, tiles_of([])),
    ):
        with pytest.raises(StoreError, match=r"no labels of a\. Run LoadLabels"):
            call("a")


def test_store_of_nothing_is_said_so(store):
    with pytest.raises(StoreError, match="no labels of a"):
        store.read_labels("a")


@pytest.mark.parametrize("image_id", ["", "../a", "a/b", ".hidden", "a b", "a\n", "a'; --", "ä", "a\0", "-x"])
def test_hostile_image_ids_are_refused(store, image_id):
    for call in (
        lambda: store.replace_labels(image_id, "d", labels_of([]), {}),
        lambda: store.is_current(image_id, "d"),
        lambda: store.read_labels(image_id),
        lambda: store.read_report(image_id),
        lambda: store.items_in_tiles(image_id, tiles_of([])),
    ):
        with pytest.raises(SettingsError, match="not an image id"):
            call()


@pytest.mark.parametrize("crs", [UTM, "EPSG:3857", "EPSG:4326", "OGC:CRS84", LOCAL, "ESRI:54009"])
def test_every_crs_keeps_its_numbers(store, crs):
    labels = labels_of([shapely.box(1, 1, 3, 3)], crs=crs)
    store.replace_labels("a", "one", labels, {})
    assert_same(store.read_labels("a"), labels)
    items = store.items_in_tiles("a", tiles_of([shapely.box(2, 0, 4, 4)], crs=crs))
    assert items["visible_share"].tolist() == [0.5] and items.geometry[0].equals(shapely.box(2, 1, 3, 3))
    assert items.crs.equals(labels.crs, ignore_axis_order=True)


def test_images_of_other_crs_do_not_mix(store):
    for image_id, crs in (("a", UTM), ("b", "EPSG:3857"), ("c", LOCAL)):
        store.replace_labels(image_id, "one", labels_of(squares(3), crs=crs), {})
    tiles = tiles_of([shapely.box(533000, 9367000, 533100, 9367100)])
    assert store.items_in_tiles("a", tiles)["label_id"].tolist() == [1, 2, 3]
    with pytest.raises(StoreError, match="not in the CRS of the image's labels"):
        store.items_in_tiles("b", tiles)


def test_items_of_other_labels_than_asked_for_are_refused(store):
    store.replace_labels("a", "one", labels_of(squares(3)), {})
    tiles = tiles_of([shapely.box(533000, 9367000, 533100, 9367100)])
    assert len(store.items_in_tiles("a", tiles, "one")) == 3
    with pytest.raises(StoreError, match="another file than this run's"):
        store.items_in_tiles("a", tiles, "two")


def test_items_are_clipped_in_the_order_of_the_tiles(store):
    store.replace_labels("a", "one", labels_of(squares(3), ["x", None, "z"]), {})
    right = shapely.box(533005, 9367005, 533060, 9367100)
    left = shapely.box(533000, 9367000, 533005, 9367100)
    items = store.items_in_tiles("a", tiles_of([right, left]))
    assert items["tile_id"].tolist() == ["r0000_c0000"] * 3 + ["r0001_c0000"]
    assert items["label_id"].tolist() == [1, 2, 3, 1]
    assert items["category"].tolist() == ["x", None, "z", "x"]
    assert items["visible_share"].tolist() == pytest.approx([0.25, 0.5, 0.5, 0.5])
    assert items.geometry[0].equals(shapely.box(533005, 9367005, 533010, 9367010))


def test_touching_is_not_seeing(store):
    store.replace_labels("a", "one", labels_of([shapely.box(0, 0, 10, 10)]), {})
    by_edge, by_corner, by_hair = (
        shapely.box(10, 0, 20, 10),
        shapely.box(10, 10, 20, 20),
        shapely.box(0, 0, 1e-6, 10),
    )
    assert store.items_in_tiles("a", tiles_of([by_edge, by_corner, by_hair])).empty


def test_a_tile_may_cut_a_label_into_pieces_and_touch_it_besides(store):
    comb = shapely.Polygon(
        [(0, 0), (10, 0), (10, 8), (8, 8), (8, 2), (6, 2), (6, 5), (4, 5), (4, 2), (2, 2), (2, 8), (0, 8)]
    )
    store.replace_labels("a", "one", labels_of([comb]), {})
    # The teeth left and right reach over y = 5, the one in the middle ends on it.
    items = store.items_in_tiles("a", tiles_of([shapely.box(-1, 5, 11, 9)]))
    assert items.geometry[0].geom_type == "MultiPolygon" and items.geometry[0].area == 12
    assert items["visible_share"][0] == pytest.approx(12 / comb.area)


def test_tiles_of_a_rotated_image_are_no_upright_boxes(store):
    store.replace_labels("a", "one", labels_of([shapely.box(0, 0, 10, 10)]), {})
    diamond = shapely.Polygon([(0, 5), (5, 0), (10, 5), (5, 10)])
    corner = shapely.Polygon([(-5, 5), (-5, -5), (5, -5)])
    items = store.items_in_tiles("a", tiles_of([diamond, corner]))
    assert items["visible_share"].tolist() == [0.5]


@st.composite
def scenes(draw):
    """Random stars as labels, and a random grid of overlapping tiles."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    stars = []
    for _ in range(draw(st.integers(0, 15))):
        angles = np.sort(random.uniform(0, 2 * np.pi, random.integers(3, 12)))
        star = random.uniform(0, 100, 2) + np.column_stack([np.cos(angles), np.sin(angles)]) * random.uniform(
            2, 25, (len(angles), 1)
        )
        polygon = shapely.Polygon(star + np.array([533000, 9367000]))
        if polygon.is_valid and polygon.area > 1e-3:
            stars.append(polygon)
    size, stride = draw(st.sampled_from([(30, 30), (40, 25), (100, 100), (17.3, 11.1)]))
    starts = np.arange(0, 100, stride)
    x, y = (533000 + starts[:, None]).repeat(len(starts), 1).ravel(), np.tile(9367000 + starts, len(starts))
    return labels_of(stars), tiles_of(list(shapely.box(x, y, x + size, y + size)))


@settings(deadline=None, max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(scenes())
def test_items_are_what_clipping_pair_by_pair_gives(store, scene):
    labels, tiles = scene
    store.replace_labels("a", "one", labels, {})
    items = store.items_in_tiles("a", tiles)
    expected = [
        (tile_id, label_id, clipped.area)
        for tile_id, tile in zip(tiles["tile_id"], tiles.geometry, strict=True)
        for label_id, label in zip(labels["label_id"], labels.geometry, strict=True)
        if (clipped := label.intersection(tile)).area > 1e-6 * label.area
    ]
    assert list(zip(items["tile_id"], items["label_id"], strict=True)) == [row[:2] for row in expected]
    areas = np.array([row[2] for row in expected])
    assert items.area.to_numpy() == pytest.approx(areas, rel=1e-6)
    whole = labels.area.to_numpy()[items["label_id"] - 1]
    assert items["visible_share"].to_numpy() == pytest.approx(areas / whole, rel=1e-6)
    assert (items["visible_share"] <= 1).all() and items.geometry.is_valid.all()
    assert set(items.geom_type) <= {"Polygon", "MultiPolygon"}


def test_loads_of_one_image_end_as_one_of_them(store):
    def load(count: int) -> None:
        store.replace_labels("a", f"digest {count}", labels_of(squares(count)), {"labels": count})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(load, [1, 30, 2, 40, 3, 50, 4, 60]))
    count = len(store.read_labels("a"))
    assert store.is_current("a", f"digest {count}") and store.read_report("a") == {"labels": count}


def test_first_loads_may_race(store):
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: store.replace_labels(f"i{i}", "one", labels_of(squares(i)), {}), range(8)))
    assert [len(store.read_labels(f"i{i}")) for i in range(8)] == list(range(8))


# GeoPackage -------------------------------------------------------------------------------------------------


def test_geopackage_is_an_indexed_layer_that_gis_programs_open(tmp_path):
    open_store("", tmp_path).replace_labels("a", "one", labels_of(squares(3)), REPORT)
    path = tmp_path / "a.gpkg"
    assert ["labels", "Polygon"] in pyogrio.list_layers(path).tolist()
    assert gpd.read_file(path, layer="labels").crs == UTM
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM rtree_labels_geom").fetchone() == (3,)
    assert os.listdir(tmp_path) == ["a.gpkg"]


def test_geopackage_store_touches_no_disk_until_it_must(tmp_path):
    store = open_store("", tmp_path / "deep" / "labels")
    assert not store.is_current("a", "one")
    assert not (tmp_path / "deep").exists()


def test_geopackage_survives_a_full_disk(tmp_path, monkeypatch):
    store = open_store("", tmp_path)
    store.replace_labels("a", "one", labels_of(squares(3)), {"n": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StoreError, match="No space left"):
        store.replace_labels("a", "two", labels_of(squares(5)), {"n": 2})
    assert store.is_current("a", "one") and len(store.read_labels("a")) == 3
    assert os.listdir(tmp_path) == ["a.gpkg"]


def test_geopackage_survives_a_kill(tmp_path):
    store = open_store("", tmp_path)
    store.replace_labels("a", "one", labels_of(squares(3)), {"n": 1})
    program = f"""
import os, sys
sys.path[:0] = [{str(ROOT)!r}, {str(Path(__file__).parent)!r}]
os.replace = lambda *_: os._exit(9)
import test_stores as t
t.open_store("", t.Path({str(tmp_path)!r})).replace_labels("a", "two", t.labels_of(t.squares(5)), {{}})
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 9
    assert store.is_current("a", "one") and len(store.read_labels("a")) == 3


@pytest.mark.parametrize("damage", [b"", b"not a database", None])
def test_damaged_geopackage_is_replaced(tmp_path, damage):
    store = open_store("", tmp_path)
    store.replace_labels("a", "one", labels_of(squares(3)), {})
    content = (tmp_path / "a.gpkg").read_bytes()
    (tmp_path / "a.gpkg").write_bytes(content[:20_000] if damage is None else damage)
    assert not store.is_current("a", "one")
    with pytest.raises(StoreError, match="not a readable label store"):
        store.read_labels("a")
    store.replace_labels("a", "one", labels_of(squares(3)), {})
    assert store.is_current("a", "one")


def test_log_of_a_viewer_is_not_replayed_on_new_labels(tmp_path):
    store = open_store("", tmp_path)
    store.replace_labels("a", "one", labels_of(squares(3)), {})
    with closing(sqlite3.connect(tmp_path / "a.gpkg")) as viewer:
        viewer.execute("PRAGMA journal_mode = WAL")
        viewer.execute("UPDATE label_sets SET digest = 'edited'")
        viewer.commit()
        assert (tmp_path / "a.gpkg-wal").exists()
        store.replace_labels("a", "two", labels_of(squares(2)), {})
        assert store.is_current("a", "two") and len(store.read_labels("a")) == 2
        assert os.listdir(tmp_path) == ["a.gpkg"]


def test_unwritable_folder_is_said_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        open_store("", tmp_path / "file" / "labels").replace_labels("a", "one", labels_of([]), {})


# PostGIS ----------------------------------------------------------------------------------------------------


@pytest.mark.postgis
def test_both_stores_give_the_same_items_of_grid_001(fresh_url, tmp_path):
    if not GRID_001.exists():
        pytest.skip("grid_001.geojson of the shared data is not here")
    rows = read_label_file(GRID_001)
    drawn = rows.geometry[~rows.geometry.is_empty]
    west, south, east, north = shapely.total_bounds(reproject(drawn, rows.crs, UTM))
    labels, report = clean_labels(rows, UTM, shapely.box(west, south, east, north))
    pixel = 0.0775
    x, y = np.meshgrid(np.arange(west, east, 768 * pixel), np.arange(south, north, 768 * pixel))
    tiles = tiles_of(list(shapely.box(x, y, x + 1024 * pixel, y + 1024 * pixel).ravel()))
    found = []
    for store in (open_store("", tmp_path), open_store(fresh_url, tmp_path)):
        store.replace_labels("grid_001", "one", labels, report.model_dump())
        assert_same(store.read_labels("grid_001"), labels)
        found.append(store.items_in_tiles("grid_001", tiles))
    files, database = found
    assert len(files) > len(labels)
    for column in ("tile_id", "label_id", "category"):
        assert files[column].tolist() == database[column].tolist()
    assert files.area.to_numpy() == pytest.approx(database.area.to_numpy(), rel=1e-6)
    assert files["visible_share"].to_numpy() == pytest.approx(database["visible_share"].to_numpy(), rel=1e-6)


@pytest.mark.postgis
def test_failing_load_leaves_rows_and_marker_of_the_last(fresh_url, tmp_path):
    store = open_store(fresh_url, tmp_path)
    store.replace_labels("a", "one", labels_of(squares(3)), {"n": 1})
    sql(fresh_url, "ALTER TABLE jengo.labels ADD CHECK (category <> 'cracked')")
    with pytest.raises(StoreError, match=r"check constraint.*23514"):
        store.replace_labels("a", "two", labels_of(squares(5), ["x"] * 4 + ["cracked"]), {"n": 2})
    assert store.is_current("a", "one") and store.read_report("a") == {"n": 1}
    assert_same(store.read_labels("a"), labels_of(squares(3)))


@pytest.mark.postgis
def test_index_serves_the_item_query_of_a_large_table(fresh_url, tmp_path):
    store = open_store(fresh_url, tmp_path)
    store.replace_labels("a", "one", labels_of(squares(1)), {})
    sql(
        fresh_url,
        """INSERT INTO jengo.labels SELECT 'a', 1 + n, n, 'completed',
           ST_SetSRID(ST_MakeEnvelope(x, y, x + 10, y + 10), 32737)
           FROM (SELECT n, 533000 + 20 * (n % 400) AS x, 9367000 + 20 * (n / 400) AS y
                 FROM generate_series(1, 100000) AS n) AS boxes""",
    )
    sql(fresh_url, "ANALYZE jengo.labels")
    tiles = shapely.box(533000, 9367000 + np.arange(0, 300, 60), 533079, 9367079 + np.arange(0, 300, 60))
    plan = sql(
        fresh_url,
        "EXPLAIN " + read_sql("items_in_tiles.sql"),
        image_id="a",
        srid=32737,
        wkbs=shapely.to_wkb(tiles).tolist(),
        min_visible_share=1e-6,
    )
    assert any("labels_geom_idx" in line for (line,) in plan), plan
    assert len(store.items_in_tiles("a", tiles_of(list(tiles)))) == 5 * 16


@pytest.mark.postgis
def test_views_answer(fresh_url, tmp_path):
    store = open_store(fresh_url, tmp_path)
    store.replace_labels("a", "one", labels_of(squares(3), ["x", None, "x"]), REPORT)
    store.replace_labels("b", "one", labels_of([]), {})
    counts = sql(fresh_url, "SELECT image_id, category, labels FROM jengo.label_counts")
    assert sorted(counts, key=str) == [("a", "x", 2), ("a", None, 1), ("b", None, 0)]
    assert sql(fresh_url, "SELECT * FROM jengo.set_aside") == [("a", "duplicate", 2)]
    assert sql(fresh_url, "SELECT count(*) FROM jengo.labels_with_source WHERE digest = 'one'") == [(3,)]
    assert sql(fresh_url, "SELECT * FROM jengo.invalid_labels") == []
    sql(
        fresh_url,
        "UPDATE jengo.labels SET geom = 'SRID=32737;POLYGON((0 0,1 1,1 0,0 1,0 0))' WHERE label_id = 1",
    )
    assert [row.label_id for row in sql(fresh_url, "SELECT * FROM jengo.invalid_labels")] == [1]


@pytest.mark.postgis
def test_schema_may_be_run_again(fresh_url):
    for _ in range(2):
        for name in ("schema.sql", "views.sql"):
            sql(fresh_url, read_sql(name))


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://jengo:s3cret@localhost/jengo",
        "postgresql+psycopg2://jengo:s3cret@localhost:5432/jengo",
        "postgresql://jengo@localhost/jengo?password=s3cret",
        "postgresql://jengo:s3cret@localhost:port/jengo",
        "mysql://jengo:s3cret@localhost/jengo",
        "s3cret",
        "sqlite:///s3cret.db",
    ],
)
def test_urls_with_passwords_or_of_others_are_refused_without_a_leak(url, tmp_path):
    with pytest.raises(SettingsError, match="database_url") as error:
        open_store(url, tmp_path)
    assert "s3cret" not in str(error.value).replace("s3cret.db", "") and error.value.remedy
    assert error.value.__cause__ is None


@pytest.mark.postgis
def test_opening_connects_to_nothing_and_no_server_is_said_so(tmp_path):
    store = open_store("postgresql://jengo@127.0.0.1:1/jengo", tmp_path)
    with pytest.raises(StoreError, match="refused") as error:
        store.is_current("a", "one")
    assert "\n" not in str(error.value) and "Check that the server runs" in str(error.value)


def test_a_server_that_accepts_and_is_silent_is_waited_for_as_long_as_a_connection_may_take(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(database, "ANSWER_S", 2.0)
    monkeypatch.setattr(database, "_FROZEN_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://jengo@127.0.0.1:{silent.getsockname()[1]}/jengo?connect_timeout=1"
        with pytest.raises(StoreError, match=r"accepts no connection within 1 s.*Check that the server runs"):
            open_store(url, tmp_path).is_current("a", "one")


@pytest.mark.postgis
@pytest.mark.parametrize(
    ("options", "ends"),
    [
        ("-c statement_timeout=60000", False),
        ("--Statement-Timeout=1min", False),
        ("-c statement_timeout=0", False),
        ("-c statement_timeout=60000 -c statement_timeout=100ms", True),
        ("-c search_path=public", True),
    ],
)
def test_a_statement_may_take_as_long_as_the_url_says(postgis_url, monkeypatch, options, ends):
    monkeypatch.setattr(database, "ANSWER_S", 0.5)
    monkeypatch.setattr(database, "_FROZEN_S", 0.5)
    url = sqlalchemy.make_url(postgis_url).update_query_dict({"options": options})
    given_up = pytest.raises(StoreError, match="statement timeout") if ends else nullcontext()
    with given_up, database.Database(url.render_as_string()).connected() as connection:
        connection.execute(sqlalchemy.text("SELECT pg_sleep(1.5)"))


@pytest.mark.postgis
def test_wrong_password_is_said_so_and_not_shown(fresh_url, tmp_path, monkeypatch):
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "absent"))
    store = open_store(fresh_url, tmp_path)
    with pytest.raises(StoreError, match="PGPASSFILE"):
        store.is_current("a", "one")
    monkeypatch.setenv("PGPASSWORD", "s3cret")
    with pytest.raises(StoreError, match="PGPASSFILE") as error:
        store.is_current("a", "one")
    chain = [error.value, error.value.__cause__]
    assert not any("s3cret" in str(link) for link in chain)


@pytest.mark.postgis
def test_missing_database_and_role_are_said_so(postgis_server, tmp_path):
    for url in (postgis_server.url_of("nowhere"), postgis_server.url_of("jengo", "nobody")):
        with pytest.raises(StoreError) as error:
            open_store(url, tmp_path).is_current("a", "one")
        assert isinstance(error.value, PipelineError) and error.value.remedy


@pytest.fixture
def bare_url(postgis_server):
    """The URL of a database of the role jengo that has no PostGIS."""
    admin = sqlalchemy.create_engine(
        psycopg2(postgis_server.url_of("postgres", "postgres")), isolation_level="AUTOCOMMIT"
    )
    with admin.connect() as connection:
        connection.exec_driver_sql("CREATE DATABASE bare OWNER jengo")
        yield postgis_server.url_of("bare")
        connection.exec_driver_sql("DROP DATABASE bare")
    admin.dispose()


@pytest.mark.postgis
def test_missing_postgis_is_said_so(bare_url, tmp_path):
    store = open_store(bare_url, tmp_path)
    assert not store.is_current("a", "one")
    with pytest.raises(StoreError, match=r"no PostGIS.*CREATE EXTENSION postgis"):
        store.replace_labels("a", "one", labels_of(squares(1)), {})


@pytest.mark.postgis
def test_missing_permission_is_said_so(postgis_server, fresh_url, tmp_path):
    owner = open_store(fresh_url, tmp_path)
    owner.replace_labels("a", "one", labels_of(squares(1)), {})
    admin = postgis_server.url_of("jengo", "postgres")
    password = postgis_server.passfile.read_text().strip().rsplit(":", 1)[1]
    sql(admin, f"CREATE ROLE reader LOGIN PASSWORD '{password}'")
    try:
        reader = open_store(postgis_server.url_of("jengo", "reader"), tmp_path)
        for call in (
            lambda: reader.read_labels("a"),
            lambda: reader.replace_labels("a", "two", labels_of([]), {}),
        ):
            with pytest.raises(StoreError, match=r"permission denied.*owner"):
                call()
    finally:
        sql(admin, "DROP ROLE reader")
    assert owner.is_current("a", "one")
