"""What the task graph itself costs: an image's shards here, a task per tile the 2018 way."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.rows import Row, exponent

STAGE = "orchestration of 20k tiles"
TILES = (5_000, 10_000, 20_000)
PEER_TASKS = (1_000, 2_000, 4_000)

PER_TILE = """
import json, logging, pathlib, sys, time, luigi
logging.disable(logging.CRITICAL)
count, folder = int(sys.argv[1]), pathlib.Path(sys.argv[2])

class Tile(luigi.Task):
    number = luigi.IntParameter()

    def output(self):
        return luigi.LocalTarget(str(folder / f"{self.number}.json"))

    def run(self):
        with self.output().open("w") as stream:
            stream.write("{}")

started = time.process_time()
luigi.build([Tile(number=number) for number in range(count)], local_scheduler=True, log_level="CRITICAL")
print(json.dumps(time.process_time() - started))
"""

OURS = """
import json, logging, pathlib, sys, time, luigi
logging.disable(logging.CRITICAL)
from tests.benchmarks.stages.orchestration import prepare
from pipeline.tasks import detecting
count = int(sys.argv[1])
tasks = prepare(count)
started = time.process_time()
done = luigi.build(tasks, local_scheduler=True, log_level="CRITICAL")
taken = time.process_time() - started
assert done and all(task.complete() for task in tasks)
print(json.dumps(taken))
"""


def prepare(tiles: int) -> list:
    """The InferShards of an image of so many tiles in the present folder, each tile's JSON there already.

    What is left for them to do is what orchestration costs: scheduling, reading the index, looking for
    every tile's file, writing the manifests.
    """
    import numpy as np
    import rasterio

    from pipeline import settings
    from pipeline.raster import Imagery
    from pipeline.steps.drawing import tile_path
    from pipeline.steps.tiles import tile_image
    from pipeline.tasks.detecting import shards_of
    from pipeline.tiling import write_tile_index

    side = 64 * int(np.ceil(tiles**0.5))
    Path("luigi.cfg").write_text(
        "[Tiling]\ntile_size = 64\noverlap = 0\n[Imagery]\ncollars = false\n[Inference]\nweights = w.h5\n"
    )
    from luigi.configuration import get_config

    get_config().read("luigi.cfg")
    _weights(Path("w.h5"))
    image = Path("input/test/images/town.tif")
    image.parent.mkdir(parents=True)
    profile = {"driver": "GTiff", "width": side, "height": side, "count": 3, "dtype": "uint8"}
    place = rasterio.Affine(0.075, 0, 530_000, 0, -0.075, 9_366_000)
    with rasterio.open(image, "w", crs="EPSG:32737", transform=place, tiled=True, sparse_ok=True, **profile):
        pass
    tasks = shards_of("town")
    made = tasks[0].tiles
    index = tile_image("town", image, settings.Imagery().rules(Imagery), settings.Tiling(), lambda *_: None)
    Path(made.output().path).parent.mkdir(parents=True)
    write_tile_index(made.output().path, index)
    folder = tasks[0].detections
    folder.mkdir(parents=True)
    for tile in index.tiles:
        tile_path(folder, tile).write_bytes(b"{}")
    return tasks


def _weights(path: Path) -> None:
    from models.maskrcnn import build
    from models.weights import WeightsMetadata, write_weights

    names = ("foundation", "unfinished", "completed")
    write_weights(path, build("maskrcnn_small", names), WeightsMetadata("maskrcnn_small", {}, names))


def measure(program: str, *arguments: object) -> float:
    """CPU seconds that a program tells, run in a folder of its own."""
    root = str(Path(__file__).parents[3])
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-c",
            program,
            *map(str, arguments),
            *([folder] if program is PER_TILE else []),
        ]
        done = subprocess.run(
            command, cwd=folder, env=_environment(root), check=True, capture_output=True, text=True
        )
    return json.loads(done.stdout.splitlines()[-1])


def _environment(root: str) -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": root}


def rows() -> Iterator[Row]:
    """Ours at three sizes; a task per tile at sizes that it bears, told to 20,000 by its growth."""
    ours = [measure(OURS, count) for count in TILES]
    peer = [measure(PER_TILE, count) for count in PEER_TASKS]
    power = exponent(PEER_TASKS, peer)
    told = peer[-1] * (TILES[-1] / PEER_TASKS[-1]) ** power
    name = f"a Luigi task per tile (from {PEER_TASKS[-1]:,}, growth {power:.2f})"
    yield Row(STAGE, name, ours[-1], told, "s", 0.01, exponent(TILES, ours), 1.05)
    yield Row(STAGE, "5 s", ours[-1], 5.0, "s", 1.0)
