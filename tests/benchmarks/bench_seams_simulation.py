"""What merging rules make of perfect detections: F1 at IoU 0.5 on cut and jittered footprints.

Every footprint is clipped to every tile that sees it, jittered as a good network would, and the
pieces are put together again by four rules. Real footprints where the data are present, else a
synthetic settlement.

Run: python -m tests.benchmarks.bench_seams_simulation [--labels FILE --crs EPSG:CODE --px METRES]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import geopandas as gpd
import numpy as np
import shapely

from pipeline.seams import Detections, MergeRules, merge

LABELS = Path(__file__).parents[3] / "shared" / "data" / "zanzibar" / "grid_001.geojson"
LAYOUTS = [(384, 64), (512, 128), (1024, 128), (1024, 256)]
LARGE_M = 30.0


def read_footprints(path: Path, crs: str, px: float) -> np.ndarray:
    """object[n]: the valid polygons of a label file in pixels, the top-left corner at 200, 200."""
    geometry = gpd.read_file(path).to_crs(crs).geometry
    polygons = shapely.get_parts(
        shapely.make_valid(geometry[~(geometry.is_empty | geometry.isna())].to_numpy())
    )
    polygons = polygons[(shapely.get_type_id(polygons) == 3) & (shapely.area(polygons) > 0)]
    x1, _, _, y2 = shapely.total_bounds(polygons)
    return shapely.transform(polygons, lambda xy: np.column_stack([xy[:, 0] - x1, y2 - xy[:, 1]]) / px + 200)


def settlement(count: int, seed: int = 0) -> np.ndarray:
    """object[count]: turned houses in crooked rows, some sharing a wall with a neighbour, some halls."""
    rng = np.random.default_rng(seed)
    columns = int(np.ceil(np.sqrt(count)))
    pitch = 300.0
    row, column = np.divmod(np.arange(count), columns)
    width, height = rng.uniform(80, 260, (2, count))
    halls = rng.random(count) < 0.01
    width[halls], height[halls] = rng.uniform(500, 1400, halls.sum()), rng.uniform(150, 240, halls.sum())
    x = column * pitch + rng.uniform(0, 40, count) + 200
    y = row * pitch + rng.uniform(0, 30, count) + 200
    wall = (rng.random(count) < 0.2) & (column > 0)
    x[wall] = (x + width)[np.flatnonzero(wall) - 1]
    boxes = shapely.box(x, y, x + width, y + height)
    slope = rng.uniform(-0.15, 0.15)
    turned = shapely.transform(boxes, lambda xy: xy @ np.array([[1, slope], [-slope, 1]]))
    # Halls reach over their neighbours: the larger one stays as it is.
    one, other = shapely.STRtree(turned).query(turned, predicate="intersects")
    smaller = shapely.area(turned)[one] < shapely.area(turned)[other]
    rest = turned.copy()
    for i, j in zip(one[smaller], other[smaller], strict=True):
        rest[i] = shapely.difference(rest[i], turned[j])
    rest = rest[(shapely.get_type_id(rest) == 3) & (shapely.area(rest) > 400)]
    return shapely.transform(rest, lambda xy: xy - shapely.total_bounds(rest)[:2] + 200)


def grid(width: float, height: float, size: int, overlap: int) -> np.ndarray:
    """int64[t, 4]: windows of a regular tiling, the last row and column snapped to the edge."""

    def starts(length: float) -> np.ndarray:
        last = max(int(np.ceil(length)) - size, 0)
        return np.unique(np.r_[np.arange(0, last, size - overlap), last])

    row, column = np.meshgrid(starts(height), starts(width), indexing="ij")
    return np.column_stack([column.ravel(), row.ravel(), np.full((row.size, 2), size)]).astype(np.int64)


def detect(
    footprints: np.ndarray,
    windows: np.ndarray,
    jitter_px: float = 1.0,
    jitter_scale: float = 0.02,
    seed: int = 0,
    min_visible_px2: float = 30.0,
) -> Detections:
    """Each footprint clipped to each tile that sees it, shifted and scaled a little, with a random score."""
    rng = np.random.default_rng(seed)
    x, y, width, height = windows.T.astype(float)
    frames = shapely.box(x, y, x + width, y + height)
    tile, source = shapely.STRtree(footprints).query(frames, predicate="intersects")
    order = np.lexsort((source, tile))
    tile, source = tile[order], source[order]
    parts, owner = shapely.get_parts(
        shapely.intersection(footprints[source], frames[tile]), return_index=True
    )
    tile = tile[owner]
    if jitter_px or jitter_scale:
        centre = shapely.get_coordinates(shapely.centroid(parts))
        count = shapely.get_num_coordinates(parts)
        shift = np.repeat(rng.normal(0, jitter_px, (len(parts), 2)) + centre, count, axis=0)
        scale = np.repeat(1 + rng.normal(0, jitter_scale, (len(parts), 2)), count, axis=0)
        xy = shapely.get_coordinates(parts) - np.repeat(centre, count, axis=0)
        parts = shapely.intersection(shapely.set_coordinates(parts, xy * scale + shift), frames[tile])
    solid = (shapely.get_type_id(parts) == 3) & (shapely.area(parts) >= min_visible_px2)
    parts, tile = parts[solid], tile[solid]
    probabilities = np.zeros((len(parts), 3))
    probabilities[np.arange(len(parts)), rng.integers(0, 3, len(parts))] = rng.uniform(0.5, 1, len(parts))
    return Detections(parts, probabilities, tile.astype(np.int64))


def match(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """bool[m]: the footprints that have a counterpart of IoU > 0.5, each found polygon used once."""
    i, j = shapely.STRtree(truth).query(found, predicate="intersects")
    shared = shapely.area(shapely.intersection(found[i], truth[j]))
    iou = shared / (shapely.area(found)[i] + shapely.area(truth)[j] - shared)
    taken_found, taken_truth = np.zeros(len(found), bool), np.zeros(len(truth), bool)
    for pair in np.argsort(-iou):
        if iou[pair] <= 0.5:
            break
        if not (taken_found[i[pair]] or taken_truth[j[pair]]):
            taken_found[i[pair]] = taken_truth[j[pair]] = True
    return taken_truth


def no_filter(detections: Detections, _windows: np.ndarray) -> np.ndarray:
    """All detections."""
    return detections.polygons


def box_nms(detections: Detections, _windows: np.ndarray) -> np.ndarray:
    """The strongest of each cluster of box IoU 0.3."""
    boxes = shapely.box(*shapely.bounds(detections.polygons).T)
    rank = np.argsort(-detections.probabilities.max(axis=1))
    alive = np.ones(len(boxes), bool)
    tree, area = shapely.STRtree(boxes), shapely.area(boxes)
    for index in rank:
        if alive[index]:
            near = tree.query(boxes[index])
            shared = shapely.area(shapely.intersection(boxes[index], boxes[near]))
            close = near[shared > 0.3 * (area[index] + area[near] - shared)]
            alive[close[close != index]] = False
    return detections.polygons[alive]


def greedy_boxes(detections: Detections, _windows: np.ndarray) -> np.ndarray:
    """Strongest first, the union with everything of box IoS 0.5."""
    boxes = shapely.box(*shapely.bounds(detections.polygons).T)
    alive = np.ones(len(boxes), bool)
    tree, area = shapely.STRtree(boxes), shapely.area(boxes)
    merged = []
    for index in np.argsort(-detections.probabilities.max(axis=1)):
        if alive[index]:
            near = tree.query(boxes[index])
            near = near[alive[near]]
            shared = shapely.area(shapely.intersection(boxes[index], boxes[near]))
            close = near[(shared > 0.5 * np.minimum(area[index], area[near])) | (near == index)]
            alive[close] = False
            merged.append(shapely.union_all(detections.polygons[close]))
    return np.array(merged, dtype=object)


def strip_agreement(detections: Detections, windows: np.ndarray) -> np.ndarray:
    """This project's rule."""
    return merge(detections, windows, MergeRules()).polygons


RULES = {
    "no filter": no_filter,
    "box NMS, IoU 0.3": box_nms,
    "greedy merge, box IoS 0.5": greedy_boxes,
    "strip agreement + clean-up": strip_agreement,
}


def main() -> None:
    """Print one table row per rule and layout."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--labels", type=Path, default=LABELS)
    parser.add_argument("--crs", default="EPSG:32737")
    parser.add_argument("--px", type=float, default=0.0775, help="ground length of a pixel in metres")
    parser.add_argument("--count", type=int, default=4000, help="houses of the synthetic settlement")
    args = parser.parse_args()
    if args.labels.is_file():
        truth, name = read_footprints(args.labels, args.crs, args.px), args.labels.name
    else:
        truth, name = settlement(args.count), "synthetic settlement"
    _, _, width, height = shapely.total_bounds(truth) + 200
    bounds = shapely.bounds(truth)
    large = (bounds[:, 2:] - bounds[:, :2]).max(axis=1) * args.px > LARGE_M
    print(f"{name}: {len(truth)} footprints, {large.sum()} above {LARGE_M:g} m")
    print(f"{'rule':28s} {'tile/overlap':>12s} {'detections':>10s} {'buildings':>9s} {'F1':>6s} "
          f"{'recall >30 m':>12s} {'s':>6s} {'us/det':>7s}")  # fmt: skip
    for size, overlap in LAYOUTS:
        windows = grid(width, height, size, overlap)
        detections = detect(truth, windows)
        for rule, function in RULES.items():
            start = time.perf_counter()
            found = function(detections, windows)
            seconds = time.perf_counter() - start
            hit = match(found, truth)
            f1 = 2 * hit.sum() / (len(found) + len(truth))
            recall = hit[large].mean() if large.any() else 1.0
            print(f"{rule:28s} {f'{size}/{overlap}':>12s} {len(detections):10d} {len(found):9d} {f1:6.3f} "
                  f"{recall:12.3f} {seconds:6.2f} {seconds / len(detections) * 1e6:7.0f}")  # fmt: skip


if __name__ == "__main__":
    main()
