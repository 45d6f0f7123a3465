"""One polygon, one probability vector and one status for each group of detections.

- A group of one is returned as it is.
- Where a tile sees the whole group, its detection stands for the building; of several such tiles the
  one that the others agree with most, of two the more confident, then the one in whose window
  the building lies deepest.
- Where none does, the building is put together: every point belongs to the tile, among the group's
  tiles that see it, whose centre is nearest (by column, then by row), and that tile's detection decides.
"""

from __future__ import annotations

import numpy as np
import shapely

from pipeline.polygons import cut_away, fill_holes, largest_parts, polygonal
from pipeline.seams.agreement import Links
from pipeline.seams.joining import pairs_within
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
from pipeline.seams.strips import clearances, inner_sides

_PRECISION_PX = 2.0**-10  # grid on which pieces are united, so that their common edges meet


def fuse(
    detections: Detections, groups: np.ndarray, links: Links, edges: np.ndarray, rules: MergeRules
) -> Buildings:
    """One building per group.

    Args:
        detections: in canonical order.
        groups: int64[n], equal numbers are one building.
        links: pairs that agree, between these detections.
        edges: float64[t, 4], x1, y1, x2, y2 of each window in image pixels.
        rules: the knobs.
    """
    count = len(detections)
    links = links.take(groups[links.first] == groups[links.second])
    support = np.bincount(links.first, links.agreement, minlength=count)
    support = support + np.bincount(links.second, links.agreement, minlength=count)
    order = np.argsort(groups, kind="stable")
    links_group = groups[links.first]
    detections, support, groups = detections.take(order), support[order], groups[order]
    starts = np.flatnonzero(np.r_[True, np.diff(groups) != 0][:count])
    links_group = np.searchsorted(groups[starts], links_group)
    groups = np.repeat(np.arange(len(starts)), np.diff(np.r_[starts, count]))
    areas = shapely.area(detections.polygons)

    depth = _depth(detections, groups, starts, edges)
    whole = depth > rules.edge_px
    confidence = detections.probabilities.max(axis=1, initial=0.0)
    best = _best(groups, whole, support, confidence, depth, areas)
    most = _best(groups, areas, depth)
    alone = np.diff(np.r_[starts, count]) == 1
    codes = np.where(
        alone, np.where(whole[best], SINGLE, FRAGMENT), np.where(whole[best], DUPLICATE, STITCHED)
    )
    polygons = detections.polygons[best]
    stitched = np.flatnonzero(codes == STITCHED)
    polygons[stitched] = _stitch(detections, groups, stitched, edges, rules)
    tile_pairs = np.unique(groups * len(edges) + detections.tiles)
    return Buildings(
        polygons=polygons,
        probabilities=_probabilities(
            detections.probabilities, areas, groups, links.agreement, links_group, alone, rules
        ),
        statuses=STATUSES[codes],
        tile_counts=np.bincount(tile_pairs // max(len(edges), 1), minlength=len(starts)).astype(np.int64),
        tiles=detections.tiles[np.where(whole[best], best, most)],
    )


def _depth(detections: Detections, groups: np.ndarray, starts: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """How far inside each detection's window its whole group lies in pixels, but for the image's edge."""
    if not len(groups):
        return np.empty(0)
    bounds, windows = shapely.bounds(detections.polygons), edges[detections.tiles]
    low = np.minimum.reduceat(bounds[:, :2], starts)[groups]
    high = np.maximum.reduceat(bounds[:, 2:], starts)[groups]
    return clearances(np.hstack([low, high]), windows, inner_sides(edges)[detections.tiles]).min(axis=1)


def _best(groups: np.ndarray, *keys: np.ndarray) -> np.ndarray:
    """The row of each group with the largest keys, the first key deciding, the first row on a tie."""
    order = np.lexsort((*(-key.astype(float) for key in reversed(keys)), groups))
    return order[np.r_[True, np.diff(groups[order]) > 0]] if len(groups) else order


def _probabilities(
    probabilities, areas, groups, agreement, links_group, alone, rules: MergeRules
) -> np.ndarray:
    """Each group's class probabilities: the mean weighted by area, its sum raised by agreement.

    With s the mean's sum and a the mean agreement of the group's links, the sum becomes
    1 - (1 - s) ** (1 + agreement_gain * a), and the classes keep their proportions.
    """
    count = len(alone)
    weight = np.bincount(groups, areas, minlength=count)
    mean = np.empty((count, probabilities.shape[1]))
    for column in range(probabilities.shape[1]):
        mean[:, column] = np.bincount(groups, areas * probabilities[:, column], minlength=count) / weight
    number = np.bincount(links_group, minlength=count)
    agreement = np.bincount(links_group, agreement, minlength=count) / np.maximum(number, 1)
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
    whole = detections.polygons[member]
    united = _unite(_best_seen(whole, owner, edges[detections.tiles[member]]), owner)
    torn = np.flatnonzero(shapely.get_num_geometries(united) > 1)
    again = np.isin(owner, torn)  # a detection that ends early leaves a gap which others cover
    united[torn] = _close_gaps(_unite(whole[again], np.searchsorted(torn, owner[again])), rules.gap_px)
    united = fill_holes(largest_parts(united), rules.min_hole_px2)
    fallback = np.flatnonzero(shapely.is_missing(united) | ~shapely.is_valid(united))
    for index in fallback:  # nothing solid is left of the pieces: keep the largest detection
        parts = detections.polygons[groups == stitched[index]]
        united[index] = parts[np.argmax(shapely.area(parts))]
    return united


def _unite(pieces: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """The union of each owner's pieces; `owner` counts from 0 without gaps."""
    gathered = shapely.geometrycollections(pieces, indices=owner)
    return shapely.union_all(gathered[:, None], axis=1, grid_size=_PRECISION_PX)


def _best_seen(pieces: np.ndarray, owner: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """The part of each piece that no rival of the same owner sees better; `owner` is sorted."""
    one, other = pairs_within(owner)
    taken = _better_seen(windows[one], windows[other])
    kept = shapely.bounds(pieces).reshape(-1, 4)
    bounds = kept.copy()
    # What a rival takes from side to side leaves a rectangle; only corners have to be cut out.
    for axis in (0, 1):
        along = 1 - axis
        whole = (taken[:, along] <= bounds[one, along]) & (taken[:, along + 2] >= bounds[one, along + 2])
        after = whole & (taken[:, axis + 2] >= bounds[one, axis + 2])
        before = whole & (taken[:, axis] <= bounds[one, axis])
        np.minimum.at(kept[:, axis + 2], one[after], taken[after, axis])
        np.maximum.at(kept[:, axis], one[before], taken[before, axis + 2])
    corner = ((taken[:, :2] < kept[one, 2:]) & (taken[:, 2:] > kept[one, :2])).all(axis=1)
    trimmed = np.flatnonzero((kept != bounds).any(axis=1))
    kept[:, 2:] = np.maximum(kept[:, :2], kept[:, 2:])
    pieces = pieces.copy()
    pieces[trimmed] = polygonal(shapely.intersection(pieces[trimmed], shapely.box(*kept[trimmed].T)))
    return cut_away(pieces, one[corner], shapely.box(*taken[corner].T))


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
    """The geometries in several parts with gaps of up to `gap_px` between them closed."""
    torn = np.flatnonzero(shapely.get_num_geometries(geometries) > 1)
    wider = shapely.buffer(geometries[torn], gap_px / 2, join_style="mitre")
    geometries[torn] = shapely.buffer(wider, -gap_px / 2, join_style="mitre")
    return geometries
