"""What a training's time goes into: showing a tile, and a step beside the bare network's.

    python -m tests.benchmarks.bench_training_speed [--tile-size 1024] [--items 60] [--network NAME]
        [--batch-size 4] [--device auto] [--repeats 5]

First table: CPU time to read and show one tile on one thread, by what is asked of it. Second table: a
step of `models.learner` on a batch that lies ready, beside forward and backward alone on random data
of the same size (best of the repeats). What a training waits for tiles stands in its history.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import rasterio
import torch
from rasterio.transform import Affine
from torchvision.transforms.v2 import functional as v2

from models.dataset import TileDataset, collate_fn
from models.device import choose_device
from models.learner import Batch, Learner
from models.maskrcnn import build
from models.recipe import Recipe
from models.sampling import Draw
from models.tiles import TrainingTile

CATEGORIES = ("foundation", "unfinished", "completed")
STILL = Recipe(flips=False, brightness=0, contrast=0, tint=0)
SHOWN: dict[str, dict[str, object]] = {
    "as it lies": {},
    "flips": {"flips": True},
    "rotation 10": {"rotation": 10.0},
    "scale 0.5 - 2": {"scale_min": 0.5, "scale_max": 2.0},
    "brightness, contrast, tint": {"brightness": 0.15, "contrast": 0.15, "tint": 0.1},
    "and saturation, hue": {
        "brightness": 0.15,
        "contrast": 0.15,
        "tint": 0.1,
        "saturation": 0.2,
        "hue": 10.0,
    },
    "blur 2": {"blur": 2.0},
    "jpeg 50": {"jpeg_quality": 50},
    "paste 5": {"paste": 5},
}


def write_tile(folder: Path, size: int, count: int) -> TrainingTile:
    """A tile of smooth noise, compressed as CutTiles does, and a grid of items."""
    chance, step = np.random.default_rng(0), size // int(np.ceil(count**0.5))
    coarse = torch.from_numpy(chance.integers(40, 220, (3, size // 16, size // 16), dtype=np.uint8))
    picture = v2.resize(coarse, [size, size]).numpy() // 2 + chance.integers(0, 40, (3, size, size), np.uint8)
    tile = TrainingTile(folder / "tile.tif", folder / "tile.json")
    profile = {"driver": "GTiff", "width": size, "height": size, "count": 3, "dtype": "uint8"}
    profile |= {"compress": "deflate", "crs": "EPSG:32737", "transform": Affine(0.1, 0, 5e5, 0, -0.1, 9e6)}
    with rasterio.open(tile.image, "w", **profile) as dst:
        dst.write(picture)
    corners = [(x, y) for y in range(0, size - step + 1, step) for x in range(0, size - step + 1, step)]
    rings = [
        [[x, y], [x + step * 0.4, y], [x + step * 0.4, y + step * 0.3], [x, y + step * 0.3], [x, y]]
        for x, y in corners[:count]
    ]
    items = [
        {"category": CATEGORIES[row % 3], "polygons": [[ring]], "visible_share": 1.0}
        for row, ring in enumerate(rings)
    ]
    tile.items.write_text(json.dumps({"image_id": "noise", "tile_id": "r0_c0", "items": items}))
    return tile


def best_ms(works: dict[str, Callable[[int], object]], repeats: int, clock: Callable[[], float]) -> dict:
    """Least time of one call of each, in ms; they take turns, so that other work hits them alike."""
    best = dict.fromkeys(works, np.inf)
    for number in range(repeats):
        for name, work in works.items():
            start = clock()
            work(number)
            best[name] = min(best[name], 1000 * (clock() - start))
    return best


def random_batch(like: Batch) -> Batch:
    """Noise with as many boxes as a batch has, of the same sizes."""
    images, targets = like
    noise = [torch.randint_like(image, 256) for image in images]
    return noise, [target | {"masks": torch.randint_like(target["masks"], 2)} for target in targets]


def step_ms(learner: Learner, batch: Batch, repeats: int) -> dict[str, float]:
    """Time of a step, and of forward and backward alone on random data."""

    def clock() -> float:
        if learner.device.type != "cuda":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    noise = random_batch(batch)

    def bare(_number: int) -> None:
        learner.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(learner.losses(learner.model, noise).values())).sum().backward()

    def step(_number: int) -> None:
        learner.step([batch], 1, 1e-4)

    works = {"step": step, "forward and backward alone": bare}
    best_ms(works, 1, clock)  # what is done once is not timed
    return best_ms(works, repeats, clock)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tile-size", type=int, default=1024)
    parser.add_argument("--items", type=int, default=60)
    parser.add_argument("--network", default="maskrcnn_small")
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        tile = write_tile(Path(folder), options.tile_size, options.items)
        data = {
            name: TileDataset([tile], CATEGORIES, replace(STILL, **knobs)) for name, knobs in SHOWN.items()
        }
        shown = {name: lambda n, tiles=tiles: tiles[Draw(0, 0, n)] for name, tiles in data.items()}
        print("| shown | ms per tile |\n|---|---|")
        for name, work in best_ms(shown, options.repeats, time.process_time).items():
            print(f"| {name} | {work:.0f} |")
        device = choose_device(options.device)
        learner = Learner(build(options.network, CATEGORIES).to(device).train(), Recipe(), device)
        images, targets = collate_fn([data["as it lies"][0]] * options.batch_size)
        moved = [
            {name: value.to(device) if torch.is_tensor(value) else value for name, value in target.items()}
            for target in targets
        ]
        times = step_ms(learner, ([image.to(device) for image in images], moved), options.repeats)
    print(f"\n| {options.network}, {device}, batch {options.batch_size} | ms |\n|---|---|")
    for name, work in times.items():
        print(f"| {name} | {work:.0f} |")
    print(f"| ratio | {times['step'] / times['forward and backward alone']:.2f} |")


if __name__ == "__main__":
    main()
