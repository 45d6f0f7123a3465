"""Read windows of a JPEG COG: 512 px tiles, 448 px apart."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import rasterio
from rasterio.windows import Window

from pipeline.raster import Raster, read_grid
from pipeline.tiling import TilingRules, tile_windows
from tests.benchmarks.rows import Row, exponent, interleaved
from tests.benchmarks.stages.imagery import write_jpeg

STAGE = "read windows of a JPEG COG, stride 448 of 512"
SIDES = (2048, 4096, 8192)
FRAMEWORKS = Path(__file__).parents[3] / ".venv" / "frameworks" / "bin" / "python"


def windows(side: int) -> list:
    """All tiles, row by row."""
    return [window for _, _, window in tile_windows(side, side, TilingRules(tile_size=512, overlap=64))]


def ours(path: Path, wanted: list) -> None:
    """As InferShard reads."""
    with Raster(path, read_grid(path)) as raster:
        for window in wanted:
            raster.read(window)


def one_handle(path: Path, wanted: list) -> None:
    """As a loop over one open dataset reads."""
    with rasterio.open(path) as src:
        for window in wanted:
            src.read(window=Window(*window))


def rows() -> Iterator[Row]:
    """Beside one handle of rasterio, and the samplers of frameworks where they are installed."""
    with tempfile.TemporaryDirectory() as name:
        paths = {side: write_jpeg(Path(name) / f"{side}.tif", side) for side in SIDES}
        largest = SIDES[-1]
        growing = {
            side: interleaved({"ours": lambda s=side: ours(paths[s], windows(s))})["ours"] for side in SIDES
        }
        grown = exponent([side**2 for side in SIDES], list(growing.values()))
        wanted = windows(largest)
        took = interleaved(
            {"ours": lambda: ours(paths[largest], wanted), "one": lambda: one_handle(paths[largest], wanted)}
        )
        each = 1e3 / len(wanted)
        yield Row(STAGE, "rasterio, one open handle", took["ours"] * each, took["one"] * each,
                  "ms per tile", 1 / 2, grown, 1.05)  # fmt: skip
        for framework in ("torchgeo", "rio-tiler"):
            yield _beside(framework, paths[SIDES[1]], growing[SIDES[1]] / len(windows(SIDES[1])) * 1e3)


def _beside(framework: str, path: Path, ours_ms: float) -> Row:
    if not FRAMEWORKS.exists():
        return Row(
            STAGE, framework, skipped="make .venv/frameworks installs it, in an environment of its own"
        )
    command = [FRAMEWORKS, "-m", "tests.benchmarks.stages.frameworks", framework, path]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        return Row(STAGE, framework, skipped=(done.stderr.strip().splitlines() or ["it failed"])[-1][:90])
    return Row(STAGE, framework, ours_ms, json.loads(done.stdout.splitlines()[-1]), "ms per tile", 1 / 5)


if __name__ == "__main__":
    sys.stdout.writelines(f"{row.cells}\n" for row in rows())
