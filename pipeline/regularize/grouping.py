"""Rows that belong together: connected ones, those of an owner, those that follow each other in a ring."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def components(count: int, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """int64[count]: the connected component of each of `count` nodes, by the edges one-other."""
    if not count:
        return np.empty(0, np.int64)
    edges = coo_array((np.ones(len(one), np.int8), (one, other)), shape=(count, count))
    return connected_components(edges, directed=False)[1].astype(np.int64)


def spans(owner: np.ndarray, count: int) -> np.ndarray:
    """int64[count, 2]: first row and number of rows of each of `count` owners.

    Args:
        owner: int64[m], the owner of each row, in rising order.
        count: number of owners.
    """
    size = np.bincount(owner, minlength=count)
    return np.column_stack([np.cumsum(size) - size, size])


def products(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every row of one span with every row of another, for pairs of spans.

    Args:
        one: int64[p, 2], first row and number of rows.
        other: int64[p, 2], the same.

    Returns:
        int64[q] each: the pair, the row of its one span and that of its other.
    """
    count = one[:, 1] * other[:, 1]
    pair = np.repeat(np.arange(len(count)), count)
    place = np.arange(len(pair)) - np.repeat(np.cumsum(count) - count, count)
    first, second = np.divmod(place, other[pair, 1])
    return pair, one[pair, 0] + first, other[pair, 0] + second


def following(ring: np.ndarray) -> np.ndarray:
    """int64[m]: the row after each in its ring, the first after the last.

    Args:
        ring: int64[m], the ring of each row, in rising order.
    """
    last = np.flatnonzero(np.diff(ring, append=-1))
    rows = np.arange(1, len(ring) + 1)
    rows[last] = np.r_[0, last[:-1] + 1][: len(last)]
    return rows
