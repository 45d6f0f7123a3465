"""Merging, at once or row by row of tiles: the same sweep from top to bottom.

Two stages follow each other. `_Seam` holds detections until nothing later can link to them and
lets go whole groups as buildings; `CleanUp` holds buildings until nothing later can overlap them.
Each tells the next how far down it is finished. `merge` is the sweep with one step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import shapely

from pipeline.seams.agreement import Links, find_links, no_links
from pipeline.seams.cleanup import CleanUp
from pipeline.seams.fusion import fuse
from pipeline.seams.joining import components, join
from pipeline.seams.records import Buildings, Detections, MergeRules, no_detections
from pipeline.seams.strips import window_edges
from pipeline.seams.welds import part_blobs


def merge(detections: Detections, windows: np.ndarray, rules: MergeRules | None = None) -> Buildings:
    """The buildings that overlapping tiles saw, each once.

    Args:
        detections: of all tiles, in any order.
        windows: int64[t, 4], col_off, row_off, width, height of each tile in image pixels, of any sizes.
        rules: the knobs.

    Returns:
        Buildings, ordered by top, then left edge. No two overlap by more than `min_overlap_px2`;
        merging them again changes nothing.
    """
    rules = rules or MergeRules()
    edges = window_edges(windows)
    seam, clean_up = _Seam(edges, rules), CleanUp(edges, rules)
    return clean_up.push(*seam.push(detections, np.inf))


def merge_stream(
    batches: Iterable[Detections], windows: np.ndarray, rules: MergeRules | None = None
) -> Iterator[Buildings]:
    """The buildings of `merge`, in the same order and bytes, as soon as no later tile can change them.

    Args:
        batches: detections by rows of tiles from top to bottom; a batch may hold a part of a row,
            one row or several. Every polygon lies inside its window to within `gap_px`.
        windows: int64[t, 4], col_off, row_off, width, height of each tile in image pixels, of any sizes.
        rules: the knobs.

    Yields:
        Buildings, possibly none, each batch below the one before.

    Raises:
        ValueError: when a tile lies above an earlier one or a polygon above its window.
    """
    rules = rules or MergeRules()
    edges = window_edges(windows)
    seam, clean_up = _Seam(edges, rules), CleanUp(edges, rules)
    for rows, horizon in _whole_rows(batches, edges):
        yield clean_up.push(*seam.push(rows, horizon))


def _whole_rows(batches: Iterable[Detections], edges: np.ndarray) -> Iterator[tuple[Detections, float]]:
    """Whole rows of tiles with the top of the next one below them."""
    held: list[Detections] = []
    lowest = -np.inf
    for batch in batches:
        if not len(batch):
            continue
        tops = edges[batch.tiles, 1]
        if tops.min() < lowest:
            raise ValueError(f"a tile with top {tops.min():g} came after one with top {lowest:g}")
        if held and tops.min() > lowest:
            yield Detections.concatenate(held), float(tops.min())
            held = []
        held.append(batch)
        lowest = float(tops.max())
    if held:
        yield Detections.concatenate(held), np.inf


class _Seam:
    """Detections that later tiles may still link to, and their links."""

    def __init__(self, edges: np.ndarray, rules: MergeRules):
        self._edges, self._rules = edges, rules
        self._held = no_detections()
        self._bounds = np.empty((0, 4))
        self._links: Links = no_links()
        self._horizon = -np.inf

    def push(self, detections: Detections, next_top: float) -> tuple[Buildings, float]:
        """The buildings that nothing below `next_top` can reach, and the y above which none will follow."""
        rules = self._rules
        detections = detections.in_order(self._edges)
        bounds = shapely.bounds(detections.polygons).reshape(-1, 4)
        if bounds[:, 1].min(initial=np.inf) < self._horizon:
            raise ValueError(f"a polygon reaches above its window, to y = {bounds[:, 1].min():g}")
        start = len(self._bounds)
        self._held = Detections.concatenate([self._held, detections])
        self._bounds = np.concatenate([self._bounds, bounds])
        found = find_links(self._held.polygons, self._bounds, self._held.tiles, self._edges, start, rules)
        self._links = Links.concatenate([self._links, found])
        self._horizon = next_top - rules.gap_px

        labels = components(len(self._held), self._links)
        reachable = np.zeros(labels.max(initial=-1) + 1, bool)
        reachable[labels[self._bounds[:, 3] >= self._horizon]] = True
        closed = ~reachable[labels]
        buildings = self._build(self._held.take(closed), self._links.between(closed), labels[closed])
        self._links = self._links.between(~closed)
        self._held, self._bounds = self._held.take(~closed), self._bounds[~closed]
        # One pixel to spare: stitching rounds coordinates.
        return buildings, min(self._horizon, self._bounds[:, 1].min(initial=np.inf)) - 1

    def _build(self, detections: Detections, links: Links, labels: np.ndarray) -> Buildings:
        """The buildings of whole components of the links."""
        edges, rules = self._edges, self._rules
        detections, links = part_blobs(detections, links, labels, edges, rules)
        links = links.take(links.agreement >= rules.min_agreement)
        groups = join(detections.polygons, detections.tiles, links, edges, rules)
        return fuse(detections, groups, links, edges, rules)
