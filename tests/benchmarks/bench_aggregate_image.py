"""Time and memory of AggregateImage's step, per-tile JSON in to CSV and GeoJSON out, by number of detections.

Run: python -m tests.benchmarks.bench_aggregate_image [--sizes 20000 60000 200000]

Each size is made first and then measured in a process of its own; the town is the one of
bench_memory_aggregation. Peak memory is the process's, imports included.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import orjson
import shapely

from pipeline.inference import tile_detections
from pipeline.provenance import peak_mib
from pipeline.schema import Grid, Tile, TileIndex, Window
from pipeline.settings import Aggregation
from pipeline.steps.buildings import Selection, aggregate_image
from pipeline.tiling import read_tile_index, write_tile_index
from tests.benchmarks.bench_memory_aggregation import OVERLAP, PITCH, SEEN_IN_TILES, TILE, batches
from tests.benchmarks.seams.scenes import windows_over

CATEGORIES = ("foundation", "unfinished", "completed")
COLUMNS = 200


def make(folder: Path, count: int) -> None:
    """The index and the per-tile JSON of a town with about `count` detections."""
    houses = int(count / SEEN_IN_TILES)
    windows = windows_over((COLUMNS + 2) * PITCH, (houses / COLUMNS + 2) * PITCH, TILE, OVERLAP)
    rows, columns = (np.unique(windows[:, axis], return_inverse=True)[1] for axis in (1, 0))
    tiles = [
        Tile(tile_id=f"r{row:04d}_c{column:04d}", window=Window(*window), valid_share=1)
        for row, column, window in zip(rows, columns, windows.tolist(), strict=True)
    ]
    frame = Grid(
        width=int((windows[:, 0] + windows[:, 2]).max()),
        height=int((windows[:, 1] + windows[:, 3]).max()),
        crs="EPSG:32737",
        srid=32737,
        transform=(0.075, 0, 533000, 0, -0.075, 9367000),
        ground_m_per_px=(0.075, 0.075),
        bands=[1, 2, 3],
        stretch=None,
        observed="2018-04-30T09:12:00Z",
    )
    index = TileIndex(
        image_id="town", grid=frame, tile_size=TILE, overlap=OVERLAP, empty_tiles=0, tiles=tiles
    )
    write_tile_index(folder / "tiles.geojson", index)
    model = {"name": "none", "weights": "none"}
    for batch in batches(houses, COLUMNS, windows):
        for number in np.unique(batch.tiles):
            mine = batch.tiles == number
            corner = np.array(tiles[number].window[:2])
            local = shapely.transform(batch.polygons[mine], lambda xy, corner=corner: xy - corner)
            content = tile_detections(
                "town", tiles[number], frame, local, batch.probabilities[mine], CATEGORIES, model, "never"
            )
            (folder / f"{tiles[number].tile_id}.json").write_bytes(orjson.dumps(content))
    nothing = np.empty(0, object), np.empty((0, 3))
    empty = tile_detections("town", tiles[0], frame, *nothing, CATEGORIES, model, "")
    for tile in tiles:
        path = folder / f"{tile.tile_id}.json"
        if not path.exists():
            content = empty | {"tile_id": tile.tile_id, "window": list(tile.window)}
            path.write_bytes(orjson.dumps(content))


def measure(folder: Path) -> dict[str, float]:
    """Seconds, peak memory in MiB and counts of one aggregation."""
    index = read_tile_index(folder / "tiles.geojson")
    (folder / "out").mkdir()
    started = time.perf_counter()
    counts = aggregate_image(
        index,
        folder,
        CATEGORIES,
        Selection(1.0, dict.fromkeys(CATEGORIES, 0.5)),
        Aggregation(),
        folder / "out",
        lambda share, message: None,
    )
    seconds = time.perf_counter() - started
    peak = peak_mib()
    return {**counts, "seconds": seconds, "peak_mib": peak}


def main() -> None:
    """Prints a row per size and how time grows with it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[20_000, 60_000, 200_000])
    parser.add_argument("--only", type=Path, help="measure the folder in this process and print JSON")
    given = parser.parse_args()
    if given.only:
        sys.stdout.write(json.dumps(measure(given.only)) + "\n")
        return
    sys.stdout.write(f"{'detections':>10} {'buildings':>10} {'s':>8} {'us each':>8} {'peak MiB':>9}\n")
    rows = []
    for size in given.sizes:
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder), size)
            command = [sys.executable, "-m", "tests.benchmarks.bench_aggregate_image", "--only", folder]
            row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        rows.append(row)
        each = row["seconds"] / row["detections"] * 1e6
        sys.stdout.write(
            f"{row['detections']:>10} {row['buildings']:>10} {row['seconds']:>8.1f} {each:>8.0f} "
            f"{row['peak_mib']:>9.0f}\n"
        )
    if len(rows) > 1:
        size, seconds = (np.log([row[key] for row in rows]) for key in ("detections", "seconds"))
        sys.stdout.write(f"time grows with detections ** {np.polyfit(size, seconds, 1)[0]:.2f}\n")


if __name__ == "__main__":
    main()
