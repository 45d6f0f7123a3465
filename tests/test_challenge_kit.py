"""The challenge from catalogue to submission, on small painted scenes called like its 22 images."""

from __future__ import annotations

import ast
import csv
import json
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

import pytest
from range_server import Served, serving
from test_graph import run_luigi

from pipeline.catalogue import read_catalogue
from pipeline.sample import SceneSpec, write_scene
from pipeline.schema import PairIndex
from pipeline.submission import validate_csv

pytestmark = pytest.mark.timeout(1800)  # whole runs of the graph, as a user starts them
SIDE = 224
HOST = "https://oin-hotosm.s3.amazonaws.com"
SETTINGS = """
[Storage]
catalogue = challenge.csv

[Tiling]
tile_size = 224
overlap = 64

[Training]
network = maskrcnn_small
epochs = 1
batch_size = 2
device = cpu

[Inference]
shards = 1
workers = 0
device = cpu
detections_per_tile = 8

[Aggregation]
score_thresholds = {"foundation": 0.0, "unfinished": 0.0, "completed": 0.0}
"""


@contextmanager
def challenge(root: Path, image_ids: Collection[str]) -> Iterator[tuple[Path, Served]]:
    """A workspace with the labels of the training images among those, and the server that has the images."""
    workspace, host = root / "workspace", root / "host"
    labels = workspace / "input" / "training" / "labels"
    labels.mkdir(parents=True)
    with serving(host) as served:
        for number, entry in enumerate(read_catalogue("challenge").values()):
            if entry.image_id in image_ids:
                image = host / entry.url.removeprefix(f"{HOST}/")
                image.parent.mkdir(parents=True)
                origin = (530_000.0 + 100 * number, 9_366_900.0)
                spec = SceneSpec(SIDE, SIDE, 0.3, number, 30, origin=origin, collar=8)
                drawn = labels if entry.split == "training" else host
                write_scene(spec, image, drawn / f"{entry.image_id}.geojson", dirty=False)
        _write_catalogue(workspace / "challenge.csv", served.address)
        (workspace / "luigi.cfg").write_text(SETTINGS)
        yield workspace, served


def _write_catalogue(path: Path, address: str) -> None:
    """The challenge's catalogue as it is, but for the host and the size of the scenes."""
    text = resources.files("pipeline").joinpath("challenge.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for row in rows:
            row |= {"url": row["url"].replace(HOST, address), "width": SIDE, "height": SIDE}
            writer.writerow(row)


def submission(workspace: Path, split: str) -> set[str]:
    """Names in the zip of a split, every CSV of it checked; some building is in one of them."""
    folder, rows = workspace / "unpacked" / split, 0
    with zipfile.ZipFile(workspace / "output" / f"submission_{split}.zip") as archive:
        archive.extractall(folder)
        names = archive.namelist()
    for name in names:
        assert validate_csv(folder / name, width=SIDE, height=SIDE) == []
        header, *lines = (folder / name).read_text().splitlines()
        assert header == (
            "building_id,conf_foundation,conf_unfinished,conf_completed,coords_geo,coords_pixel"
        )
        rows += len(lines)
    assert rows
    return set(names)


def test_from_the_catalogue_over_a_broken_connection_to_a_submission(tmp_path):
    images = ("grid_001", "grid_035", "grid_042", "grid_059", "grid_066")
    with challenge(tmp_path, images) as (workspace, served):
        entries = read_catalogue(str(workspace / "challenge.csv"))
        paths = {name: entries[name].url.removeprefix(served.address) for name in images}
        served.breaks_after[paths["grid_059"]] = 5000
        process = run_luigi(workspace, "FetchImage", "--image-id", "grid_059")
        assert process.returncode == 0, process.stdout
        assert served.ranges == [f"{paths['grid_059']} bytes=5000-"]
        fetched = workspace / "input" / "final" / "images" / "grid_059.tif"
        assert fetched.read_bytes() == (tmp_path / "host" / paths["grid_059"].lstrip("/")).read_bytes()

        process = run_luigi(workspace, "Submission", "--split", "final", timeout=800)
        assert process.returncode == 0, process.stdout
    assert submission(workspace, "final") == {"5ae318220b093000130afd79.csv", "5ae318220b093000130afd95.csv"}
    asked = " ".join(served.ranges[1:])
    assert [name for name in images if paths[name] not in asked] == ["grid_059"], (
        "the others are read in place"
    )
    assert list((workspace / "input").glob("*/images/*")) == [fetched]
    # The images with labels are learnt from, and one of them is among those the challenge holds out.
    assert held_out_of(workspace) == {"grid_042"}


@pytest.mark.slow
def test_all_22_images(tmp_path):
    entries = read_catalogue("challenge")
    with challenge(tmp_path, entries) as (workspace, _):
        for split in ("test", "final"):
            process = run_luigi(workspace, "Submission", "--split", split, timeout=1500)
            assert process.returncode == 0, process.stdout
            assert submission(workspace, split) == {
                f"{Path(entry.url).stem}.csv" for entry in entries.values() if entry.split == split
            }
    assert held_out_of(workspace) == {"grid_028", "grid_029", "grid_042", "grid_058"}


def held_out_of(workspace: Path) -> set[str]:
    """Ids of the images held out whole, as the run record says; its counts are those of their tiles."""
    (network,) = (workspace / "work" / "networks").iterdir()
    record = json.loads((network / "run.json").read_text())
    held_out = set(ast.literal_eval(record["inputs"]["held_out"]))
    pairs = [
        PairIndex.model_validate_json(path.read_bytes())
        for path in workspace.glob("work/*/pairs-*/pairs.json")
    ]
    tiles = [
        sum(len(one.pairs) for one in pairs if (one.image_id in held_out) is side) for side in (False, True)
    ]
    assert list(record["counts"].values()) == tiles and min(tiles) > 0
    (calibration,) = (workspace / "work" / "calibrations").glob("*/thresholds.json")
    assert json.loads(calibration.read_text())["tiles"] == tiles[1]
    return held_out
