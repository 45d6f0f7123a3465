"""One contract for versions in files and in the database: what is kept, and what is found wrong with it."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
import sqlalchemy
from sqlalchemy.pool import NullPool

from pipeline.checks import CheckRules, find
from pipeline.errors import SettingsError, StoreError
from pipeline.stores.opening import open_versions
from pipeline.stores.versions import ROW_COLUMNS, Grounds, Version, row_frame
from sql import read_sql

UTM = "EPSG:32737"
LOCAL = "+proj=laea +lat_0=-5.75 +lon_0=39.3 +datum=WGS84 +units=m"
LIMITS = CheckRules().limits((1.0, 1.0))
X, Y = 533000.0, 9367000.0

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(params=["files", pytest.param("tables", marks=pytest.mark.postgis)])
def store(request, tmp_path):
    """An empty store of either kind."""
    if request.param == "files":
        return open_versions("", tmp_path / "versions")
    url = request.getfixturevalue("postgis_url")
    empty(url)
    return open_versions(url, tmp_path)


def empty(url: str) -> sqlalchemy.Engine:
    """A database without our schema."""
    engine = sqlalchemy.create_engine(
        sqlalchemy.make_url(url).set(drivername="postgresql+psycopg2"), poolclass=NullPool
    )
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA IF EXISTS jengo CASCADE")
    return engine


def version(name: str, kind: str = "drawn", digest: str = "one", **more) -> Version:
    return Version(
        name, kind, digest, more.pop("round", 0), more.pop("made_at", "2026-01-01T00:00:00Z"), **more
    )


def house(x: float, y: float, width: float = 8.0, height: float = 6.0) -> shapely.Polygon:
    return shapely.box(X + x, Y + y, X + x + width, Y + y + height)


CROSSED = shapely.Polygon([(X, Y), (X + 9, Y + 7), (X + 9, Y), (X, Y + 5)])


def assert_same(found: gpd.GeoDataFrame, expected: gpd.GeoDataFrame) -> None:
    assert list(found.columns) == ROW_COLUMNS == list(expected.columns)
    for column in ROW_COLUMNS[:-1]:
        assert found[column].dtype == expected[column].dtype
        assert found[column].astype(object).where(found[column].notna(), None).tolist() == (
            expected[column].astype(object).where(expected[column].notna(), None).tolist()
        )
    assert shapely.to_wkb(found.geometry.values).tolist() == shapely.to_wkb(expected.geometry.values).tolist()
    assert found.crs.equals(expected.crs, ignore_axis_order=True)


@pytest.mark.parametrize("crs", [UTM, "EPSG:4326", LOCAL])
def test_rows_come_back_with_where_they_are_from(store, crs):
    rows = row_frame(
        [house(0, 0), CROSSED, shapely.Polygon(), None],
        crs,
        category=["completed", None, 'it\'s "ß"', "x"],
        score=[0.9, None, 0.5, None],
        scores=['{"completed": 0.9}', None, None, None],
        parent=["drawn:7", None, None, None],
        model=["maskrcnn_small/abc + maskrcnn_large/def", None, None, None],
        person=[None, "amina", None, "2026-01-02"],
        file="returned/amina.gpkg",
        round=[1, 0, 2, 0],
        made_at="2026-01-02T03:04:05+00:00",
        seconds=[12.5, None, None, None],
        status=["edited", None, None, None],
    )
    marker = version("round_001", "reviewed", round=1, ground=shapely.box(0, 0, 1, 1))
    assert store.add("a", marker, rows)
    assert_same(store.read("a", "round_001"), rows)
    assert store.versions("a") == [marker]


def test_versions_lie_beside_each_other_and_are_never_overwritten(store):
    drawn, corrected = row_frame([house(0, 0)], UTM), row_frame([house(1, 0), house(20, 0)], UTM)
    assert store.add("a", version("drawn-1"), drawn)
    later = version("round_001", "reviewed", round=1, made_at="2026-01-03T00:00:00Z")
    assert store.add("a", later, corrected)
    assert not store.add("a", later, corrected), "the same again is nothing new"
    with pytest.raises(StoreError, match="never overwritten"):
        store.add("a", version("round_001", "reviewed", "two", round=1), drawn)
    assert_same(store.read("a", "drawn-1"), drawn)
    assert_same(store.read("a", "round_001"), corrected)
    assert [one.name for one in store.versions("a")] == ["drawn-1", "round_001"]
    assert store.versions("b") == []


def test_no_rows_are_a_version(store):
    store.add("a", version("empty"), row_frame([], UTM))
    assert_same(store.read("a", "empty"), row_frame([], UTM))
    found, shift = store.check("a", "empty", None, LIMITS)
    assert found.empty and not shift.counts(LIMITS)


def test_absent_versions_and_odd_names_are_said_so(store):
    for _ in range(2):
        with pytest.raises(StoreError, match="no version nothing of a"):
            store.read("a", "nothing")
        with pytest.raises(StoreError, match="no version nothing of a"):
            store.check("a", "nothing", None, LIMITS)
        store.add("a", version("something"), row_frame([], UTM))
    for name in ("../x", "A", "", "a b"):
        with pytest.raises(SettingsError, match="not the name of a version"):
            store.add("a", version(name), row_frame([], UTM))
    with pytest.raises(SettingsError, match="not an image id"):
        store.add("../a", version("x"), row_frame([], UTM))


def test_each_rule_finds_its_fault_and_nothing_else(store):
    plain = [house(20 * column, 20 * row, 7 + column / 2, 5 + row) for column in range(4) for row in range(3)]
    faulty = [
        CROSSED,  # 13
        None,  # 14
        shapely.Polygon(),  # 15
        house(100, 0),  # 16
        house(100.5, 0),  # 17: drawn again, with another condition
        house(120, 0),  # 18
        house(126, 0),  # 19: on its neighbour
        house(100, 100, 150, 120),  # 20: a field
        house(150, 20, 40, 1.2),  # 21: a thread
        house(-4, 70),  # 22: half outside
        house(100, 50),  # 23: on nodata
    ]
    categories = ["completed"] * 12 + [None] * 3 + ["completed", "foundation"] + ["completed"] * 6
    store.add("a", version("drawn"), row_frame(plain + faulty, UTM, category=categories))
    shown = [*plain[1:], *(house(20 * i, 300) for i in range(4))]
    predicted = ["foundation", *["completed"] * 14]
    store.add(
        "a",
        version("net", "model"),
        row_frame(shown, UTM, category=predicted, score=[0.9] * 12 + [0.95, 0.95, 0.3]),
    )
    grounds = Grounds(house(0, 0, 1000, 1000), house(0, 0, 1000, 1000).difference(house(99, 49, 20, 20)))
    found, shift = store.check("a", "drawn", "net", LIMITS | {"region_predictions": 3}, grounds)
    alone = found[~found["rule"].isin(["missed", "unlabelled"])]
    assert [(rule, row, other) for rule, row, other in alone[["rule", "row_id", "other_id"]].values] == [
        ("empty_geometry", 14, -1),
        ("empty_geometry", 15, -1),
        ("invalid_geometry", 13, -1),
        ("duplicate", 16, 17),
        ("conflicting_condition", 16, 17),
        ("overlap", 18, 19),
        ("area_outlier", 20, -1),
        ("shape_outlier", 21, -1),
        ("outside_image", 22, -1),
        ("on_nodata", 23, -1),
        ("doubtful_condition", 2, 1),
        ("unlabelled_region", -1, -1),
    ]
    assert found["other_id"][found["rule"] == "unlabelled"].tolist() == [12, 13, 14]
    assert found["row_id"][found["rule"] == "missed"].tolist() == [1, *range(16, 24)]
    assert shift == pytest.approx((0.0, 0.0, 11 / 20, 11)) and not shift.counts(LIMITS)


def test_labels_beside_their_buildings_are_found_with_the_offset(store):
    random = np.random.default_rng(3)
    # Rows of houses 9.5 m apart, all labels 6.5 m east of theirs: nearer to the neighbour.
    corners = [(9.5 * column, 25 * row) for column in range(8) for row in range(5)]
    predictions = [house(x, y, *random.uniform((6, 4), (8, 9))) for x, y in corners]
    labels = [
        shapely.affinity.translate(one, 6.5 + dx, -2 + dy)
        for one, (dx, dy) in zip(predictions, random.normal(0, 0.2, (40, 2)), strict=True)
    ]
    store.add("a", version("drawn"), row_frame(labels[5:], UTM))
    store.add("a", version("net", "model"), row_frame(predictions, UTM, score=0.9))
    _, shift = store.check("a", "drawn", "net", LIMITS)
    assert shift.counts(LIMITS)
    assert (shift.dx, shift.dy) == pytest.approx((-6.5, 2), abs=0.15)
    assert shift.support > 0.9


def test_unlabelled_counts_only_where_labels_are_complete(store):
    store.add("a", version("drawn", ground=house(0, 0, 50, 50)), row_frame([], UTM))
    store.add("a", version("net", "model"), row_frame([house(10, 10), house(80, 10)], UTM, score=0.9))
    found, _ = store.check("a", "drawn", "net", LIMITS)
    assert found[["rule", "other_id"]].values.tolist() == [["unlabelled", 1]]


def random_scene(seed: int) -> tuple[gpd.GeoDataFrame, gpd.GeoDataFrame, Grounds]:
    """Dense random stars as labels, most of them again as predictions."""
    random = np.random.default_rng(seed)
    angles = np.linspace(0, 2 * np.pi, 7)[:-1]
    stars = [
        shapely.Polygon(
            (X, Y)
            + random.uniform(0, 150, 2)
            + np.column_stack([np.cos(angles), np.sin(angles)]) * random.uniform(0.5, 9, (6, 1))
        )
        for _ in range(120)
    ]
    moved = [shapely.affinity.translate(star, *random.normal(1.2, 0.6, 2)) for star in stars[20:]]
    categories = np.array(["foundation", "completed", None], dtype=object)
    again = [shapely.affinity.translate(star, 0.3, 0.2) for star in stars[:6]]
    labels = row_frame(
        [*stars[:100], *again, CROSSED, None], UTM, category=categories[random.integers(0, 3, 108)]
    )
    predictions = row_frame(
        moved, UTM, category=categories[random.integers(0, 2, 100)], score=random.uniform(0.3, 1, 100)
    )
    hole = shapely.box(X + 60, Y + 60, X + 90, Y + 90)
    footprint = shapely.box(X + 5, Y + 5, X + 145, Y + 145)
    return labels, predictions, Grounds(footprint, footprint.difference(hole))


METRES, DEGREES = ("EPSG:32737", (1.0, 1.0)), ("EPSG:4326", (1.8e-5, 9e-6))
"""A CRS and its units in a metre on the ground, along x and y."""


@pytest.mark.parametrize("seed, frame", [(0, METRES), (1, METRES), (2, METRES), (3, DEGREES), (4, DEGREES)])
def test_views_and_frames_find_the_same(store, seed, frame):
    labels, predictions, grounds = random_scene(seed)
    crs, units = frame
    rules = CheckRules(region_m=10, region_predictions=1, area_deviations=1.5, compactness=0.4, match_iou=0.5)
    expected = find(
        labels,
        predictions,
        rules.limits((1.0, 1.0)),
        footprint=grounds.footprint,
        valid_ground=grounds.valid,
    )

    def placed(geometries):
        return shapely.transform(np.asarray(geometries, dtype=object), lambda xy: xy * units)

    labels, predictions = (
        rows.set_geometry(placed(rows.geometry.values), crs=crs) for rows in (labels, predictions)
    )
    store.add("a", version("drawn"), labels)
    store.add("a", version("net", "model"), predictions)
    store.add("b", version("drawn"), predictions)
    store.add("a", version("other", "model"), predictions.iloc[:3])
    found, shift = store.check("a", "drawn", "net", rules.limits(units), Grounds(*placed(grounds)))
    assert len(set(expected["rule"])) >= 10, "the scene has most faults"
    for column in ("rule", "row_id", "other_id"):
        assert found[column].tolist() == expected[column].tolist()
    assert found["value"].to_numpy() == pytest.approx(expected["value"].to_numpy(), rel=1e-9, abs=1e-12)
    areas = [np.nan_to_num(shapely.area(one)) for one in (found.geometry, placed(expected.geometry))]
    assert areas[0] == pytest.approx(areas[1])
    assert (shift.dx, shift.dy) == pytest.approx((1.2, 1.2), abs=0.3)


def rows_read(node: dict) -> float:
    """The rows that a part of a query's plan met, kept or not."""
    told = ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Join Filter")
    met = sum(node.get(name, 0) for name in told) * node["Actual Loops"]
    return met + sum(rows_read(part) for part in node.get("Plans", []))


@pytest.mark.postgis
@pytest.mark.parametrize("view", ["check_findings", "check_shifts"])
def test_views_read_rows_by_the_number_of_labels_and_not_by_its_square(postgis_url, tmp_path, view):
    engine, store = empty(postgis_url), open_versions(postgis_url, tmp_path)
    count = 800
    houses = row_frame([house(20 * (n % 40), 20 * (n // 40)) for n in range(count)], UTM, score=0.9)
    for image_id in ("a", "b", "c"):
        store.add(image_id, version("drawn"), houses)
        store.add(image_id, version("net", "model"), houses)
    query = f"""EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) SELECT * FROM jengo.{view}
        WHERE image_id = 'a' AND version = 'drawn' AND (against IS NULL OR against = 'net')"""
    with engine.begin() as connection:
        connection.exec_driver_sql("SET LOCAL jit = off")
        (plan,) = connection.exec_driver_sql(query).scalar_one()
    assert rows_read(plan["Plan"]) < 100 * count, plan


@pytest.mark.postgis
def test_views_of_an_older_database_are_renewed(postgis_url, tmp_path):
    engine, store = empty(postgis_url), open_versions(postgis_url, tmp_path)
    store.add("a", version("drawn"), row_frame([house(0, 0), house(0, 0)], UTM))
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP FUNCTION jengo.in_metres CASCADE")
        connection.exec_driver_sql(
            "CREATE OR REPLACE VIEW jengo.check_overlaps AS TABLE jengo.check_geometry"
        )
    assert not store.add("a", version("drawn"), row_frame([house(0, 0), house(0, 0)], UTM))
    found, _ = store.check("a", "drawn", None, LIMITS)
    assert found["rule"].tolist() == ["duplicate"]


def test_limits_of_the_views_are_those_of_the_rules():
    """Whoever opens the views by hand sees what the pipeline sees, in a CRS of metres."""
    views = read_sql("checks.sql")
    for name, value in CheckRules().limits((1.0, 1.0)).items():
        asked = views.count(f"check_limit('{name}',")
        # Whether a shift counts is told from the view's row.
        assert asked == views.count(f"check_limit('{name}', {value:g})")
        assert asked or name in ("shift", "shift_support", "shift_labels")


def test_files_are_layers_that_gis_programs_open(tmp_path):
    store = open_versions("", tmp_path)
    store.add("a", version("drawn"), row_frame([house(0, 0)], UTM, category="completed"))
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["drawn.gpkg"]
    assert gpd.read_file(tmp_path / "a" / "drawn.gpkg", layer="rows").crs == UTM
    (tmp_path / "a" / "drawn.gpkg").write_bytes(b"nothing")
    with pytest.raises(StoreError, match="not a readable version"):
        store.read("a", "drawn")
    assert Path(tmp_path / "a" / "drawn.gpkg").exists(), "a person's work is not deleted"
