"""Which points of an outline each wall stands for.

A ring's points are divided into runs, each of which one wall stands for. Of all divisions the one is
found, by dynamic programming, whose squared distances from points to walls plus a price per wall
are least: the shortest description of the outline in walls of given directions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def divide(
    across: np.ndarray, prices: Sequence[float], first: Sequence[int], last: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The division of least cost, neighbouring runs of different kinds.

    Args:
        across: float64[k, r, p], how far across walls of each of k kinds each of p points of a ring
            lies from any fixed line, in units whose squares compare with prices.
        prices: of one wall of each kind.
        first: kinds that the first run may have.
        last: kinds that the last run may have.

    Returns:
        bool[r, p], the first point of each run; int8[r, p], there the kind of its wall; and
        float64[r], the cost.
    """
    kinds, rings, points = across.shape
    # Points before rings: each step is then a few passes over whole blocks of memory.
    sums, squares = (_running_sums(values) for values in (across, across * across))
    best = np.full((kinds, points + 1, rings), np.inf)
    # Least cost of what lies before a run of a kind, less the squares up to there.
    opened = np.full((kinds, points + 1, rings), np.inf)
    opened[list(first), 0] = 0
    begun = np.empty((kinds, points + 1, rings), np.int8)
    share = 1 / np.arange(points, 0, -1)[:, None]
    block = np.empty((points, rings))
    ring = np.arange(rings)
    for end in range(1, points + 1):
        costs = block[:end]
        for kind in range(kinds):
            np.subtract(sums[kind, end], sums[kind, :end], out=costs)
            np.multiply(costs, costs, out=costs)
            np.multiply(costs, share[points - end :], out=costs)
            np.subtract(opened[kind, :end], costs, out=costs)
            begin = costs.argmin(axis=0)
            begun[kind, end] = begin
            best[kind, end] = costs[begin, ring] + (squares[kind, end] + prices[kind])
        for kind in range(kinds):
            others = [best[other, end] for other in range(kinds) if other != kind]
            opened[kind, end] = np.minimum.reduce(others) - squares[kind, end]
    return _runs(best, begun, list(last))


def _running_sums(values: np.ndarray) -> np.ndarray:
    """float64[k, p + 1, r]: sums of the points before each, from float64[k, r, p]."""
    sums = np.zeros((values.shape[0], values.shape[2] + 1, values.shape[1]))
    np.cumsum(values.transpose(0, 2, 1), axis=1, out=sums[:, 1:])
    return sums


def _runs(best: np.ndarray, begun: np.ndarray, last: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The runs that led to the least cost, from the last to the first."""
    points, rings = best.shape[1] - 1, best.shape[2]
    starts, kinds = np.zeros((rings, points), bool), np.zeros((rings, points), np.int8)
    final = best[last, points]
    kind, end = np.array(last)[final.argmin(axis=0)], np.full(rings, points)
    ring = np.arange(rings)
    while len(ring):
        now, begin = kind[ring], begun[kind[ring], end[ring], ring]
        starts[ring, begin], kinds[ring, begin] = True, now
        before = best[:, begin, ring]
        before[now, np.arange(len(ring))] = np.inf
        kind[ring], end[ring] = before.argmin(axis=0), begin
        ring = ring[begin > 0]
    return starts, kinds, final.min(axis=0)
