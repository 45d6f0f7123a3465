"""What plain rules make of the detections of overlapping tiles, and what ours makes of them.

A peer takes three steps: the detections in its own form, its rule, which alone is timed, and polygons
again. These need nothing but shapely; `libraries` holds those that others wrote.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipeline.seams import Buildings, Detections, merge

EDGE_PX = 4.0
"""Distance to an inner edge of its tile at which the drop-edge rule takes a detection for cut."""


def _as_they_are(detections: Detections, _windows: np.ndarray) -> Detections:
    return detections


def _polygons(result: Any) -> np.ndarray:
    return result.polygons


@dataclass(frozen=True)
class Peer:
    """A rule that makes buildings of detections.

    Attributes:
        name: what it is called in tables.
        how: the rule and its settings, in one line.
        rule: what is timed, from what `prepare` made and the windows to what `read` reads.
        prepare: the detections in the rule's own form.
        read: the buildings as object[m] of polygons in image pixels.
        clock: what its seconds are counted by, those of this process unless another one works.
        seeds: how many seeds it is run with, from the first on.
        bears: most detections that it is given: with more it takes minutes.
    """

    name: str
    how: str
    rule: Callable[[Any, np.ndarray], Any]
    prepare: Callable[[Detections, np.ndarray], Any] = _as_they_are
    read: Callable[[Any], np.ndarray] = _polygons
    clock: Callable[[], float] = time.process_time
    seeds: int = 1
    bears: int = 10_000_000

    def __call__(self, detections: Detections, windows: np.ndarray) -> np.ndarray:
        """object[m]: what the peer makes of the detections, in image pixels."""
        return self.read(self.rule(self.prepare(detections, windows), windows))


def ours(detections: Detections, windows: np.ndarray) -> Buildings:
    """This project's rule with its defaults."""
    return merge(detections, windows)


def box_nms(detections: Detections, _windows: np.ndarray, min_iou: float = 0.5) -> Detections:
    """The most probable of what overlaps, by boxes."""
    boxes = shapely.box(*shapely.bounds(detections.polygons).T)
    return detections.take(_suppress(boxes, detections.probabilities.max(axis=1), min_iou))


def polygon_nms(detections: Detections, _windows: np.ndarray, min_iou: float = 0.5) -> Detections:
    """The most probable of what overlaps, by polygons."""
    return detections.take(_suppress(detections.polygons, detections.probabilities.max(axis=1), min_iou))


def _suppress(shapes: np.ndarray, scores: np.ndarray, min_iou: float) -> np.ndarray:
    """int64[k]: the shapes left when each, strongest first, drops those it overlaps by IoU."""
    alive = np.ones(len(shapes), bool)
    tree, area = shapely.STRtree(shapes), shapely.area(shapes)
    kept = []
    for index in np.argsort(-scores, kind="stable").tolist():
        if not alive[index]:
            continue
        kept.append(index)
        near = tree.query(shapes[index])
        near = near[alive[near]]
        shared = shapely.area(shapely.intersection(shapes[index], shapes[near]))
        alive[near[shared > min_iou * (area[index] + area[near] - shared)]] = False
    return np.array(kept, dtype=np.int64)


def drop_edge(detections: Detections, windows: np.ndarray) -> Detections:
    """Polygon NMS of what does not touch an inner edge of its tile."""
    edges = np.hstack([windows[:, :2], windows[:, :2] + windows[:, 2:]])
    image = np.r_[edges[:, :2].min(axis=0), edges[:, 2:].max(axis=0)]
    own, bounds = edges[detections.tiles], shapely.bounds(detections.polygons)
    cut = (np.abs(bounds - own) <= EDGE_PX) & (own != image)
    return polygon_nms(detections.take(~cut.any(axis=1)), windows)


def ios_union_find(detections: Detections, _windows: np.ndarray, min_ios: float = 0.5) -> np.ndarray:
    """The union of every chain of polygons of which each shares half of the smaller with the next."""
    polygons = detections.polygons
    one, other = shapely.STRtree(polygons).query(polygons, predicate="intersects")
    one, other = one[one < other], other[one < other]
    area = shapely.area(polygons)
    shared = shapely.area(shapely.intersection(polygons[one], polygons[other]))
    same = shared > min_ios * np.minimum(area[one], area[other])
    graph = coo_array((same[same], (one[same], other[same])), shape=(len(polygons), len(polygons)))
    chain = connected_components(graph, directed=False)[1]
    order = np.argsort(chain, kind="stable")
    gathered = shapely.geometrycollections(polygons[order], indices=chain[order])
    return shapely.union_all(gathered[:, None], axis=1)


PLAIN = [
    Peer("no filter", "every detection is a building", _as_they_are),
    Peer("box NMS", "strongest first, drops boxes of IoU > 0.5", box_nms),
    Peer(
        "polygon NMS", "strongest first, drops polygons of IoU > 0.5, neighbours from an STRtree", polygon_nms
    ),
    Peer(
        "drop-edge rule",
        f"drops what ends within {EDGE_PX:g} px of an inner edge, then polygon NMS",
        drop_edge,
    ),
    Peer("IoS, union-find", "union of chains of polygons with IoS > 0.5", ios_union_find, read=np.asarray),
]
OURS = Peer("ours", "`pipeline.seams.merge` with its defaults", ours, seeds=3)
