"""AggregateImage's step on per-tile JSON that any predictor may have written."""

import json
import math

import numpy as np
import pytest
import shapely
from pyproj import Geod
from shapely import affinity

from pipeline.errors import ArtifactError
from pipeline.inference import tile_detections
from pipeline.schema import Grid, Tile, TileIndex, Window
from pipeline.settings import Aggregation
from pipeline.steps.buildings import Selection, aggregate_image
from pipeline.submission import read_csv

NAMES = ("foundation", "unfinished", "completed")
GRID = Grid(
    width=448,
    height=256,
    crs="EPSG:3857",
    srid=3857,
    transform=(0.1, 0, 4368223, 0, -0.1, -673868),
    ground_m_per_px=(0.0994, 0.0994),
    bands=[1, 2, 3],
    stretch=None,
    observed="2018-04-30T09:12:00Z",
)
TILES = [
    Tile(tile_id="r0000_c0000", window=Window(0, 0, 256, 256), valid_share=1),
    Tile(tile_id="r0000_c0001", window=Window(192, 0, 256, 256), valid_share=1),
]


def write(folder, tile, polygons, probabilities):
    objects = np.empty(len(polygons), dtype=object)
    objects[:] = polygons
    rows = np.array(probabilities, dtype=float).reshape(-1, 3)
    model = {"name": "any", "weights": "abc"}
    content = tile_detections("a", tile, GRID, objects, rows, NAMES, model, "never")
    (folder / f"{tile.tile_id}.json").write_text(json.dumps(content))


def aggregate(folder, tiles=TILES, thresholds=(0.5, 0.5, 0.5), temperature=1.0, grid=GRID, **settings):
    index = TileIndex(image_id="a", grid=grid, tile_size=256, overlap=64, empty_tiles=0, tiles=tiles)
    out = folder / "out"
    out.mkdir()
    limits = Selection(temperature, dict(zip(NAMES, thresholds, strict=True)))
    told = []
    counts = aggregate_image(
        index, folder, NAMES, limits, Aggregation(**settings), out, lambda share, text: told.append(share)
    )
    assert told == sorted(told) and (not told or told[-1] == 1.0)
    return counts, read_csv(out / "a.csv"), out


def test_a_building_of_two_tiles_is_one(tmp_path):
    house = shapely.box(150, 50, 300, 120)
    for tile in TILES:
        left, top = tile.window[:2]
        seen = shapely.clip_by_rect(house, left, top, left + 256, top + 256)
        write(tmp_path, tile, [shapely.transform(seen, lambda xy, x=left: xy - (x, 0))], [[0.1, 0.1, 0.8]])
    counts, rows, out = aggregate(tmp_path)
    assert counts["detections"] == 2 and counts["buildings"] == 1
    assert rows.polygons_px[0].symmetric_difference(house).area < 1
    properties = json.loads((out / "a.geojson").read_text())["features"][0]["properties"]
    assert properties["merge_status"] == "stitched" and properties["tile_count"] == 2
    # A Mercator pixel of 0.1 is shorter on the ground, by the cosine of the latitude.
    assert properties["area_m2"] == pytest.approx(150 * 70 * 0.0994**2, rel=0.01)


def test_corners_are_right_on_the_ground_where_pixels_are_not_square(tmp_path):
    """In degrees at 60 north, where a pixel is half as wide as high."""
    geod = Geod(ellps="WGS84")
    high = geod.line_length([25, 25], [60, 60 + 1e-6])
    wide = geod.line_length([25, 25 + 1e-6], [60, 60])
    degrees = {"crs": "EPSG:4326", "srid": 4326, "transform": (1e-6, 0, 25, 0, -1e-6, 60)}
    grid = GRID.model_copy(update=degrees | {"ground_m_per_px": (wide, high)})
    house = affinity.rotate(shapely.box(0, 0, 7.3, 4.1), 28)  # metres
    house = shapely.transform(house, lambda xy: xy / (wide, high) + (60, 60))
    write(tmp_path, TILES[0], [house], [[0.1, 0.1, 0.8]])
    write(tmp_path, TILES[1], [], [])
    _, rows, out = aggregate(tmp_path, grid=grid)
    (feature,) = json.loads((out / "a.geojson").read_text())["features"]
    assert feature["properties"]["regularize_status"] == "right_angles"
    outline = shapely.transform(rows.polygons_px[0], lambda xy: xy * (wide, high))
    sides = np.diff(shapely.get_coordinates(outline), axis=0)
    assert len(sides) == 4 and abs((sides[:-1] * sides[1:]).sum(axis=1)).max() < 0.01
    assert rows.polygons_px[0].intersection(house).area > 0.97 * house.area


def test_thresholds_cut_calibrated_confidences(tmp_path):
    sure, unsure = shapely.box(20, 20, 60, 60), shapely.box(100, 20, 140, 60)
    write(tmp_path, TILES[0], [sure, unsure], [[0.02, 0.02, 0.9], [0.1, 0.1, 0.6]])
    write(tmp_path, TILES[1], [], [])
    counts, rows, _ = aggregate(tmp_path, thresholds=(0.5, 0.5, 0.5), temperature=2.0)
    assert counts["buildings"] == 1
    expected = np.sqrt([0.02, 0.02, 0.9]) / np.sqrt([0.02, 0.02, 0.9, 0.06]).sum()
    assert rows.probabilities[0] == pytest.approx(expected, abs=1e-6)


def test_unsure_and_tiny_buildings_are_not_published(tmp_path):
    write(
        tmp_path,
        TILES[0],
        [shapely.box(10, 10, 60, 60), shapely.box(80, 10, 140, 60), shapely.box(150, 150, 160, 160)],
        [[0.1, 0.45, 0.1], [0.1, 0.2, 0.6], [0.1, 0.1, 0.8]],
    )
    write(tmp_path, TILES[1], [], [])
    counts, rows, _ = aggregate(tmp_path)
    assert counts["merged"] == 3 and counts["buildings"] == 1
    assert rows.probabilities[0].tolist() == [0.1, 0.2, 0.6]


def test_no_tiles_and_no_detections_give_empty_results_in_every_format(tmp_path):
    counts, rows, out = aggregate(tmp_path, tiles=[], formats=("csv", "geojson", "fgb", "shp", "pmtiles"))
    assert counts["buildings"] == 0 and len(rows.polygons_px) == 0
    endings = {path.suffix for path in out.iterdir()}
    assert endings == {".csv", ".geojson", ".fgb", ".shp", ".shx", ".dbf", ".prj", ".cpg"}, "nothing to tile"


def test_crossed_outlines_are_repaired_and_empty_ones_counted(tmp_path):
    write(tmp_path, TILES[0], [shapely.box(10, 10, 60, 60)] * 2, [[0, 0, 0.9], [0, 0.9, 0]])
    write(tmp_path, TILES[1], [], [])
    path = tmp_path / "r0000_c0000.json"
    content = json.loads(path.read_text())
    content["detections"][0]["polygon"] = [10, 10, 110, 110, 110, 10, 10, 105]
    content["detections"][1]["polygon"] = [200, 200, 210, 210, 220, 220]
    path.write_text(json.dumps(content))
    counts, rows, _ = aggregate(tmp_path)
    assert counts["detections"] == 2 and counts["without_area"] == 1
    assert len(rows.polygons_px) == 1 and rows.polygons_px[0].is_valid


def test_what_lies_outside_the_image_or_its_tile_is_cut_off_and_counted(tmp_path):
    first = [shapely.box(-40, 20, 60, 80), shapely.box(-90, 100, -20, 150), shapely.box(100, 20, 259, 80)]
    write(tmp_path, TILES[0], [*first, shapely.box(100, 150, 350, 200)], [[0, 0, 0.9]] * 4)
    # Of the second tile, whose corner is at 192, 0.
    write(
        tmp_path,
        TILES[1],
        [shapely.box(180, 200, 230, 270), shapely.box(200, -60, 240, -9)],
        [[0, 0, 0.9]] * 2,
    )
    counts, rows, _ = aggregate(tmp_path, edge_px=0.0)
    assert (counts["detections"], counts["outside"], counts["clipped"]) == (6, 2, 3)
    bounds = shapely.bounds(rows.polygons_px)
    assert (bounds.min(axis=0) >= 0).all() and (bounds.max(axis=0) <= (448, 256, 448, 256)).all()
    assert sorted(bounds[:, 2].round().tolist()) == [60, 259, 262, 422]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda tile, found: found.update(polygon=[0, 0, 1, 1]), "4 numbers in a ring of detection 0"),
        (
            lambda tile, found: found.update(polygon=[0, 0, 9, 0, 9, 9, 0]),
            "7 numbers in a ring",
        ),
        (lambda tile, found: found.update(holes=[[1, 1, 2, 2]]), "4 numbers in a ring of detection 0"),
        (
            lambda tile, found: found.update(polygon=[0, 0, 9, 0, 9, 1e300]),
            "300 in a ring",
        ),
        (lambda tile, found: found.update(polygon=[0, 0, 9, 0, 9, math.nan]), "detections.0.polygon.5"),
        (lambda tile, found: found.update(polygon=[0, 0, 9, 0, 9, "9"]), "detections.0.polygon.5"),
        (lambda tile, found: found.update(scores=[0, 0, 7]), "detections.0.scores.2"),
        (lambda tile, found: found.update(scores=[0, 0.9]), "each of 3 categories"),
        (lambda tile, found: found.update(scores=[0.5, 0.5, 0.5]), "each of 3 categories"),
        (lambda tile, found: found.pop("scores"), "Field required"),
        (lambda tile, found: found.update(score=0.5), "Unexpected.*detections.0.score"),
        (lambda tile, found: tile.update(categories=["hut", "house", "hall"]), "Labels. categories"),
        (lambda tile, found: tile.update(window=[0, 0, 512, 512]), "another tile"),
        (lambda tile, found: tile.update(tile_id="r0000_c0001"), "another tile"),
        (lambda tile, found: tile.update(schema_version=1), "schema version 1 instead of 2"),
    ],
)
def test_what_is_no_artifact_is_refused_with_its_file(tmp_path, change, says):
    write(tmp_path, TILES[0], [shapely.box(10, 10, 60, 60)], [[0, 0, 0.9]])
    write(tmp_path, TILES[1], [], [])
    path = tmp_path / "r0000_c0000.json"
    content = json.loads(path.read_text())
    change(content, content["detections"][0])
    path.write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match=says) as raised:
        aggregate(tmp_path)
    assert str(path) in str(raised.value)


def test_a_missing_tile_is_said_so(tmp_path):
    write(tmp_path, TILES[0], [], [])
    with pytest.raises(ArtifactError, match="No such file"):
        aggregate(tmp_path)
