"""One polygon, one probability vector and one status for each group of detections.

- A group of one is returned as it is.
- Where a tile sees the whole group, its detection stands for the building; of several such tiles
  the most confident, then the one in whose window the building lies deepest.
- Where none does, the building is put together: every point belongs to the tile, among the group's
  tiles that see it, whose centre is nearest (by column, then by row), and that tile's detection decides.
"""

from __future__ import annotations

import numpy as np
import shapely

from pipeline.polygons import fill_holes, largest_parts
from pipeline.seams.agreement import Links, image_frame
from pipeline.seams.records import (
    DUPLICATE,
    FRAGMENT,
    SINGLE,
    STATUSES,
    STITCHED,
    Buildings,
    Detections,
    MergeRules,
)

_PRECISION_PX = 2.0**-10  # grid on which pieces are united, so that their common edges meet


def fuse(
    detections: Detections,
    bounds: np.ndarray,
    groups: np.ndarray,
    links: Links,
    edges: np.ndarray,
    rules: MergeRules,
) -> Buildings:
    """One building per group.

    Args:
        detections: in canonical order.
        bounds: float64[n, 4], the polygons' bounds.
        groups: int64[n], equal numbers are one building.
        links: pairs that agree, between these detections.
        edges: float64[t, 4], x1, y1, x2, y2 of each window in image pixels.
        rules: the knobs.
    """
    _, groups = np.unique(groups, return_inverse=True)
    order = np.argsort(groups, kind="stable")
    links_group = np.where(groups[links.first] == groups[links.second], groups[links.first], -1)
    detections, bounds, groups = detections.take(order), bounds[order], groups[order]
    starts = np.flatnonzero(np.r_[True, groups[1:] != groups[:-1]]) if len(groups) else np.empty(0, np.int64)
    areas = shapely.area(detections.polygons)

    depth = _depth(bounds, groups, starts, edges[detections.tiles], image_frame(edges))
    whole = depth > rules.edge_px
    confidence = detections.probabilities.max(axis=1, initial=0.0)
    best = _best(groups, whole, confidence, depth, areas)
    most = _best(groups, areas, depth)
    tile_pairs = np.unique(np.column_stack([groups, detections.tiles]), axis=0)
    tile_counts = np.bincount(tile_pairs[:, 0], minlength=len(starts)).astype(np.int64)
    alone = np.diff(np.r_[starts, len(groups)]) == 1

    codes = np.where(
        alone, np.where(whole[best], SINGLE, FRAGMENT), np.where(whole[best], DUPLICATE, STITCHED)
    )
    polygons = detections.polygons[best]
    stitched = np.flatnonzero(codes == STITCHED)
    polygons[stitched] = _stitch(detections, groups, stitched, edges, rules)
    return Buildings(
        polygons=polygons,
        probabilities=_probabilities(
            detections.probabilities, areas, groups, links, links_group, alone, rules
        ),
        statuses=STATUSES[codes],
        tile_counts=tile_counts,
        tiles=detections.tiles[np.where(whole[best], best, most)],
    )


def _depth(bounds, groups, starts, windows, frame) -> np.ndarray:
    """How far inside each detection's window its whole group lies in pixels, but for the image's edge."""
    if not len(groups):
        return np.empty(0)
    low = np.minimum.reduceat(bounds[:, :2], starts)[groups]
    high = np.maximum.reduceat(bounds[:, 2:], starts)[groups]
    inner = np.hstack([windows[:, :2] > frame[:2], windows[:, 2:] < frame[2:]])
    margin = np.hstack([low - windows[:, :2], windows[:, 2:] - high])
    return np.where(inner, margin, np.inf).min(axis=1)


def _best(groups: np.ndarray, *keys: np.ndarray) -> np.ndarray:
    """The row of each group with the largest keys, the first key deciding, the first row on a tie."""
    order = np.lexsort((*(-key.astype(float) for key in reversed(keys)), groups))
    return order[np.r_[True, np.diff(groups[order]) > 0]] if len(groups) else order


def _probabilities(probabilities, areas, groups, links, links_group, alone, rules: MergeRules) -> np.ndarray:
    """Each group's class probabilities: the mean weighted by area, its sum raised by agreement.

    With s the mean's sum and a the mean agreement of the group's links, the sum becomes
    1 - (1 - s) ** (1 + agreement_gain * a), and the classes keep their proportions.
    """
    count = len(alone)
    weight = np.bincount(groups, areas, minlength=count)
    mean = np.empty((count, probabilities.shape[1]))
    for column in range(probabilities.shape[1]):
        mean[:, column] = np.bincount(groups, areas * probabilities[:, column], minlength=count) / weight
    inside = links_group >= 0
    number = np.bincount(links_group[inside], minlength=count)
    agreement = np.bincount(links_group[inside], links.agreement[inside], minlength=count) / np.maximum(
        number, 1
    )
    total = np.minimum(mean.sum(axis=1), 1.0)
    raised = 1 - (1 - total) ** (1 + rules.agreement_gain * agreement)
    mean *= (raised / np.where(total > 0, total, 1))[:, None]
    mean[alone] = probabilities[np.flatnonzero(alone[groups])]
    return mean


def _stitch(detections: Detections, groups, stitched, edges, rules: MergeRules) -> np.ndarray:
    """The polygons of the groups in `stitched`, put together from what each tile sees best."""
    if not len(stitched):
        return np.empty(0, dtype=object)
    member = np.flatnonzero(np.isin(groups, stitched))
    owner = np.searchsorted(stitched, groups[member])
    windows = edges[detections.tiles[member]]
    pieces = detections.polygons[member].copy()
    one, other = _pairs_within(owner)
    taken = _better_seen(windows[one], windows[other])
    clip = (taken[:, 2:] > taken[:, :2]).all(axis=1)
    one, taken = one[clip], shapely.box(*taken[clip].T)
    # A piece loses the rectangles of its rivals one by one, all pieces at once.
    turn = np.arange(len(one)) - np.searchsorted(one, one)
    for step in range(turn.max(initial=-1) + 1):
        now = turn == step
        pieces[one[now]] = shapely.difference(pieces[one[now]], taken[now])
    gathered = shapely.geometrycollections(pieces, indices=owner)
    united = shapely.union_all(gathered[:, None], axis=1, grid_size=_PRECISION_PX)
    torn = np.flatnonzero(shapely.get_num_geometries(united) > 1)
    united[torn] = _close_gaps(united[torn], rules.gap_px)
    united = fill_holes(largest_parts(united), rules.min_hole_px2)
    fallback = np.flatnonzero(shapely.is_missing(united) | ~shapely.is_valid(united))
    for index in fallback:  # nothing solid is left of the pieces: keep the largest detection
        parts = detections.polygons[groups == stitched[index]]
        united[index] = parts[np.argmax(shapely.area(parts))]
    return united


def _pairs_within(owner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All ordered pairs of different rows of one owner, in order; `owner` is sorted."""
    start, stop = np.searchsorted(owner, owner, "left"), np.searchsorted(owner, owner, "right")
    count = stop - start
    one = np.repeat(np.arange(len(owner)), count)
    other = np.arange(len(one)) - np.repeat(np.cumsum(count) - count, count) + start[one]
    return one[one != other], other[one != other]


def _better_seen(window: np.ndarray, rival: np.ndarray) -> np.ndarray:
    """The part of `rival` whose points lie nearer to its centre: float64[p, 4], low = high for none.

    Nearer by column first, by row within one column: an order of all windows at every point, so
    that no point is left to nobody.
    """
    taken = rival.copy()
    middle = (window + rival) / 2
    centre, rival_centre = (window[:, :2] + window[:, 2:]) / 2, (rival[:, :2] + rival[:, 2:]) / 2
    split = (middle[:, :2] + middle[:, 2:]) / 2
    away = rival_centre - centre
    by_row = away[:, 0] == 0
    for axis, here in ((0, ~by_row), (1, by_row)):
        after, before = here & (away[:, axis] > 0), here & (away[:, axis] < 0)
        taken[after, axis] = np.maximum(taken[after, axis], split[after, axis])
        taken[before, axis + 2] = np.minimum(taken[before, axis + 2], split[before, axis])
    taken[(away == 0).all(axis=1)] = 0
    return taken


def _close_gaps(geometries: np.ndarray, gap_px: float) -> np.ndarray:
    """The geometries with gaps of up to `gap_px` between their parts closed."""
    return shapely.buffer(
        shapely.buffer(geometries, gap_px / 2, join_style="mitre"), -gap_px / 2, join_style="mitre"
    )
