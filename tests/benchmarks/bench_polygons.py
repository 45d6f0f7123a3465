"""Masks as polygons against pasting them into the tile and tracing pixels: time, bytes, fidelity.

Times are of the processor, one thread, the least of several rounds that alternate between the candidates.

Run: python -m tests.benchmarks.bench_polygons [--tiles N]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import cv2
import luigi
import numpy as np
import orjson
import shapely
import torch
from pycocotools import mask as coco
from rasterio.features import rasterize, shapes
from torchvision.models.detection.roi_heads import paste_masks_in_image

from pipeline.atomic import scratch_folder, write_many
from pipeline.inference import tile_detections
from pipeline.schema import Grid, Tile, TileDetections, Window
from pipeline.steps.detection_rows import outlines_px, read_detections
from pipeline.vectorize import VectorizeRules, mask_ambiguities, masks_to_polygons
from tests.benchmarks.network_masks import CELLS, TILE, Seen, look
from tests.benchmarks.seams.scenes import LABELS, real, typical
from tests.test_vectorize import pasted_region

CATEGORIES = ("foundation", "unfinished", "completed")
EXACT = VectorizeRules(simplify_cells=0)
GRID = Grid(
    width=40_000,
    height=40_000,
    crs="EPSG:32737",
    srid=32737,
    transform=(0.0775, 0, 533_000, 0, -0.0775, 9_367_000),
    ground_m_per_px=(0.0775, 0.0775),
    bands=[1, 2, 3],
    stretch=None,
    observed="2018-04-30T09:12:00Z",
)


def paste(seen: Seen) -> np.ndarray:
    """uint8[n, 1024, 1024]: what torchvision pastes, all masks of a tile at once."""
    masks, boxes = torch.from_numpy(seen.masks)[:, None], torch.from_numpy(seen.boxes)
    return (paste_masks_in_image(masks, boxes, (TILE, TILE))[:, 0] >= 0.5).numpy().astype(np.uint8)


def find_contours(seen: Seen) -> list:
    """OpenCV's outlines of the pasted masks: through the centres of their outermost pixels."""
    return [cv2.findContours(image, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)[0] for image in paste(seen)]


def trace(seen: Seen) -> list:
    """GDAL's outlines of the pasted masks: along the edges of their pixels."""
    return [[shape for shape, _ in shapes(image, mask=image > 0)] for image in paste(seen)]


def ours(seen: Seen) -> np.ndarray:
    """The outlines as InferShard makes them."""
    return masks_to_polygons(seen.masks, seen.boxes)


def ours_of_all(scene: Sequence[Seen]) -> np.ndarray:
    """The outlines of all tiles in one call."""
    return masks_to_polygons(
        np.concatenate([seen.masks for seen in scene]), np.concatenate([seen.boxes for seen in scene])
    )


def microseconds(candidates: dict[str, Callable[[], Any]], rounds: int = 5) -> dict[str, float]:
    """Processor time of each candidate, the least of several rounds."""
    least = dict.fromkeys(candidates, np.inf)
    for _ in range(rounds):
        for name, candidate in candidates.items():
            started = time.process_time()
            candidate()
            least[name] = min(least[name], (time.process_time() - started) * 1e6)
    return least


def verdict(met: bool) -> str:
    """In a word."""
    return "met" if met else "MISSED"


def row(what: str, value: float, peer: float, goal: float | None = None) -> None:
    """Prints a line of the table: how many times `value` is in `peer`, and whether that is enough."""
    times = peer / value
    judged = "" if goal is None else f">= {goal:<5.3g} {verdict(times >= goal)}"
    print(f"{what:56s} {value:>8.0f} {peer:>8.0f} {times:>7.1f}  {judged}".rstrip())


def compare_times(scene: Sequence[Seen]) -> None:
    """Time per outline: as InferShard asks for them, tile by tile, and all in one call."""
    candidates = {
        "findContours": lambda: [find_contours(seen) for seen in scene],
        "shapes": lambda: [trace(seen) for seen in scene],
        "tile by tile": lambda: [ours(seen) for seen in scene],
        "in one call": lambda: ours_of_all(scene),
    }
    instances = sum(len(seen.boxes) for seen in scene)
    us = {name: least / instances for name, least in microseconds(candidates).items()}
    for peer, goal in (("findContours", 20), ("shapes", 80)):
        for name in ("tile by tile", "in one call"):
            row(f"us per outline, {name}; paste + {peer}", us[name], us[peer], goal)


def largest(polygons: Sequence[Any]) -> Any:
    """The polygon of largest area, None of none."""
    return max(polygons, key=shapely.area, default=None)


def iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """float64[n], pair by pair."""
    return shapely.area(shapely.intersection(one, other)) / shapely.area(shapely.union(one, other))


def compare_places(scene: Sequence[Seen]) -> None:
    """How near each kind of outline is to the true footprint, and to the pixels as they were pasted."""
    rings = [
        [ring[:, 0] + 0.5 for ring in found if len(ring) > 3] for s in scene for found in find_contours(s)
    ]
    outlines = {
        "paste + shapes": [
            largest([shapely.geometry.shape(shape) for shape in found]) for s in scene for found in trace(s)
        ],
        "paste + findContours": [
            largest([shapely.Polygon(ring).buffer(0) for ring in found]) for found in rings
        ],
        "contour, every vertex": [p for s in scene for p in masks_to_polygons(s.masks, s.boxes, EXACT)],
        "ours": [p for s in scene for p in ours(s)],
    }
    found = ~np.any([shapely.is_missing(polygons) for polygons in outlines.values()], axis=0)
    truth = np.concatenate([seen.truth for seen in scene])[found]
    drawn = {name: np.array(polygons, dtype=object)[found] for name, polygons in outlines.items()}
    print(f"\n{found.sum():<4d} outlines           IoU with truth    area  IoU with pasted pixels  vertices")
    for name, polygons in drawn.items():
        area = shapely.area(polygons).sum() / shapely.area(truth).sum() - 1
        pixels = iou(polygons, drawn["paste + shapes"]).mean()
        vertices = shapely.get_num_coordinates(polygons).mean() - 1
        print(f"{name:24s} {iou(polygons, truth).mean():13.4f} {area:+8.2%} {pixels:16.4f} {vertices:15.1f}")
    bias = (shapely.area(drawn["ours"]) / shapely.area(drawn["contour, every vertex"]) - 1).mean()
    print(
        f"area of ours against its contour's: {bias:+.3%}, goal within 0.2 %: {verdict(abs(bias) <= 0.002)}"
    )


def compare_tolerances(scene: Sequence[Seen]) -> None:
    """What vertices are worth: IoU as pixels, where torchvision's pasting really puts the box, and bytes."""
    pasted = np.concatenate([paste(seen) for seen in scene]) > 0
    truth = np.concatenate([seen.truth for seen in scene])
    boxes = np.array([pasted_region(box, CELLS) for seen in scene for box in seen.boxes.astype(float)])
    print("\nsimplify_cells  IoU as pixels   least  IoU with truth  bytes per instance")
    for tolerance in (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8):
        rules = VectorizeRules(simplify_cells=tolerance)
        outlines = np.concatenate([written(seen, rules) for seen in scene])
        regions = np.split(boxes, np.cumsum([len(seen.boxes) for seen in scene])[:-1])
        moved = np.concatenate(
            [written(s._replace(boxes=region), rules) for s, region in zip(scene, regions, strict=True)]
        )
        drawn = np.array([rasterize([polygon], out_shape=(TILE, TILE)) > 0 for polygon in moved])
        same = (drawn & pasted).sum(axis=(1, 2)) / (drawn | pasted).sum(axis=(1, 2))
        size = sum(len(orjson.dumps(artifact(seen, rules))) for seen in scene) / len(truth)
        near = np.nanmean(iou(outlines, truth))
        judged = verdict(same.mean() >= 0.99) if rules == VectorizeRules() else ""
        numbers = f"{tolerance:14.1f} {same.mean():14.4f} {same.min():7.3f} {near:15.4f} {size:19.0f}"
        print(f"{numbers}  {judged}".rstrip())


def artifact(seen: Seen, rules: VectorizeRules | None = None) -> dict[str, Any]:
    """The per-tile JSON of a tile."""
    tile = Tile(tile_id="r0000_c0000", window=Window(*seen.window.tolist()), valid_share=1)
    polygons = masks_to_polygons(seen.masks, seen.boxes, rules)
    probabilities = np.random.default_rng(0).dirichlet([0.3, 0.3, 3], len(polygons))
    model = {"name": "maskrcnn_resnet50_fpn_v2", "weights": "0123456789ab"}
    created = "2026-01-01T00:00:00+00:00"
    doubts = mask_ambiguities(seen.masks)
    return tile_detections("town", tile, GRID, polygons, probabilities, CATEGORIES, model, created, doubts)


def written(seen: Seen, rules: VectorizeRules | None = None) -> np.ndarray:
    """object[n], the outlines as a tile's JSON has them, tile px."""
    content = TileDetections.model_validate_json(orjson.dumps(artifact(seen, rules)))
    return shapely.transform(outlines_px(content), lambda xy: xy - seen.window[:2])


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed counts of a uint8[h, w]: column by column, zeros first."""
    pixels = mask.ravel(order="F")
    turns = np.flatnonzero(np.diff(pixels, prepend=np.uint8(0)))
    return np.diff(turns, prepend=0, append=len(pixels)).tolist()


def compare_bytes(scene: Sequence[Seen]) -> None:
    """Bytes per instance: of whole per-tile files, and of what alone says where a building is."""
    sizes = dict.fromkeys(("file", "outline", "run lengths", "compressed run lengths", "findContours"), 0.0)
    for seen in scene:
        content = artifact(seen)
        sizes["file"] += len(orjson.dumps(content))
        sizes["outline"] += sum(
            len(orjson.dumps([d["polygon"], *d.get("holes", [])])) for d in content["detections"]
        )
        for image, rings in zip(paste(seen), find_contours(seen), strict=True):
            compressed = coco.encode(np.asfortranarray(image))["counts"].decode()
            sizes["run lengths"] += len(orjson.dumps({"size": image.shape, "counts": run_lengths(image)}))
            sizes["compressed run lengths"] += len(orjson.dumps({"size": image.shape, "counts": compressed}))
            sizes["findContours"] += len(orjson.dumps([ring[:, 0].tolist() for ring in rings]))
    instances = sum(len(seen.boxes) for seen in scene)
    each = {name: size / instances for name, size in sizes.items()}
    rest = each["file"] - each["outline"]
    row("bytes per instance, whole file; a limit", each["file"], 400, 1)
    row("... whole file; run lengths in it", each["file"], each["run lengths"] + rest, 10)
    for peer, goal in (("run lengths", 10), ("compressed run lengths", None), ("findContours", None)):
        row(f"... outline alone; {peer}", each["outline"], each[peer], goal)


def write_ours(contents: Mapping[Path, dict]) -> None:
    """As InferShard writes tiles, all in one folder."""
    with scratch_folder(next(iter(contents)).parent) as scratch:
        write_many(scratch, ((path.name, orjson.dumps(content)) for path, content in contents.items()))


def write_luigi(contents: Mapping[Path, dict]) -> None:
    """As Luigi's examples write them."""
    for path, content in contents.items():
        with luigi.LocalTarget(str(path)).open("w") as stream:
            stream.write(json.dumps(content))


def read_luigi(path: Path) -> dict:
    """What was written."""
    with luigi.LocalTarget(str(path)).open("r") as stream:
        return json.load(stream)


def compare_files(scene: Sequence[Seen]) -> None:
    """Time per file to write, under a new name, and to read what a tile holds."""
    contents = [artifact(seen) for seen in scene]
    with tempfile.TemporaryDirectory() as name:
        rounds = count()
        written: list[Path] = []

        def write_all(write: Callable[[Mapping[Path, dict]], None]) -> None:
            turn = next(rounds)
            written[:] = [Path(name) / f"{turn}_{number}.json" for number in range(len(contents))]
            write(dict(zip(written, contents, strict=True)))

        candidates = {
            "write": partial(write_all, write_ours),
            "write, peer": partial(write_all, write_luigi),
            "read": lambda: [read_detections(path) for path in written],
            "read, peer": lambda: [read_luigi(path) for path in written],
        }
        us = {what: least / len(contents) for what, least in microseconds(candidates, 15).items()}
    held = sum(len(content["detections"]) for content in contents) / len(contents)
    for what, goal in (("write", 213 / 50), ("read", 172 / 100)):
        row(f"us to {what} a file of {held:.0f}; LocalTarget + json", us[what], us[f"{what}, peer"], goal)


def main() -> None:
    """Prints the tables for a painted settlement and, where the data are present, for a real one."""
    parser = argparse.ArgumentParser(description="Masks as polygons against pasting and tracing.")
    parser.add_argument("--tiles", type=int, default=10, help="tiles of each settlement")
    given = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    for settlement in [typical(300), *([real()] if LABELS.is_file() else [])]:
        scene = look(settlement, given.tiles)
        print(
            f"\n{settlement.name}: {sum(len(seen.boxes) for seen in scene)} instances, {len(scene)} tiles\n"
        )
        print(f"{'what; peer':56s} {'ours':>8s} {'peer':>8s} {'times':>7s}  goal")
        compare_times(scene)
        compare_bytes(scene)
        compare_files(scene)
        compare_places(scene)
        compare_tolerances(scene)


if __name__ == "__main__":
    main()
