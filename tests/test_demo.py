"""The demo as `make demo` runs it, its three lines one after the other, on small scenes and few epochs."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from typer.testing import CliRunner

from jengo.commands import app
from pipeline import sample

ROOT = Path(__file__).parents[1]
SMALL = """
[Tiling]
tile_size = 192
overlap = 64
[Training]
epochs = 1
tiles_per_epoch = 8
device = cpu
[Inference]
device = cpu
detections_per_tile = 8
"""


def recipe() -> list[list[str]]:
    """The words of each line of the Makefile's recipe for the demo."""
    lines = re.search(r"^demo: \.venv.*\n((?:\t.+\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    return [shlex.split(line) for line in lines.splitlines()]


def test_the_demo_ends_with_a_score_and_a_page(tmp_path, monkeypatch):
    paint, run, tell = recipe()
    for scenes in sample.DEMO_SCENES.values():
        for name, spec in scenes.items():
            monkeypatch.setitem(scenes, name, replace(spec, width=448, height=384, collar=16))
    monkeypatch.chdir(tmp_path)
    assert paint[:3] == ["$(BIN)/python", "-m", "pipeline.sample"]
    sample.main(paint[3:])

    assert run[:4] == ["cd", "demo", "&&", "../$(BIN)/luigi"]
    (tmp_path / "small.cfg").write_text(SMALL)
    done = subprocess.run(
        [sys.executable, "-m", "luigi", *run[4:]],
        cwd=tmp_path / "demo",
        env=os.environ
        | {"PYTHONPATH": str(ROOT), "LUIGI_CONFIG_PATH": "../small.cfg", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]

    assert tell[:4] == ["cd", "demo", "&&", "../$(BIN)/jengo"]
    monkeypatch.chdir(tmp_path / "demo")
    told = CliRunner().invoke(app, tell[4:]).stdout
    assert re.match(r"scene_042: \d+ buildings from \d+ detections\n", told)
    assert "mean F1" in told, "the metric"
    assert (tmp_path / re.search(r"^(\S+\.html)  ", told, re.MULTILINE)[1]).stat().st_size > 10_000
