"""Regular footprints beside what libraries make of the same outlines: fit, corners, overlaps, time.

A network's masks of every tile are simulated, made polygons and merged as the project does it; each method
gets the outlines that come out. Times are of the processor, one thread, the least of several rounds.

Run: python -m tests.benchmarks.bench_regularize [--no-peers]
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

import geopandas
import numpy as np
import shapely

from pipeline.matching import overlapping_pairs, walk
from pipeline.polygons import largest_parts
from pipeline.regularize import RegularizeRules, regularize, regularize_stream
from pipeline.seams import Detections, merge
from pipeline.vectorize import masks_to_polygons
from tests.benchmarks.network_masks import look
from tests.benchmarks.seams.scenes import LABELS, Scene, real, rows, typical

OVERLAP_PX2 = 1e-3
"""Area from which two polygons overlap; below it is rounding."""
ROUNDS_S = 2.0
"""Seconds of the processor in which a method may be repeated."""
COPIES = (1, 4, 16)
"""How many times over the settlement stands when growth is measured."""
Method = Callable[[np.ndarray], np.ndarray]


class Score(NamedTuple):
    """How good outlines are."""

    f1: float
    """At IoU 0.5."""
    iou: float
    """Mean of those that match a footprint."""
    apart_px: float
    """Mean distance from points on matched footprints' outlines to the outlines found."""
    corners: float
    """Mean of all."""
    invalid: int
    overlapping: int
    """Pairs."""
    overlap_px2: float
    """Area of all pairs."""


def outlines_of(scene: Scene) -> np.ndarray:
    """object[n]: the buildings that merging makes of a network's masks of all tiles, image pixels."""
    seen = sorted(
        look(scene, len(scene.windows(1024, 256))), key=lambda seen: (seen.window[1], seen.window[0])
    )
    found = [masks_to_polygons(tile.masks, tile.boxes) for tile in seen]
    found = [polygons[~shapely.is_missing(polygons)] for polygons in found]
    placed = [
        shapely.transform(polygons, lambda xy, corner=tile.window[:2]: xy + corner)
        for polygons, tile in zip(found, seen, strict=True)
    ]
    tiles = np.repeat(np.arange(len(seen)), [len(polygons) for polygons in found])
    probabilities = np.random.default_rng(0).uniform(0.5, 0.95, (len(tiles), 1))
    detections = Detections(np.concatenate(placed), probabilities, tiles)
    return merge(detections, np.array([tile.window for tile in seen])).polygons


def score(found: np.ndarray, truth: np.ndarray) -> Score:
    """How good outlines are."""
    pairs = overlapping_pairs(found, truth)
    chosen = walk(pairs, shapely.area(found))
    matched, theirs = found[chosen >= 0], truth[chosen[chosen >= 0]]
    sound = shapely.make_valid(found)
    one, other = shapely.STRtree(sound).query(sound, "intersects")
    shared = shapely.area(shapely.intersection(sound[one], sound[other]))[one < other]
    return Score(
        f1=2 * len(matched) / (len(found) + len(truth)),
        iou=float(iou(shapely.make_valid(matched), theirs).mean()),
        apart_px=float(apart(matched, theirs).mean()),
        corners=float(shapely.get_num_coordinates(found).mean() - 1),
        invalid=int((~shapely.is_valid(found)).sum()),
        overlapping=int((shared > OVERLAP_PX2).sum()),
        overlap_px2=float(shared[shared > OVERLAP_PX2].sum()),
    )


def iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """float64[n], pair by pair."""
    return shapely.area(shapely.intersection(one, other)) / shapely.area(shapely.union(one, other))


def apart(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """float64[n]: mean distance from 32 points on each true exterior to the outline found."""
    ring = shapely.get_exterior_ring(truth)
    points = shapely.line_interpolate_point(ring[:, None], (np.arange(32) + 0.5) / 32, normalized=True)
    return shapely.distance(points, shapely.boundary(found)[:, None]).mean(axis=1)


def library(parallel_px: float, simplify_px: float, diagonals: bool) -> Method:
    """buildingregulariser on one core, its circles included."""
    from buildingregulariser import regularize_geodataframe

    def run(outlines: np.ndarray) -> np.ndarray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            frame = regularize_geodataframe(
                geopandas.GeoDataFrame(geometry=outlines),
                parallel_threshold=parallel_px,
                simplify_tolerance=simplify_px,
                allow_45_degree=diagonals,
                num_cores=1,
            )
        return frame.geometry.to_numpy()

    return run


def methods(peers: bool) -> dict[str, Method]:
    """What is compared, by name."""
    found: dict[str, Method] = {
        "as found": lambda outlines: outlines,
        "ours": lambda outlines: regularize(outlines)[0],
        "ours with diagonals": lambda outlines: regularize(outlines, RegularizeRules(diagonals=True))[0],
        "shapely simplify 2 px": lambda outlines: shapely.simplify(outlines, 2),
        "shapely simplify 5 px": lambda outlines: shapely.simplify(outlines, 5),
        "shapely coverage_simplify 5 px": lambda outlines: largest_parts(
            shapely.coverage_simplify(outlines, 5)
        ),
        "shapely oriented_envelope": lambda outlines: shapely.oriented_envelope(outlines),
    }
    if peers:
        found["buildingregulariser 4, 2 px, 45"] = library(4, 2, diagonals=True)
        found["buildingregulariser 8, 4 px, 45"] = library(8, 4, diagonals=True)
        found["buildingregulariser 8, 4 px, 90"] = library(8, 4, diagonals=False)
    return found


def timed(method: Method, outlines: np.ndarray) -> tuple[np.ndarray, float]:
    """What a method makes, and the least processor time per outline of as many rounds as fit in seconds."""
    least, begun = np.inf, time.process_time()
    while least == np.inf or time.process_time() - begun < ROUNDS_S:
        started = time.process_time()
        made = method(outlines)
        least = min(least, (time.process_time() - started) / len(outlines) * 1e6)
    return made, least


def verdict(met: bool) -> str:
    """In a word."""
    return "met" if met else "MISSED"


def compare(scene: Scene, outlines: np.ndarray, peers: bool) -> None:
    """The table of all methods, and what is asked of ours."""
    print(f"\n{scene.name}: {len(scene.footprints)} footprints, {len(outlines)} outlines")
    print(
        f"{'method':34s} {'F1':>6s} {'IoU':>7s} {'apart px':>8s} {'corners':>7s} {'invalid':>7s} "
        f"{'overlaps':>8s} {'px2':>8s} {'us each':>8s}"
    )
    results: dict[str, tuple[Score, float]] = {}
    for name, method in methods(peers).items():
        made, us = timed(method, outlines)
        result = score(made, scene.footprints)
        results[name] = result, us
        print(
            f"{name:34s} {result.f1:6.4f} {result.iou:7.4f} {result.apart_px:8.2f} {result.corners:7.1f} "
            f"{result.invalid:7d} {result.overlapping:8d} {result.overlap_px2:8.0f} {us:8.0f}"
        )
    limit = score(regularize(scene.footprints)[0], scene.footprints)
    print(f"{'ours, of the footprints as drawn':34s} {limit.f1:6.4f} {limit.iou:7.4f} {limit.apart_px:8.2f}")
    counts = Counter(regularize(outlines)[1].tolist())
    print(", ".join(f"{status} {count / len(outlines):.2%}" for status, count in counts.most_common()))
    judge(results["as found"][0], *results["ours"])


def judge(raw: Score, ours: Score, us: float) -> None:
    """What is asked of ours, and whether it is so."""
    print(f"\n{'asked':46s} {'is':>10s}  {'goal':>12s}")
    for what, value, goal, met in (
        ("F1 at IoU 0.5, not lower", ours.f1, f">= {raw.f1:.4f}", ours.f1 >= raw.f1),
        ("mean IoU, higher", ours.iou, f"> {raw.iou:.4f}", ours.iou > raw.iou),
        ("corners, a third", raw.corners / ours.corners, ">= 3 times", raw.corners >= 3 * ours.corners),
        ("invalid", ours.invalid, "0", ours.invalid == 0),
        ("pairs that overlap", ours.overlapping, "0", ours.overlapping == 0),
        ("us per building", us, "<= 300", us <= 300),
    ):
        print(f"{what:46s} {value:10.4g}  {goal:>12s}  {verdict(met)}")


def compare_growth(outlines: np.ndarray) -> None:
    """Time by number of buildings, streamed, and whether the stream gives the same bytes."""
    down = np.argsort(shapely.bounds(outlines)[:, 1], kind="stable")
    outlines, height = outlines[down], shapely.total_bounds(outlines)[3] + 200
    sizes, seconds = [], []
    for copies in COPIES:
        started = time.process_time()
        results = list(regularize_stream(downwards(outlines, height, copies)))
        seconds.append(time.process_time() - started)
        sizes.append(sum(len(shapes) for shapes, _ in results))
        print(f"{sizes[-1]:8d} buildings, streamed: {seconds[-1] / sizes[-1] * 1e6:6.0f} us each")
    exponent = np.polyfit(np.log(sizes), np.log(seconds), 1)[0]
    streamed = np.concatenate([shapes for shapes, _ in results])[: len(outlines)]
    same = shapely.to_wkb(streamed).tolist() == shapely.to_wkb(regularize(outlines)[0]).tolist()
    print(f"{'growth exponent':46s} {exponent:10.3f}  {'<= 1.1':>12s}  {verdict(exponent <= 1.1)}")
    print(f"{'streamed as at once, to the byte':46s} {same!s:>10s}  {'True':>12s}  {verdict(same)}")


def downwards(outlines: np.ndarray, height: float, copies: int) -> Iterator[np.ndarray]:
    """Outlines in batches from top to bottom, the settlement standing below itself some times."""
    for copy in range(copies):
        below = np.array([0, copy * height])
        yield from np.array_split(shapely.transform(outlines, lambda xy, below=below: xy + below), 9)


def main() -> None:
    """Prints the tables for planned settlements and, where the data are present, for a real one."""
    parser = argparse.ArgumentParser(description="Regular footprints beside what libraries make.")
    parser.add_argument("--no-peers", action="store_true", help="without buildingregulariser, which is slow")
    given = parser.parse_args()
    for scene in [typical(500), rows(1000), *([real()] if LABELS.is_file() else [])]:
        outlines = outlines_of(scene)
        compare(scene, outlines, peers=not given.no_peers)
        compare_growth(outlines)


if __name__ == "__main__":
    main()
