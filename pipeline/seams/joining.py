"""Which groups of detections are one building.

Links join by falling agreement, over any number of tiles. A tile that saw two things saw two
buildings: a join that would bring two detections of one tile together is refused. Exceptions are
detections that nearly coincide, and detections that a third one holds together: both agree with it
by more than one half, which two disjoint polygons cannot do with the same connected part of it.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import shapely
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipeline.seams.agreement import Links
from pipeline.seams.records import MergeRules

_HELD_TOGETHER = 0.5


def components(count: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """int64[count]: the connected component of each of `count` nodes, by the edges first-second."""
    if not count:
        return np.empty(0, np.int64)
    edges = coo_array((np.ones(len(first), np.int8), (first, second)), shape=(count, count))
    return connected_components(edges, directed=False)[1].astype(np.int64)


def join(
    polygons: np.ndarray, tiles: np.ndarray, links: Links, labels: np.ndarray, rules: MergeRules
) -> np.ndarray:
    """The building of each detection as int64[n]: equal numbers are one building.

    Args:
        polygons: object[n], image pixels, in canonical order.
        tiles: int64[n].
        links: pairs that may be one building, all between these n detections.
        labels: int64[n], the connected components of the links.
        rules: the knobs.
    """
    labels = labels.copy()
    order = np.lexsort((tiles, labels))
    twice = (labels[order][1:] == labels[order][:-1]) & (tiles[order][1:] == tiles[order][:-1])
    disputed = np.zeros(labels.max(initial=-1) + 1, dtype=bool)
    disputed[labels[order][1:][twice]] = True
    if not disputed.any():
        return labels
    # Components are independent of each other, so all disputed ones are settled in one pass.
    dispute = links.take(disputed[labels[links.first]])
    members = np.flatnonzero(disputed[labels])
    labels[members] = len(labels) + _settle(polygons, tiles, dispute, rules)[members]
    return labels


def _settle(polygons: np.ndarray, tiles: np.ndarray, links: Links, rules: MergeRules) -> np.ndarray:
    """Union-find over the links by falling agreement, refusing two detections of one tile."""
    partners: dict[int, dict[int, float]] = defaultdict(dict)
    for one, other, agreement in zip(
        *(a.tolist() for a in (links.first, links.second, links.agreement)), strict=True
    ):
        partners[one][other] = partners[other][one] = agreement

    def same(one: int, other: int) -> bool:
        held = partners[one].keys() & partners[other].keys()
        if any(min(partners[one][i], partners[other][i]) > _HELD_TOGETHER for i in held):
            return True
        shared = shapely.area(shapely.intersection(polygons[one], polygons[other]))
        united = shapely.area(polygons[one]) + shapely.area(polygons[other]) - shared
        return shared >= rules.coincident_iou * united

    group = np.arange(len(polygons))
    members: dict[int, dict[int, list[int]]] = {}  # of each group, by tile
    for index in np.lexsort((links.second, links.first, -links.agreement)).tolist():
        one, other = int(group[links.first[index]]), int(group[links.second[index]])
        if one == other:
            continue
        ours = members.setdefault(one, {int(tiles[one]): [one]})
        theirs = members.setdefault(other, {int(tiles[other]): [other]})
        clashes = ((i, j) for tile in ours.keys() & theirs.keys() for i in ours[tile] for j in theirs[tile])
        if all(same(i, j) for i, j in clashes):
            for tile, more in members.pop(other).items():
                ours.setdefault(tile, []).extend(more)
                group[more] = one
    return group
