"""Takes docs/pictures/dashboard.png: the dashboard while a network learns from painted scenes.

python docs/dashboard_picture.py [FOLDER]

Needs Chromium. Runs `jengo dashboard` and `jengo run --dashboard` in a folder, a temporary one if none is
named, waits until the training has come some way, and photographs the graph and the running tasks.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from browser import photograph
from PIL import Image

from pipeline.sample import DEMO_SETTINGS, SceneSpec, write_scene

PICTURE = Path(__file__).parent / "pictures" / "dashboard.png"
SCENES = {"training/village_1": 1, "training/village_2": 2, "test/village_3": 42}
WIDTH, GRAPH_HEIGHT, LIST_HEIGHT = 1180, 1240, 400


def main() -> None:
    """Takes the picture."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else scratch)
        prepare(folder)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        address = f"http://127.0.0.1:{port}"
        scheduler = {"LUIGI_CONFIG_PATH": str(folder / "port.cfg")}
        (folder / "port.cfg").write_text(f"[core]\ndefault_scheduler_port = {port}\n")
        with running(folder, "dashboard", "--port", str(port)):
            until(lambda: answers(address))
            with running(folder, "run", "village_3", "--dashboard", "--workers", "2", **scheduler):
                until(lambda: learning(address))
                take(address)


def take(address: str) -> None:
    """Photographs the graph of what is asked for above the tasks that run."""
    root = task(address, "ReportImage")
    page = f"{address}/static/visualiser/index.html"
    graph = photograph(f"{page}#tab=graph&taskId={root}", WIDTH, GRAPH_HEIGHT)
    workers = photograph(f"{page}#tab=workers", WIDTH, LIST_HEIGHT)
    picture = Image.new("RGB", (WIDTH, GRAPH_HEIGHT + LIST_HEIGHT), "white")
    picture.paste(graph, (0, 0))
    picture.paste(workers, (0, GRAPH_HEIGHT))
    picture.save(PICTURE, optimize=True)


def prepare(folder: Path) -> None:
    """Paints the scenes and writes the settings, where they are not there yet."""
    for place, seed in SCENES.items():
        split, name = place.split("/")
        image = folder / "input" / split / "images" / f"{name}.tif"
        labels = folder / "input" / split / "labels" / f"{name}.geojson"
        for path in (image, labels):
            path.parent.mkdir(parents=True, exist_ok=True)
        if not image.exists():
            write_scene(SceneSpec(width=1024, height=1024, seed=seed), image, labels)
    settings = DEMO_SETTINGS.replace('validation_images = ["scene_004"]\n', "").replace(
        "epochs = 60", "epochs = 9"
    )
    (folder / "luigi.cfg").write_text(settings)


@contextmanager
def running(folder: Path, *arguments: str, **environment: str) -> Iterator[None]:
    """A `jengo` process that is ended with the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "jengo", *arguments], cwd=folder, env=os.environ | environment
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


def until(wanted, seconds: float = 900.0) -> None:
    """Waits for something to be true."""
    end = time.monotonic() + seconds
    while not wanted():
        if time.monotonic() > end:
            raise SystemExit("waited in vain")
        time.sleep(1)


def answers(address: str) -> bool:
    """Whether the server is there."""
    try:
        urllib.request.urlopen(f"{address}/api/resource_list")
    except OSError:
        return False
    return True


def tasks(address: str, status: str) -> dict[str, dict]:
    """The tasks of a status by id."""
    query = urllib.parse.urlencode({"data": json.dumps({"status": status, "upstream_status": ""})})
    with urllib.request.urlopen(f"{address}/api/task_list?{query}") as answer:
        return json.load(answer)["response"]


def learning(address: str) -> bool:
    """Whether the training has come so far that it can tell how long it will take."""
    running = [one for one in tasks(address, "RUNNING").values() if one["name"] == "TrainMaskRCNN"]
    return bool(running) and "left" in (running[0]["status_message"] or "")


def task(address: str, name: str) -> str:
    """Id of the pending task of a kind."""
    return next(key for key, one in tasks(address, "PENDING").items() if one["name"] == name)


if __name__ == "__main__":
    main()
