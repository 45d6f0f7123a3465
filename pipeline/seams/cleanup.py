"""What buildings still cover twice goes to the stronger one.

Every point belongs to the strongest surviving building that covers it. A building loses what
stronger ones cover of it, with the slivers that are left, and is dropped when that is most of it.
Stronger means: not a fragment, then the larger probability, then the larger area. Glimpses are dropped
before they can cut anything: cut pieces that are wholly inside the untrusted margin of their tile, or
shallow, at a place that another tile sees well, for that tile would have seen more of the same building.
"""

from __future__ import annotations

import numpy as np
import shapely

from pipeline.polygons import cut_away, largest_parts, without_slivers
from pipeline.seams.agreement import overlapping
from pipeline.seams.areas import areas_inside
from pipeline.seams.records import FRAGMENT, STATUSES, STITCHED, Buildings, MergeRules, no_buildings
from pipeline.seams.strips import clearances, inner_sides, trusted_bounds

_SHALLOW = 0.5
"""Depth across the side that cuts it, as a share of its length along it, below which a piece is shallow."""
_ROUNDING_PX = 1.0  # by which stitching moves coordinates at most
_SLIVER_PX = 2.0  # thinner than any wall: what cutting leaves along the outline that it follows
_OPEN, _STANDING, _GONE = range(3)


class CleanUp:
    """A sweep from top to bottom over buildings that arrive in groups.

    It holds only what later arrivals can still touch, so its memory is that of the open seam.

    Args:
        edges: float64[t, 4], x1, y1, x2, y2 of each window in image pixels.
        rules: the knobs.
    """

    def __init__(self, edges: np.ndarray, rules: MergeRules):
        self._rules = rules
        self._edges, self._inner = edges, inner_sides(edges)
        self._trusted = trusted_bounds(edges, rules.sliver_px)
        self._tree = shapely.STRtree(shapely.box(*self._trusted.T))
        self._held = no_buildings()
        self._bounds, self._areas = np.empty((0, 4)), np.empty(0)
        self._rank = np.empty(0, np.int64)  # each building's place from the strongest to the weakest
        self._state = np.empty(0, np.int8)
        self._sent = np.empty(0, bool)
        # The polygons as they will be sent; `_held` keeps what they were before, to cut others by.
        self._cut = np.empty(0, dtype=object)
        self._pairs = np.empty((0, 2), np.int64)  # weaker, stronger

    def push(self, buildings: Buildings, horizon: float) -> Buildings:
        """The buildings that are settled, in order of their top edges.

        Args:
            buildings: new ones, in any order.
            horizon: y in image pixels above which nothing more will arrive; no later building
                has a point above it.
        """
        self._add(buildings)
        self._settle(horizon)
        return self._send(horizon)

    def _glimpses(self, polygons: np.ndarray, tiles: np.ndarray, statuses: np.ndarray) -> np.ndarray:
        """bool[n]: cut pieces of which another tile, which sees their place well, must have seen more."""
        bounds, own, windows = (
            shapely.bounds(polygons).reshape(-1, 4),
            self._trusted[tiles],
            self._edges[tiles],
        )
        slivers = (bounds[:, 2:] <= own[:, :2]).any(axis=1) | (bounds[:, :2] >= own[:, 2:]).any(axis=1)
        size = bounds[:, 2:] - bounds[:, :2]
        cut = clearances(bounds, windows, self._inner[tiles]) <= self._rules.edge_px
        shallow = (cut & np.tile(size < _SHALLOW * size[:, ::-1], 2)).any(axis=1)
        # What reaches beyond its window was put together from several: its cut is elsewhere.
        beyond = np.hstack([windows[:, :2] - bounds[:, :2], bounds[:, 2:] - windows[:, 2:]]).max(axis=1)
        partial = (statuses == STATUSES[FRAGMENT]) | (statuses == STATUSES[STITCHED])
        rows = np.flatnonzero((slivers | (shallow & (beyond <= _ROUNDING_PX))) & partial)
        seen, by = self._tree.query(shapely.box(*bounds[rows].T), predicate="covered_by")
        glimpses = np.zeros(len(tiles), bool)
        glimpses[rows[seen[by != tiles[rows[seen]]]]] = True
        return glimpses

    def _add(self, buildings: Buildings) -> None:
        buildings = buildings.take(~self._glimpses(buildings.polygons, buildings.tiles, buildings.statuses))
        start = len(self._state)
        self._held = Buildings.concatenate([self._held, buildings])
        self._bounds = np.concatenate([self._bounds, shapely.bounds(buildings.polygons).reshape(-1, 4)])
        self._areas = np.concatenate([self._areas, shapely.area(buildings.polygons)])
        self._state = np.concatenate([self._state, np.full(len(buildings), _OPEN, np.int8)])
        self._sent = np.concatenate([self._sent, np.zeros(len(buildings), bool)])
        self._cut = np.concatenate([self._cut, buildings.polygons])
        self._rank = self._ranked()
        if len(buildings):
            self._pairs = np.concatenate([self._pairs, self._overlaps(start)])

    def _overlaps(self, start: int) -> np.ndarray:
        """Pairs (weaker, stronger) that overlap, at least one of each from row `start` on."""
        first, second = overlapping(self._held.polygons, start, 0.0)
        one, other = self._bounds[first], self._bounds[second]
        low, high = np.maximum(one[:, :2], other[:, :2]), np.minimum(one[:, 2:], other[:, 2:])
        least = self._rules.min_overlap_px2
        possible = np.prod(np.clip(high - low, 0, None), axis=1) >= least
        first, second, low, high = first[possible], second[possible], low[possible], high[possible]
        shared = areas_inside(self._held.polygons, first, second, low, high).shared >= least
        first, second = first[shared], second[shared]
        swap = self._rank[first] < self._rank[second]
        return np.column_stack([np.where(swap, second, first), np.where(swap, first, second)])

    def _ranked(self) -> np.ndarray:
        """int64[n]: the places of the buildings, by what they are and not by when they came."""
        held = self._held
        fragment = held.statuses == STATUSES[FRAGMENT]
        strength = held.probabilities.max(axis=1, initial=0.0)
        order = np.lexsort((held.tiles, *self._bounds.T, -self._areas, -strength, fragment))
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        return rank

    def _settle(self, horizon: float) -> None:
        """Decide every building above the horizon whose stronger neighbours are decided, in rounds."""
        closed = self._bounds[:, 3] < horizon
        if len(self._pairs):
            self._pairs = self._pairs[np.lexsort((self._rank[self._pairs[:, 1]], self._pairs[:, 0]))]
        weaker, stronger = self._pairs.T
        while True:
            waits = np.zeros(len(self._state), bool)
            waits[weaker[self._state[stronger] == _OPEN]] = True
            ready = closed & (self._state == _OPEN) & ~waits
            if not ready.any():
                return
            self._state[ready] = _STANDING
            self._cut_back(self._pairs[ready[weaker] & (self._state[stronger] == _STANDING)])

    def _cut_back(self, pairs: np.ndarray) -> None:
        """Take from the weaker of each pair what the stronger covers; drop what is mostly covered.

        Args:
            pairs: int64[p, 2], weaker and stronger rows, sorted by weaker, then by falling strength.
        """
        if not len(pairs):
            return
        weaker, stronger = pairs.T
        touched, row = np.unique(weaker, return_inverse=True)
        rest = largest_parts(cut_away(self._held.polygons[touched], row, self._held.polygons[stronger]))
        left = np.nan_to_num(shapely.area(rest)) / self._areas[touched]
        gone = (left <= 1 - self._rules.clean_up_ios) | ~shapely.is_valid(rest)
        gone |= self._glimpses(rest, self._held.tiles[touched], self._held.statuses[touched])
        self._state[touched[gone]] = _GONE
        self._cut[touched[~gone]] = without_slivers(rest[~gone], _SLIVER_PX)

    def _send(self, horizon: float) -> Buildings:
        """Settled buildings above everything unsettled; what nothing needs any more is forgotten."""
        if not len(self._state):
            return self._held
        tops = shapely.bounds(self._cut).reshape(-1, 4)[:, 1]
        waiting = self._state == _OPEN
        limit = min(horizon, self._bounds[waiting, 1].min(initial=np.inf))
        leaving = (self._state == _STANDING) & ~self._sent & (tops < limit)
        sent = self._held.take(leaving)
        polygons = self._cut[leaving]
        self._sent |= leaving

        needed = waiting | ((self._state == _STANDING) & ~self._sent)
        weaker, stronger = self._pairs.T
        needed[stronger[waiting[weaker] & (self._state[stronger] == _STANDING)]] = True
        self._forget(~needed)
        bounds = shapely.bounds(polygons).reshape(-1, 4)
        strength = sent.probabilities.max(axis=1, initial=0.0)
        order = np.lexsort((sent.tiles, -strength, shapely.area(polygons), *bounds[:, [2, 3, 0, 1]].T))
        sent = sent.take(order)
        return Buildings(polygons[order], sent.probabilities, sent.statuses, sent.tile_counts, sent.tiles)

    def _forget(self, rows: np.ndarray) -> None:
        keep = ~rows
        index = np.cumsum(keep) - 1
        self._held, self._cut = self._held.take(keep), self._cut[keep]
        self._bounds, self._areas = self._bounds[keep], self._areas[keep]
        self._state, self._sent = self._state[keep], self._sent[keep]
        self._pairs = index[self._pairs[keep[self._pairs].all(axis=1)]]
