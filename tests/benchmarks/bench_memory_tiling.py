"""Time and peak memory of TileImage's work by image size: grid, valid shares, tiles, file.

Every case runs in a process of its own, on sparse tiled GeoTIFFs made for it: `blank` has no
written block, `flown` a diagonal strip of them, `overviews` that strip and overviews, `float`
the strip in 32-bit floats.

    python tests/benchmarks/bench_memory_tiling.py [--sizes 5000 20000 75000] [--kinds blank flown]
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

KINDS = ("blank", "flown", "overviews", "float")


def make_image(path: Path, size: int, kind: str) -> None:
    """A square image of `size` pixels a side in 512 px blocks, most of them unwritten."""
    import numpy as np
    import rasterio
    from rasterio.enums import Resampling
    from rasterio.windows import Window

    dtype = "float32" if kind == "float" else "uint8"
    profile = {"driver": "GTiff", "width": size, "height": size, "count": 3, "dtype": dtype, "tiled": True}
    profile |= {"blockxsize": 512, "blockysize": 512, "sparse_ok": True, "BIGTIFF": "YES"}
    profile |= {"compress": "deflate", "zlevel": 1, "crs": "EPSG:32737"}
    profile["transform"] = rasterio.Affine(0.074, 0, 530_000, 0, -0.074, 9_366_000)
    block = np.random.default_rng(0).integers(30, 220, (3, 512, 512)).astype(dtype)
    with rasterio.Env(GDAL_CACHEMAX=256 * 2**20, SPARSE_OK_OVERVIEW=True):
        with rasterio.open(path, "w", **profile) as dst:
            for step in range(0, 0 if kind == "blank" else size - 1536, 512):
                for beside in (0, 512, 1024):
                    dst.write(block, window=Window(step + beside, step, 512, 512))
        if kind == "overviews":
            with rasterio.open(path, "r+", SPARSE_OK=True) as dst:
                dst.build_overviews([8, 16, 32], Resampling.nearest)


def tile(path: Path, kind: str) -> dict[str, float]:
    """Seconds of each part and the process's peak memory in MiB."""
    from pipeline.provenance import peak_mib
    from pipeline.raster import Imagery, Raster, read_grid
    from pipeline.tiling import TilingRules, build_tile_index, tile_windows, write_tile_index

    imagery = Imagery(stretch="auto") if kind == "float" else Imagery()
    imported_mib = peak_mib()
    times = [time.perf_counter()]
    grid = read_grid(path, imagery)
    times.append(time.perf_counter())
    windows = [window for _, _, window in tile_windows(grid.width, grid.height, TilingRules())]
    with Raster(path, grid, imagery) as raster:
        shares = raster.valid_shares(windows)
    times.append(time.perf_counter())
    index = build_tile_index("bench", grid, TilingRules(), shares)
    write_tile_index(path.with_suffix(".geojson"), index)
    times.append(time.perf_counter())
    parts = (after - before for before, after in itertools.pairwise(times))
    return {
        "tiles": len(windows),
        "kept": len(index.tiles),
        **dict(zip(("grid_s", "shares_s", "index_s"), parts, strict=True)),
        "imported_mib": imported_mib,
        "peak_mib": peak_mib(),
    }


def run(what: str, path: Path, size: int, kind: str) -> str:
    """What a fresh process prints; a forked one would inherit its parent's peak memory."""
    command = [sys.executable, __file__, "--only", what, "--path", str(path)]
    command += ["--sizes", str(size), "--kinds", kind]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main() -> None:
    """Makes the images, measures each in a fresh process and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[5_000, 20_000, 40_000, 75_000])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--only", choices=("make", "tile"), help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only == "make":
        return make_image(options.path, options.sizes[0], options.kinds[0])
    if options.only == "tile":
        return print(json.dumps(tile(options.path, options.kinds[0])))
    print(f"{'kind':10}{'size':>8}{'tiles':>7}{'kept':>6}{'grid s':>8}{'shares s':>10}{'index s':>9}", end="")
    print(f"{'imports MiB':>13}{'peak MiB':>10}{'image MiB':>11}")
    with tempfile.TemporaryDirectory() as folder:
        for kind in options.kinds:
            for size in options.sizes:
                path = Path(folder) / f"{kind}_{size}.tif"
                run("make", path, size, kind)
                got = json.loads(run("tile", path, size, kind).splitlines()[-1])
                whole = size**2 * 3 * (4 if kind == "float" else 1) / 2**20
                print(
                    f"{kind:10}{size:8}{got['tiles']:7}{got['kept']:6}{got['grid_s']:8.2f}"
                    f"{got['shares_s']:10.2f}{got['index_s']:9.2f}{got['imported_mib']:13.0f}"
                    f"{got['peak_mib']:10.0f}{whole:11.0f}"
                )
                path.unlink()


if __name__ == "__main__":
    main()
