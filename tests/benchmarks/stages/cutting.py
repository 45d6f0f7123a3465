"""Write tile rasters: 1024 px tiles of an image, 256 px overlap, all of them, uncompressed."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import geopandas

from pipeline.pairs import PairRules
from pipeline.raster import TiledImage, read_grid
from pipeline.steps.pairs import cut_tiles
from pipeline.tiling import TilingRules, build_tile_index, tile_windows
from tests.benchmarks.rows import Row
from tests.benchmarks.stages.imagery import write_jpeg

STAGE = "write tile rasters"
SIDE, SAMPLE = 8192, 8
OPTIONS = ["-co", "INTERLEAVE=PIXEL"]


def _index(path: Path):
    grid = read_grid(path)
    windows = tile_windows(grid.width, grid.height, TilingRules())
    return build_tile_index("bench", grid, TilingRules(), [1.0] * len(windows))


def ours(path: Path, folder: Path) -> None:
    """As CutTiles writes, every tile chosen; the items of none."""
    folder.mkdir()
    index = _index(path)
    none = geopandas.GeoDataFrame(
        {
            "tile_id": [tile.tile_id for tile in index.tiles],
            "label_id": 0,
            "category": None,
            "visible_share": 1.0,
        },
        geometry=geopandas.points_from_xy([0.0] * len(index.tiles), 0.0).buffer(1),
        crs=index.grid.crs,
    )
    cut_tiles(TiledImage(index, path), none, None, PairRules(), folder, lambda share, message: None)


def retile(path: Path, folder: Path) -> None:
    """gdal_retile.py, its tiles uncompressed as ours are."""
    folder.mkdir()
    command = ["gdal_retile.py", "-q", "-ps", "1024", "1024", "-overlap", "256", *OPTIONS]
    subprocess.run([*command, "-targetDir", str(folder), str(path)], check=True, stdout=subprocess.DEVNULL)


def translate(path: Path, folder: Path, tiles: int) -> None:
    """A process of gdal_translate per tile."""
    folder.mkdir()
    for number, tile in enumerate(_index(path).tiles[:tiles]):
        window = list(map(str, tile.window))
        command = [
            "gdal_translate",
            "-q",
            *OPTIONS,
            "-srcwin",
            *window,
            str(path),
            str(folder / f"{number}.tif"),
        ]
        subprocess.run(command, check=True)


def cpu_seconds(work: Callable[[], None]) -> float:
    """Of this process and of those it starts."""
    before = _used()
    work()
    return _used() - before


def _used() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def rows() -> Iterator[Row]:
    """Beside both of GDAL's programs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = write_jpeg(folder / "image.tif", SIDE)
        tiles = len(_index(path).tiles)
        ours_s = cpu_seconds(lambda: ours(path, folder / "ours")) / tiles * 1e3
        for peer, asked in (("gdal_retile.py", 0.6), ("gdal_translate", 1 / 15)):
            if shutil.which(peer) is None:
                yield Row(STAGE, peer, skipped="not on this machine: make system, as root on Debian")
                continue
            count = tiles if peer == "gdal_retile.py" else SAMPLE
            if peer == "gdal_retile.py":
                theirs = cpu_seconds(lambda: retile(path, folder / "retile"))
            else:
                theirs = cpu_seconds(lambda: translate(path, folder / "translate", SAMPLE))
            peer = peer if peer == "gdal_retile.py" else f"{peer}, a process per tile"
            yield Row(f"{STAGE}, {SIDE} px", peer, ours_s, theirs / count * 1e3, "ms per tile", asked)


os.environ.setdefault("GDAL_PAM_ENABLED", "NO")
