"""Every input of the catalogue ends in one line and an exit code, by the real command line."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import bad_inputs
import numpy as np
import pytest
import rasterio
from bad_inputs import Bad
from warm import run_warm

from models.weights import weights_digest
from pipeline.sample import SceneSpec, write_scene

SETTINGS = """
[Tiling]
tile_size = 128
overlap = 32
[Training]
network = maskrcnn_small
epochs = 1
tiles_per_epoch = 2
device = cpu
[Inference]
shards = 1
batch_size = 2
workers = 0
device = cpu
detections_per_tile = 8
weights = given/weights.h5
[Aggregation]
score_thresholds = {"foundation": 0.0, "unfinished": 0.0, "completed": 0.0}
"""
MEMORY_MIB = 3072
SECONDS = 100


@pytest.fixture(scope="session")
def village(tmp_path_factory) -> Path:
    """A workspace with two small images, and a network that has learnt nothing but finds something."""
    import torch

    from models.maskrcnn import build
    from models.weights import WeightsMetadata, write_weights

    workspace = tmp_path_factory.mktemp("village")
    for split, name, seed in (("training", "scene_001", 1), ("test", "scene_042", 42)):
        for kind in ("images", "labels", "areas"):
            (workspace / "input" / split / kind).mkdir(parents=True)
        folder = workspace / "input" / split
        spec = SceneSpec(width=240, height=240, seed=seed, collar=20, houses_per_hectare=80)
        write_scene(spec, folder / "images" / f"{name}.tif", folder / "labels" / f"{name}.geojson")
    (workspace / "given").mkdir()
    (workspace / "luigi.cfg").write_text(SETTINGS)
    categories = ("foundation", "unfinished", "completed")
    metadata = WeightsMetadata("maskrcnn_small", {}, categories)
    torch.manual_seed(0)
    network = build("maskrcnn_small", categories)
    # Masks as full as their boxes: those of a network by chance may be empty, all of them.
    torch.nn.init.constant_(network.roi_heads.mask_predictor.mask_fcn_logits.bias, 9.0)
    write_weights(workspace / "given" / "weights.h5", network, metadata)
    return workspace


def check(workspace: Path, bad: Bad, tile: Path | None = None) -> None:
    """Runs the command line on a bad input, and looks at what it says."""
    path = workspace / bad.file.format(id=bad.name, tile=tile)
    if bad.write is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        bad.write(path)
    inputs = workspace / "input" / "test"
    if "/labels/" in bad.file or "/areas/" in bad.file:
        os.link(inputs / "images" / "scene_042.tif", inputs / "images" / f"{bad.name}.tif")
    if "/areas/" in bad.file:
        os.link(inputs / "labels" / "scene_042.geojson", inputs / "labels" / f"{bad.name}.geojson")
    if bad.file.endswith("thresholds.json"):
        os.link(workspace / "given/weights.h5", path.with_name("weights.h5"))
    arguments = [text.replace("{id}", bad.name).replace("{file}", str(path)) for text in bad.arguments]
    done = run_warm(workspace, *arguments, "--local-scheduler", memory_mib=MEMORY_MIB, timeout=SECONDS)
    told = [line for line in done.stdout.splitlines() if bad.says in line]
    assert done.returncode > 0, (done.returncode, done.stdout[-3000:])
    assert "Traceback" not in done.stdout, done.stdout[-3000:]
    assert told, done.stdout[-3000:]
    assert max(map(len, told)) < 1500, "a line is to be read"
    assert not list(workspace.rglob("executed")), "an input was executed"


def rows(catalogue: list[Bad]) -> list:
    """The catalogue as pytest takes it."""
    return [pytest.param(bad, id=bad.name, marks=[pytest.mark.slow] * bad.slow) for bad in catalogue]


FILES = bad_inputs.RASTERS + bad_inputs.LABELS + bad_inputs.CATALOGUES


@pytest.mark.parametrize("bad", rows(FILES + bad_inputs.SETTINGS + bad_inputs.IDS))
def test_a_bad_input_is_one_line(village, bad):
    check(village, bad)


@pytest.mark.parametrize("bad", rows(bad_inputs.weights(None)))
def test_bad_weights_are_one_line(village, bad):
    made = {row.name: row for row in bad_inputs.weights(village / "given" / "weights.h5")}
    check(village, made[bad.name])


@pytest.fixture(scope="module")
def detections(village) -> Path:
    """The folder of per-tile JSON of an image."""
    done = run_warm(village, "AggregateImage", "--image-id", "scene_042", "--local-scheduler")
    assert done.returncode == 0, done.stdout
    record = json.loads((village / "output" / "runs" / "scene_042.AggregateImage.json").read_bytes())
    return village / "work" / "scene_042" / f"detections-{record['inputs']['InferShard']}"


@pytest.mark.parametrize("bad", rows(bad_inputs.tiles(None)))
def test_a_bad_tile_is_one_line(village, detections, bad):
    tile = next(path for path in sorted(detections.glob("r*.json")) if b'"polygon"' in path.read_bytes())
    good = tile.read_bytes()
    shutil.rmtree(village / "output", ignore_errors=True)
    try:
        check(village, {row.name: row for row in bad_inputs.tiles(json.loads(good))}[bad.name], tile)
    finally:
        tile.write_bytes(good)


def test_the_catalogue_is_as_large_as_promised():
    everything = FILES + bad_inputs.SETTINGS + bad_inputs.IDS
    everything += bad_inputs.weights(None) + bad_inputs.tiles(None)
    assert len({bad.name for bad in everything}) == len(everything) > 100


def test_an_image_without_a_valid_pixel_is_no_bad_input(village, tmp_path):
    for name in ("luigi.cfg", "given/weights.h5", "input/test/labels/scene_042.geojson"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(village / name, tmp_path / name)
    image = tmp_path / "input/test/images/scene_042.tif"
    image.parent.mkdir()
    with rasterio.open(village / "input/test/images/scene_042.tif") as src:
        profile, shape = src.profile | {"nodata": 0, "photometric": None}, (src.count, *src.shape)
    with rasterio.open(image, "w", **profile) as dst:
        dst.write(np.zeros(shape, np.uint8))
    for task in (("CheckLabels", "--image-id", "scene_042"), ("ExportReview", "--round", "1")):
        done = run_warm(tmp_path, *task, "--Review-images", '["scene_042"]', "--local-scheduler")
        assert done.returncode == 0, done.stdout[-3000:]
    versions = {path.stem for path in (tmp_path / "review/versions/scene_042").iterdir()}
    tag = f"maskrcnn_small-{weights_digest(tmp_path / 'given/weights.h5')[:12]}-"
    assert any(name.startswith(tag) for name in versions)
