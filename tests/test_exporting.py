"""What goes to other tools: the GeoPackage's layers, the project in the real QGIS, the STAC Item."""

from __future__ import annotations

import json
import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import geopandas
import numpy as np
import pyogrio
import pystac
import pytest
import rasterio
import rasterio.shutil
import shapely
from affine import Affine
from debian_qgis import DEBIANS_PYTHON, geopackage_complaints, qgis_or_skip
from pystac.extensions.projection import ProjectionExtension
from rasterio.transform import from_origin
from test_buildings import write as write_detections

from pipeline.frames import reproject
from pipeline.metrics import MetricRules
from pipeline.outputs import FORMATS, LONLAT
from pipeline.outputs.project import ProjectImage, project
from pipeline.outputs.review import UNDECIDED, building_reasons
from pipeline.outputs.stac import stac_item
from pipeline.raster import Imagery, TiledImage
from pipeline.settings import Aggregation, Labels, Tiling
from pipeline.steps.buildings import Selection, aggregate_image
from pipeline.steps.evaluation import Judged, evaluate_image
from pipeline.steps.exporting import export_image
from pipeline.steps.tiles import tile_image

CRS, LEFT, TOP, METRES = "EPSG:32737", 533000.0, 9367000.0, 0.25
SURE, UNSURE, TORN = [0.02, 0.03, 0.93], [0.1, 0.1, 0.42], [0.05, 0.42, 0.5]
RENDER = Path(__file__).with_name("qgis_render.py")


def told(share, text):
    pass


@pytest.fixture
def village(tmp_path):
    """Two tiles; a house that is right, one unsure and false, one torn and mistaken, one missed."""
    pixels = np.full((3, 200, 350), 120, dtype=np.uint8)
    image = tmp_path / "input" / "test" / "images" / "a.tif"
    image.parent.mkdir(parents=True)
    place = {"crs": CRS, "transform": from_origin(LEFT, TOP, METRES, METRES)}
    with rasterio.open(
        image, "w", driver="GTiff", dtype="uint8", count=3, height=200, width=350, **place
    ) as dst:
        dst.write(pixels)
    os.utime(image, (1_500_000_000, 1_500_000_000))

    class Small(Tiling):
        tile_size, overlap = "200", "50"

    index = tile_image("a", image, Imagery(), Small(), told)
    found = {(10, 60): SURE, (100, 60): UNSURE, (220, 60): TORN, (310, 150): SURE}
    detections = tmp_path / "detections"
    detections.mkdir()
    for tile in index.tiles:
        left = tile.window.col_off
        inside = [
            (shapely.box(x - left, y, x - left + 40, y + 40), probabilities)
            for (x, y), probabilities in found.items()
            if left <= x and x + 40 <= left + 200
        ]
        write_detections(detections, tile, [box for box, _ in inside], [p for _, p in inside])
    return tmp_path, image, index, detections


def export(village, folder, labels=True, formats=("csv", "geojson"), elsewhere=()):
    root, image, index, detections = village
    output, table = root / folder, root / f"{folder}-table"
    output.mkdir()
    table.mkdir()
    limits = Selection(1.0, dict.fromkeys(Labels().names, 0.3))
    rules = Aggregation(formats=formats)
    aggregate_image(index, detections, Labels().names, limits, rules, output, told, None, table)
    judged = None
    if labels:
        path = root / "input" / "labels.geojson"
        boxes = [(10, 60), (220, 60), (140, 150), (310, 150)]
        places, side = np.array(boxes) * METRES, 40 * METRES
        geometry = [shapely.box(LEFT + x, TOP - y - side, LEFT + x + side, TOP - y) for x, y in places]
        geometry += [shapely.box(LEFT + x, TOP - y - side, LEFT + x + side, TOP - y) for x, y in elsewhere]
        conditions = ["Complete", "Incomplete", "Foundation", None] + ["Complete"] * len(elsewhere)
        geopandas.GeoDataFrame({"condition": conditions}, geometry=geometry, crs=CRS).to_file(path)
        judged = Judged(output / "a.csv", path, None, output / "a.report.json")
        evaluation = evaluate_image(TiledImage(index, image), judged, Labels(), MetricRules())
        judged.report.write_text(evaluation.model_dump_json())
    return output, export_image(index, image, table, Labels(), judged, formats, output, output)


def layer(output, name):
    return pyogrio.read_dataframe(output / "a.gpkg", layer=name)


def test_one_file_holds_everything_about_an_image(village):
    output, counts = export(village, "output")
    names = [name for name, _ in pyogrio.list_layers(output / "a.gpkg")]
    assert names == ["buildings", "raw_outlines", "tiles", "labels", "review", "layer_styles"]
    assert counts == {"buildings": 4, "labels": 4, "review": 4}
    tiles = layer(output, "tiles")
    assert tiles["status"].tolist() == ["buildings", "buildings"]
    assert tiles["buildings"].tolist() == [2, 2]
    assert tiles["mean_confidence"].tolist() == pytest.approx([(0.93 + 0.42) / 2, (0.93 + 0.5) / 2])
    labels = layer(output, "labels")
    assert labels["class_name"].tolist() == ["completed", "unfinished", "foundation", "unknown"]
    assert labels["outcome"].tolist() == ["found", "wrong category", "missed", "found"]
    assert tiles.crs == labels.crs == layer(output, "review").crs == CRS


def test_the_geopackage_is_as_the_specification_has_it(village):
    output, _ = export(village, "output")
    assert geopackage_complaints(output / "a.gpkg") == ""


def test_labels_of_the_image_beside_are_not_asked_for(village):
    alone, counts = export(village, "alone")
    both, again = export(village, "both", elsewhere=[(-50, 10), (2000, 10)])
    assert again == counts and layer(both, "labels").equals(layer(alone, "labels"))
    one, other = (json.loads((folder / "a.report.json").read_text()) for folder in (alone, both))
    assert (one.pop("edge")["outside_image"], other.pop("edge")["outside_image"]) == (0, 2)
    assert one == other and one["truths"] == 4


def test_review_points_lie_on_what_is_to_be_looked_at(village):
    output, _ = export(village, "output")
    points, buildings = layer(output, "review"), layer(output, "buildings")
    assert points["reason"].tolist() == ["missed", "false", "category", "edge"]
    assert not points["done"].any() and (points["meaning"].str.len() > 10).all()
    for row in points[points["building_id"].notna()].itertuples():
        (building,) = buildings[buildings["building_id"] == row.building_id].itertuples()
        assert building.geometry.contains(row.geometry) and building.confidence == row.confidence
    missed = layer(output, "labels").query("outcome == 'missed'")
    assert points["label_id"][0] == missed["label_id"].iloc[0]
    assert missed.geometry.iloc[0].contains(points.geometry[0])


def test_review_points_tell_an_outline_that_is_not_good_enough_from_nothing_at_all(village):
    alone, _ = export(village, "alone")
    half, _ = export(village, "half", elsewhere=[(30, 15)])
    meanings = [
        dict(zip(points["reason"], points["meaning"], strict=True))
        for points in (layer(alone, "review"), layer(half, "review").drop_duplicates("reason", keep="last"))
    ]
    assert meanings[0]["false"] == "no building is labelled here"
    assert meanings[0]["missed"] == "a labelled building that was not found"
    assert meanings[1]["false"] == "a building is labelled here, and overlaps by one half or less"
    assert meanings[1]["missed"] == "a labelled building; what was found overlaps by one half or less"
    assert layer(half, "labels")["outcome"].tolist()[-1] == "missed", "whatever the reason"


def test_without_labels_doubts_are_left_to_look_at(village):
    output, counts = export(village, "output", labels=False)
    assert layer(output, "review")["reason"].tolist() == ["unsure", "undecided", "edge"]
    assert len(layer(output, "labels")) == 0 and counts["labels"] == 0


def test_two_categories_are_close_below_a_difference_of_0_15():
    probabilities = np.array([[0.05, 0.42, 0.55], [0.05, 0.38, 0.55]])
    nothing = np.zeros(2, bool)
    reasons = building_reasons(probabilities, np.full(2, "found", object), nothing, nothing)
    assert reasons == [UNDECIDED, None]


def test_the_same_image_gives_the_same_files_whatever_the_day(village):
    today = datetime.now(UTC).date().isoformat().encode()
    one, _ = export(village, "one")
    two, _ = export(village, "two")
    for name in ("a.gpkg", "a.qgs", "a.stac.json"):
        content = (one / name).read_bytes()
        assert content == (two / name).read_bytes() and today not in content, name


def core_schemas(item):
    """What an Item is valid by, without its extension, whose schema lies on the network."""
    assert item.stac_extensions == [ProjectionExtension.get_schema_uri()]
    core = item.clone()
    core.stac_extensions = []
    return core.validate()


def test_the_stac_item_is_valid_and_its_links_lead_somewhere(village):
    output, _ = export(village, "output")
    path = output / "a.stac.json"
    item = pystac.Item.from_file(str(path))
    assert core_schemas(item) == ["https://schemas.stacspec.org/v1.1.0/item-spec/json-schema/item.json"]
    given = {"image", "labels", "report", "buildings", "project"}
    assert set(item.assets) == given | {"buildings_csv", "buildings_geojson"}
    for asset in item.assets.values():
        assert (output / asset.href).exists(), asset.href
        assert not asset.href.startswith("/")
    roles = {name: asset.roles for name, asset in item.assets.items() if asset.roles != ["data"]}
    assert roles == {"image": ["visual"], "labels": ["labels"], "report": ["metadata"]}
    assert item.properties["gsd"] == pytest.approx(0.25, rel=1e-3)
    assert item.properties["jengo:buildings"] == 4
    assert item.assets["image"].media_type == pystac.MediaType.GEOTIFF
    west, south, east, north = item.bbox
    assert 39 < west < east < 40 and -6 < south < north < -5
    content = json.loads(path.read_text())
    del content["geometry"], content["stac_extensions"]
    with pytest.raises(pystac.errors.STACValidationError):
        pystac.validation.validate_dict(content)


@pytest.mark.parametrize("source", ["image", "file", "nobody"])
def test_the_stac_item_claims_no_date_that_the_image_does_not_tell(village, source):
    root, image, index, detections = village
    date = "2018-04-30T09:12:00Z"
    grid = index.grid.model_copy(update={"observed": date, "observed_by": source})
    dated = index.model_copy(update={"grid": grid})
    output, _ = export((root, image, dated, detections), "output", labels=False)
    item = pystac.Item.from_file(str(output / "a.stac.json"))
    assert core_schemas(item)
    updated = item.assets["image"].extra_fields.get("updated")
    if source == "image":
        assert item.datetime.isoformat() == "2018-04-30T09:12:00+00:00"
        assert "end_datetime" not in item.properties and updated is None
    else:
        assert item.properties["datetime"] is None and item.properties["start_datetime"] < "1901"
        last, changed = (date, date) if source == "file" else ("9999-12-31T23:59:59Z", None)
        assert (item.properties["end_datetime"], updated) == (last, changed)


def test_the_stac_item_tells_where_the_pixels_lie(village):
    root, image, index, detections = village
    askew = Affine.translation(LEFT, TOP) @ Affine.rotation(30) @ Affine.scale(METRES, -2 * METRES)
    with rasterio.open(image, "r+") as dst:
        dst.transform = askew
    coarse = index.grid.model_copy(
        update={"transform": (askew @ Affine.scale(2))[:6], "width": 175, "height": 100}
    )
    output, _ = export(
        (root, image, index.model_copy(update={"grid": coarse}), detections), "output", labels=False
    )
    item = pystac.Item.from_file(str(output / "a.stac.json"))
    covered = shapely.geometry.shape(item.geometry)
    corners = [askew @ corner for corner in ((0, 0), (350, 0), (350, 200), (0, 200))]
    (expected,) = reproject([shapely.Polygon(corners)], CRS, LONLAT)
    assert shapely.area(shapely.symmetric_difference(covered, expected)) < 1e-4 * expected.area
    assert covered.exterior.is_ccw and item.bbox == list(covered.bounds)
    assert item.properties["gsd"] == pytest.approx(1.5 * METRES, rel=1e-3)
    place = ProjectionExtension.ext(item)
    assert (place.code, place.wkt2, place.shape) == (CRS, None, [200, 350])
    assert place.transform == pytest.approx(askew[:6])


def test_the_stac_item_holds_a_crs_without_a_code_as_text():
    crs = "PROJCRS[...]"
    known = ("2026-01-01T00:00:00Z", "image")
    told = stac_item(
        "a",
        shapely.box(39, -6, 40, -5),
        known,
        1.0,
        crs,
        (1, 1),
        [1, 0, 0, 0, -1, 0],
        {},
        {},
        [],
        is_cog=False,
    )
    assert told["properties"]["proj:code"] is None and told["properties"]["proj:wkt2"] == crs


def test_an_image_to_be_read_in_parts_is_told_so(village):
    root, image, index, detections = village
    whole = image.rename(image.with_name("whole.tif"))
    rasterio.shutil.copy(whole, image, driver="COG")
    output, _ = export((root, image, index, detections), "output", labels=False)
    item = pystac.Item.from_file(str(output / "a.stac.json"))
    as_cog = [name for name, asset in item.assets.items() if asset.media_type == pystac.MediaType.COG]
    assert as_cog == ["image"]


def test_buildings_of_coarser_windows_count(village):
    root, image, index, detections = village
    there = index.model_copy(update={"tiles": index.tiles[:1]})
    table = root / "table"
    table.mkdir()
    limits = Selection(1.0, dict.fromkeys(Labels().names, 0.3))
    aggregate_image(index, detections, Labels().names, limits, Aggregation(), root, told, None, table)
    counts = export_image(there, image, table, Labels(), None, ("csv",), root, root)
    assert counts["buildings"] == 4, "also those whose window is no tile"


def test_the_stac_item_tells_of_every_published_format(village):
    output, _ = export(village, "output", labels=False, formats=FORMATS)
    item = pystac.Item.from_file(str(output / "a.stac.json"))
    assert core_schemas(item)
    files = {name: asset.href for name, asset in item.assets.items() if name.startswith("buildings_")}
    assert files == {f"buildings_{name}": f"a.{name}" for name in FORMATS}
    assert all((output / file).stat().st_size for file in files.values())


def test_a_project_leaves_the_units_to_the_crs():
    feet = project("a", "a.gpkg", ["hut"], ProjectImage("a.tif", "EPSG:2263", (0, 0, 1, 1)))
    assert "foot" in feet and "meters" not in feet


def qgis(output, picture):
    """What the real QGIS says of a project and of its GeoPackage."""
    qgis_or_skip()
    done = subprocess.run(
        [DEBIANS_PYTHON, RENDER, output / "a.qgs", output / "a.gpkg", picture],
        capture_output=True,
        text=True,
        timeout=120,
        env={"QT_QPA_PLATFORM": "offscreen", "HOME": str(output), "XDG_RUNTIME_DIR": str(output)},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_qgis_opens_the_project_as_it_is_meant(village, tmp_path):
    output, counts = export(village, "output")
    found, complaints = qgis(output, tmp_path / "map.png")
    assert "Warning" not in complaints
    assert (found["read"], found["title"], found["crs"]) == (True, "Buildings in a", CRS)
    assert found["units"] == "meters"
    assert all(found["valid"].values()) and len(found["valid"]) == 6
    assert found["shown"] == ["review", "buildings", "image"]
    in_project = {name.removesuffix("_of_the_image"): told for name, told in found["layers"].items()}
    assert {name: told["features"] for name, told in in_project.items()} == {
        **counts, "raw_outlines": 4, "tiles": 2
    }  # fmt: skip
    for name, alone in found["alone"].items():
        assert alone.pop("loaded"), f"the style of {name} lies in the file"
        assert alone == in_project[name]
    buildings = in_project["buildings"]
    assert buildings["values"] == list(Labels().names)
    assert '"confidence"' in buildings["opacity"] and '"class_name"' in buildings["tip"]
    with rasterio.open(tmp_path / "map.png") as src:
        drawn = src.read([1, 2, 3])
    assert (drawn.reshape(3, -1) == np.array([[120], [120], [120]])).all(axis=0).mean() > 0.5, "the image"
    blue = (np.abs(drawn.astype(int) - np.array([86, 180, 233])[:, None, None]) < 40).all(axis=0)
    assert blue.any(), "completed buildings"
