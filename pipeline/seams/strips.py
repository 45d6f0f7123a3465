"""What windows see: where each is to be trusted, and what two of them see together.

Edges are float64[t, 4] throughout: x1, y1, x2, y2 of each window in image pixels. Windows may be of any
sizes and lie in any way to each other.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import shapely

from pipeline.seams.records import MergeRules


class Strips(NamedTuple):
    """The rectangles in which pairs of windows are compared, empty (high = low) where nothing is shared."""

    low: np.ndarray
    """float64[p, 2], the corner of smallest x and y in image pixels."""
    high: np.ndarray
    """float64[p, 2], the opposite corner."""
    seam: np.ndarray
    """int64[p], -1 for a common strip; where the windows hardly overlap the axis (0 = x) across
    their seam, and the rectangle is a band around it."""

    def take(self, index: np.ndarray | slice) -> Strips:
        """The rows that `index` (bool[p], int64[m] or a slice) selects."""
        return Strips(self.low[index], self.high[index], self.seam[index])


def window_edges(windows: np.ndarray) -> np.ndarray:
    """float64[t, 4]: the edges of windows given as int64[t, 4] of col_off, row_off, width, height."""
    windows = np.asarray(windows, dtype=np.float64).reshape(-1, 4)
    return np.hstack([windows[:, :2], windows[:, :2] + windows[:, 2:]])


def inner_sides(edges: np.ndarray) -> np.ndarray:
    """bool[t, 4]: which sides of the windows hide what lies beyond: all but those at the image's edge."""
    return np.hstack([
        edges[:, :2] > edges[:, :2].min(axis=0, initial=np.inf),
        edges[:, 2:] < edges[:, 2:].max(axis=0, initial=-np.inf),
    ])  # fmt: skip


def trusted_bounds(edges: np.ndarray, margin_px: float) -> np.ndarray:
    """float64[t, 4]: the windows without a margin along inner sides, of a quarter of a window at most."""
    margin = np.minimum(margin_px, (edges[:, 2:] - edges[:, :2]) / 4)
    return edges + inner_sides(edges) * np.hstack([margin, -margin])


def common_strips(edges: np.ndarray, one: np.ndarray, other: np.ndarray, rules: MergeRules) -> Strips:
    """What pairs of windows, rows `one` and `other` of `edges`, see together and may be trusted with.

    Where they overlap by less than two margins nothing would be left: there it is what they share and
    `gap_px` to either side of the seam.
    """
    whole_low, whole_high = _common(edges, one, other)
    thin = whole_high - whole_low <= 2 * rules.margin_px
    seam = np.where(thin.any(axis=1), np.argmax(thin, axis=1), -1)
    low, high = _common(trusted_bounds(edges, rules.margin_px), one, other)
    band, across = (seam >= 0)[:, None], np.arange(2) == seam[:, None]
    low = np.where(band, whole_low - rules.gap_px * across, low)
    high = np.where(band, whole_high + rules.gap_px * across, high)
    nothing = thin.all(axis=1) | (whole_high < whole_low).any(axis=1)  # a corner at most
    high[nothing] = low[nothing]
    return Strips(low, np.maximum(low, high), seam)


def clearances(bounds: np.ndarray, windows: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """float64[n, 4]: by how much boxes end before each side of their windows; inf where it hides nothing.

    Half a cell is left to a mask of 28 x 28 cells over its box: the larger a detection, the sooner its
    outline ends before the side that cuts it.

    Args:
        bounds: float64[n, 4], x1, y1, x2, y2 of the boxes in image pixels.
        windows: float64[n, 4], likewise of their windows.
        inner: bool[n, 4], the sides of the windows that hide what lies beyond.
    """
    before = np.hstack([bounds[:, :2] - windows[:, :2], windows[:, 2:] - bounds[:, 2:]])
    return np.where(inner, before - np.tile(half_cells(bounds), 2), np.inf)


def half_cells(bounds: np.ndarray) -> np.ndarray:
    """float64[n, 2]: half a cell of a mask of 28 x 28 cells over each box, its width and height in pixels."""
    return (bounds[:, 2:] - bounds[:, :2]) / 56


def seen_across(
    edges: np.ndarray, strips: Strips, low: np.ndarray, high: np.ndarray, rules: MergeRules
) -> np.ndarray:
    """bool[p]: whether some window may be trusted with a part of a seam, and so decides what meets there.

    Args:
        edges: of all windows.
        strips: bands around seams.
        low: float64[p, 2], where the part begins; the coordinate along the seam counts.
        high: float64[p, 2], where it ends.
        rules: the knobs.
    """
    across = np.arange(2) == strips.seam[:, None]
    low = np.where(across, strips.low + rules.gap_px, low)
    high = np.maximum(low, np.where(across, strips.high - rules.gap_px, high))
    seen = np.zeros(len(low), bool)
    if len(low):
        trusted = trusted_bounds(edges, rules.margin_px)
        near = (trusted[:, :2] <= high.max(axis=0)) & (trusted[:, 2:] >= low.min(axis=0))
        tree = shapely.STRtree(shapely.box(*trusted[near.all(axis=1)].T))
        seen[tree.query(shapely.box(*low.T, *high.T), predicate="covered_by")[0]] = True
    return seen


def _common(bounds: np.ndarray, one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Low and high corners of what two rows of bounds share; high < low where that is nothing."""
    return np.maximum(bounds[one, :2], bounds[other, :2]), np.minimum(bounds[one, 2:], bounds[other, 2:])
