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
from pipeline.seams.areas import areas_inside
from pipeline.seams.records import MergeRules, Records
from pipeline.seams.strips import Strips, common_strips, half_cells, seen_across

MOST = 0.5
"""Share of a detection above which a counterpart has most of it: no two apart from each other can."""
_ALIKE = 0.9  # share of two views that must lie within half a cell of each other
_BATCH = 20_000  # pairs whose intersections are in memory at once
_TOUCH_PX = 0.01  # rounding by which a polygon may leave its window


@dataclass(frozen=True, eq=False)
class Links(Records):
    """Pairs of detections that have something in common in their strip; `first` < `second` (int64).

    Attributes:
        agreement: float64[p], |A∩B| / |A∪B|.
        first_share: float64[p], |A∩B| / |A|; 0 where the windows hardly overlap.
        second_share: float64[p], |A∩B| / |B|; likewise.
    """

    first: np.ndarray
    second: np.ndarray
    agreement: np.ndarray
    first_share: np.ndarray
    second_share: np.ndarray

    def __len__(self) -> int:
        return len(self.first)

    def numbered(self, first: np.ndarray, second: np.ndarray) -> Links:
        """The same links between detections of other numbers."""
        return Links(first, second, self.agreement, self.first_share, self.second_share)

    def between(self, rows: np.ndarray) -> Links:
        """The links between the detections of `rows` (bool[n]), numbered among those, in lexical order."""
        number = np.cumsum(rows) - 1
        inside = self.take(rows[self.first] & rows[self.second])
        inside = inside.take(np.lexsort((inside.second, inside.first)))
        return inside.numbered(number[inside.first], number[inside.second])


def no_links() -> Links:
    """Links without a pair."""
    return Links(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), np.empty(0), np.empty(0))


def overlapping(polygons: np.ndarray, start: int, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of rows i < j >= start whose bounds, widened by `reach`, overlap, in lexical order.

    Args:
        polygons: object[n].
        start: only pairs with at least one row from here on are returned.
        reach: distance by which one of the two is widened.
    """
    fresh = polygons[start:]
    if reach:
        fresh = shapely.box(*(shapely.bounds(fresh) + np.array([-reach, -reach, reach, reach])).T)
    one, other = shapely.STRtree(polygons).query(fresh)
    one += start
    once = (other < start) | (other < one)
    first, second = np.minimum(one, other)[once], np.maximum(one, other)[once]
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
    """All pairs of detections of different tiles that agree, or of which one holds most of the other.

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
    first, second = overlapping(polygons, start, rules.gap_px)
    apart = tiles[first] != tiles[second]
    first, second = first[apart], second[apart]
    strips = common_strips(edges, tiles[first], tiles[second], rules)
    low = np.maximum(bounds[first, :2], bounds[second, :2])
    high = np.minimum(bounds[first, 2:], bounds[second, 2:])
    plausible = _common_area(low, high, strips) >= rules.min_support_px2
    thin = np.flatnonzero(strips.seam >= 0)
    within = _within(bounds, edges[tiles])
    plausible[thin] = within[first[thin]] & within[second[thin]]
    plausible[thin] &= (strips.high[thin] > strips.low[thin]).all(axis=1)
    plausible[thin] &= ~seen_across(edges, strips.take(thin), low[thin], high[thin], rules)
    first, second, strips = first[plausible], second[plausible], strips.take(plausible)
    links = _compare(polygons, first, second, strips, rules)
    _allow_for_cells(links, polygons, bounds, strips, rules)
    shared = (links.agreement >= rules.min_agreement) | (
        np.maximum(links.first_share, links.second_share) > MOST
    )
    return links.take(shared)


def _common_area(low: np.ndarray, high: np.ndarray, strips: Strips) -> np.ndarray:
    """Area of rectangles inside their strips: of what two bounds have in common, all possible support."""
    size = np.minimum(high, strips.high) - np.maximum(low, strips.low)
    return np.prod(np.clip(size, 0, None), axis=1)


def _within(bounds: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """Whether detections end at their window: what reaches beyond a seam was stitched there before."""
    beyond = np.hstack([windows[:, :2] - bounds[:, :2], bounds[:, 2:] - windows[:, 2:]])
    return beyond.max(axis=1) <= _TOUCH_PX


def _compare(
    polygons: np.ndarray, first: np.ndarray, second: np.ndarray, strips: Strips, rules: MergeRules
) -> Links:
    """A link for every pair; nothing in it where there is not enough support."""
    links = Links(first, second, *np.zeros((3, len(first))))
    wide = np.flatnonzero(strips.seam < 0)
    one, other, shared, torn = areas_inside(
        polygons, first[wide], second[wide], strips.low[wide], strips.high[wide]
    )
    enough = shared >= rules.min_support_px2
    links.first_share[wide] = _share(shared, one, enough)
    links.second_share[wide] = _share(shared, other, enough)
    torn = np.flatnonzero(torn & enough)
    rows = wide[torn]
    one[torn], other[torn] = _touched_areas(polygons[first[rows]], polygons[second[rows]], strips.take(rows))
    links.agreement[wide] = _share(shared, one + other - shared, enough)
    thin = np.flatnonzero(strips.seam >= 0)
    links.agreement[thin] = _agreement_across(
        polygons[first[thin]], polygons[second[thin]], strips.take(thin), rules
    )
    return links


def _share(part: np.ndarray, whole: np.ndarray, enough: np.ndarray) -> np.ndarray:
    return np.where(enough, part / np.where(whole > 0, whole, 1), 0)


def _touched_areas(one: np.ndarray, other: np.ndarray, strips: Strips) -> np.ndarray:
    """Area inside the strip of those connected parts of each polygon that its counterpart touches.

    A courtyard house cut by a tile's edge is two arms there, and each arm's counterpart beyond the
    edge is a detection of its own: each must be compared with its own arm.
    """
    area = np.zeros((2, len(one)))
    for begin in range(0, len(one), _BATCH):
        batch = slice(begin, begin + _BATCH)
        sides = [_clipped(side[batch], strips.take(batch)) for side in (one, other)]
        area[:, batch] = _touched(*sides), _touched(*sides[::-1])
    return area


def _touched(geometries: np.ndarray, others: np.ndarray) -> np.ndarray:
    parts, owner = shapely.get_parts(geometries, return_index=True)
    touched = shapely.area(parts) * shapely.intersects(parts, others[owner])
    return np.bincount(owner, touched, minlength=len(geometries))


def _clipped(polygons: np.ndarray, strips: Strips) -> np.ndarray:
    """The parts of the polygons inside their rectangles."""
    return polygonal(shapely.intersection(polygons, shapely.box(*strips.low.T, *strips.high.T)))


def _allow_for_cells(
    links: Links, polygons: np.ndarray, bounds: np.ndarray, strips: Strips, rules: MergeRules
) -> None:
    """Let pairs agree, barely, of which one shows no more than the other but what masks cannot tell.

    A mask is no finer than half a cell of its grid, so what little of a hall reaches into a strip may be
    several times larger in one tile's view than in another's.
    """
    held = np.maximum(links.first_share, links.second_share) > MOST
    rows = np.flatnonzero(held & (links.agreement < rules.min_agreement))
    one, other = links.first[rows], links.second[rows]
    reach = np.maximum(half_cells(bounds[one]), half_cells(bounds[other])).max(axis=1)
    sides = [_clipped(polygons[side], strips.take(rows)) for side in (one, other)]
    # Clipping may leave a ring that touches itself by rounding, on which GEOS intersects nothing.
    sides = [polygonal(shapely.make_valid(side)) for side in sides]
    around = [shapely.make_valid(shapely.buffer(side, reach, join_style="mitre")) for side in sides]
    near = [
        shapely.area(shapely.intersection(side, rival))
        for side, rival in zip(sides, around[::-1], strict=True)
    ]
    alike = sum(near) >= _ALIKE * shapely.area(sides).sum(axis=0)
    links.agreement[rows[alike]] = rules.min_agreement


def _agreement_across(one: np.ndarray, other: np.ndarray, strips: Strips, rules: MergeRules) -> np.ndarray:
    """The agreement of pieces on either side of a seam: that of their shadows, less the further apart."""
    agreement = np.zeros(len(one))
    for begin in range(0, len(one), _BATCH):
        batch = slice(begin, begin + _BATCH)
        strip = strips.take(batch)
        here, there = (_clipped(side[batch], strip) for side in (one, other))
        nearness = 1 - np.minimum(_distance_across(here, there, strip.seam) / rules.gap_px, 1)
        likeness = np.maximum(
            _agreement_of_shadows(here, there, strip, rules),
            _agreement_of_shadows(*_equally_deep(here, there, strip, rules), strip, rules),
        )
        agreement[batch] = nearness * likeness
    return agreement


def _agreement_of_shadows(
    one: np.ndarray, other: np.ndarray, strips: Strips, rules: MergeRules
) -> np.ndarray:
    shadows = [_shadows(side, strips) for side in (one, other)]
    shared = shapely.area(shapely.intersection(*shadows))
    united = _touched(*shadows) + _touched(*shadows[::-1]) - shared
    return _share(shared, united, shared >= rules.min_support_px2)


def _equally_deep(
    one: np.ndarray, other: np.ndarray, strips: Strips, rules: MergeRules
) -> tuple[np.ndarray, np.ndarray]:
    """The parts without what lies further from the seam than the shallower one goes, or masks are trusted.

    A wall that crosses the seam askew lengthens a shadow with depth: of a corner that just reaches over the
    seam, the rest of its building would show far more.
    """
    axis = np.arange(len(strips.seam)), strips.seam
    bounds, rival = shapely.bounds(one).reshape(-1, 4), shapely.bounds(other).reshape(-1, 4)
    depth = np.fmin(*((side[:, 2:] - side[:, :2])[axis] for side in (bounds, rival)))
    reach = np.fmax(depth, rules.margin_px) + _distance_across(one, other, strips.seam)

    def level(side: np.ndarray, beside: np.ndarray) -> np.ndarray:
        low, high = strips.low.copy(), strips.high.copy()
        low[axis] = np.fmax(low[axis], beside[:, :2][axis] - reach)
        high[axis] = np.fmin(high[axis], beside[:, 2:][axis] + reach)
        return _clipped(side, Strips(low, high, strips.seam))

    return level(one, rival), level(other, bounds)


def _distance_across(one: np.ndarray, other: np.ndarray, seam: np.ndarray) -> np.ndarray:
    """Distance of two parts across their seam in pixels: of two candidates the nearer one goes on."""
    bounds, rival = shapely.bounds(one).reshape(-1, 4), shapely.bounds(other).reshape(-1, 4)
    gap = np.maximum(bounds[:, :2], rival[:, :2]) - np.minimum(bounds[:, 2:], rival[:, 2:])
    return np.nan_to_num(np.clip(gap[np.arange(len(seam)), seam], 0, None))


def _shadows(parts: np.ndarray, strips: Strips) -> np.ndarray:
    """Each connected part widened to the whole band across its seam, its extent along it kept."""
    pieces, owner = shapely.get_parts(parts, return_index=True)
    bounds = shapely.bounds(pieces).reshape(-1, 4)
    across = np.arange(2) == strips.seam[owner, None]
    corner = np.where(across, strips.low[owner], bounds[:, :2])
    opposite = np.where(across, strips.high[owner], bounds[:, 2:])
    shadows = np.full(len(parts), shapely.Polygon(), dtype=object)
    solid = shapely.area(pieces) > 0
    if solid.any():
        boxes = shapely.box(*corner[solid].T, *opposite[solid].T)
        held, index = np.unique(owner[solid], return_inverse=True)
        shadows[held] = shapely.union_all(shapely.multipolygons(boxes, indices=index)[:, None], axis=1)
    return shadows
