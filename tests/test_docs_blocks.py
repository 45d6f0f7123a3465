"""The commands and the code of the docs do what the docs say: each page's blocks run in its order.

A block after `<!-- not run: reason -->` is left out. Settings that make a run small are laid over the
workspace's by LUIGI_CONFIG_PATH, so that the pages need not speak of them.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import geopandas
import pytest

from pipeline.sample import SceneSpec, write_scene

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.timeout(660)
BLOCK = re.compile(r"(<!-- not run: [^>]+ -->\n)?^```(sh|python)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
SMALL = """
[Tiling]
tile_size = 192
overlap = 64
[Training]
network = maskrcnn_small
epochs = 2
tiles_per_epoch = 6
batch_size = 2
device = cpu
[Inference]
shards = 1
batch_size = 2
workers = 0
device = cpu
detections_per_tile = 8
"""
STATES = {"Complete": "Finished", "Incomplete": "walls only", "Foundation": "slab"}
OWN = {
    "condition_attribute": "state",
    "categories": '{"open": ["walls only", "slab"], "roofed": ["finished"]}',
}


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of the blocks of a page that are run."""
    return [(kind, text) for skipped, kind, text in BLOCK.findall(page.read_text()) if not skipped]


@pytest.fixture(scope="module")
def flights(tmp_path_factory) -> Path:
    """The files that the pages speak of, three images and their labels."""
    folder = tmp_path_factory.mktemp("flights")
    for number in (1, 2, 3):
        spec = SceneSpec(width=512, height=448, seed=number, collar=20, houses_per_hectare=60)
        write_scene(spec, folder / f"flight_0{number}.tif", folder / f"flight_0{number}.geojson")
    drawn = geopandas.read_file(folder / "flight_01.geojson")
    drawn["state"] = drawn["condition"].map(STATES)
    drawn = drawn[drawn.geometry.notna() & ~drawn.geometry.is_empty][["state", "geometry"]]
    drawn.to_crs("EPSG:21037").to_file(folder / "houses.shp")
    return folder


def run_page(page: str, folder: Path, *, instead: dict[str, str] | None = None, small: str = SMALL) -> str:
    """The output of a page's blocks, run as one script in a folder.

    Args:
        page: its path in the repository.
        folder: where it is run.
        instead: texts of the page that stand for something of the reader's, and what to put there.
        small: settings laid over the workspace's.
    """
    bin_folder = folder / ".bin"
    bin_folder.mkdir()
    for name in ("jengo", "luigi"):
        (bin_folder / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {name} "$@"\n')
        (bin_folder / name).chmod(0o755)
    (folder / ".small.cfg").write_text(small)
    script = ["set -euo pipefail"]
    for kind, text in blocks(ROOT / page):
        script.append(text if kind == "sh" else f"{sys.executable} - <<'END_OF_PYTHON'\n{text}END_OF_PYTHON")
    text = "\n".join(script)
    for theirs, ours in (instead or {}).items():
        assert theirs in text, theirs
        text = text.replace(theirs, ours)
    done = subprocess.run(
        ["bash", "-c", text],
        cwd=folder,
        env=os.environ
        | {
            "PATH": f"{bin_folder}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "LUIGI_CONFIG_PATH": str(folder / ".small.cfg"),
            "OMP_NUM_THREADS": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def lay_out(flights: Path, folder: Path, *names: str) -> None:
    for path in flights.iterdir():
        if any(path.stem == name for name in names):
            (folder / path.name).symlink_to(path)


def test_every_block_of_commands_is_run_or_says_why_not():
    run = {
        "README.md",
        "docs/tutorial.md",
        "docs/own_images.md",
        "docs/postgis.md",
    }
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")):
        name = str(page.relative_to(ROOT))
        assert not blocks(page) or name in run, name


def test_own_images(flights, tmp_path):
    lay_out(flights, tmp_path, "flight_01", "flight_02", "flight_03", "houses")
    (tmp_path / "flight_01.geojson").unlink()
    told = run_page("docs/own_images.md", tmp_path)
    assert "512 x 448 px" in told and "condition_attribute = state" in told
    assert {path.name for path in (tmp_path / "input").rglob("*.tif")} == {
        "flight_01.tif",
        "flight_02.tif",
        "flight_03.tif",
    }


@pytest.mark.postgis
def test_postgis(flights, tmp_path, postgis_url):
    folder = tmp_path / "input" / "training"
    for kind, ending in (("images", "tif"), ("labels", "geojson")):
        (folder / kind).mkdir(parents=True)
        (folder / kind / f"flight_01.{ending}").symlink_to(flights / f"flight_01.{ending}")
    instead = {"postgresql://jengo@localhost:5432/jengo": postgis_url}
    told = run_page("docs/postgis.md", tmp_path, instead=instead)
    assert re.search(r"flight_01 \| completed +\| +\d", told)
    assert re.search(rf"ok +label store +{re.escape(postgis_url)}", told)


@pytest.mark.parametrize("page", ["README.md", pytest.param("docs/tutorial.md", marks=pytest.mark.slow)])
def test_a_map_in_a_page(flights, tmp_path, page):
    folder = tmp_path / "here"
    folder.mkdir()
    lay_out(flights, folder, "flight_01", "flight_02", "houses")
    own = "[Labels]\n" + "".join(f"{knob} = {value}\n" for knob, value in OWN.items())
    told = run_page(page, folder, small=SMALL + own)
    assert "luigi --module pipeline ReportImage --image-id flight_02 --local-scheduler" in told
    assert (folder / "village" / "output" / "flight_02.html").stat().st_size > 10_000
