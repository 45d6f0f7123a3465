"""SIGKILL at seeded moments of the whole graph, in real processes, and what must be true afterwards.

A moment is a number of seconds, or a number of file operations: opening for writing, renaming, removing,
making a folder. The second hits what a clock hardly ever does, the instant between two of them.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import geopandas as gpd
import pyogrio
from warm import Done, Running, run_warm

from models.weights import weights_digest
from pipeline.frames import px_to_crs, window_box
from pipeline.sample import SceneSpec, write_scene
from pipeline.schema import Window
from pipeline.verify import verify

SETTINGS = """
[Tiling]
tile_size = 96
overlap = 32
[Training]
network = maskrcnn_small
epochs = 2
tiles_per_epoch = 2
batch_size = 2
device = cpu
[Inference]
shards = 2
batch_size = 2
workers = 0
device = cpu
detections_per_tile = 4
[Aggregation]
score_thresholds = {"foundation": 0.0, "unfinished": 0.0, "completed": 0.0}
formats = ["csv", "geojson"]
"""
GRAPH = ("ReportImage", "--image-id", "scene_042", "--local-scheduler")
RUNNING = re.compile(r"Worker .* running   (\w+)\(")
_WRITES = os.O_WRONLY | os.O_RDWR


def paint_village(workspace: Path) -> Path:
    """A workspace of two small painted images with labels, and settings."""
    for split, name, seed in (("training", "scene_001", 1), ("test", "scene_042", 42)):
        folder = workspace / "input" / split
        for kind in ("images", "labels"):
            (folder / kind).mkdir(parents=True)
        spec = SceneSpec(width=160, height=128, seed=seed, collar=10, houses_per_hectare=80)
        write_scene(spec, folder / "images" / f"{name}.tif", folder / "labels" / f"{name}.geojson")
        draw_labels(spec, folder / "labels" / f"{name}.geojson")
    (workspace / "luigi.cfg").write_text(SETTINGS)
    return workspace


def draw_labels(spec: SceneSpec, path: Path) -> None:
    """Six buildings in two rows: a scene this small may have been painted without any."""
    places = [(col, row) for row in (25, 75) for col in (20, 65, 110)]
    boxes = [window_box(Window(col, row, 30, 28)) for col, row in places]
    m, (x, y) = spec.metres_per_pixel, spec.origin
    polygons = px_to_crs(boxes, (m, 0, x, 0, -m, y))
    conditions = ["Complete", "Incomplete", "Foundation"] * 2
    frame = gpd.GeoDataFrame({"condition": conditions}, geometry=list(polygons), crs=spec.crs)
    frame.to_crs("EPSG:4326").to_file(path, driver="GeoJSON")


def count_operations(workspace: str, fatal: int, told: str) -> None:
    """Counts this process's file operations in a workspace into `told`, and ends it at the fatal one."""
    count, record = 0, os.open(told, os.O_WRONLY | os.O_CREAT, 0o644)

    def hook(event: str, arguments: tuple) -> None:
        nonlocal count
        if event == "open":
            if not isinstance(arguments[2], int) or not arguments[2] & _WRITES:
                return
        elif event not in ("os.rename", "os.mkdir", "os.remove", "os.rmdir"):
            return
        if not str(arguments[0]).startswith(workspace):
            return
        count += 1
        os.pwrite(record, str(count).encode(), 0)
        if count == fatal:
            os.killpg(0, signal.SIGKILL)

    sys.addaudithook(hook)


@dataclass
class Tally:
    """What became of a series of kills."""

    tried: int = 0
    survived: int = 0
    lost: list[str] = field(default_factory=list)
    tasks: Counter = field(default_factory=Counter)
    """Kills by the task that ran."""
    seconds: float = 0.0


@dataclass
class Village:
    """A workspace in which the graph has run undisturbed, and how much there was to disturb."""

    inputs: Path
    undisturbed: Path
    seconds: float
    operations: int


def undisturbed(folder: Path) -> Village:
    """The village and what comes of it when nobody interferes."""
    inputs, told = paint_village(folder / "inputs"), folder / "operations"
    workspace, began = copy(inputs, folder / "undisturbed"), time.monotonic()
    done = run_warm(workspace, *GRAPH, prepare=count_operations, prepared=(str(workspace), 0, str(told)))
    labels = run_warm(workspace, "LoadLabels", *GRAPH[1:])
    if done.returncode or labels.returncode:
        raise RuntimeError(done.stdout + labels.stdout)
    return Village(inputs, workspace, time.monotonic() - began, int(told.read_text()))


def copy(workspace: Path, to: Path) -> Path:
    """A copy whose files are as old as the originals, so that nothing is taken for edited."""
    shutil.copytree(workspace, to, copy_function=shutil.copy2)
    return to


def kill(village: Village, folder: Path, kills: int, seed: int) -> Tally:
    """Kills so many runs; whenever one comes through, it is compared with the undisturbed one."""
    chance, tally, began = random.Random(seed), Tally(), time.monotonic()
    while tally.tried < kills:
        workspace = copy(village.inputs, folder / f"killed_{tally.tried}")
        since = tally.tried
        while tally.tried < kills:
            done = _run_and_kill(village, workspace, chance)
            if done.returncode != -signal.SIGKILL:
                break
            tally.tried += 1
            ran = RUNNING.findall(done.stdout)
            tally.tasks[ran[-1] if ran else "scheduling"] += 1
        faults = list(differences(village, workspace))
        if faults:
            tally.lost.append(f"seed {seed}, kills {since + 1} to {tally.tried}: {'; '.join(faults)}")
        else:
            tally.survived += tally.tried - since
            shutil.rmtree(workspace)
    tally.seconds = time.monotonic() - began
    return tally


def _run_and_kill(village: Village, workspace: Path, chance: random.Random) -> Done:
    if chance.random() < 0.6:
        fatal = chance.randint(1, max(2, village.operations // 3))
        told = workspace.with_name("operations")
        return run_warm(
            workspace, *GRAPH, prepare=count_operations, prepared=(str(workspace), fatal, str(told))
        )
    running = Running(workspace, *GRAPH)
    running.process.join(chance.uniform(0.3, 0.7 * village.seconds))
    if running.process.is_alive():
        running.kill()
    return running.wait()


def differences(village: Village, workspace: Path) -> Iterator[str]:
    """What is not as in the undisturbed run, after one more run to the end."""
    for arguments in (GRAPH, ("LoadLabels", *GRAPH[1:])):
        done = run_warm(workspace, *arguments)
        if done.returncode:
            yield f"the rerun ends with {done.returncode}: {done.stdout[-600:]}"
            return
    expected, found = state(village.undisturbed), state(workspace)
    yield from (f"{name} differs" for name in sorted(expected.keys() | found.keys())
                if expected.get(name) != found.get(name))  # fmt: skip
    yield from (f"{path} is left" for path in workspace.rglob(".*"))
    yield from map(str, verify(workspace).damages)


def state(workspace: Path) -> dict[str, object]:
    """What may not depend on how often a run was killed: results, label rows, weights, detections."""
    found: dict[str, object] = {
        path.name: path.read_bytes()
        for ending in ("csv", "geojson", "report.json")
        for path in (workspace / "output").glob(f"*.{ending}")
    }
    for path in (workspace / "work").glob("*/labels-*/*.gpkg"):
        rows = pyogrio.read_dataframe(path, layer="labels").sort_values("label_id")
        found[f"labels of {path.stem}"] = [
            *rows.drop(columns="geometry").to_numpy().tolist(),
            *rows.geometry.to_wkb(),
        ]
    for path in (workspace / "work" / "networks").glob("*/weights.h5"):
        found["weights"] = weights_digest(path)
    return found
