"""Regularising, at once or batch by batch: the same sweep from top to bottom.

Three stages follow each other. A building gets its own shape first. Buildings whose walls run side by
side wait until their whole block is there, and take one direction and common walls. Shapes that
touch another building wait for all they touch, and step back where they overlap. Each stage tells
the next how far down it is finished.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import shapely

from pipeline.regularize.acceptance import acceptable
from pipeline.regularize.clearing import clear, near_pairs, touching
from pipeline.regularize.grouping import components
from pipeline.regularize.rules import BUILDING, REACH_PX, RIGHT_ANGLES, STATUSES, UNTOUCHED, RegularizeRules
from pipeline.regularize.shapes import aligned_shapes, regular_shapes
from pipeline.regularize.sides import facing_sides, share_walls, sides_of

_BATCH = 1024  # buildings whose shapes are sought at once


def regularize(polygons: np.ndarray, rules: RegularizeRules | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Regular shapes for outlines, where they fit.

    Args:
        polygons: object[n] of valid, non-empty shapely Polygons in image pixels that are about square on
            the ground, in any order, overlapping no more than merging leaves them.
        rules: the knobs.

    Returns:
        object[n] of valid Polygons in the order given, and object[n] of schema.RegularizeStatus. One whose
        status begins with raw is the polygon given; the others overlap no other polygon.
    """
    ((shapes, statuses),) = regularize_stream([polygons], rules)
    return shapes, statuses


def regularize_stream(
    batches: Iterable[np.ndarray], rules: RegularizeRules | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The shapes and statuses of `regularize`, in the same bytes, once no later outline can change them.

    Args:
        batches: object[n] of Polygon each, as `regularize` takes them; none has its top edge above one
            of an earlier batch, which is how `merge_stream` yields them.
        rules: the knobs.

    Yields:
        One result per batch, in order.

    Raises:
        ValueError: when a polygon lies above one of an earlier batch.
    """
    rules = rules or RegularizeRules()
    if rules.regularize == "none":
        for polygons in batches:
            yield polygons, np.full(len(polygons), STATUSES[UNTOUCHED], dtype=object)
        return
    sweep = _Sweep(rules)
    for polygons in batches:
        sweep.push(np.asarray(polygons, dtype=object))
        yield from sweep.settled()
    sweep.finish()
    yield from sweep.settled()


class _Sweep:
    """The stages, and the batches that are not settled yet."""

    def __init__(self, rules: RegularizeRules):
        self._rules = rules
        self._blocks = _Waiting(self._share_a_wall, rules.wall_px)
        self._neighbours = _Waiting(touching, rules.wall_px)
        self._new = np.empty(0, BUILDING)
        self._top = -np.inf
        self._sizes: deque[int] = deque()
        self._first = 0  # place of the oldest building held
        self._shapes, self._statuses = np.empty(0, object), np.empty(0, object)

    def push(self, polygons: np.ndarray) -> None:
        """Takes a batch."""
        tops = _tops(polygons)
        if tops.min(initial=np.inf) < self._top:
            raise ValueError(f"a polygon with top {tops.min():g} came after one with top {self._top:g}")
        self._top = tops.max(initial=self._top)
        buildings = np.empty(len(polygons), BUILDING)
        buildings["place"] = self._first + len(self._shapes) + np.arange(len(polygons))
        buildings["raw"] = polygons
        self._sizes.append(len(polygons))
        unknown = np.full(len(polygons), None, dtype=object)
        self._shapes = np.concatenate([self._shapes, unknown])
        self._statuses = np.concatenate([self._statuses, unknown])
        self._new = np.concatenate([self._new, buildings[np.argsort(tops, kind="stable")]])
        while len(self._new) >= _BATCH:
            self._work(_BATCH, _tops(self._new["raw"][_BATCH - 1 : _BATCH])[0])

    def finish(self) -> None:
        """Settles what is left, for nothing follows."""
        self._work(len(self._new), np.inf)

    def settled(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The leading batches without a building that waits."""
        while self._sizes and not shapely.is_missing(self._shapes[: self._sizes[0]]).any():
            size = self._sizes.popleft()
            yield self._shapes[:size], self._statuses[:size]
            self._shapes, self._statuses = self._shapes[size:], self._statuses[size:]
            self._first += size

    def _work(self, count: int, top: float) -> None:
        """Takes the `count` highest new buildings through the stages; none above `top` will follow."""
        buildings, self._new = self._new[:count], self._new[count:]
        buildings["shape"], buildings["status"] = regular_shapes(buildings["raw"], self._rules)
        blocks, pairs, top = self._blocks.push(buildings, top)
        self._align(blocks, pairs)
        settled, pairs, _ = self._neighbours.push(blocks, top)
        clear(settled, pairs, self._rules)
        place = settled["place"] - self._first
        self._shapes[place], self._statuses[place] = settled["shape"], STATUSES[settled["status"]]

    def _share_a_wall(self, buildings: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """bool[p]: pairs of buildings of right angles whose walls run side by side."""
        square = buildings["status"] == RIGHT_ANGLES
        rows = np.flatnonzero(square[one] & square[other])
        members, index = np.unique([one[rows], other[rows]], return_inverse=True)
        sides = sides_of(buildings["shape"][members])
        ours, theirs = index.reshape(2, -1)
        pair, _, _ = facing_sides(sides, len(members), ours, theirs, self._rules.wall_px)
        shared = np.zeros(len(one), bool)
        shared[rows[pair]] = True
        return shared

    def _align(self, buildings: np.ndarray, pairs: np.ndarray) -> None:
        """Gives each block one direction, and each pair of neighbours a common wall, where they fit."""
        rows, index = np.unique(pairs, return_inverse=True)
        one, other = index.reshape(-1, 2).T
        raw, shapes = buildings["raw"][rows], buildings["shape"][rows]
        aligned = aligned_shapes(raw, components(len(rows), one, other), self._rules)
        broken = ~shapely.is_valid(aligned)
        aligned[broken] = shapes[broken]
        for regular in (aligned, share_walls(aligned, one, other, self._rules.wall_px)):
            fits = acceptable(regular, raw, self._rules)
            shapes[fits] = regular[fits]
        buildings["shape"][rows] = shapes


class _Waiting:
    """Buildings that later ones may still be tied to.

    Args:
        tied: which of given pairs of buildings have to be settled together, bool[p].
        gap_px: how far apart two of them may be.
    """

    def __init__(self, tied: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray], gap_px: float):
        self._tied, self._gap = tied, gap_px
        self._held = np.empty(0, BUILDING)
        self._pairs = np.empty((0, 2), np.int64)

    def push(self, buildings: np.ndarray, top: float) -> tuple[np.ndarray, np.ndarray, float]:
        """The buildings that no later one can be tied to.

        Args:
            buildings: new ones.
            top: y in image pixels above which no later outline lies.

        Returns:
            The buildings, those that are tied in an order of their own; int64[p, 2], the tied pairs; and
            the y above which no outline of one that waits or comes later lies.
        """
        start = len(self._held)
        self._held = np.concatenate([self._held, buildings])
        one, other = near_pairs(self._held, start, self._gap)
        tied = self._tied(self._held, one, other)
        self._pairs = np.concatenate([self._pairs, np.column_stack([one, other])[tied]])
        bounds = shapely.bounds(self._held["raw"]).reshape(-1, 4)
        group = components(len(self._held), *self._pairs.T)
        within_reach = bounds[:, 3] >= top - 2 * REACH_PX - self._gap
        waits = np.isin(group, group[within_reach])
        leaving, pairs = self._take(np.flatnonzero(~waits))
        self._held, self._pairs = self._take(np.flatnonzero(waits))
        return *_in_own_order(leaving, pairs), min(top, bounds[waits, 1].min(initial=np.inf))

    def _take(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The buildings of `rows`, int64[m], and the pairs among them."""
        index = np.full(len(self._held), -1)
        index[rows] = np.arange(len(rows))
        pairs = index[self._pairs]
        return self._held[rows], pairs[(pairs >= 0).all(axis=1)]


def _in_own_order(buildings: np.ndarray, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Buildings and pairs of them, the tied ones sorted by what they are and not by when they came."""
    tied = np.unique(pairs)
    rank = np.zeros(len(buildings), np.int64)
    rank[tied] = np.unique(shapely.to_wkb(buildings["raw"][tied]), return_inverse=True)[1]
    order = np.argsort(rank, kind="stable")
    pairs = np.sort(np.argsort(order)[pairs], axis=1)
    return buildings[order], pairs[np.lexsort(pairs.T)]


def _tops(polygons: np.ndarray) -> np.ndarray:
    """float64[n]: y of the top edges."""
    return shapely.bounds(polygons).reshape(-1, 4)[:, 1]
