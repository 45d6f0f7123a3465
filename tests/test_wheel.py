"""The project as others install it: a wheel of what the container copies, run outside the checkout."""

import configparser
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from build_context import ROOT, copy_context

from pipeline.sample import SceneSpec, write_scene


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder that holds the installed wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    copy_context(folder / "source")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, folder / "source"]
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
    where = "import jengo, pipeline, models, sql; print(jengo, pipeline, models, sql)"
    found = subprocess.run(
        [sys.executable, "-c", where],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.count(str(installed)) == 4
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
    packages = ("jengo", "models", "pipeline", "sql")
    files = (path for name in packages for path in (ROOT / name).rglob("*") if path.is_file())
    data = {path.relative_to(ROOT) for path in files if path.suffix not in (".py", ".pyc")}
    assert Path("pipeline/review.html.j2") in data
    assert [str(path) for path in sorted(data) if not (installed / path).is_file()] == []


def test_every_requirement_is_locked():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    asked = dict(config["options.extras_require"]) | {"": config["options"]["install_requires"]}
    # An environment of its own has that one: its pins and ours do not agree.
    del asked["label-studio"]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    locked = {_normal(line.partition("==")[0]) for line in lines if "==" in line}
    names = {_normal(re.split(r"[\[<>=]", line)[0]) for text in asked.values() for line in text.split()}
    assert names <= locked, sorted(names - locked)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_wheel_brings_its_licences(installed):
    (licences,) = installed.glob("jengo-*.dist-info/licenses")
    assert "MIT" in (licences / "LICENSE").read_text()
    assert "BSD" in (licences / "pipeline/report/leaflet/LICENSE").read_text()
