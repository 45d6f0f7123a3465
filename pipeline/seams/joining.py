"""Which groups of detections are one building.

Links join by falling agreement, over any number of tiles. A tile that saw two things saw two
buildings: a join that would bring two detections of one tile together is refused. Exceptions are
detections that nearly coincide, and detections that the tile cannot tell apart: those that its edge
cuts, and that stand apart from each other in it, may be arms of one building, and are if links of more
than one half join them.
"""

from __future__ import annotations

import numpy as np
import shapely
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipeline.seams.agreement import MOST, Links
from pipeline.seams.records import MergeRules
from pipeline.seams.strips import clearances, inner_sides


def components(count: int, links: Links) -> np.ndarray:
    """int64[count]: the connected component of each of `count` detections."""
    if not count:
        return np.empty(0, np.int64)
    edges = coo_array((np.ones(len(links), np.int8), (links.first, links.second)), shape=(count, count))
    return connected_components(edges, directed=False)[1].astype(np.int64)


def pairs_within(owner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All ordered pairs of different rows of one owner, in lexical order; `owner` (int64[n]) is sorted."""
    start, stop = np.searchsorted(owner, owner, "left"), np.searchsorted(owner, owner, "right")
    count = stop - start
    one = np.repeat(np.arange(len(owner)), count)
    other = np.arange(len(one)) - np.repeat(np.cumsum(count) - count, count) + start[one]
    return one[one != other], other[one != other]


def join(
    polygons: np.ndarray, tiles: np.ndarray, links: Links, edges: np.ndarray, rules: MergeRules
) -> np.ndarray:
    """The building of each detection as int64[n]: equal numbers are one building.

    Args:
        polygons: object[n], image pixels, in canonical order.
        tiles: int64[n].
        links: pairs that agree, all between these n detections, in lexical order.
        edges: float64[t, 4], x1, y1, x2, y2 of each window in image pixels.
        rules: the knobs.
    """
    labels = components(len(polygons), links)
    order = np.lexsort((tiles, labels))
    twice = (labels[order][1:] == labels[order][:-1]) & (tiles[order][1:] == tiles[order][:-1])
    disputed = np.zeros(labels.max(initial=-1) + 1, dtype=bool)
    disputed[labels[order][1:][twice]] = True
    if not disputed.any():
        return labels
    # Components are independent of each other, so all disputed ones are settled in one pass.
    members = order[disputed[labels[order]]]
    dispute = links.take(disputed[labels[links.first]])
    sides = np.cumsum(np.r_[0, (np.diff(labels[members]) != 0) | (np.diff(tiles[members]) != 0)])
    one, other = pairs_within(sides)
    one, other = members[one[one < other]], members[other[one < other]]
    alike = _pairs(one, other, _coincide(polygons[one], polygons[other], rules.coincident_iou))
    bounds = shapely.bounds(polygons).reshape(-1, 4)
    cut = clearances(bounds, edges[tiles], inner_sides(edges)[tiles]).min(axis=1) <= rules.edge_px
    one, other = one[cut[one] & cut[other]], other[cut[one] & cut[other]]
    arms = _pairs(one, other, ~shapely.dwithin(polygons[one], polygons[other], 2 * rules.margin_px))
    labels[members] = len(labels) + _settle(tiles, dispute, alike, arms)[members]
    return labels


def _pairs(one: np.ndarray, other: np.ndarray, chosen: np.ndarray) -> set[tuple[int, int]]:
    return set(zip(one[chosen].tolist(), other[chosen].tolist(), strict=True))


def _coincide(one: np.ndarray, other: np.ndarray, min_iou: float) -> np.ndarray:
    """bool[p]: which pairs of polygons have at least this IoU."""
    areas = shapely.area(one), shapely.area(other)
    alike = np.minimum(*areas) >= min_iou * np.maximum(*areas)
    alike &= shapely.intersects(shapely.envelope(one), shapely.envelope(other))
    shared = shapely.area(shapely.intersection(one[alike], other[alike]))
    alike[alike] = shared >= min_iou * (sum(areas)[alike] - shared)
    return alike


def _settle(
    tiles: np.ndarray, links: Links, alike: set[tuple[int, int]], arms: set[tuple[int, int]]
) -> np.ndarray:
    """Union-find over the links by falling agreement, refusing two detections of one tile.

    Args:
        tiles: int64[n].
        links: pairs that may be one building.
        alike: pairs (i < j) of one tile that any link may bring together.
        arms: pairs (i < j) of one tile that a link of more than one half may bring together.
    """
    group = np.arange(len(tiles))
    members: dict[int, dict[int, list[int]]] = {}  # of each group, by tile
    for index in np.lexsort((links.second, links.first, -links.agreement)).tolist():
        one, other = int(group[links.first[index]]), int(group[links.second[index]])
        if one == other:
            continue
        ours = members.setdefault(one, {int(tiles[one]): [one]})
        theirs = members.setdefault(other, {int(tiles[other]): [other]})
        clashes = (
            (min(i, j), max(i, j))
            for tile in ours.keys() & theirs.keys()
            for i in ours[tile]
            for j in theirs[tile]
        )
        firm = links.agreement[index] > MOST
        if all(pair in alike or (firm and pair in arms) for pair in clashes):
            for tile, more in members.pop(other).items():
                ours.setdefault(tile, []).extend(more)
                group[more] = one
    return group
