"""Label files of every kind of dirt: each row must be kept, or set aside by the rule it broke."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.errors import LabelError, SettingsError, SourceError
from pipeline.frames import reproject
from pipeline.inputs import fingerprint
from pipeline.labels import LabelReport, LabelRules, clean_labels, read_area, read_label_file
from pipeline.raster import Imagery
from pipeline.steps.labels import preview_labels

DATA = Path(__file__).parents[2] / "shared" / "data"
UTM = "EPSG:32737"
ORIGIN = np.array([533000.0, 9367000.0])
CENTRE = ORIGIN + 50
# 200 x 200 m of Zanzibar.
IMAGE = shapely.box(533000, 9367000, 533200, 9367200)


def square(x: float, y: float, side: float = 10) -> shapely.Polygon:
    """A square in the image's CRS, metres from its lower left corner."""
    return shapely.box(533000 + x, 9367000 + y, 533000 + x + side, 9367000 + y + side)


def frame(geoms: list, conditions: list | None = None, crs: str = UTM) -> gpd.GeoDataFrame:
    values = ["Complete"] * len(geoms) if conditions is None else conditions
    return gpd.GeoDataFrame({"condition": np.array(values, dtype=object)}, geometry=geoms, crs=crs)


def clean(geoms: list, conditions: list | None = None, **rules) -> tuple[gpd.GeoDataFrame, LabelReport]:
    return clean_labels(frame(geoms, conditions), UTM, IMAGE, LabelRules(**rules))


BOW_TIE = shapely.transform(shapely.Polygon([(0, 0), (10, 10), (10, 0), (0, 10)]), lambda xy: xy + CENTRE)
HOLED = square(50, 50, 20).difference(square(55, 55, 5))


@pytest.mark.parametrize(
    ("geom", "rule"),
    [
        (None, "null_geometry"),
        (shapely.Polygon(), "empty_geometry"),
        (shapely.MultiPolygon(), "empty_geometry"),
        (shapely.Point(533010, 9367010), "wrong_geometry_type"),
        (square(10, 10).exterior, "wrong_geometry_type"),
        (shapely.GeometryCollection([shapely.Point(533010, 9367010)]), "wrong_geometry_type"),
        (
            shapely.Polygon([(533000, 9367000), (np.inf, 9367000), (533010, 9367010)]),
            "non_finite_coordinates",
        ),
        (shapely.Polygon([(533000, 9367000), (533010, np.nan), (533010, 9367010)]), "non_finite_coordinates"),
        (shapely.Polygon([(533000, 9367000), (533010, 9367010), (533005, 9367005)]), "no_area"),
        (square(300, 0), "outside_image"),
        (square(50, 50, 9.9), "duplicate"),
    ],
)
def test_row_is_set_aside_by_its_rule(geom, rule):
    labels, report = clean([square(50, 50), geom])
    assert labels["source_row"].tolist() == [0]
    assert report.set_aside == {rule: 1}
    assert report.examples[rule] == [1]
    assert (report.source_rows, report.kept_rows) == (2, 1)


@pytest.mark.parametrize(
    ("geom", "finding", "areas"),
    [
        (HOLED, None, [375]),
        (shapely.force_3d(square(50, 50), 12.0), "z_dropped", [100]),
        (shapely.MultiPolygon([square(50, 50)]), None, [100]),
        (shapely.MultiPolygon([square(50, 50), square(80, 50)]), "several_parts", [100, 100]),
        (shapely.MultiPolygon([square(50, 50), square(80, 50, 0.1)]), "several_parts", [100, 0.01]),
        (shapely.GeometryCollection([shapely.Point(0, 0), square(50, 50)]), "collection", [100]),
        (BOW_TIE, "repaired", [25, 25]),
        (square(-5, 50), "partly_outside_image", [100]),
    ],
)
def test_row_is_kept_and_noted(geom, finding, areas):
    labels, report = clean([geom])
    assert labels.area.tolist() == pytest.approx(areas)
    assert labels.geometry.is_valid.all() and not labels.has_z.any()
    assert set(labels.geom_type) == {"Polygon"} and set(labels["source_row"]) == {0}
    assert finding is None or report.noted[finding] == 1


def test_nested_collection_gives_all_its_polygons():
    nested = shapely.GeometryCollection(
        [shapely.GeometryCollection([square(0, 0), square(20, 0)]), square(40, 0)]
    )
    assert len(clean([nested])[0]) == 3


def test_sliver_of_a_crossing_goes_but_two_halves_stay():
    corner = [(0, 0), (10, 0), (10, 10.02), (9.98, 10), (10.02, 10), (0, 10.01)]
    crossed = shapely.transform(shapely.Polygon(corner), lambda xy: xy + CENTRE)
    assert not crossed.is_valid
    labels, report = clean([crossed])
    assert len(labels) == 1 and labels.area[0] == pytest.approx(100, rel=0.01)
    assert report.noted["repaired"] == 1
    assert len(clean([BOW_TIE])[0]) == 2


def test_conditions_are_matched_by_spelling():
    spellings = ["Complete", " incomplete ", "FOUNDATION", None, "", np.nan, "Ruin", "ruin", 3.0]
    labels, report = clean([square(20 * i, 0) for i in range(9)], spellings)
    assert labels["category"].tolist() == ["completed", "unfinished", "foundation"] + [None] * 6
    assert report.noted == {"null_condition": 3, "unknown_condition": 3}
    assert report.unknown_conditions == {"Ruin": 1, "ruin": 1, "3": 1}
    assert report.categories == {"foundation": 1, "unfinished": 1, "completed": 1}
    assert report.unknown_labels == 6


def test_whole_numbers_are_spellings():
    rules = {"categories": (("low", ("0", "1")), ("high", ("2",)))}
    assert clean([square(0, 0), square(20, 0)], [1.0, 2], **rules)[0]["category"].tolist() == ["low", "high"]


def test_file_without_conditions():
    only = clean_labels(
        frame([square(0, 0)]), UTM, IMAGE, LabelRules(condition_attribute="", categories=(("building", ()),))
    )
    assert only[0]["category"].tolist() == ["building"]
    assert clean([square(0, 0)], condition_attribute="")[0]["category"].tolist() == [None]
    with pytest.raises(LabelError, match="Name the attribute") as error:
        clean([square(0, 0)], condition_attribute="Condition")
    assert "'condition'" in str(error.value)


@pytest.mark.parametrize(
    "categories",
    [
        (),
        (("a", ("x",)), ("a", ("y",))),
        (("hut", ("x",)), ("Hut", ("y",))),
        (("a", ("x",)), ("b", ("X ",))),
        (("", ("x",)),),
    ],
)
def test_contradictory_categories_are_refused(categories):
    with pytest.raises(SettingsError, match="categories"):
        LabelRules(categories=categories)


def test_duplicates_keep_the_known_then_the_larger_then_the_first():
    near = shapely.box(533050, 9367050, 533060, 9367059)
    for geoms, conditions, kept in [
        ([square(50, 50), near], [None, "Complete"], [1]),
        ([near, square(50, 50)], ["Complete", "Complete"], [1]),
        ([square(50, 50), square(50, 50)], ["Complete", "Complete"], [0]),
    ]:
        labels, report = clean(geoms, conditions)
        assert labels["source_row"].tolist() == kept
        assert (labels["category"][0], report.duplicate_pairs) == ("completed", 1)
        assert "conflicting_condition" not in report.noted


def test_duplicates_that_disagree_become_unknown():
    labels, report = clean([square(50, 50), square(50, 50)], ["Complete", "Foundation"])
    assert labels["category"].tolist() == [None]
    assert report.noted["conflicting_condition"] == 1
    assert report.unknown_labels == 1


def test_touching_and_half_overlapping_neighbours_are_no_duplicates():
    assert len(clean([square(0, 0), square(10, 0), square(15, 0)])[0]) == 3
    half = shapely.box(533000, 9367000, 533010, 9367005)
    assert len(clean([square(0, 0), half])[0]) == 2, "an IoU of exactly 0.5 is not above it"


def test_swapped_axes_are_put_right():
    lonlat = reproject([square(20 * i, 0) for i in range(9)], UTM, "EPSG:4326")
    latlon = shapely.transform(lonlat, lambda xy: xy[:, ::-1])
    labels, report = clean_labels(frame(list(latlon), crs="EPSG:4326"), UTM, IMAGE)
    assert report.axes_swapped and len(labels) == 9
    assert "swapped" in report.table()
    straight, report = clean_labels(frame(list(lonlat), crs="EPSG:4326"), UTM, IMAGE)
    assert not report.axes_swapped
    assert labels.geom_equals(straight).all()


def test_labels_of_another_place_are_not_swapped_into_the_image():
    labels, report = clean([square(5000 + 20 * i, 0) for i in range(9)])
    assert labels.empty and not report.axes_swapped
    assert report.set_aside == {"outside_image": 9}
    assert "no label lies in the image" in report.table()


def test_axes_are_left_alone_where_swapping_gains_little():
    wide = shapely.box(0, 0, 20, 10)
    as_given, as_swapped = [(12, 5), (16, 5)], [(5, 12), (5, 14), (5, 16)]
    rows = frame([shapely.Point(xy).buffer(0.1) for xy in as_given + as_swapped], crs="EPSG:4326")
    labels, report = clean_labels(rows, "EPSG:4326", wide)
    assert not report.axes_swapped and labels["source_row"].tolist() == [0, 1]


def test_lost_coordinates_cost_their_row_and_no_other():
    lonlat = [*reproject([square(0, 0)], UTM, "EPSG:4326"), shapely.box(1e6, 1e6, 2e6, 2e6)]
    labels, report = clean_labels(frame(lonlat, crs="EPSG:4326"), UTM, IMAGE)
    assert len(labels) == 1 and report.set_aside == {"unplaceable": 1}


def test_metres_called_degrees_are_refused():
    with pytest.raises(LabelError, match="Check that the coordinates are in the CRS"):
        clean_labels(frame([square(0, 0)], crs="EPSG:4326"), UTM, IMAGE)


def test_labels_outside_the_labelled_area_are_set_aside():
    rows = frame([square(0, 0), square(95, 0), square(150, 0)])
    labels, report = clean_labels(rows, UTM, IMAGE, area=shapely.box(533000, 9367000, 533101, 9367200))
    assert labels["source_row"].tolist() == [0, 1]
    assert report.set_aside == {"outside_labelled_area": 1}
    bent = square(0, 0, 60) - square(10, 10, 60)  # its centroid lies beside it
    assert len(clean_labels(frame([bent]), UTM, IMAGE, area=bent)[0]) == 1


def test_minimum_area_is_ground_area():
    # At 60 degrees north a square of web mercator covers a quarter of what its numbers say.
    x, y = 1_000_000.0, 8_399_737.9
    image = shapely.box(x, y, x + 200, y + 200)
    rows = frame([shapely.box(x, y, x + 10, y + 10), shapely.box(x + 50, y, x + 71, y + 20)], crs="EPSG:3857")
    labels, report = clean_labels(rows, "EPSG:3857", image, LabelRules(min_area_m2=100))
    assert labels["source_row"].tolist() == [1]
    assert report.set_aside == {"below_min_area": 1}


@pytest.mark.parametrize("rows", [0, 3])
def test_nothing_left_is_a_result(rows):
    labels, report = clean([None] * rows)
    assert list(labels.columns) == ["label_id", "source_row", "category", "geometry"]
    assert labels.crs == UTM and labels["label_id"].dtype == np.int64 and labels["category"].dtype == object
    assert (report.source_rows, report.kept_rows, report.labels) == (rows, 0, 0)
    assert str(rows) in report.table()


def test_report_refuses_counts_that_do_not_add_up():
    report = clean([square(0, 0)])[1]
    assert LabelReport.model_validate_json(report.model_dump_json()) == report
    for wrong in ({"kept_rows": 2}, {"unknown_labels": 1}):
        with pytest.raises(ValidationError, match="add up"):
            LabelReport(**report.model_dump() | wrong)


dirty = st.lists(
    st.one_of(
        st.none(),
        st.just(shapely.Polygon()),
        st.builds(square, st.integers(-20, 210), st.integers(-20, 210), st.integers(1, 60)),
        st.lists(st.tuples(st.integers(0, 200), st.integers(0, 200)), min_size=3, max_size=7).map(
            lambda xy: shapely.Polygon(np.array(xy) + ORIGIN)
        ),
    ),
    max_size=12,
)


@settings(deadline=None, max_examples=60)
@given(dirty, st.randoms(use_true_random=False))
def test_any_dirt_gives_valid_labels_and_clean_labels_stay(geoms, random):
    conditions = [random.choice(["Complete", "Foundation", None, "?"]) for _ in geoms]
    labels, report = clean(geoms, conditions)
    assert labels.geometry.is_valid.all() and (labels.area > 0).all()
    assert labels["label_id"].tolist() == list(range(1, len(labels) + 1))
    assert report.kept_rows == labels["source_row"].nunique()
    assert labels["source_row"].is_monotonic_increasing
    again, second = clean(list(labels.geometry), ["Complete"] * len(labels))
    assert again.geom_equals(labels).all() and not second.set_aside


# Files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".geojson", ".gpkg", ".shp", ".fgb"])
@pytest.mark.parametrize("crs", ["EPSG:4326", UTM, "EPSG:3857"])
def test_format_and_crs_do_not_matter(tmp_path, suffix, crs):
    geoms = [square(20 * i, 0) for i in range(5)]
    conditions = ["Complete", None, "Foundation", "Incomplete", "Complete"]
    path = tmp_path / f"grid{suffix}"
    # FlatGeobuf sorts the rows of an indexed file.
    options = {"SPATIAL_INDEX": "NO"} if suffix == ".fgb" else {}
    frame(geoms, conditions).to_crs(crs).to_file(path, **options)
    labels, _ = clean_labels(read_label_file(path), UTM, IMAGE)
    expected, _ = clean(geoms, conditions)
    assert labels["category"].tolist() == expected["category"].tolist()
    assert shapely.hausdorff_distance(labels.geometry, expected.geometry).max() < 0.01


def geojson(path: Path, geometries: list, **members) -> Path:
    rows = [
        {"type": "Feature", "properties": {"condition": "Complete"}, "geometry": geom} for geom in geometries
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", **members, "features": rows}))
    return path


@pytest.mark.parametrize(
    "members",
    [{}, {"crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:OGC:1.3:CRS84"}}}, {"crs": None}],
)
def test_geojson_is_longitude_latitude_unless_it_says_otherwise(tmp_path, members):
    rows = read_label_file(
        geojson(tmp_path / "a.geojson", [shapely.box(39, -6, 39.1, -5.9).__geo_interface__], **members)
    )
    assert rows.crs.equals("EPSG:4326", ignore_axis_order=True)


def test_old_style_crs_member_is_honoured(tmp_path):
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32737"}}
    assert (
        read_label_file(geojson(tmp_path / "a.geojson", [square(0, 0).__geo_interface__], crs=crs)).crs == UTM
    )


def test_broken_geometries_are_rows_like_any_other(tmp_path):
    ring = [[39.2, -5.7], [39.3, -5.7], [39.3, -5.6], [39.2, -5.7]]
    path = geojson(
        tmp_path / "a.geojson",
        [
            {"type": "Polygon", "coordinates": [ring]},
            {"type": "Polygon", "coordinates": [ring[:-1]]},
            {"type": "Polygon", "coordinates": []},
            {"type": "Polygon", "coordinates": [[[None, 1], [0, 1], [1, 1]]]},
            {"type": "Hexagon", "coordinates": [ring]},
            None,
        ],
    )
    everywhere = shapely.box(-180, -90, 180, 90)
    _, report = clean_labels(read_label_file(path), "EPSG:4326", everywhere)
    assert report.source_rows == 6
    assert report.set_aside == {"null_geometry": 3, "empty_geometry": 1, "duplicate": 1}


def test_file_of_no_rows(tmp_path):
    labels, report = clean_labels(read_label_file(geojson(tmp_path / "a.geojson", [])), UTM, IMAGE)
    assert labels.empty and report.source_rows == 0


def test_unreadable_files_are_refused_in_one_line(tmp_path):
    whole = geojson(tmp_path / "whole.geojson", [square(0, 0).__geo_interface__]).read_bytes()
    contents = {
        "truncated.geojson": whole[: len(whole) // 2],
        "latin1.geojson": whole.replace(b"Complete", "Achevé".encode("latin-1")),
        "text.geojson": b"hello",
        "zero.geojson": b"",
        "object.geojson": b"{}",
        "table.csv": b"a,b\n1,2\n",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(LabelError) as error:
            read_label_file(tmp_path / name)
        assert name in str(error.value) and "\n" not in str(error.value) and error.value.remedy
    with pytest.raises(SourceError, match="not found"):
        read_label_file(tmp_path / "absent.geojson")


def test_file_without_crs_is_refused(tmp_path):
    frame([square(0, 0)]).to_file(tmp_path / "a.shp")
    (tmp_path / "a.prj").unlink()
    with pytest.raises(LabelError, match=r"no CRS.*\.prj"):
        read_label_file(tmp_path / "a.shp")


def test_file_of_two_layers_is_refused(tmp_path):
    for layer in ("roofs", "roads"):
        pyogrio.write_dataframe(frame([square(0, 0)]), tmp_path / "a.gpkg", layer=layer)
    with pytest.raises(LabelError, match=r"2 layers.*roofs"):
        read_label_file(tmp_path / "a.gpkg")


def test_area_is_one_geometry_in_the_images_crs(tmp_path):
    frame([square(0, 0), square(5, 0), shapely.Point(0, 0)]).to_crs("EPSG:4326").to_file(
        tmp_path / "a.geojson"
    )
    assert read_area(tmp_path / "a.geojson", UTM).area == pytest.approx(150, rel=1e-4)
    spiked = shapely.Polygon([(0, 0), (10, 0), (10, 10), (20, 10), (10, 10), (0, 10)])
    frame([spiked], crs=UTM).to_file(tmp_path / "c.gpkg")
    assert read_area(tmp_path / "c.gpkg", UTM).geom_type == "Polygon"
    frame([shapely.Point(39, -5)], crs="EPSG:4326").to_file(tmp_path / "b.geojson")
    with pytest.raises(LabelError, match="no polygon"):
        read_area(tmp_path / "b.geojson", UTM)


# Real files -------------------------------------------------------------------------------------------------


def real(name: str) -> Path:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{name} of the shared data is not here")
    return path


def test_grid_001_of_the_challenge():
    rows = read_label_file(real("zanzibar/grid_001.geojson"))
    drawn = rows.geometry[~rows.geometry.is_empty]
    footprint = shapely.box(*shapely.total_bounds(reproject(drawn, rows.crs, UTM)))
    labels, report = clean_labels(rows, UTM, footprint)
    assert report.source_rows == 4440
    assert report.source_categories == {"foundation": 824, "unfinished": 775, "completed": 2833}
    assert report.noted["null_condition"] == 8
    assert report.noted["repaired"] == 8
    # 25 pairs of valid rings, and one of a ring that had to be repaired; three rows form a triple.
    assert report.duplicate_pairs == 26
    assert report.set_aside == {"empty_geometry": 1, "duplicate": 25}
    # Seven of the crossed rings lose a speck of a few square centimetres, one falls into two halves.
    assert report.noted["several_parts"] == 1
    assert len(labels) == report.labels == 4440 - 1 + 1 - 25
    assert labels.geometry.is_valid.all() and labels.area.min() > 1


BANEPA = LabelRules(
    condition_attribute="roof:material",
    categories=(
        ("concrete", ("concrete", "concerte")),
        ("tin", ("tin", "metal")),
        ("clay", ("clay_tiles",)),
    ),
)
BUILDING = LabelRules(condition_attribute="class", categories=(("building", ("building",)),))
PLAIN = LabelRules(condition_attribute="", categories=(("building", ()),))


@pytest.mark.parametrize(
    ("labels", "image", "rules", "rows", "categories"),
    [
        ("zanzibar/unguja_block0.geojson", "zanzibar/unguja_block0.tif", LabelRules(), 121, [9, 14, 98]),
        ("zanzibar/grid_001.geojson", "zanzibar/grid_001_crop.tif", LabelRules(), 4440, [0, 0, 7]),
        ("banepa/banepa.geojson", "banepa/banepa.tif", BANEPA, 1466, [768, 532, 16]),
        ("kitsap/kitsap_west.geojson", "kitsap/kitsap_west.tif", BUILDING, 427, [427]),
        ("kampala/block0.geojson", "kampala/block0.tif", PLAIN, 108, [108]),
        ("kampala/block1.geojson", "kampala/block1.tif", PLAIN, 98, [98]),
        ("nairobi/block1.geojson", "nairobi/block1.tif", PLAIN, 95, [95]),
        ("odd/one_band_uint16.geojson", "odd/one_band_uint16.tif", PLAIN, 43, [43]),
        ("santamaria/buildings.geojson", "santamaria/Ortoimagem_MI_2970-1-SO_1033.tif", PLAIN, 520, None),
    ],
)
def test_real_files_load(labels, image, rules, rows, categories):
    with rasterio.open(real(image)) as src:
        crs, footprint = src.crs, shapely.box(*src.bounds)
    found, report = clean_labels(read_label_file(real(labels)), crs, footprint, rules)
    assert report.source_rows == rows and len(found)
    assert not report.axes_swapped
    if categories is not None:
        lost = rows - report.kept_rows
        assert [*report.categories.values()] == categories, (lost, report.table())


def test_labels_that_qgis_has_open_are_read_with_their_edits_and_left_alone(tmp_path):
    path = tmp_path / "houses.gpkg"
    frame = gpd.GeoDataFrame({"condition": ["Complete"]}, geometry=[square(0, 0)], crs="EPSG:32737")
    frame.to_file(path, driver="GPKG")
    closed = fingerprint(path)
    with closing(sqlite3.connect(path)) as editor:
        editor.execute("PRAGMA journal_mode = WAL")
        query = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        for (name,) in editor.execute(query).fetchall():  # they call functions that only GDAL and QGIS have
            editor.execute(f'DROP TRIGGER "{name}"')
        editor.commit()
        just_looking = fingerprint(path)
        editor.execute("UPDATE houses SET condition = 'Foundation'")
        editor.commit()
        edited = fingerprint(path)
        assert read_label_file(path)["condition"].tolist() == ["Foundation"]
        assert fingerprint(path) == edited != just_looking
    assert closed["name"] == edited["name"]


@pytest.mark.parametrize("crs", [UTM, "EPSG:4326"])
@pytest.mark.parametrize("geoms", [[], [None], [shapely.Polygon(), None]], ids=["no row", "none", "empty"])
def test_a_file_without_a_place_is_checked_without_its_image(tmp_path, geoms, crs):
    path = tmp_path / "l.geojson"
    frame(geoms, crs=crs).to_file(path, driver="GeoJSON", engine="pyogrio")
    report, wanted = preview_labels(path, None, None, Imagery(), LabelRules())
    assert (report.source_rows, report.labels, wanted) == (len(geoms), 0, "")
    assert sum(report.set_aside.values()) == len(geoms)
    assert report.table().endswith("the file is empty: it holds no building") == (not geoms)


def test_labels_that_lie_nowhere_are_told_so_without_their_image(tmp_path):
    path = tmp_path / "l.geojson"
    frame([square(0, 0)]).set_crs("EPSG:4326", allow_override=True).to_file(path, driver="GeoJSON")
    with pytest.raises(LabelError, match="nowhere on the earth"):
        preview_labels(path, None, None, Imagery(), LabelRules())
