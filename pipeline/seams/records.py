"""The knobs of merging, what goes in and what comes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import shapely

from models.ranges import Amount, PositiveShare, Share
from pipeline.rules import Rules

STATUSES = np.array(["single", "duplicate", "stitched", "fragment"], dtype=object)
"""schema.MergeStatus by the codes that this package computes with."""
SINGLE, DUPLICATE, STITCHED, FRAGMENT = range(4)


@dataclass(frozen=True)
class MergeRules(Rules):
    """How detections of overlapping tiles become buildings."""

    min_agreement: PositiveShare = 0.3
    """Share |A∩B| / |A∪B| in the common strip from which detections may be one building."""
    margin_px: Amount = 4.0
    """Width in pixels of the margin along a window's edge where masks are unreliable; a shared area below its
    square is no evidence either."""
    edge_px: Amount = 8.0
    """Distance in pixels from a window's edge within which a building counts as cut by it."""
    gap_px: Amount = 6.0
    """Between tiles without overlap: depth in pixels compared on either side, and widest gap to close."""
    coincident_iou: PositiveShare = 0.8
    """IoU from which two detections of one tile count as the same one."""
    parting_score: Share = 0.7
    """Share of a detection's probability that two of another tile inside it must both reach to part it."""
    agreement_gain: Share = 0.5
    """How much tiles that agree raise a building's probability: 0 not at all, 1 like independent evidence."""
    clean_up_ios: PositiveShare = 0.7
    """Share of a building covered by stronger buildings from which it is dropped."""
    min_overlap_px2: Amount = 1.0
    """Area in square pixels from which an overlap is clipped from the weaker building."""

    @property
    def min_support_px2(self) -> float:
        """Area |A∩B| in square pixels below which agreement says nothing."""
        return self.margin_px**2

    @property
    def sliver_px(self) -> float:
        """Width in pixels along a window's edge; cut pieces inside it are left to better placed tiles."""
        return 4 * self.margin_px

    @property
    def min_hole_px2(self) -> float:
        """Area in square pixels below which a hole left by stitching is filled."""
        return (2 * self.margin_px) ** 2


@dataclass(frozen=True, eq=False)
class Records:
    """Arrays of equal length, one row per polygon."""

    def __len__(self) -> int:
        return len(self.polygons)  # type: ignore[attr-defined]

    def take(self, index: np.ndarray) -> Self:
        """The rows that `index` (bool[n] or int64[m]) selects."""
        return type(self)(*(getattr(self, field.name)[index] for field in fields(self)))

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """All rows of all parts in their order; `parts` holds at least one."""
        filled = [part for part in parts if len(part)] or parts[-1:]
        if len(filled) == 1:
            return filled[0]
        return cls(*(np.concatenate([getattr(part, field.name) for part in filled]) for field in fields(cls)))


@dataclass(frozen=True, eq=False)
class Detections(Records):
    """What the tiles saw.

    Attributes:
        polygons: object[n] of valid, non-empty shapely Polygons in image pixels. Repairing
            invalid ones is the caller's duty (`masks_to_polygons` returns only valid ones).
        probabilities: float64[n, k] in [0, 1] by category, each row's sum at most 1.
        tiles: int64[n], row of `windows` that the detection was made in.
    """

    polygons: np.ndarray
    probabilities: np.ndarray
    tiles: np.ndarray

    def in_order(self, edges: np.ndarray) -> Self:
        """The same by tile (row, column) and content, whatever order they came in.

        Args:
            edges: float64[t, 4], x1, y1, x2, y2 of each window in image pixels.
        """
        corner, bounds = edges[self.tiles, :2], shapely.bounds(self.polygons).reshape(-1, 4)
        content = [bounds, shapely.area(self.polygons), self.probabilities]
        keys = np.column_stack([corner[:, 1], corner[:, 0], self.tiles, *content])
        order = np.lexsort(keys.T[::-1])
        tied = np.flatnonzero((keys[order][1:] == keys[order][:-1]).all(axis=1))
        if len(tied):  # as rare as mirror images: let the coordinates decide
            rows = order[np.union1d(tied, tied + 1)]
            outlines = shapely.to_wkb(self.polygons[rows], output_dimension=2)
            rank = np.zeros(len(order), dtype=np.int64)
            rank[rows] = np.unique(outlines, return_inverse=True)[1]
            order = np.lexsort((rank, *keys.T[::-1]))
        return self.take(order)


@dataclass(frozen=True, eq=False)
class Buildings(Records):
    """What stands there, ordered by top, then left edge.

    Attributes:
        polygons: object[m] of valid shapely Polygons in image pixels.
        probabilities: float64[m, k] in [0, 1] by category, each row's sum at most 1.
        statuses: object[m] of schema.MergeStatus.
        tile_counts: int64[m], number of tiles that saw it.
        tiles: int64[m], the tile that saw most of it.
    """

    polygons: np.ndarray
    probabilities: np.ndarray
    statuses: np.ndarray
    tile_counts: np.ndarray
    tiles: np.ndarray


def no_detections() -> Detections:
    """Detections without a row, of no category yet."""
    return Detections(np.empty(0, object), np.empty((0, 0)), np.empty(0, np.int64))


def no_buildings() -> Buildings:
    """Buildings without a row, of no category yet."""
    empty = np.empty(0, np.int64)
    return Buildings(np.empty(0, object), np.empty((0, 0)), np.empty(0, object), empty, empty)
