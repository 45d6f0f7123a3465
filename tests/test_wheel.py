"""The project as others install it: a wheel, run outside the checkout."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.sample import SceneSpec, write_scene

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder that holds the installed wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, str(ROOT)]
    subprocess.run([*pip, *build], check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run(
        [*pip, "install", "--no-deps", "--target", folder / "site", wheel], check=True, capture_output=True
    )
    return folder / "site"


def test_luigi_runs_the_graph_from_the_wheel(installed, tmp_path):
    folder = tmp_path / "input" / "training"
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    spec = SceneSpec(width=384, height=384, collar=0)
    write_scene(spec, folder / "images" / "scene.tif", folder / "labels" / "scene.geojson")
    environment = os.environ | {"PYTHONPATH": str(installed)}
    where = "import pipeline, models, sql; print(pipeline.__file__, models.__file__, sql.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", where],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.count(str(installed)) == 3
    command = ["-m", "luigi", "--module", "pipeline", "CutTiles", "--image-id", "scene", "--local-scheduler"]
    done = subprocess.run(
        [sys.executable, *command, "--Tiling-tile-size", "256", "--Tiling-overlap", "64"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("work/scene/pairs-*/tiles/*.tif"))) == 4


def test_the_wheel_brings_its_data(installed):
    names = {path.name for path in installed.rglob("*")}
    assert {
        "page.html.j2",
        "page.css",
        "map.js",
        "leaflet.js",
        "leaflet.css",
        "challenge.csv",
        "schema.sql",
        "items_in_tiles.sql",
        "py.typed",
    } <= names
