"""Which pairs of detections agree in the strip that both their tiles can see.

Inside the common strip of two windows a tile's edge hides nothing, so truncation does not matter:
|A∩B| / |A∪B| there says whether both saw the same building, for whole duplicates and cut pieces
alike. Where the windows hardly overlap, the pieces' shadows on the seam are compared instead, and
count for less the further apart the pieces are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely

from pipeline.polygons import polygonal
from pipeline.seams.records import MergeRules, Records

_BATCH = 20_000  # pairs whose intersections are in memory at once
_TOUCH_PX = 0.01  # rounding by which a polygon may leave its window


@dataclass(frozen=True, eq=False)
class Links(Records):
    """Pairs of detections that may be one building; `first` < `second` (int64), `agreement` (float64)."""

    first: np.ndarray
    second: np.ndarray
    agreement: np.ndarray

    def __len__(self) -> int:
        return len(self.first)


def no_links() -> Links:
    """Links without a pair."""
    return Links(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))


def image_frame(edges: np.ndarray) -> np.ndarray:
    """The bounds (x1, y1, x2, y2) of all windows, whose edges hide nothing.

    Args:
        edges: float64[t, 4], x1, y1, x2, y2 of each window in image pixels.
    """
    return np.r_[edges[:, :2].min(axis=0), edges[:, 2:].max(axis=0)] if len(edges) else np.zeros(4)


def trusted_bounds(edges: np.ndarray, margin_px: float) -> np.ndarray:
    """float64[t, 4]: the windows without `margin_px` along their edges, but for the image's own edge."""
    frame = image_frame(edges)
    inner = np.hstack([edges[:, :2] > frame[:2], edges[:, 2:] < frame[2:]])
    return edges + inner * margin_px * np.array([1, 1, -1, -1])


def overlapping(bounds: np.ndarray, start: int, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of rows i < j >= start whose bounds, widened by `reach`, overlap, in lexical order.

    Args:
        bounds: float64[n, 4], x1, y1, x2, y2.
        start: only pairs with at least one row from here on are returned.
        reach: distance by which one of the two is widened.
    """
    boxes = shapely.box(*bounds.T)
    wide = bounds[start:] + np.array([-reach, -reach, reach, reach])
    fresh, other = shapely.STRtree(boxes).query(shapely.box(*wide.T) if reach else boxes[start:])
    fresh += start
    once = (other < start) | (other < fresh)
    first, second = np.minimum(fresh, other)[once], np.maximum(fresh, other)[once]
    order = np.lexsort((second, first))
    return first[order], second[order]


def find_links(
    polygons: np.ndarray,
    bounds: np.ndarray,
    tiles: np.ndarray,
    edges: np.ndarray,
    start: int,
    rules: MergeRules,
) -> Links:
    """All pairs of detections of different tiles that agree enough, with enough support.

    Args:
        polygons: object[n], image pixels, in canonical order.
        bounds: float64[n, 4], the polygons' bounds.
        tiles: int64[n], rows of `edges`.
        edges: float64[t, 4], x1, y1, x2, y2 of each window in image pixels.
        start: only pairs with at least one detection from here on are compared.
        rules: the knobs.
    """
    if start >= len(polygons):
        return no_links()
    first, second = overlapping(bounds, start, rules.gap_px)
    apart = tiles[first] != tiles[second]
    first, second = first[apart], second[apart]
    low, high, seam = _strips(edges, tiles[first], tiles[second], rules)
    seen = (high - low).min(axis=1) > 0
    first, second, low, high, seam = first[seen], second[seen], low[seen], high[seen], seam[seen]

    inside = _within(bounds, edges[tiles])
    plausible = np.where(
        seam >= 0,
        inside[first] & inside[second],
        _shared_area(bounds[first], bounds[second], low, high) >= rules.min_support_px2,
    )
    first, second, low, high, seam = (a[plausible] for a in (first, second, low, high, seam))
    agreement = np.zeros(len(first))
    for begin in range(0, len(first), _BATCH):
        part = slice(begin, begin + _BATCH)
        agreement[part] = _agreement(
            polygons, bounds, first[part], second[part], low[part], high[part], seam[part], rules
        )
    strong = agreement >= rules.min_agreement
    return Links(first[strong], second[strong], agreement[strong])


def _strips(edges, one, other, rules: MergeRules) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The compared rectangle of each pair of windows as (low corner, high corner, seam).

    `seam` is -1 for a strip; where the windows overlap by less than two margins it is the axis
    across the seam (0 = x), and the rectangle is a band around it. Empty where nothing is shared.
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
    return low, high, seam


def _common(bounds: np.ndarray, one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Low and high corners of what two rows of bounds share; high < low where that is nothing."""
    return np.maximum(bounds[one, :2], bounds[other, :2]), np.minimum(bounds[one, 2:], bounds[other, 2:])


def _shared_area(one: np.ndarray, other: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Area that the two bounds have in common inside the strip: an upper bound of the support."""
    corner = np.maximum(np.maximum(one[:, :2], other[:, :2]), low)
    size = np.minimum(np.minimum(one[:, 2:], other[:, 2:]), high) - corner
    return np.prod(np.clip(size, 0, None), axis=1)


def _within(bounds: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """Whether detections end at their window: what reaches beyond a seam was stitched there before."""
    beyond = np.hstack([windows[:, :2] - bounds[:, :2], bounds[:, 2:] - windows[:, 2:]])
    return beyond.max(axis=1) <= _TOUCH_PX


def _agreement(polygons, bounds, first, second, low, high, seam, rules: MergeRules) -> np.ndarray:
    """The agreement |A∩B| / |A∪B| of each pair inside its strip; 0 without enough support."""
    one = _inside(polygons[first], bounds[first], low, high)
    other = _inside(polygons[second], bounds[second], low, high)
    thin = np.flatnonzero(seam >= 0)
    nearness = np.ones(len(one))
    nearness[thin] = 1 - np.minimum(_distance_across(one[thin], other[thin], seam[thin]) / rules.gap_px, 1)
    one[thin] = _shadows(one[thin], low[thin], high[thin], seam[thin])
    other[thin] = _shadows(other[thin], low[thin], high[thin], seam[thin])
    shared = shapely.area(shapely.intersection(one, other))
    united = _touched_area(one, other) + _touched_area(other, one) - shared
    agreement = nearness * shared / np.where(united > 0, united, 1)
    return np.where(shared >= rules.min_support_px2, agreement, 0.0)


def _inside(polygons: np.ndarray, bounds: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The parts of the polygons inside their rectangles; those wholly inside as they are."""
    parts = polygons.copy()
    out = np.flatnonzero((bounds[:, :2] < low).any(axis=1) | (bounds[:, 2:] > high).any(axis=1))
    parts[out] = polygonal(shapely.intersection(polygons[out], shapely.box(*low[out].T, *high[out].T)))
    return parts


def _touched_area(geometries: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Area of those connected parts of each geometry that its counterpart touches.

    A courtyard house cut by a tile's edge is two arms there, and each arm's counterpart beyond the
    edge is a detection of its own: each must be compared with its own arm.
    """
    area = shapely.area(geometries)
    several = np.flatnonzero(shapely.get_num_geometries(geometries) > 1)
    if len(several):
        parts, owner = shapely.get_parts(geometries[several], return_index=True)
        touched = shapely.intersects(parts, others[several][owner])
        area[several] = np.bincount(owner, shapely.area(parts) * touched, minlength=len(several))
    return area


def _distance_across(one: np.ndarray, other: np.ndarray, seam: np.ndarray) -> np.ndarray:
    """Distance of two parts across their seam in pixels: of two candidates the nearer one goes on."""
    bounds, rival = shapely.bounds(one).reshape(-1, 4), shapely.bounds(other).reshape(-1, 4)
    gap = np.maximum(bounds[:, :2], rival[:, :2]) - np.minimum(bounds[:, 2:], rival[:, 2:])
    return np.nan_to_num(np.clip(gap[np.arange(len(seam)), seam], 0, None))


def _shadows(parts: np.ndarray, low: np.ndarray, high: np.ndarray, seam: np.ndarray) -> np.ndarray:
    """Each connected part widened to the whole band across its seam, its extent along it kept."""
    if not len(parts):
        return parts
    pieces, owner = shapely.get_parts(parts, return_index=True)
    bounds = shapely.bounds(pieces)
    across = np.arange(2) == seam[owner, None]
    corner = np.where(across, low[owner], bounds[:, :2])
    opposite = np.where(across, high[owner], bounds[:, 2:])
    boxes = shapely.box(*corner.T, *opposite.T)
    shadows = np.full(len(parts), shapely.Polygon(), dtype=object)
    solid = shapely.area(pieces) > 0
    if solid.any():
        held, index = np.unique(owner[solid], return_inverse=True)
        shadows[held] = shapely.union_all(shapely.multipolygons(boxes[solid], indices=index)[:, None], axis=1)
    return shadows
