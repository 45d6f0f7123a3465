"""Time and memory of merging a stream: 20,000, 60,000 and 200,000 detections, each in a process of its own.

Run: python -m tests.benchmarks.bench_memory_aggregation [--sizes 20000 60000 200000]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import shapely

from pipeline.provenance import peak_mib
from pipeline.seams import Detections, merge_stream
from tests.benchmarks.seams.scenes import windows_over

TILE, OVERLAP, PITCH = 1024, 256, 170.0
VERTICES = 36  # what masks_to_polygons makes of a house
SEEN_IN_TILES = 1.9  # detections per house at this tiling


def batches(houses: int, columns: int, windows: np.ndarray) -> Iterator[Detections]:
    """Detections of a town of turned, round-cornered houses, made row by row of tiles and then forgotten."""
    angle = np.linspace(0, 2 * np.pi, VERTICES, endpoint=False)
    unit = np.column_stack([np.cos(angle), np.sin(angle)])
    unit *= (np.abs(unit) ** 5).sum(axis=1, keepdims=True) ** -0.2  # a superellipse: nearly a rectangle

    for top in np.unique(windows[:, 1]):
        tiles = np.flatnonzero(windows[:, 1] == top)
        first = max(int((top - 2 * PITCH) // PITCH), 0) * columns
        last = min(int((top + TILE + 2 * PITCH) // PITCH) * columns, houses)
        number = np.arange(first, last)
        rng = np.random.default_rng(int(top))
        turn = (number * 0.618) % 1 * np.pi
        half = np.column_stack([35 + number * 7 % 45, 30 + number * 11 % 40])
        centre = np.column_stack([number % columns + 1.5, number // columns + 1.5]) * PITCH
        spin = np.stack([np.cos(turn), np.sin(turn), -np.sin(turn), np.cos(turn)], axis=1).reshape(-1, 2, 2)
        outline = (unit[None] * half[:, None]) @ spin + centre[:, None]
        shapes = shapely.polygons(outline)
        x, y, width, height = windows[tiles].T.astype(float)
        frames = shapely.box(x, y, x + width, y + height)
        tile, house = shapely.STRtree(shapes).query(frames, predicate="intersects")
        moved = outline[house] + rng.normal(0, 1, (len(house), 1, 2))
        parts = shapely.polygons(moved)
        cut = ~shapely.covers(frames[tile], parts)
        parts[cut] = shapely.intersection(parts[cut], frames[tile[cut]])
        keep = (shapely.get_type_id(parts) == 3) & (shapely.area(parts) > 100)
        score = np.zeros((keep.sum(), 3))
        score[np.arange(len(score)), number[house[keep]] % 3] = rng.uniform(0.5, 1, len(score))
        yield Detections(parts[keep], score, tiles[tile[keep]])


def town(count: int) -> tuple[Iterator[Detections], np.ndarray]:
    """About `count` detections, row by row of tiles, and their windows."""
    houses = int(count / SEEN_IN_TILES)
    columns = 200  # always as wide: a longer stream must not need more memory
    windows = windows_over((columns + 2) * PITCH, (houses / columns + 2) * PITCH, TILE, OVERLAP)
    return batches(houses, columns, windows), windows


def measure(count: int) -> dict[str, float]:
    """Seconds inside merge_stream, peak memory in MB and what came out, for about `count` detections."""
    source, windows = town(count)
    base = peak_mib()
    buildings, largest = 0, 0
    start = time.process_time()
    making, seen = 0.0, 0

    def clocked() -> Iterator[Detections]:
        nonlocal making, seen
        while True:
            begin = time.process_time()
            batch = next(source, None)
            making += time.process_time() - begin
            if batch is None:
                return
            seen += len(batch)
            yield batch

    for found in merge_stream(clocked(), windows):
        buildings += len(found)
        largest = max(largest, len(found))
    seconds = time.process_time() - start - making
    peak = peak_mib()
    return {"detections": seen, "buildings": buildings, "seconds": seconds,
            "base_mb": base, "peak_mb": peak, "largest_batch": largest}  # fmt: skip


def main() -> None:
    """Print one row per size and how time grows with it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[20_000, 60_000, 200_000])
    parser.add_argument("--only", type=int, help="measure one size in this process and print JSON")
    args = parser.parse_args()
    if args.only:
        print(json.dumps(measure(args.only)))
        return
    print(f"{'detections':>10s} {'buildings':>9s} {'s':>7s} {'us/det':>7s} "
          f"{'peak MB':>8s} {'over start':>10s}")  # fmt: skip
    rows = []
    for size in args.sizes:
        command = [sys.executable, "-m", "tests.benchmarks.bench_memory_aggregation", "--only", str(size)]
        row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        rows.append(row)
        print(f"{row['detections']:10d} {row['buildings']:9d} {row['seconds']:7.2f} "
              f"{row['seconds'] / row['detections'] * 1e6:7.1f} {row['peak_mb']:8.0f} "
              f"{row['peak_mb'] - row['base_mb']:10.0f}", flush=True)  # fmt: skip
    if len(rows) > 1:
        size, seconds = (np.log([row[key] for row in rows]) for key in ("detections", "seconds"))
        growth = np.polyfit(size, seconds, 1)[0]
        print(f"time grows with detections ** {growth:.2f}")


if __name__ == "__main__":
    main()
