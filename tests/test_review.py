"""The review loop's pure parts: what goes out and comes back, what is decided, which tiles are chosen."""

from __future__ import annotations

import copy
import json
import math
import sqlite3
import xml.etree.ElementTree as ElementTree
from contextlib import closing

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import LabelError, SettingsError
from pipeline.frames import crs_to_px, px_to_crs, window_box
from pipeline.review.changes import changes_of, tally, vertices_changed
from pipeline.review.coco import coco_dataset, read_coco
from pipeline.review.corrected import Marks, read_marks, with_late, write_corrected
from pipeline.review.deciding import decide, last_reviews
from pipeline.review.edited import read_qgis
from pipeline.review.label_studio import labeling_config, labeling_task, read_label_studio
from pipeline.review.proposals import MIN_SHOWN, pixels_of, propose, shown_in
from pipeline.review.qgis import write_qgis
from pipeline.review.records import QueuedTile, ReviewedBuilding, Round, TileReview
from pipeline.review.returned import read_returned
from pipeline.review.rules import ReviewRules
from pipeline.review.selection import Candidate, choose_for_review
from pipeline.review.uncertainty import TileFindings, committee_doubts, entropies, tile_uncertainties
from pipeline.schema import Grid, Window
from pipeline.stores.versions import row_frame

CATEGORIES = ("foundation", "unfinished", "completed")
GRID = Grid(
    width=2000,
    height=1500,
    crs="EPSG:32737",
    srid=32737,
    # Turned by a few degrees, at 7.7 cm.
    transform=(0.0768, 0.0053, 533012.3456, 0.0053, -0.0768, 9367123.4567),
    ground_m_per_px=(0.077, 0.077),
    bands=[1, 2, 3],
    stretch=None,
    observed="2018-04-30T00:00:00Z",
)
LEFT = QueuedTile(
    image_id="a", tile_id="r0000_c0000", window=Window(0, 0, 500, 400), uncertainty=2.5, reason="uncertain"
)
RIGHT = QueuedTile(
    image_id="a", tile_id="r0000_c0002", window=Window(500, 0, 500, 400), uncertainty=1.0, reason="random"
)
ROUND = Round(
    round=1,
    exported_at="2026-01-01T00:00:00+00:00",
    categories=list(CATEGORIES),
    tiles=[LEFT, RIGHT],
    grids={"a": GRID},
    proposals={"a": "proposals-001"},
    bases={},
    evaluated={},
    held_out={},
)
HOLED = shapely.box(100, 100, 160, 150).difference(shapely.box(120, 115, 140, 130))
PROPOSED_PX = [
    HOLED,  # 1
    shapely.box(200, 100, 240, 140),  # 2
    shapely.box(460, 200, 540, 260),  # 3: half in either tile
    shapely.box(300, 300, 340, 330),  # 4
    shapely.box(700, 100, 760.123, 180.456),  # 5
    shapely.box(1200, 900, 1300, 1000),  # 6: in neither
]


def proposals() -> gpd.GeoDataFrame:
    return row_frame(
        px_to_crs(np.array(PROPOSED_PX, dtype=object), GRID.transform),
        GRID.crs,
        category=["completed", "foundation", "completed", None, "unfinished", "completed"],
        score=[0.91, 0.62, 0.8, None, 0.55, 0.9],
        model=["net/abc"] * 3 + [None, "net/abc", "net/abc"],
        file=[None] * 3 + ["drawn.geojson"] + [None] * 2,
    )


def shown(tile: QueuedTile) -> list:
    rows = proposals()
    return shown_in(tile.window, rows, shapely.STRtree(pixels_of(rows, GRID)))


def annotated(tile: QueuedTile, **annotation) -> dict:
    """A task of Label Studio as it exports it when a person has left everything as it was."""
    task = json.loads(json.dumps(labeling_task(tile, shown(tile), "x.jpg")))
    result = copy.deepcopy(task["predictions"][0]["result"])
    given = {"completed_by": {"id": 1, "email": "amina@example.org"}, "lead_time": 12.5}
    return task | {
        "annotations": [given | {"result": result, "updated_at": "2026-01-02T00:00:00Z"} | annotation]
    }


def verdicts(reviews: list[TileReview]) -> dict:
    rows = proposals()
    windows = {tile.tile_id: tile.window for tile in (LEFT, RIGHT)}
    found = decide(rows, pixels_of(rows, GRID), reviews, windows)
    return {(verdict.row_id, verdict.status): verdict for verdict in found}


def test_labeling_interface_names_every_category_and_the_unknown_one():
    view = ElementTree.fromstring(labeling_config(CATEGORIES))
    assert [label.get("value") for label in view.iter("Label")] == [*CATEGORIES, "unknown"]
    assert view.find("Image").get("value") == "$image"


def test_label_studio_left_alone_accepts_everything_whole():
    reviews = read_label_studio([annotated(LEFT), annotated(RIGHT)], ROUND, "export.json")
    assert [review.person for review in reviews] == ["amina@example.org"] * 2
    assert reviews[0].seconds == 12.5
    found = verdicts(reviews)
    assert set(found) == {(row, "accepted") for row in range(1, 6)}, "nothing is said of what no tile shows"
    assert (
        found[1, "accepted"].polygon_px.equals(HOLED)
        or shapely.hausdorff_distance(found[1, "accepted"].polygon_px, HOLED) < 1e-6
    )
    assert found[3, "accepted"].polygon_px.area == pytest.approx(80 * 60)
    assert found[4, "accepted"].category is None


def test_label_studio_edits_become_verdicts():
    task = annotated(LEFT)
    regions = {region["id"]: region for region in task["annotations"][0]["result"]}
    regions["proposal-1"]["value"]["polygonlabels"] = ["foundation"]
    regions["proposal-2"]["value"]["points"][0][0] += 2  # 10 px
    clipped = regions["proposal-3"]["value"]["points"]
    clipped[:] = [[x, y + 5] for x, y in clipped]  # 20 px down
    drawn = {
        "type": "polygonlabels",
        "id": "Xy12",
        "value": {"points": [[10, 60], [20, 60], [20, 70]], "polygonlabels": ["unfinished"]},
    }
    task["annotations"][0]["result"] = [regions[f"proposal-{n}"] for n in (1, 2, 3)] + [drawn]
    found = verdicts(read_label_studio([task], ROUND, "export.json"))
    assert set(found) == {(1, "reclassified"), (2, "edited"), (3, "edited"), (4, "rejected"), (0, "added")}
    assert found[1, "reclassified"].category == "foundation"
    # What lies beyond the tile stays, what lies inside is replaced.
    assert found[3, "edited"].polygon_px.bounds == pytest.approx((460, 200, 540, 280))
    assert found[0, "added"].polygon_px.bounds == pytest.approx((50, 240, 100, 280))


def test_what_a_chip_does_not_show_of_an_edited_building_stays():
    """A person need not hit the chip's edge, and sees no holes."""
    task = annotated(LEFT)
    regions = {region["id"]: region for region in task["annotations"][0]["result"]}
    cut = regions["proposal-3"]["value"]["points"]  # from x = 460 to the edge at 500, y 200 to 260
    cut[:] = [[min(x, 99.2), y - 1] for x, y in cut]  # ends 4 px short, moved up by 4
    regions["proposal-1"]["value"]["points"][0][1] -= 1  # a corner, 4 px
    found = verdicts(read_label_studio([task], ROUND, "export.json"))
    assert found[3, "edited"].polygon_px.bounds == pytest.approx((460, 196, 540, 260))
    assert found[3, "edited"].polygon_px.area == pytest.approx(80 * 60, rel=0.02)
    (hole,) = found[1, "edited"].polygon_px.interiors
    assert hole.bounds == pytest.approx((120, 115, 140, 130))


def test_label_studio_skips_what_was_cancelled_and_refuses_other_projects():
    assert read_label_studio([annotated(LEFT, was_cancelled=True)], ROUND, "x.json") == []
    task = annotated(LEFT)
    task["data"]["tile"] = "b__r0000_c0000"
    with pytest.raises(LabelError, match="another round or project"):
        read_label_studio([task], ROUND, "x.json")
    task = annotated(LEFT)
    task["annotations"][0]["result"][0]["value"]["polygonlabels"] = ["ruin"]
    with pytest.raises(LabelError, match="no category"):
        read_label_studio([task], ROUND, "x.json")


@given(
    st.lists(st.tuples(st.floats(1, 999), st.floats(1, 799)), min_size=3, max_size=30, unique=True),
    st.integers(0, 4000),
    st.integers(0, 4000),
    st.integers(7, 4096),
    st.integers(7, 4096),
)
@settings(max_examples=60, deadline=None)
def test_chips_map_back_to_the_image_exactly(points, col_off, row_off, width, height):
    """Through JSON, percent and chip pixels and back: far below a thousandth of a pixel."""
    xy = np.array(points) * (width / 1000, height / 800) + (col_off, row_off)
    polygon = shapely.Polygon(xy)
    tile = LEFT.model_copy(update={"window": Window(col_off, row_off, width, height)})
    round_ = ROUND.model_copy(update={"tiles": [tile]})
    one = shown(LEFT)[0]._replace(polygon_px=polygon, row_id=7)
    task = json.loads(json.dumps(labeling_task(tile, [one], "x.jpg")))
    task["annotations"] = [{"result": task["predictions"][0]["result"], "completed_by": 3}]
    dataset = json.loads(json.dumps(coco_dataset([tile], {tile.name: [one]}, CATEGORIES)))
    for review in (*read_label_studio([task], round_, "x"), *read_coco(dataset, round_, "x.json")):
        (building,) = review.buildings
        back = shapely.get_coordinates(building.polygon_px)
        assert np.abs(back - shapely.get_coordinates(polygon)).max() < 1e-6
        assert building.proposal == 7
        again = px_to_crs([building.polygon_px], GRID.transform)
        assert np.abs(shapely.get_coordinates(crs_to_px(again, GRID.transform)) - back).max() < 1e-3


def test_coco_is_read_by_the_reference_reader_and_comes_back(tmp_path):
    dataset = coco_dataset([LEFT, RIGHT], {tile.name: shown(tile) for tile in (LEFT, RIGHT)}, CATEGORIES)
    path = tmp_path / "juma.json"
    path.write_text(json.dumps(dataset))
    from pycocotools.coco import COCO

    reference = COCO(str(path))
    assert (
        len(reference.getAnnIds()) == 6
        and [c["name"] for c in reference.loadCats(reference.getCatIds())][-1] == "unknown"
    )
    assert reference.annToMask(reference.loadAnns([2])[0]).sum() == 40 * 40
    reviews = read_returned(path, ROUND)
    assert {review.person for review in reviews} == {"juma"}
    assert set(verdicts(reviews)) == {(row, "accepted") for row in range(1, 6)}
    # A tool that drops attributes and rounds: what overlaps is the same building.
    for annotation in dataset["annotations"]:
        del annotation["attributes"]
        annotation["segmentation"] = [np.round(annotation["segmentation"][0], 2).tolist()]
    path.write_text(json.dumps(dataset))
    assert set(verdicts(read_returned(path, ROUND))) == {(row, "accepted") for row in range(1, 6)}


def edit(path, *statements: str) -> None:
    """SQL on a GeoPackage, whose spatial triggers need functions that SQLite lacks."""
    with closing(sqlite3.connect(path)) as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f'DROP TRIGGER "{name}"')
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def test_geopackage_goes_out_with_forms_and_comes_back_with_edits(tmp_path):
    path = tmp_path / "a.gpkg"
    write_qgis(path, 1, "a", GRID, proposals(), [LEFT, RIGHT], CATEGORIES)
    layers = dict(pyogrio.list_layers(path).tolist())
    assert layers["buildings"] == layers["tiles"] == "Polygon" and layers["layer_styles"] is None
    styles = pyogrio.read_dataframe(path, layer="layer_styles")
    assert styles["f_table_name"].tolist() == ["buildings", "tiles"] and styles["useAsDefault"].all()
    qml = ElementTree.fromstring(styles["styleQML"][0].partition("\n")[2])
    values = [
        option.get("value") for option in qml.iterfind(".//field[@name='class_name']//Option/Option/Option")
    ]
    assert [value for value in values if value] == [*CATEGORIES, "unknown"]
    assert len(pyogrio.read_dataframe(path, layer="buildings")) == 5, (
        "what is far from all tiles stays at home"
    )
    assert read_qgis(path, ROUND) == [], "no tile is done yet"

    edit(
        path,
        "UPDATE tiles SET status = 'done', reviewer = 'juma', minutes = 1.5 WHERE turn = 1",
        "UPDATE buildings SET class_name = 'completed' WHERE building_id = 2",
        "UPDATE buildings SET status = 'rejected' WHERE building_id = 1",
        "DELETE FROM buildings WHERE building_id = 4",
    )
    (review,) = read_returned(path, ROUND)
    assert (review.person, review.seconds, review.tile_id) == ("juma", 90.0, LEFT.tile_id)
    found = verdicts([review])
    assert set(found) == {(1, "rejected"), (2, "reclassified"), (3, "accepted"), (4, "rejected")}

    rows = pyogrio.read_dataframe(path, layer="buildings")
    new = px_to_crs([shapely.box(400, 10, 450, 60)], GRID.transform)[0]
    added = (
        rows.iloc[:1]
        .assign(building_id=None, status="added", class_name="unfinished")
        .set_geometry([new], crs=rows.crs)
    )
    pyogrio.write_dataframe(added, path, layer="buildings", append=True)
    found = verdicts(read_returned(path, ROUND))
    assert found[0, "added"].category == "unfinished"
    with pytest.raises(LabelError, match="another round"):
        read_returned(path, ROUND.model_copy(update={"round": 2}))


def test_holes_and_crossings_drawn_in_qgis_come_back(tmp_path):
    path = tmp_path / "a.gpkg"
    write_qgis(path, 1, "a", GRID, proposals(), [LEFT], CATEGORIES)
    rows = pyogrio.read_dataframe(path, layer="buildings").set_index("building_id")
    court = shapely.box(300, 300, 340, 330).difference(shapely.box(310, 310, 320, 320))
    crossed = shapely.Polygon([(200, 100), (240, 100), (200, 130), (240, 150)])
    for row, outline in ((1, shapely.Polygon(HOLED.exterior)), (2, crossed), (4, court)):
        rows.loc[[row], "geometry"] = px_to_crs([outline], GRID.transform)
    rows = rows.reset_index()
    pyogrio.write_dataframe(rows, path, layer="buildings", driver="GPKG", geometry_type="Polygon")
    edit(path, "UPDATE tiles SET status = 'done'")
    found = verdicts(read_returned(path, ROUND))
    assert set(found) == {(1, "edited"), (2, "edited"), (3, "accepted"), (4, "edited"), (0, "added")}
    assert not found[1, "edited"].polygon_px.interiors and len(found[4, "edited"].polygon_px.interiors) == 1
    parts = [found[2, "edited"].polygon_px, found[0, "added"].polygon_px]
    assert shapely.make_valid(crossed).area == pytest.approx(sum(part.area for part in parts)), "both sides"
    assert vertices_changed(HOLED, found[1, "edited"].polygon_px) == 4


def rows_of(path) -> gpd.GeoDataFrame:
    """The buildings of a GeoPackage whose tiles are all done, by proposal."""
    write_qgis(path, 1, "a", GRID, proposals(), [LEFT, RIGHT], CATEGORIES)
    edit(path, "UPDATE tiles SET status = 'done'")
    return pyogrio.read_dataframe(path, layer="buildings").set_index("building_id", drop=False)


def handed_back(path, rows: gpd.GeoDataFrame) -> list[tuple]:
    """Verdicts on a file whose buildings are these, with the areas of what was drawn."""
    pyogrio.write_dataframe(rows, path, layer="buildings", driver="GPKG")
    reviews, proposed = read_returned(path, ROUND), proposals()
    windows = {tile.tile_id: tile.window for tile in (LEFT, RIGHT)}
    found = decide(proposed, pixels_of(proposed, GRID), last_reviews(reviews)[0], windows)
    return [
        (one.row_id, one.status, round(one.polygon_px.area) if one.status in ("edited", "added") else None)
        for one in found
    ]


LEFT_ALONE = [(row, "accepted", None) for row in range(1, 6)]


def test_parts_of_a_building_are_buildings(tmp_path):
    rows = rows_of(tmp_path / "a.gpkg")
    both = shapely.MultiPolygon([shapely.box(260, 100, 290, 140), shapely.box(200, 100, 240, 140)])
    rows.loc[[2], "geometry"] = px_to_crs([both], GRID.transform)
    assert handed_back(tmp_path / "a.gpkg", rows) == [*LEFT_ALONE, (0, "added", 1200)]


def test_a_building_split_in_qgis_is_edited_and_added_once_whatever_tiles_show_it(tmp_path):
    rows = rows_of(tmp_path / "a.gpkg")
    upper, lower = shapely.box(460, 200, 540, 225), shapely.box(460, 225, 540, 260)
    rows.loc[[3], "geometry"] = px_to_crs([upper], GRID.transform)
    half = rows.loc[[3]].set_geometry(px_to_crs([lower], GRID.transform), crs=rows.crs)
    told = handed_back(tmp_path / "a.gpkg", pd.concat([rows, half]))
    expected = [*LEFT_ALONE[:2], (3, "edited", 80 * 35), *LEFT_ALONE[3:], (0, "added", 80 * 25)]
    assert told == expected, "the larger one is the proposal"


@pytest.mark.parametrize("changed", ["promoted", "with heights", "numbers", "texts"])
def test_a_layer_that_another_tool_saved_in_its_own_way_is_read(tmp_path, changed):
    rows = rows_of(tmp_path / "a.gpkg")
    if changed == "promoted":
        rows.geometry = [shapely.MultiPolygon([polygon]) for polygon in rows.geometry]
    elif changed == "with heights":
        rows.geometry = shapely.force_3d(rows.geometry.values, 5.0)
    else:
        rows["building_id"] = rows["building_id"].astype("float64" if changed == "numbers" else "str")
    assert handed_back(tmp_path / "a.gpkg", rows) == LEFT_ALONE


def test_a_building_without_an_outline_or_a_class_was_rejected_or_is_unknown(tmp_path):
    rows = rows_of(tmp_path / "a.gpkg")
    rows.loc[[1, 2], "geometry"] = [None, shapely.Polygon()]
    rows.loc[[3], "class_name"] = None
    rows.loc[[4], "status"] = " Rejected"
    told = {row: status for row, status, _ in handed_back(tmp_path / "a.gpkg", rows)}
    assert told == {1: "rejected", 2: "rejected", 3: "reclassified", 4: "rejected", 5: "accepted"}


def test_a_line_is_no_building(tmp_path):
    rows = rows_of(tmp_path / "a.gpkg")
    rows.loc[[2], "geometry"] = px_to_crs([shapely.LineString([(200, 100), (240, 140)])], GRID.transform)
    with pytest.raises(LabelError, match=r"no polygon \(found 'LineString'\)\. Draw row 2 as a polygon"):
        handed_back(tmp_path / "a.gpkg", rows)


@pytest.mark.parametrize("crs", ["EPSG:32737", "EPSG:4326", "EPSG:3857", "EPSG:21037"])
def test_buildings_that_qgis_saved_in_another_crs_come_back_where_they_were(tmp_path, crs):
    path = tmp_path / "a.gpkg"
    write_qgis(path, 1, "a", GRID, proposals(), [LEFT, RIGHT], CATEGORIES)
    rows = pyogrio.read_dataframe(path, layer="buildings").to_crs(crs)
    pyogrio.write_dataframe(rows, path, layer="buildings", driver="GPKG")
    edit(path, "UPDATE tiles SET status = 'done'")
    assert set(verdicts(read_returned(path, ROUND))) == {(row, "accepted") for row in range(1, 6)}


@pytest.mark.filterwarnings("ignore:'crs' was not provided")
def test_buildings_that_came_back_without_a_crs_are_said_so(tmp_path):
    path = tmp_path / "a.gpkg"
    write_qgis(path, 1, "a", GRID, proposals(), [LEFT], CATEGORIES)
    rows = pyogrio.read_dataframe(path, layer="buildings").set_crs(None, allow_override=True)
    pyogrio.write_dataframe(rows, path, layer="buildings", driver="GPKG")
    edit(path, "UPDATE tiles SET status = 'done'")
    with pytest.raises(LabelError, match=r"a\.gpkg: layer buildings has no CRS"):
        read_returned(path, ROUND)


@pytest.mark.parametrize("seed", range(3))
def test_tiles_answer_for_the_proposals_they_show_and_for_what_is_mostly_drawn_in_them(tmp_path, seed):
    chance, path = np.random.default_rng(seed), tmp_path / "a.gpkg"
    places = [Window(left, top, 300, 250) for top in range(0, 600, 200) for left in range(0, 800, 200)]
    tiles = [
        LEFT.model_copy(update={"tile_id": f"t{at}", "window": at_px}) for at, at_px in enumerate(places)
    ]
    corners, sizes = chance.uniform(0, 900, (2, 120)), chance.uniform(5, 90, (2, 120))
    outlines = shapely.box(*corners, *(corners + sizes))
    rows = row_frame(px_to_crs(outlines, GRID.transform), GRID.crs, category="completed", score=0.9)
    write_qgis(path, 1, "a", GRID, rows, tiles, CATEGORIES)
    edit(
        path,
        "UPDATE tiles SET status = 'done'",
        "UPDATE buildings SET building_id = NULL WHERE building_id % 2 = 0",
    )
    expected: dict[str, set[tuple[float, ...]]] = {tile.tile_id: set() for tile in tiles}
    for number, outline in enumerate(outlines, start=1):
        shares = {
            tile.tile_id: outline.intersection(window_box(tile.window)).area / outline.area for tile in tiles
        }
        seen = {name for name, share in shares.items() if share > MIN_SHOWN}
        mostly = {max(shares, key=lambda name: shares[name])}
        for name in mostly if seen and number % 2 == 0 else seen:
            expected[name].add(bounds(outline))
    found = read_qgis(path, ROUND.model_copy(update={"tiles": tiles}))
    assert {one.tile_id: {bounds(of.polygon_px) for of in one.buildings} for one in found} == expected


def bounds(polygon: shapely.Polygon) -> tuple[float, ...]:
    return tuple(np.round(polygon.bounds, 2).tolist())


def test_proposals_are_indexed_once_for_all_tiles(monkeypatch):
    indexed, tree = [], shapely.STRtree
    monkeypatch.setattr(
        shapely, "STRtree", lambda polygons: [indexed.append(len(polygons)), tree(polygons)][1]
    )
    reviews = [review("amina", ""), review("juma", "")._replace(tile_id=RIGHT.tile_id)]
    assert {status for _, status in verdicts(reviews)} == {"rejected"}
    assert indexed.count(len(PROPOSED_PX)) == 1


@pytest.mark.parametrize("attribute", ["condition", "status", "Status", "Category", "Round", "FID"])
def test_a_condition_may_be_called_like_a_column_of_ours(tmp_path, attribute):
    path = tmp_path / "a.gpkg"
    spellings = {"completed": "Complete", "foundation": "Foundation", "unfinished": "Incomplete"}
    write_corrected(path, proposals(), Marks([LEFT.window], []), attribute, spellings)
    rows = pyogrio.read_dataframe(path, layer="labels")
    assert rows[attribute].fillna("").tolist()[:4] == ["Complete", "Foundation", "Complete", ""]
    assert read_marks(path).reviewed == [LEFT.window]


def test_files_of_no_known_format_are_said_so(tmp_path):
    for name, content in (("a.json", "{}"), ("b.json", "nothing"), ("c.gpkg", "nothing")):
        (tmp_path / name).write_text(content)
        with pytest.raises(LabelError) as error:
            read_returned(tmp_path / name, ROUND)
        assert error.value.remedy and "\n" not in str(error.value)


OUTLINE = [1, 1, 5, 1, 5, 5]


@pytest.mark.parametrize(
    ("annotation", "says"),
    [
        ({"image_id": 9}, "annotations of image 9, which is not there"),
        ({"category_id": 9}, "a category that is none of the round's (found 9)"),
        ({"segmentation": [[*OUTLINE, 7]]}, "annotations.0.segmentation.0: a ring of 7 numbers"),
        ({"segmentation": [[*OUTLINE, 1, math.nan]]}, "segmentation.0.7: Input should be a finite number"),
        ({"segmentation": {"counts": [1], "size": [1, 1]}}, "segmentation: a mask instead of polygons"),
        ({"segmentation": None}, "annotations.0.segmentation: Input should be a valid list"),
        ({"attributes": None, "segmentation": [[1, 1, 5, 1]]}, None),
        ({"segmentation": [], "bbox": [1, 1, 4, 4], "keypoints": [3, 3, 2]}, "keypoints instead of polygons"),
    ],
    ids=str,
)  # fmt: skip
def test_coco_that_is_not_as_it_should_be_is_said_so(tmp_path, annotation, says):
    path = tmp_path / "amina.json"
    dataset = {
        "images": [{"id": 1, "file_name": f"{LEFT.name}.jpg"}],
        "categories": [{"id": 1, "name": "completed"}],
        "annotations": [{"image_id": 1, "category_id": 1, "segmentation": [OUTLINE]} | annotation],
    }
    path.write_text(json.dumps(dataset))
    if says is None:
        assert read_returned(path, ROUND)[0].buildings == [], "two points are no building"
    else:
        refused_in_one_line(path, says)


def test_a_rectangle_drawn_in_cvat_is_a_building(tmp_path):
    path = tmp_path / "amina.json"
    dataset = coco_dataset([RIGHT], {RIGHT.name: []}, CATEGORIES)
    drawn = {"image_id": 1, "category_id": 1, "segmentation": [], "bbox": [300, 200, 50, 40]}
    path.write_text(json.dumps(dataset | {"annotations": [drawn]}))
    found = verdicts(read_returned(path, ROUND))
    assert found[0, "added"].polygon_px.bounds == (800, 200, 850, 240)
    path.write_text(json.dumps(dataset | {"annotations": [drawn | {"bbox": [300, 200, 50]}]}))
    refused_in_one_line(path, "annotations.0.bbox.3: Field required")


def test_a_rectangle_turned_in_cvat_is_turned(tmp_path):
    path = tmp_path / "amina.json"
    dataset = coco_dataset([RIGHT], {RIGHT.name: []}, CATEGORIES)
    drawn = {"image_id": 1, "category_id": 1, "bbox": [300, 200, 60, 20], "attributes": {"rotation": 90.0}}
    path.write_text(json.dumps(dataset | {"annotations": [drawn]}))
    (review,) = read_returned(path, ROUND)
    assert review.buildings[0].polygon_px.bounds == pytest.approx((820, 180, 840, 240))
    path.write_text(json.dumps(dataset | {"annotations": [drawn | {"attributes": {"rotation": 30.0}}]}))
    (review,) = read_returned(path, ROUND)
    corners = shapely.get_coordinates(review.buildings[0].polygon_px)
    right = 830 + 30 * math.cos(math.pi / 6) + 10 * math.sin(math.pi / 6)
    assert corners[:, 0].max() == pytest.approx(right)
    assert corners[corners[:, 0].argmax(), 1] > 210 - 10, "clockwise, as y grows downwards"


def test_pictures_that_another_tool_has_resized_are_said_so(tmp_path):
    path = tmp_path / "amina.json"
    dataset = coco_dataset([LEFT], {LEFT.name: shown(LEFT)}, CATEGORIES)
    picture = dataset["images"][0] | {"width": 250, "height": 200}
    path.write_text(json.dumps(dataset | {"images": [picture]}))
    refused_in_one_line(path, "than the one that went out (found 'a__r0000_c0000.jpg of 250 x 200")
    there = dataset["images"][0] | {"file_name": f"chips\\{LEFT.name}.jpg"}
    path.write_text(json.dumps(dataset | {"images": [there]}))
    assert set(verdicts(read_returned(path, ROUND))) == {(row, "accepted") for row in range(1, 5)}


def test_coco_files_put_together_without_new_numbers_are_said_so(tmp_path):
    path, tiles = tmp_path / "both.json", [LEFT, RIGHT]
    left, right = (coco_dataset([tile], {tile.name: shown(tile)}, CATEGORIES) for tile in tiles)
    both = {name: left[name] + right[name] for name in ("images", "annotations")}
    path.write_text(json.dumps(left | both))
    refused_in_one_line(path, "two images have one id")


@pytest.mark.parametrize(
    ("region", "says"),
    [
        ({"value": {"polygonlabels": ["completed"]}}, "0.annotations.0.result.0.value.points: Field"),
        ({"value": {"points": [[1, 1], [5]]}}, "0.annotations.0.result.0.value.points.1.1: Field required"),
        ({"value": {"points": [[1, math.inf]]}}, "value.points.0.1: Input should be a finite number"),
        ({"value": {"points": [[1, 1e300]]}}, "value.points.0.1: Input should be less than"),
        ({"type": "rectanglelabels"}, "0.annotations.0.result.0: rectanglelabels instead of polygonlabels"),
        ({"type": "choices", "value": {"choices": ["blurred"]}}, None),
        ({"type": "brush"}, "0.annotations.0.result.0: brush instead of polygonlabels"),
        ({"image_rotation": 90, "value": {"points": []}}, "on a picture that was turned by 90 degrees"),
        ({"value": {"points": [[1, 1], [5, 5]]}}, None),
    ],
    ids=str,
)  # fmt: skip
def test_an_export_that_is_not_as_it_should_be_is_said_so(tmp_path, region, says):
    path, task = tmp_path / "export.json", annotated(LEFT)
    task["annotations"][0]["result"] = [{"type": "polygonlabels", "value": {}} | region]
    path.write_text(json.dumps([task]))
    if says is None:
        assert not {"added", "edited"} & {status for _, status in verdicts(read_returned(path, ROUND))}
    else:
        refused_in_one_line(path, says)


def as_text(layer: str, column: str, value: str) -> str:
    return (
        f"ALTER TABLE {layer} RENAME {column} TO other; ALTER TABLE {layer} ADD {column} TEXT; "
        f"UPDATE {layer} SET {column} = '{value}'"
    )


@pytest.mark.parametrize(
    ("statements", "says"),
    [
        ("UPDATE tiles SET status = 'finished'", "layer tiles has a status that is none (found 'finished')"),
        ("UPDATE buildings SET status = 'deleted'", "layer buildings has a status that is none (found 'dele"),
        ("UPDATE tiles SET finished_at = 'yesterday'", "tiles.1.finished_at: not a date and time, as 2026"),
        ("UPDATE tiles SET tile_id = NULL", "tiles.1.tile_id: Input should be a valid string"),
        ("UPDATE tiles SET tile_id = 'r0009_c0000'", "a tile that nobody was asked to look at (found"),
        (as_text("tiles", "minutes", "long"), "tiles.1.minutes: Input should be a valid number"),
        (as_text("buildings", "building_id", "house"), "buildings.1.building_id: Input should be a"),
        ("ALTER TABLE buildings RENAME status TO state", "layer buildings has no column status"),
        ("ALTER TABLE tiles RENAME reviewer TO who", "layer tiles has no column reviewer"),
        ("UPDATE review_round SET round = NULL", "review_round.1.round: "),
        ("DELETE FROM review_round", "review_round: Dictionary should have at least 1 item"),
    ],
    ids=str,
)  # fmt: skip
def test_a_geopackage_that_is_not_as_it_should_be_is_said_so(tmp_path, statements, says):
    path = tmp_path / "a.gpkg"
    write_qgis(path, 1, "a", GRID, proposals(), [LEFT], CATEGORIES)
    edit(path, "UPDATE tiles SET status = 'done'", *statements.split(";"))
    refused_in_one_line(path, says)


def refused_in_one_line(path, says: str) -> None:
    with pytest.raises(LabelError) as error:
        read_returned(path, ROUND)
    told = str(error.value)
    assert told.startswith((str(path), path.name)) and says in told and error.value.remedy, told
    assert "\n" not in told


@pytest.mark.parametrize(
    ("moved_px", "category", "counts"),
    [
        (0, "foundation", {"accepted": 1}),
        (0, "completed", {"reclassified": 1}),
        (5, "foundation", {"edited": 1}),
        (5, "completed", {"edited": 1, "reclassified": 1}),
        (5, None, {"edited": 1, "reclassified": 1}),
    ],
)
def test_a_building_may_get_another_outline_and_another_category(moved_px, category, counts):
    drawn = shapely.box(200 + moved_px, 100, 240 + moved_px, 140)
    found = verdicts([review("amina", "", drawn, category=category)])
    row = {"model": "net/abc", "source": "net/abc", "category": "foundation", "score": 0.62}
    mine = [verdict for (row_id, _), verdict in found.items() if row_id == 2]
    (change,) = changes_of(mine, {2: row | {"polygon_px": PROPOSED_PX[1]}}, 0.077)
    told = tally([change]).model_dump(include={"accepted", "edited", "reclassified", "rejected"})
    assert {name: count for name, count in told.items() if count} == counts


def review(person: str, finished_at: str, *polygons, category="completed") -> TileReview:
    buildings = [ReviewedBuilding(polygon, category, None, math.nan) for polygon in polygons]
    return TileReview("a", LEFT.tile_id, person, finished_at, f"{person}.json", math.nan, True, buildings)


def test_times_are_compared_whatever_zone_they_are_told_in(tmp_path):
    early, late = "2026-01-02T10:00:00+03:00", "2026-01-02 09:00:00"
    tasks = [annotated(LEFT, updated_at=at, completed_by=who) for who, at in ((2, late), (1, early))]
    reviews = read_label_studio(tasks, ROUND, "export.json")
    assert [one.person for one in last_reviews(reviews)[0]] == ["user 2"]


def test_a_polygon_without_a_label_is_a_building_of_unknown_condition():
    task = annotated(LEFT, completed_by=None)
    region = task["annotations"][0]["result"][0]
    region["type"] = "polygon"
    del region["value"]["polygonlabels"]
    (review,) = read_label_studio([task], ROUND, "amina.json")
    assert verdicts([review])[1, "reclassified"].category is None
    assert review.person == "amina", "as in COCO, where nobody is named"


def test_of_two_reviewers_the_later_decides_whatever_the_order():
    one = review("amina", "2026-01-02T10:00:00Z", shapely.box(0, 0, 10, 10), shapely.box(20, 0, 30, 10))
    two = review("juma", "2026-01-02T09:00:00Z", shapely.box(0, 0, 10, 10))
    for order in ([one, two], [two, one]):
        deciding, agreements = last_reviews(order)
        assert [chosen.person for chosen in deciding] == ["amina"]
        assert agreements[0].people == ("juma", "amina") and agreements[0].f1 == pytest.approx(2 / 3)
    equal = [review(name, "", shapely.box(0, 0, 10, 10)) for name in ("juma", "amina")]
    assert [chosen.person for chosen in last_reviews(equal)[0]] == ["juma"]


@pytest.mark.parametrize("nothing", [[], [shapely.Polygon()]], ids=["nothing", "a drawing without an area"])
def test_two_people_who_find_no_building_agree(nothing):
    house = shapely.box(0, 0, 10, 10)
    drawn = {"amina": nothing, "baraka": [], "juma": [house], "neema": [house]}
    said = {person: review(person, "", *polygons) for person, polygons in drawn.items()}

    def agree(*people: str) -> float:
        (agreement,) = last_reviews([said[person] for person in people])[1]
        return agreement.f1

    assert agree("amina", "baraka") == 1 and agree("juma", "neema") == 1
    assert agree("amina", "juma") == 0
    again = [said["juma"], said["juma"]._replace(file="juma_2.json")]
    assert last_reviews(again) == (again[1:], []), "whoever hands back a tile again agrees with nobody"


def test_what_comes_late_joins_what_was_decided_since():
    def rows(*buildings):
        outlines = px_to_crs(
            np.array([shapely.box(*at) for at, _ in buildings], dtype=object), GRID.transform
        )
        return row_frame(outlines, GRID.crs, category=[name for _, name in buildings])

    left, right, far = (600, 10, 640, 50), (700, 10, 740, 50), (1500, 900, 1540, 940)
    edited, drawn, over = (10, 10, 50, 50), (100, 10, 140, 50), (602, 12, 642, 52)
    base = rows((left, "completed"), (right, "completed"), (far, "completed"))
    # This round looked at the left tile, where it drew two; the earlier one, late, took `right` away, made
    # `far` a foundation and drew one here, one there, and one over what is there already.
    mine = rows((left, "completed"), (right, "completed"), (far, "completed"), (edited, None), (drawn, None))
    late = rows((left, "completed"), (far, "foundation"), ((20, 300, 40, 320), "completed"),
                ((900, 10, 940, 50), "unfinished"), (over, "unfinished"))  # fmt: skip
    joined = with_late(mine, base, late, [LEFT.window], GRID)
    outlines = crs_to_px(joined.geometry.values, GRID.transform)
    found = {
        (tuple(np.round(one.bounds).astype(int).tolist()), name)
        for one, name in zip(outlines, joined["category"], strict=True)
    }
    assert found == {
        (left, "completed"), (far, "foundation"), ((900, 10, 940, 50), "unfinished"),
        (edited, None), (drawn, None),
    }  # fmt: skip
    assert joined["row_id"].tolist() == [1, 2, 3, 4, 5]
    assert len(with_late(mine, None, late, [LEFT.window], GRID)) == 6


@pytest.mark.parametrize(
    ("moved_px", "said"),
    [
        (0.04, {(2, "accepted")}),
        (0.5, {(2, "edited")}),
        (15, {(2, "edited")}),  # an IoU of .45
        (25, {(2, "rejected"), (0, "added")}),  # and of .23
    ],
)
def test_a_drawing_without_an_id_is_the_proposal_it_overlaps(moved_px, said):
    drawn = shapely.box(200 + moved_px, 100, 240 + moved_px, 140)
    others = {(1, "rejected"), (3, "kept"), (4, "rejected")}
    assert set(verdicts([review("amina", "", drawn, category="foundation")])) == said | others


def test_a_building_in_two_tiles_is_decided_where_most_of_it_shows():
    rows = row_frame(
        px_to_crs([shapely.box(470, 100, 600, 200)], GRID.transform), GRID.crs, category="completed"
    )
    windows = {tile.tile_id: tile.window for tile in (LEFT, RIGHT)}
    left = TileReview("a", LEFT.tile_id, "x", "", "", math.nan, True, [])
    right = left._replace(
        tile_id=RIGHT.tile_id,
        buildings=[ReviewedBuilding(shapely.box(500, 100, 600, 200), "completed", 1, math.nan)],
    )
    (verdict,) = decide(rows, pixels_of(rows, GRID), [left, right], windows)
    assert verdict.status == "accepted" and verdict.polygon_px.bounds[0] == pytest.approx(470)
    (alone,) = decide(rows, pixels_of(rows, GRID), [left], windows)
    assert alone.status == "kept", "a quarter of it missing from a tile says nothing"


def test_proposals_are_the_labels_and_what_networks_find_beside_them():
    base = row_frame([shapely.box(0, 0, 10, 10)], GRID.crs, category="completed", file="drawn.geojson")
    found = row_frame(
        [shapely.box(1, 0, 11, 10), shapely.box(50, 0, 60, 10)],
        GRID.crs,
        category="foundation",
        score=0.8,
        model="net/abc",
    )
    rows = propose(base, "labels-1", found, "net-abc", 1, "2026-01-01T00:00:00Z")
    assert rows["parent"].tolist() == ["labels-1:1", "net-abc:2"]
    assert rows["file"].tolist() == ["drawn.geojson", None] and rows["model"].tolist() == [None, "net/abc"]
    assert propose(None, "", found, "net-abc", 1, "")["parent"].tolist() == ["net-abc:1", "net-abc:2"]


# Which tiles ------------------------------------------------------------------------------------------------


def test_entropy_is_none_for_the_sure_and_one_for_the_lost():
    assert entropies(np.array([[1.0, 0, 0], [0.25, 0.25, 0.25], [0.5, 0.5, 0]])) == pytest.approx([0, 1, 0.5])


def test_masks_that_are_unsure_of_their_outlines_are_uncertain():
    window, house = Window(0, 0, 200, 200), np.array([shapely.box(20, 20, 60, 60)], dtype=object)
    sure = np.array([[0.0, 0.0, 1.0]])
    sharp, soft = (TileFindings(window, house, sure, np.array([value])) for value in (0.0, 0.4))
    told = [tile_uncertainties([found])[0] for found in (sharp, soft, TileFindings(window, house, sure))]
    assert told == pytest.approx([0, 0.4, 0])


def test_tiles_that_disagree_are_uncertain():
    windows = [Window(0, 0, 200, 200), Window(100, 0, 200, 200), Window(300, 0, 200, 200)]
    strip = np.array([shapely.box(120, 50, 160, 90)], dtype=object)
    sure, nothing = np.array([[0.0, 0.0, 1.0]]), (np.empty(0, dtype=object), np.empty((0, 3)))
    both = tile_uncertainties([TileFindings(windows[0], strip, sure), TileFindings(windows[1], strip, sure)])
    one = tile_uncertainties([TileFindings(windows[0], strip, sure), TileFindings(windows[1], *nothing)])
    assert both == pytest.approx([0, 0]) and one == pytest.approx([1, 0])
    # Both saw it, one of them a third shorter: their masks are not sure where it ends.
    shorter = np.array([shapely.box(120, 50, 160, 80)], dtype=object)
    unlike = tile_uncertainties(
        [TileFindings(windows[0], strip, sure), TileFindings(windows[1], shorter, sure)]
    )
    assert unlike == pytest.approx([0.25, 0.25])
    doubts = committee_doubts(windows, strip, np.array([0.7]), np.empty(0, dtype=object))
    assert doubts == pytest.approx([0.7, 0.7, 0])
    assert committee_doubts(windows, strip, np.array([0.7]), strip) == pytest.approx([0, 0, 0])
    assert committee_doubts(windows, strip, np.array([0.8]), shorter) == pytest.approx([0.2, 0.2, 0])


@pytest.mark.parametrize("seed", range(5))
def test_doubts_at_seams_are_those_of_each_tile_against_each_neighbour(seed):
    chance = np.random.default_rng(seed)
    windows = [Window(left, top, 120, 100) for top in (0, 70, 140) for left in (0, 80, 160)]

    def findings(window: Window) -> TileFindings:
        count = chance.integers(0, 12)
        centres = chance.uniform(0, 100, (count, 2)) + window[:2]
        shown = shapely.buffer(shapely.points(centres), chance.uniform(4, 20, count))
        inside = shapely.intersection(shown, window_box(window))
        return TileFindings(window, inside, chance.dirichlet((1, 1, 1, 1), count)[:, :3])

    tiles = [findings(window) for window in windows]
    expected = []
    for tile in tiles:
        doubt = entropies(tile.probabilities).sum()
        for other in tiles:
            strip = window_box(tile.window).buffer(-8).intersection(window_box(other.window).buffer(-8))
            for polygon, scores in zip(tile.polygons, tile.probabilities, strict=True):
                part = polygon.intersection(strip)
                if other is not tile and strip.area and part.area >= 0.5 * polygon.area:
                    theirs = [one.intersection(strip) for one in other.polygons]
                    ious = [part.intersection(one).area / part.union(one).area for one in theirs]
                    doubt += scores.max() * (1 - max((iou for iou in ious if iou > 0.3), default=0))
        expected.append(doubt)
    assert tile_uncertainties(tiles) == pytest.approx(expected, abs=1e-9)
    assert sum(expected) > sum(entropies(tile.probabilities).sum() for tile in tiles) + 1


def candidates(side: int = 8, step: int = 100) -> list[Candidate]:
    random = np.random.default_rng(5)
    return [
        Candidate("a", Window(step * column, step * row, 150, 150), float(random.uniform()))
        for row in range(side)
        for column in range(side)
    ]


def test_tiles_of_a_round_share_no_pixel_and_keep_to_the_budget():
    tiles = candidates()
    chosen = choose_for_review(tiles, ReviewRules(budget=8, random_share=0.25), 1, None)
    assert len(chosen) == 8 and sum(one.by_chance for one in chosen) == 2
    boxes = [
        shapely.box(w.col_off, w.row_off, w.col_off + w.width, w.row_off + w.height)
        for w in (tiles[one.place].window for one in chosen)
    ]
    assert sum(box.intersection(other).area for box in boxes for other in boxes if box is not other) == 0
    assert chosen == choose_for_review(tiles, ReviewRules(budget=8, random_share=0.25), 1, None)
    assert chosen != choose_for_review(tiles, ReviewRules(budget=8, random_share=0.25), 2, None)
    everything = choose_for_review(tiles[:3], ReviewRules(budget=50, random_share=0.0), 1, None)
    assert 1 <= len(everything) <= 3
    assert choose_for_review([], ReviewRules(), 1, None) == []


def test_uncertain_tiles_are_chosen_to_differ():
    tiles = [Candidate("a", Window(200 * i, 0, 100, 100), 1.0 - i / 100) for i in range(20)]
    groups = np.array([[i % 2, i % 2] for i in range(20)], dtype=float)
    groups[7] = (9, 9)
    rules = ReviewRules(budget=3, random_share=0.0, diversity=5)
    chosen = choose_for_review(tiles, rules, 1, lambda indices: groups[list(indices)])
    assert [one.place for one in chosen] == [0, 7, 1], "the most uncertain, the odd one, the other group"
    plain = choose_for_review(
        tiles, ReviewRules(budget=3, random_share=0.0, diversity=1), 1, lambda i: groups[list(i)]
    )
    assert [one.place for one in plain] == [0, 1, 2]


def test_rules_that_make_no_sense_are_refused():
    for wrong in ({"budget": 0}, {"random_share": 2.0}, {"diversity": 0.5}):
        with pytest.raises(SettingsError, match=next(iter(wrong))):
            ReviewRules(**wrong)
