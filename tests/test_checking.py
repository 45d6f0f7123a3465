"""What is wrong with a painted scene's labels, and the best metric they allow."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyogrio
import pytest
import shapely
from affine import Affine
from pyproj import Geod

from pipeline import settings
from pipeline.checks import RULES, CheckRules, find_shift
from pipeline.evaluate import score_image
from pipeline.frames import footprint, px_to_crs, reproject
from pipeline.labels import read_label_file
from pipeline.outputs import LONLAT
from pipeline.raster import Imagery, TiledImage, read_grid
from pipeline.review.ceiling import find_ceiling
from pipeline.review.ensemble import ModelBuildings, fuse_models
from pipeline.sample import SceneSpec, paint_scene, write_scene
from pipeline.schema import Grid
from pipeline.steps.checking import check_labels, find_grounds, model_rows, units_per_m, write_findings
from pipeline.stores.opening import open_versions
from pipeline.stores.versions import Version
from pipeline.submission import Rows, write_csv
from pipeline.tiling import TilingRules, build_tile_index, tile_windows

CATEGORIES = ("foundation", "unfinished", "completed")
SPEC = SceneSpec(width=640, height=560, seed=11, collar=60)


def soil(labels: Path) -> None:
    """Draws a label again, crosses another one's ring, and adds an empty one."""
    content = json.loads(labels.read_text())
    again, crossed, empty = (copy.deepcopy(content["features"][row]) for row in (0, 1, 2))
    ring = crossed["geometry"]["coordinates"][0]
    ring[1], ring[2] = ring[2], ring[1]
    empty["geometry"] = {"type": "Polygon", "coordinates": []}
    content["features"] += [again, crossed, empty]
    labels.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """Folder with an image, dirty labels, the same 2 m to the east, and a CSV of what truly stands there."""
    folder = tmp_path_factory.mktemp("scene")
    write_scene(SPEC, folder / "a.tif", folder / "a.geojson")
    soil(folder / "a.geojson")
    grid, rules = read_grid(folder / "a.tif", Imagery()), TilingRules(tile_size=256, overlap=64)
    count = len(tile_windows(grid.width, grid.height, rules))
    index = build_tile_index("a", grid, rules, np.ones(count))
    frame = read_label_file(folder / "a.geojson")
    east = reproject(frame.geometry.values, frame.crs, grid.crs)
    east = shapely.transform(east, lambda xy: xy + np.array([2.0, 0.0]))
    frame.set_geometry(list(reproject(east, grid.crs, LONLAT)), crs=LONLAT).to_file(
        folder / "east.gpkg", layer="labels"
    )
    scene = paint_scene(SPEC)
    polygons, chosen = scene.buildings, [CATEGORIES.index(name) for name in scene.categories]
    write_csv(
        folder / "a.csv",
        [
            Rows(
                polygons,
                reproject(px_to_crs(polygons, grid.transform), grid.crs, LONLAT),
                np.eye(3)[chosen] * 0.95,
            )
        ],
        CATEGORIES,
    )
    return folder, index


def check(scene, tmp_path, labels: str, ground: shapely.Geometry | None = None):
    folder, index = scene
    store = open_versions("", tmp_path / "versions")
    made_at = "2026-01-01T00:00:00+00:00"
    store.add(
        "a",
        Version("net", "model", "one", 0, made_at),
        model_rows(folder / "a.csv", index, CATEGORIES, "small/abc", made_at, 0),
    )
    return check_labels(
        TiledImage(index, folder / "a.tif"),
        folder / labels,
        settings.Labels(),
        CheckRules(),
        store,
        Version("drawn-1", "drawn", "one", 0, made_at, ground),
        "net",
    ), store


def test_check_of_dirty_labels_is_a_table_a_layer_and_a_ceiling(scene, tmp_path):
    (report, findings), store = check(scene, tmp_path, "a.geojson")
    assert {"empty_geometry", "invalid_geometry", "duplicate"} <= set(report.findings)
    assert not report.shift.counts
    assert report.ceiling.perfect.all_f1 < 1 and report.ceiling.on_the_ground is None
    assert report.ceiling.copied.all_f1 >= report.ceiling.perfect.all_f1 - 1e-9
    write_findings(tmp_path / "a.checks", findings)
    table = pd.read_csv(tmp_path / "a.checks.csv")
    assert len(table) == sum(report.findings.values()) and set(table["rule"]) <= set(RULES)
    layer = pyogrio.read_dataframe(tmp_path / "a.checks.gpkg")
    assert 0 < len(layer) <= len(table) and layer.crs == scene[1].grid.crs
    assert "a perfect network scores" in report.table()
    assert json.loads(store.read("a", "net")["scores"][0]).keys() == set(CATEGORIES)
    assert set(store.read("a", "drawn-1")["file"]) == {"a.geojson"}


def test_nothing_is_missed_where_labels_are_not_complete(scene, tmp_path):
    folder, index = scene
    frame = read_label_file(folder / "a.geojson").to_crs(index.grid.crs)
    west, south, east, north = footprint(index.grid).bounds
    ground = shapely.box(west, south, (west + east) / 2, north)
    inside = shapely.intersects(ground, shapely.point_on_surface(frame.geometry.values))
    frame[inside].to_file(tmp_path / "west.gpkg")
    (everywhere, _), _ = check((folder, index), tmp_path / "everywhere", str(tmp_path / "west.gpkg"))
    (there, _), _ = check((folder, index), tmp_path / "there", str(tmp_path / "west.gpkg"), ground)
    assert everywhere.findings["unlabelled"] and "unlabelled" not in there.findings
    (all_drawn, _), _ = check((folder, index), tmp_path / "all", "a.geojson", ground)
    assert all_drawn.ceiling.labels == there.ceiling.labels
    assert all_drawn.ceiling.perfect == there.ceiling.perfect


def test_shifted_labels_lower_the_ceiling_and_the_offset_is_told(scene, tmp_path):
    (straight, _), _ = check(scene, tmp_path / "straight", "a.geojson")
    (shifted, _), _ = check(scene, tmp_path / "shifted", "east.gpkg")
    assert shifted.shift.counts
    assert (shifted.shift.east_m, shifted.shift.north_m) == pytest.approx((-2, 0), abs=0.3)
    assert shifted.ceiling.best.all_f1 < straight.ceiling.best.all_f1
    assert shifted.ceiling.perfect.all_f1 == pytest.approx(straight.ceiling.perfect.all_f1)
    assert "move them -" in shifted.table()


@pytest.mark.parametrize("azimuth, way", [(90, (1, 0)), (0, (0, 1))], ids=["east", "north"])
def test_a_metre_is_one_along_both_axes_of_an_image_in_degrees(azimuth, way):
    askew = Affine.translation(10, 60) @ Affine.rotation(30) @ Affine.scale(1e-6, -1e-6)
    grid = Grid(
        width=4000,
        height=1000,
        crs="EPSG:4326",
        srid=4326,
        transform=askew[:6],
        ground_m_per_px=(0.06, 0.1),
        bands=[1, 2, 3],
        stretch=None,
        observed="2026-01-01T00:00:00Z",
    )
    (lon, lat), *_ = footprint(grid).centroid.coords
    east, north, _ = Geod(ellps="WGS84").fwd(lon, lat, azimuth, 1)
    labels = np.array([shapely.box(lon + x, lat, lon + x + 1e-4, lat + 1e-4) for x in np.arange(8) / 1e3])
    move = np.array([east - lon, north - lat])
    buildings = shapely.transform(labels, lambda xy: xy + move)
    limits = CheckRules().limits(units_per_m(grid))
    shift = find_shift(labels, buildings, limits)
    assert (shift.dx, shift.dy) == pytest.approx(way, abs=1e-3) and shift.counts(limits)


def test_grounds_leave_the_collar_out(scene):
    folder, index = scene
    grounds = find_grounds(TiledImage(index, folder / "a.tif"))
    assert 0.3 < grounds.valid.area / grounds.footprint.area < 0.95


def test_ceiling_counts_every_fault_of_the_labels():
    squares = np.array([shapely.box(20 * i, 0, 20 * i + 10, 10) for i in range(6)], dtype=object)
    crossed = shapely.Polygon([(200, 0), (210, 10), (210, 0), (200, 10)])
    drawn = np.array([*squares, shapely.box(1, 0, 11, 10), crossed, None], dtype=object)
    known = np.array([0, 0, 1, 1, 2, -1, 1, 0, 2])
    conditions = np.array([-1, 0, 1, 1, 2, -1])  # drawn twice with two conditions: unknown
    ceiling = find_ceiling(
        drawn, known, squares, conditions, CATEGORIES, None, shapely.box(-50, -50, 250, 50)
    )
    assert ceiling.labels == 8
    # Drawn twice and crossed: six of eight can be found, by six buildings.
    assert ceiling.perfect.all_f1 == pytest.approx(2 * 6 / (6 + 8))
    assert ceiling.copied.all_f1 == pytest.approx(2 * 7 / (7 + 8))
    exact = score_image(squares[:5], np.eye(3)[known[:5]], squares[:5], known[:5], CATEGORIES)
    assert exact.mean_f1 == 1.0


def test_a_perfect_network_draws_no_further_than_the_image():
    labels = np.array([shapely.box(x, 0, x + 10, 10) for x in (-5, 20, 97, 150)], dtype=object)
    known = np.array([0, 0, 0, 0])
    ceiling = find_ceiling(labels, known, labels, known, CATEGORIES, (-1.0, 0.0), shapely.box(0, 0, 99, 10))
    assert (ceiling.labels, ceiling.perfect.all_f1, ceiling.copied.all_f1) == (2, 1.0, 1.0)
    assert ceiling.on_the_ground.all_f1 == 1.0


def test_labels_that_reach_beyond_the_image_are_counted(scene, tmp_path):
    folder, index = scene
    width = index.grid.width
    beyond = [shapely.box(width - 10, 5, width + 10, 15), shapely.box(width + 50, 5, width + 60, 15)]
    frame = read_label_file(folder / "a.geojson")
    places = reproject(px_to_crs(beyond, index.grid.transform), index.grid.crs, frame.crs)
    more = frame.iloc[:2].set_geometry(list(places), crs=frame.crs)
    pd.concat([frame, more]).to_file(folder / "beyond.geojson", driver="GeoJSON")
    (report, _), _ = check(scene, tmp_path, "beyond.geojson")
    assert report.edge.model_dump() == {"outside_image": 1, "barely_shown": 0, "cut": 1}
    assert report.rows == len(frame) + 1 == report.ceiling.labels
    assert "1 cut to the image" in report.table()


def test_networks_are_fused_and_keep_their_tags():
    def boxes(*lefts: float) -> np.ndarray:
        return np.array([shapely.box(x, 20, x + 20, 40) for x in lefts], dtype=object)

    first = ModelBuildings("a/1", boxes(20, 60), np.array([[0.7, 0.1, 0.1], [0.6, 0.2, 0.1]]))
    second = ModelBuildings("b/2", boxes(21, 140), np.array([[0.8, 0.1, 0.0], [0.1, 0.1, 0.7]]))
    polygons, probabilities, tags = fuse_models([first, second], 300, 300)
    assert tags == ["a/1 + b/2", "a/1", "b/2"]
    assert shapely.area(shapely.intersection(polygons, boxes(20, 60, 140))).min() > 350
    assert probabilities[0, 0] > 0.8, "agreement raises the confidence"
    swapped = fuse_models([second, first], 300, 300)
    assert sorted(swapped[2]) == ["a/1", "b/2", "b/2 + a/1"]
