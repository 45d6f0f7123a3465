"""How near found buildings are to the true ones: what is right, double, split, welded and missed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from pipeline.matching import Pairs, overlapping_pairs, valid_polygons
from tests.benchmarks.seams.scenes import Scene

SPLIT_SHARE = 0.2
"""Share of a true building that another found one must add for the building to count as split."""
LARGE_M = 30.0
"""Long side of a bounding box on the ground above which a building is large."""


@dataclass(frozen=True)
class Score:
    """What a rule made of a scene."""

    found: int
    """Buildings published."""
    f1: float
    """2 TP / (found + true): as many pairs above the IoU asked for as there are, one to one."""
    duplicates: int
    """Found buildings that lie on a true one and add less than `SPLIT_SHARE` to what others show of it."""
    split: int
    """True buildings of which two found ones show a part each."""
    welded: float
    """Share of the touching pairs of which one found building covers the larger part of both."""
    large_recall: float
    """Share of the large true buildings that are matched; nan where there is none."""


def score(found: np.ndarray, scene: Scene, min_iou: float = 0.5) -> Score:
    """The score of found buildings.

    Args:
        found: object[m] of polygons or multipolygons in image pixels.
        scene: the truth.
        min_iou: share in [0, 1) above which a found building is a true one.
    """
    truth, found = scene.footprints, valid_polygons(found)
    pairs = overlapping_pairs(found, truth, min_iou=0.0)
    area, true_area = shapely.area(found), shapely.area(truth)
    # From the IoU back to the area in common, which is what the counts below are about.
    shared = pairs.ious / (1 + pairs.ious) * (area[pairs.proposals] + true_area[pairs.truths])
    matched = _matched(pairs.where(pairs.ious > min_iou), len(found), len(truth))
    duplicates, split = _repeats(found, truth, pairs, shared)
    large = scene.spans_m() > LARGE_M
    return Score(
        found=len(found),
        f1=2 * int(matched.sum()) / (len(found) + len(truth)) if len(found) + len(truth) else 1.0,
        duplicates=duplicates,
        split=split,
        welded=_welded(pairs.where(shared > true_area[pairs.truths] / 2), len(found), scene),
        large_recall=float(matched[large].mean()) if large.any() else np.nan,
    )


def _matched(pairs: Pairs, found: int, true: int) -> np.ndarray:
    """bool[true]: which true buildings have a found one of their own."""
    graph = _graph(pairs, found, true)
    return maximum_bipartite_matching(graph, perm_type="column") >= 0


def _graph(pairs: Pairs, found: int, true: int) -> csr_array:
    """bool[true, found], sparse: which pairs there are."""
    ones = np.ones(len(pairs.truths), dtype=bool)
    return csr_array((ones, (pairs.truths, pairs.proposals)), shape=(true, found))


def _repeats(found: np.ndarray, truth: np.ndarray, pairs: Pairs, shared: np.ndarray) -> tuple[int, int]:
    """How many found buildings are duplicates and how many true ones are split."""
    smaller = np.minimum(shapely.area(found)[pairs.proposals], shapely.area(truth)[pairs.truths])
    claims = np.flatnonzero(shared > smaller / 2)
    # A found building lies on the true one that it shows most of; the largest share of that goes first.
    claims = claims[np.lexsort((-shared[claims], pairs.proposals[claims]))]
    claims = claims[np.unique(pairs.proposals[claims], return_index=True)[1]]
    claims = claims[np.lexsort((-shared[claims], pairs.truths[claims]))]
    claims = claims[np.bincount(pairs.truths[claims], minlength=len(truth))[pairs.truths[claims]] > 1]
    held = pairs.truths[claims]
    turn = np.arange(len(held)) - np.searchsorted(held, held)
    shown = shapely.intersection(truth, shapely.Polygon())
    duplicates, split = 0, np.zeros(len(truth), dtype=bool)
    for step in range(turn.max(initial=-1) + 1):
        one, other = found[pairs.proposals[claims[turn == step]]], held[turn == step]
        more = shapely.difference(shapely.intersection(one, truth[other]), shown[other])
        adds = shapely.area(more) >= SPLIT_SHARE * shapely.area(truth[other])
        shown[other[adds]] = shapely.union(shown[other[adds]], more[adds])
        if step == 0:
            shown[other] = more
            continue
        split[other[adds]] = True
        duplicates += int(np.count_nonzero(~adds))
    return duplicates, int(split.sum())


def _welded(covering: Pairs, found: int, scene: Scene) -> float:
    """The share of touching pairs that one found building covers; 0 without such pairs."""
    neighbours = scene.neighbours
    if not len(neighbours):
        return 0.0
    graph = _graph(covering, found, len(scene.footprints)).astype(np.int64)
    both = graph[neighbours[:, 0]].multiply(graph[neighbours[:, 1]]).sum(axis=1)
    return float((np.asarray(both).ravel() > 0).mean())
