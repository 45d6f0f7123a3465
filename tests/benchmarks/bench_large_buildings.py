"""What looking again at large buildings brings: F1, and recall and IoU of those that no tile can show.

Painted scenes that the network has not seen are tiled so small that many of their buildings exceed a tile,
inferred, and mapped without and with the coarser windows.

Run: python -m tests.benchmarks.bench_large_buildings WEIGHTS [--seeds 45 46] [--tiles 128] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import shapely

from pipeline.inference import InferenceRules
from pipeline.large import LargeRules
from pipeline.raster import Imagery, TiledImage
from pipeline.sample import SceneSpec, paint_scene, write_scene
from pipeline.schema import TileIndex
from pipeline.seams import MergeRules
from pipeline.settings import Aggregation, Tiling
from pipeline.steps.buildings import aggregate_image, read_selection
from pipeline.steps.detections import Detector, infer_tiles
from pipeline.steps.large import infer_large
from pipeline.steps.tiles import tile_image
from pipeline.submission import read_csv
from pipeline.vectorize import VectorizeRules

CATEGORIES = ("foundation", "unfinished", "completed")


class Outcome(NamedTuple):
    """How well one scene was mapped."""

    found: int
    ious: np.ndarray
    """Of each true building, with what was found."""
    extents: np.ndarray
    """Longer sides of the true buildings' bounding boxes, px."""


def told(share: float, message: str) -> None:
    """Nobody listens to the progress."""


def best_ious(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """float64[m]: the IoU of each true building with the building found that matches it best, one to one."""
    i, j = shapely.STRtree(truth).query(found, predicate="intersects")
    shared = shapely.area(shapely.intersection(found[i], truth[j]))
    iou = shared / (shapely.area(found)[i] + shapely.area(truth)[j] - shared)
    best, taken = np.zeros(len(truth)), set()
    for pair in np.argsort(-iou):
        if not best[j[pair]] and i[pair] not in taken:
            best[j[pair]] = iou[pair]
            taken.add(i[pair])
    return best


def mapped(
    index: TileIndex, weights: Path, truth: np.ndarray, detections: Path, large: Path | None
) -> Outcome:
    """The scene aggregated from its tiles and, where given, its coarser windows."""
    selection = read_selection(weights.with_name("thresholds.json"), {}, CATEGORIES)
    with tempfile.TemporaryDirectory() as out:
        aggregate_image(index, detections, CATEGORIES, selection, Aggregation(), Path(out), told, large=large)
        found = read_csv(Path(out) / f"{index.image_id}.csv").polygons_px
    bounds = shapely.bounds(truth)
    return Outcome(len(found), best_ious(found, truth), (bounds[:, 2:] - bounds[:, :2]).max(axis=1))


def map_scene(
    spec: SceneSpec, weights: Path, size: int, rules: LargeRules, folder: Path
) -> tuple[Outcome, Outcome, dict[str, float]]:
    """Without and with coarser windows, and what those cost: counts and seconds of CPU."""

    class Small(Tiling):
        tile_size, overlap = str(size), str(size // 4)

    image, detections, large = folder / "scene.tif", folder / f"detections_{size}", folder / f"large_{size}"
    for path in (detections, large):
        path.mkdir(parents=True, exist_ok=True)
    if not image.exists():
        write_scene(spec, image, folder / "scene.geojson", dirty=False)
    index = tile_image("scene", image, Imagery(), Small(), told)
    detector = Detector(weights, CATEGORIES, InferenceRules(workers=0, device="cpu"), VectorizeRules())
    started = time.process_time()
    infer_tiles(TiledImage(index, image), slice(None), detector, detections, told)
    tiled = time.process_time()
    counts = infer_large(TiledImage(index, image), detections, detector, rules, MergeRules(), large, told)
    costs = {"tiles s": tiled - started, "large s": time.process_time() - tiled}
    truth = paint_scene(spec).buildings
    before, after = (mapped(index, weights, truth, detections, coarse) for coarse in (None, large))
    return before, after, counts | costs


def line(name: str, size: int, outcomes: list[Outcome]) -> str:
    """One row of the table."""
    ious, extents = (np.concatenate([outcome[field] for outcome in outcomes]) for field in (1, 2))
    large = extents > size - 2 * MergeRules.edge_px
    f1 = 2 * (ious > 0.5).sum() / (sum(outcome.found for outcome in outcomes) + len(ious))
    return (
        f"{size:>5} {name:22} {len(ious):>9} {f1:>6.3f} {large.sum():>6} {(ious[large] > 0.5).mean():>7.3f} "
        f"{(ious[large] > 0.75).mean():>8.3f} {ious[large].mean():>9.3f}\n"
    )


def main() -> None:
    """Prints two rows per size of tile, and what the coarser windows cost."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("weights", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[45, 46, 47, 48])
    parser.add_argument("--tiles", type=int, nargs="+", default=[128])
    parser.add_argument("--folder", type=Path, help="where scenes and detections are kept; an empty one")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp())
    sys.stdout.write(
        f"{'tile':>5} {'':22} {'buildings':>9} {'F1':>6} {'large':>6} {'recall':>7} {'IoU>.75':>8} "
        f"{'mean IoU':>9}\n"
    )
    for size in given.tiles:
        before, after, costs = zip(
            *[
                map_scene(SceneSpec(seed=seed), given.weights, size, LargeRules(), folder / str(seed))
                for seed in given.seeds
            ],
            strict=True,
        )
        total = ", ".join(f"{name} {sum(cost[name] for cost in costs):.0f}" for name in costs[0])
        sys.stdout.write(
            line("tiles", size, before) + line("and coarser windows", size, after) + total + "\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
