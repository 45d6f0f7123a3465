"""Who gets whom: proposals and truths that overlap enough, and the greedy walk that pairs them.

Both the metric and the thresholds chosen by it rest on this walk, so it stands below the two.
Any planar frame will do, as long as proposals and truths share it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import shapely

MIN_IOU = 0.5
"""The challenge's overlap: intersection over union must lie above it, not at it."""


class Pairs(NamedTuple):
    """Pairs of a proposal and a truth whose overlap is enough for a match."""

    proposals: np.ndarray
    """int64[p], index of the proposal."""
    truths: np.ndarray
    """int64[p], index of the truth."""
    ious: np.ndarray
    """float64[p], intersection over union, in (min_iou, 1]."""

    def where(self, keep: np.ndarray) -> Pairs:
        """Pairs for which `keep`, bool[p], is true."""
        return Pairs(self.proposals[keep], self.truths[keep], self.ious[keep])


def overlapping_pairs(polygons, truth_polygons, min_iou: float = MIN_IOU) -> Pairs:
    """Pairs with an intersection over union above `min_iou`.

    An invalid proposal is repaired by `buffer(0)`; an invalid truth is in no pair; neither is what
    is None or empty.

    Args:
        polygons: object[n] of proposals.
        truth_polygons: object[m] of truths, same frame.
        min_iou: share in [0, 1); a pair must lie above it.
    """
    proposals = valid_polygons(polygons)
    truths = np.array(truth_polygons, dtype=object)
    truths[~shapely.is_valid(truths)] = None
    left, right = shapely.STRtree(truths).query(proposals, predicate="intersects")
    shared = shapely.area(shapely.intersection(proposals[left], truths[right]))
    joint = shapely.area(proposals)[left] + shapely.area(truths)[right] - shared
    ious = np.divide(shared, joint, out=np.zeros(len(left)), where=joint > 0)
    return Pairs(left, right, ious).where(ious > min_iou)


def valid_polygons(polygons) -> np.ndarray:
    """Polygons as object[n], the invalid ones among them repaired by `buffer(0)`."""
    repaired = np.array(polygons, dtype=object)
    broken = ~shapely.is_valid(repaired)
    repaired[broken] = shapely.buffer(repaired[broken], 0)
    return repaired


def walk(pairs: Pairs, ranks: np.ndarray) -> np.ndarray:
    """Truth that each proposal gets, int64[n], -1 for none.

    Proposals choose in falling rank, equal ranks in the order given; each takes the truth it
    overlaps best among those still free, of equals the first. Whatever is cut off at the low end of the
    ranks leaves the choices above it as they were.

    Args:
        pairs: the pairs that may match.
        ranks: float64[n], one per proposal.
    """
    turn = np.empty(len(ranks), dtype=np.int64)
    turn[np.argsort(-ranks, kind="stable")] = np.arange(len(ranks))
    order = np.lexsort((pairs.truths, -pairs.ious, turn[pairs.proposals]))
    chosen = np.full(len(ranks), -1, dtype=np.int64)
    taken: set[int] = set()
    for proposal, truth in zip(pairs.proposals[order].tolist(), pairs.truths[order].tolist(), strict=True):
        if chosen[proposal] < 0 and truth not in taken:
            chosen[proposal] = truth
            taken.add(truth)
    return chosen
