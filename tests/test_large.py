"""Buildings too large for a tile: found, seen whole on coarser windows, and mapped as one."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import luigi
import numpy as np
import pytest
import rasterio
import shapely
import torch
from bright_roofs import CATEGORIES, bright_detector
from hypothesis import given
from hypothesis import strategies as st
from luigi.configuration import get_config
from rasterio.enums import Resampling
from rasterio.features import rasterize
from rasterio.transform import from_origin

from models.maskrcnn import build
from models.weights import WeightsMetadata, write_weights
from pipeline.errors import ArtifactError, SettingsError
from pipeline.large import LargeRules, coarse_tiles, confirmed, too_large
from pipeline.raster import Imagery, TiledImage
from pipeline.seams import MergeRules
from pipeline.settings import Aggregation, Tiling
from pipeline.steps.buildings import Selection, aggregate_image
from pipeline.steps.detection_rows import outlines_px, read_coarse_index, read_detections
from pipeline.steps.detections import infer_tiles
from pipeline.steps.large import infer_large
from pipeline.steps.tiles import tile_image
from pipeline.submission import read_csv
from pipeline.tasks import AggregateImage

HALL = shapely.Polygon([(345, 330), (925, 350), (905, 890), (325, 870)])
HOUSES = [shapely.box(60, 60, 130, 120), shapely.box(1180, 1000, 1290, 1080)]


def objects(*polygons):
    made = np.empty(len(polygons), dtype=object)
    made[:] = polygons
    return made


def iou(one, other):
    return one.intersection(other).area / one.union(other).area


def paint(path, polygons, width=1404, height=1202, overviews=(2, 4), alpha=None):
    pixels = np.random.default_rng(5).integers(60, 90, (4, height, width)).astype(np.uint8)
    pixels[:3, rasterize(polygons, (height, width)) > 0] = 220
    pixels[3] = 255 if alpha is None else alpha
    with rasterio.open(
        path, "w", driver="GTiff", width=width, height=height, count=4, dtype="uint8", crs="EPSG:32737",
        transform=from_origin(533000, 9367000, 0.1, 0.1), photometric="rgb", alpha="yes", tiled=True,
        blockxsize=256, blockysize=256,
    ) as dst:  # fmt: skip
        dst.write(pixels)
        if overviews:
            dst.build_overviews(overviews, Resampling.average)
    return path


class Map:
    """An image on its way from tiles to buildings."""

    class Small(Tiling):
        tile_size, overlap = "256", "64"

    def __init__(self, folder, **painted):
        self.folder, self.image, self.shares = folder, paint(folder / "a.tif", **painted), []
        self.index = tile_image("a", self.image, Imagery(), self.Small(), self.told)
        for name in ("detections", "large"):
            (folder / name).mkdir()
        whole = slice(0, len(self.index.tiles))
        detections = folder / "detections"
        infer_tiles(TiledImage(self.index, self.image), whole, bright_detector(), detections, self.told)

    def look_again(self, **rules):
        self.shares = []
        return infer_large(
            TiledImage(self.index, self.image),
            self.folder / "detections",
            bright_detector(),
            LargeRules(**rules),
            MergeRules(),
            self.folder / "large",
            self.told,
        )

    def told(self, share, message):
        self.shares.append(share)

    def aggregate(self, name, large=False):
        out = self.folder / name
        out.mkdir()
        counts = aggregate_image(
            self.index,
            self.folder / "detections",
            CATEGORIES,
            Selection(1.0, dict.fromkeys(CATEGORIES, 0.5)),
            Aggregation(),
            out,
            self.told,
            self.folder / "large" if large else None,
        )
        features = json.loads((out / "a.geojson").read_text())["features"]
        return counts, read_csv(out / "a.csv").polygons_px, [feature["properties"] for feature in features]


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """A hall over many tiles, the innermost of which see nothing but its roof, and two houses."""
    return Map(tmp_path_factory.mktemp("hall"), polygons=[HALL, *HOUSES])


def test_a_hall_no_tile_sees_whole_is_seen_whole_from_further_away(seen):
    before, pieces, told = seen.aggregate("before")
    assert {properties["merge_status"] for properties in told} >= {"stitched"}
    assert max(iou(piece, HALL) for piece in pieces) < 0.95, "its middle is missing"
    counts = seen.look_again()
    assert counts == {"large": 1, "without_overview": 0, "windows": 1, "confirmed": 1}
    assert seen.shares == sorted(seen.shares) and seen.shares[-1] == 1
    (tile,) = read_coarse_index(seen.folder / "large").tiles
    content = read_detections(seen.folder / "large" / f"{tile.tile_id}.json")
    assert (tile.tile_id, tile.factor, content.window) == ("large_0001", 4, tile.window)
    after, whole, told = seen.aggregate("after", large=True)
    assert after["detections"] == before["detections"] + 1 and after["tiles"] == before["tiles"] + 1
    assert len(whole) == 3
    (hall,) = [row for row, properties in enumerate(told) if properties["tile_id"] == "large_0001"]
    assert told[hall]["merge_status"] == "duplicate" and iou(whole[hall], HALL) > 0.95
    for house in HOUSES:
        assert max(iou(outline, house) for outline in whole) > 0.95


def test_a_killed_look_goes_on_and_counts_the_same(seen):
    counts = seen.look_again()
    path = seen.folder / "large" / "large_0001.json"
    made = path.stat().st_mtime_ns
    (seen.folder / "large" / "index.json").unlink()
    assert seen.look_again() == counts and path.stat().st_mtime_ns == made
    content = json.loads(path.read_bytes())
    path.unlink()
    assert seen.look_again() == counts
    assert json.loads(path.read_bytes())["detections"] == content["detections"]


def test_without_an_overview_nothing_is_read_again(tmp_path):
    seen = Map(tmp_path, polygons=[HALL], overviews=(2,))
    counts = seen.look_again()
    assert counts == {"large": 1, "without_overview": 1, "windows": 0, "confirmed": 0}
    before, after = seen.aggregate("before"), seen.aggregate("after", large=True)
    assert before[0] == after[0] and before[2] == after[2]


def test_what_contradicts_the_tiles_is_not_taken(tmp_path):
    seen = Map(tmp_path, polygons=[HALL])
    assert seen.look_again(min_iou=0.999)["confirmed"] == 0
    assert seen.aggregate("same", large=True)[2] == seen.aggregate("alone")[2]


def test_valid_ground_ends_detections_of_coarser_windows_too(tmp_path):
    alpha = np.full((1202, 1404), 255)
    alpha[:, 850:] = 0
    seen = Map(tmp_path, polygons=[HALL], alpha=alpha)
    assert seen.look_again()["confirmed"] == 1
    (hall,) = outlines_px(read_detections(tmp_path / "large" / "large_0001.json"))
    assert hall.bounds[2] <= 854 and iou(hall, HALL & shapely.box(0, 0, 850, 1202)) > 0.95


def test_an_index_that_is_none_is_refused(tmp_path):
    (tmp_path / "index.json").write_text('{"image_id": "a"}')
    with pytest.raises(ArtifactError, match="coarser windows"):
        read_coarse_index(tmp_path)


@pytest.mark.parametrize(
    "rules", [{"fill": 0}, {"fill": 1}, {"min_iou": -0.1}, {"min_iou": 2}, {"min_score": 2}]
)
def test_rules_out_of_range_are_refused(rules):
    with pytest.raises(SettingsError, match=next(iter(rules))):
        LargeRules(**rules)


def test_large_is_what_no_tile_could_show():
    polygons = objects(
        *[shapely.box(0, 0, 500, 90)] * 3, shapely.box(0, 0, 90, 495), shapely.box(0, 0, 400, 9)
    )
    statuses = np.array(["single", "stitched", "fragment", "stitched", "stitched"], dtype=object)
    assert too_large(polygons, statuses, 512, 8).tolist() == [False, True, True, False, False]
    assert too_large(objects(), np.empty(0, object), 512, 8).tolist() == []


boxes = st.tuples(
    st.floats(0, 3000), st.floats(0, 2000), st.floats(20, 1800), st.floats(20, 1800)
).map(lambda b: shapely.box(b[0], b[1], min(b[0] + b[2], 3300), min(b[1] + b[3], 2101)))  # fmt: skip


@given(st.lists(boxes, max_size=12), st.sampled_from([[2, 4, 8], [2], [4, 16], [3], []]))
def test_windows_lie_in_the_image_and_show_their_buildings_whole(buildings, overviews):
    rules, size = LargeRules(), (3300, 2101)
    tiles, shown = coarse_tiles(objects(*buildings), size, 256, overviews, rules)
    assert [tile.tile_id for tile in tiles] == [f"large_{n:04d}" for n in range(1, len(tiles) + 1)]
    assert [tile.window.row_off for tile in tiles] == sorted(tile.window.row_off for tile in tiles)
    assert set(shown[shown >= 0]) == set(range(len(tiles)))
    for tile in tiles:
        x, y, width, height = tile.window
        assert tile.factor in overviews and x % tile.factor == 0 and y % tile.factor == 0
        assert x >= 0 and y >= 0 and x + width <= size[0] and y + height <= size[1]
        assert width <= 256 * tile.factor and height <= 256 * tile.factor
    for building, row in zip(buildings, shown, strict=True):
        x1, y1, x2, y2 = building.bounds
        extent = max(x2 - x1, y2 - y1)
        if row < 0:
            assert not any(extent <= rules.fill * 256 * o < max(2 * extent, 310) for o in overviews if o != 3)
            continue
        x, y, width, height = tiles[row].window
        room = (1 - rules.fill) / 4 * 256 * tiles[row].factor - tiles[row].factor
        assert extent <= rules.fill * 256 * tiles[row].factor
        assert x1 >= x + room or x == 0
        assert y1 >= y + room or y == 0
        assert x2 <= x + width - room or x + width == size[0]
        assert y2 <= y + height - room or y + height == size[1]


def test_neighbours_share_a_window_and_far_ones_do_not():
    halls = [shapely.box(x, 1000, x + 500, 1100) for x in (1000, 1050, 2700)]
    tiles, shown = coarse_tiles(objects(*halls), (4000, 3000), 256, [4], LargeRules())
    assert len(tiles) == 2 and shown[0] == shown[1] != shown[2]


@pytest.mark.parametrize(
    ("rules", "rows"),
    [
        ({}, [1]),
        ({"min_iou": 0.95}, [0]),
        ({"min_score": 0.85}, []),
        ({"min_iou": 0.0, "min_score": 0.85}, [2]),
    ],
)
def test_the_most_probable_detection_that_agrees_confirms_a_building(rules, rows):
    hall, elsewhere = objects(shapely.box(0, 0, 100, 50)), objects(shapely.box(300, 0, 400, 9))
    found = objects(shapely.box(0, 0, 100, 48), shapely.box(0, 0, 90, 50), shapely.box(0, 0, 20, 20))
    scores = np.array([0.6, 0.8, 0.9])
    assert confirmed(found, scores, hall, LargeRules(**rules)).tolist() == rows
    assert confirmed(found, scores, elsewhere, LargeRules()).tolist() == []
    assert confirmed(objects(), np.empty(0), hall, LargeRules()).tolist() == []


SETTINGS = """
[Tiling]
tile_size = 192
overlap = 48
[Inference]
weights = random.h5
shards = 2
workers = 0
device = cpu
score_threshold = 0.0
detections_per_tile = 8
[Aggregation]
score_thresholds = {"foundation": 0.0, "unfinished": 0.0, "completed": 0.0}
"""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A small image with overviews, and a network that knows nothing."""
    folder = tmp_path_factory.mktemp("village")
    (folder / "input" / "test" / "images").mkdir(parents=True)
    hall = shapely.affinity.translate(HALL, -300, -300)
    paint(folder / "input" / "test" / "images" / "a.tif", [hall], width=700, height=620)
    torch.manual_seed(0)
    network = build("maskrcnn_small", CATEGORIES)
    write_weights(folder / "random.h5", network, WeightsMetadata("maskrcnn_small", {}, CATEGORIES))
    (folder / "luigi.cfg").write_text(SETTINGS)
    return folder


@pytest.fixture
def configure(workspace, monkeypatch):
    """Sets a value of luigi's configuration for a test."""
    parser = get_config()
    before = {name: dict(parser.items(name, raw=True)) for name in parser.sections()}

    def configure(section, key, value):
        if not parser.has_section(section):
            parser.add_section(section)
        parser.set(section, key, value)

    configure("Storage", "workspace", str(workspace))
    configure("Inference", "weights", str(workspace / "random.h5"))
    yield configure
    for name in parser.sections():
        parser.remove_section(name)
    for name, values in before.items():
        for key, value in values.items():
            configure(name, key, value)
    luigi.task_register.Register.clear_instance_cache()


def test_unasked_for_the_graph_knows_nothing_of_large_buildings(configure):
    task = AggregateImage(image_id="a")
    needed = {type(step).__name__ for step in task.requires()}
    assert needed == {"TileImage", "InferShard", "SourceWeights"}
    assert set(task.inputs) == {"InferShard", "SourceWeights"}
    before = task.digest
    configure("LargeBuildings", "fill", "0.5")
    assert AggregateImage(image_id="a").digest == before


@pytest.mark.parametrize(
    ("section", "key", "value", "changed"),
    [
        ("LargeBuildings", "fill", "0.5", {"InferLarge", "AggregateImage"}),
        ("Aggregation", "min_agreement", "0.4", {"InferLarge", "AggregateImage"}),
        ("Aggregation", "min_area_m2", "9", {"AggregateImage"}),
        ("Inference", "min_valid_share", "0.7", {"InferShard", "InferLarge", "AggregateImage"}),
        ("Inference", "batch_size", "3", set()),
    ],
)
def test_a_changed_setting_changes_the_digest_of_what_depends_on_it(configure, section, key, value, changed):
    def digests():
        task = AggregateImage(image_id="a")
        return {
            name: made.digest
            for name, made in (
                ("InferShard", task.shards[0]),
                ("InferLarge", task.large),
                ("AggregateImage", task),
            )
        }

    configure("LargeBuildings", "refine", "true")
    before = digests()
    configure(section, key, value)
    after = digests()
    assert {name for name in before if before[name] != after[name]} == changed


def run_luigi(workspace, task, *arguments):
    """The families of the tasks that a `luigi` process ran, sorted; its output."""
    command = [sys.executable, "-m", "luigi", "--module", "pipeline", task, "--image-id", "a"]
    done = subprocess.run(
        [*command, "--local-scheduler", *arguments],
        cwd=workspace,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout
    return sorted(re.findall(r"Worker .* running   (\w+)\(", done.stdout)), done.stdout


@pytest.mark.slow
def test_luigi_looks_again_where_asked_to(workspace):
    ran, output = run_luigi(workspace, "AggregateImage")
    assert ran == ["AggregateImage", "InferShard", "InferShard", "TileImage"]
    assert "on nodata 0, clipped 0" in output
    assert not list((workspace / "work" / "a").glob("large-*"))
    plain = (workspace / "output" / "a.csv").read_bytes()
    ran, output = run_luigi(workspace, "AggregateImage", "--LargeBuildings-refine", "true")
    assert ran == ["AggregateImage", "InferLarge"]
    (folder,) = (workspace / "work" / "a").glob("large-*")
    counts = json.loads((folder / "manifest.json").read_text())["counts"]
    assert counts["windows"] == len(list(folder.glob("large_*.json"))) > 0
    assert f"windows {counts['windows']}, confirmed {counts['confirmed']}" in output
    ran, _ = run_luigi(workspace, "AggregateImage")
    assert ran == ["AggregateImage"] and (workspace / "output" / "a.csv").read_bytes() == plain
