"""Peak memory of the CPU stages by image size, on sparse files; a fresh process each."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.rows import Row

SIDES = (1_000, 8_000, 20_000, 41_000, 75_000)
LIMIT_MIB, GROWTH = 400.0, 0.05
TILES = 96
"""Read at most by the stages that read tiles: rows of them, as wide as the image."""


def tile(path: Path) -> None:
    """TileImage."""
    from tests.benchmarks.bench_memory_tiling import tile as tile_image

    tile_image(path, "flown")


def read(path: Path) -> None:
    """What InferShard and CutTiles read: whole rows of tiles, the written diagonal among them."""
    from pipeline.raster import Raster, read_grid
    from pipeline.tiling import TilingRules, tile_windows

    grid = read_grid(path)
    windows = [window for _, _, window in tile_windows(grid.width, grid.height, TilingRules())]
    middle = max(0, len(windows) // 2 - TILES // 2)
    with Raster(path, grid) as raster:
        for window in windows[middle : middle + TILES]:
            raster.read(window)
            raster.ground(window)


def cost(path: Path) -> None:
    """The header and the expected cost."""
    from pipeline.cost import Rates, expected_cost
    from pipeline.inference import InferenceRules
    from pipeline.raster import Imagery, read_header
    from pipeline.tiling import TilingRules

    header = read_header(path)
    expected_cost(header, TilingRules(), InferenceRules(), Imagery(), "maskrcnn_small", Rates())


STAGES = {"TileImage": tile, "reading tiles": read, "expected cost": cost}


def _child(*arguments: str) -> str:
    """What a fresh process prints."""
    command = [sys.executable, "-m", "tests.benchmarks.stages.memory", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def table() -> dict[str, list[float]]:
    """Peak MiB by stage and side."""
    peaks: dict[str, list[float]] = {stage: [] for stage in STAGES}
    with tempfile.TemporaryDirectory() as name:
        for side in SIDES:
            path = Path(name) / f"{side}.tif"
            _child("make", str(side), str(path))
            for stage in STAGES:
                peaks[stage].append(json.loads(_child(stage, str(path)).splitlines()[-1]))
            path.unlink()
    return peaks


def rows() -> Iterator[Row]:
    """Against the limit, and from 8,000 px to 75,000 px."""
    for stage, peaks in table().items():
        shown = " / ".join(f"{peak:.0f}" for peak in peaks)
        name = f"memory of {stage}: {shown} MiB at {', '.join(f'{side // 1000}k' for side in SIDES)} px"
        yield Row(name, "400 MiB", max(peaks), LIMIT_MIB, "MiB", 1.0)
        yield Row(f"memory of {stage}, 75k px", "the same at 8k px", peaks[-1], peaks[1], "MiB", 1 + GROWTH)


def main() -> None:
    """Makes an image, or runs one stage and prints the process's peak."""
    if sys.argv[1] == "make":
        from tests.benchmarks.bench_memory_tiling import make_image

        return make_image(Path(sys.argv[3]), int(sys.argv[2]), "flown")
    from pipeline.provenance import peak_mib

    STAGES[sys.argv[1]](Path(sys.argv[2]))
    print(json.dumps(peak_mib()))


if __name__ == "__main__":
    main()
