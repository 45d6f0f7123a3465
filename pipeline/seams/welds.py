"""Blobs: detections that another tile saw as several buildings, and how they are parted.

Networks draw neighbours that touch as one blob, now in this tile, now in that. Where another tile saw
the same place as several detections that touch, one of the two tiles is wrong; the blob's is, unless
more tiles saw one thing than saw several, or those that saw several hardly believe in them. A blob is cut
along the straight lines that part those detections best, carried on through what only its own tile saw; its
parts are then detections like others.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import shapely

from pipeline.polygons import cut_away, largest_parts
from pipeline.seams.agreement import MOST, Links, find_links
from pipeline.seams.joining import pairs_within
from pipeline.seams.records import Detections, MergeRules

_ROUNDS = 4  # what one tile's view parts, another's may part further
_BAND = 0.1  # share of the smaller one that masks a little off may have in common with a neighbour


class _Splits(NamedTuple):
    """Pairs of detections of one tile that lie in one detection of another, sorted by blob and pair."""

    blob: np.ndarray
    one: np.ndarray
    other: np.ndarray

    def take(self, index: np.ndarray) -> _Splits:
        return _Splits(*(column[index] for column in self))


def part_blobs(
    detections: Detections, links: Links, labels: np.ndarray, edges: np.ndarray, rules: MergeRules
) -> tuple[Detections, Links]:
    """The detections with the parts of blobs in the blobs' places, and the links between them all.

    Args:
        detections: in canonical order.
        links: all between these, in lexical order.
        labels: int64[n], the connected components of the links.
        edges: float64[t, 4], x1, y1, x2, y2 of each window in image pixels.
        rules: the knobs.
    """
    for _ in range(_ROUNDS):
        splits = _believed(_find_splits(detections, links, rules), detections.probabilities, rules)
        splits = _outvoted(splits, detections.tiles)
        if not len(splits.blob):
            break
        blob, parts = _part(detections.polygons, detections.tiles, splits, rules)
        whole = np.ones(len(detections), bool)
        whole[splits.blob] = False
        source = np.r_[np.flatnonzero(whole), blob]
        order = np.argsort(source, kind="stable")
        polygons, source = np.concatenate([detections.polygons[whole], parts])[order], source[order]
        detections = Detections(polygons, detections.probabilities[source], detections.tiles[source])
        changed = np.isin(labels, labels[splits.blob])
        links = _linked_anew(detections, source, links, labels, changed, edges, rules)
        labels = labels[source]
    return detections, links


def _find_splits(detections: Detections, links: Links, rules: MergeRules) -> _Splits:
    """Neighbours in one tile that together are most of one detection of another tile."""
    polygons, tiles = detections.polygons, detections.tiles
    held = _held(links, tiles)
    # Only where a tile saw several things in one detection is there anything to look into.
    several = np.bincount(_sides(held, tiles))[_sides(held, tiles)] > 1
    held = tuple(column[several] for column in held)
    blob, piece, agreement, cover = held
    shared = shapely.area(shapely.intersection(polygons[blob], polygons[piece]))
    smaller = np.minimum(*shapely.area([polygons[blob], polygons[piece]]))
    blob, piece, agreement, cover = (column[shared > _BAND * smaller] for column in held)

    side = _sides((blob, piece), tiles)
    i, j = pairs_within(side)
    pair = (i < j) & (np.bincount(side, cover)[side[i]] > MOST)
    pair &= np.minimum(agreement[i], agreement[j]) <= MOST  # or they are the arms of a courtyard house
    one, other = polygons[piece[i[pair]]], polygons[piece[j[pair]]]
    beside = shapely.dwithin(one, other, 2 * rules.margin_px)
    shared = shapely.area(shapely.intersection(one, other))
    beside &= shared < (1 - MOST) * np.minimum(shapely.area(one), shapely.area(other))
    i, j = i[pair][beside], j[pair][beside]
    return _Splits(blob[i], piece[i], piece[j])


def _believed(splits: _Splits, probabilities: np.ndarray, rules: MergeRules) -> _Splits:
    """The splits whose pieces their tile is about as sure of as the blob's tile of that.

    Of a building that its edge cuts, a tile may draw fragments that it hardly believes in.
    """
    sure = probabilities.max(axis=1)
    weaker = np.minimum(sure[splits.one], sure[splits.other])
    return splits.take(weaker >= rules.parting_score * sure[splits.blob])


def _sides(held: tuple[np.ndarray, ...], tiles: np.ndarray) -> np.ndarray:
    """int64[h]: the number of each pair of holder and tile of the held, from 0."""
    holder, piece = held[:2]
    return np.cumsum(np.r_[0, (np.diff(holder) != 0) | (np.diff(tiles[piece]) != 0)])[: len(holder)]


def _held(links: Links, tiles: np.ndarray) -> tuple[np.ndarray, ...]:
    """Detections most of which lies in one of another tile, and in none that agrees with them better.

    Returns:
        The holders (int64[h]), the held (int64[h]), their agreement and the share of the holder that
        is held (float64[h]); by holder, then by the tile of the held.
    """
    holder, held = np.r_[links.first, links.second], np.r_[links.second, links.first]
    agreement = np.r_[links.agreement, links.agreement]
    cover, share = np.r_[links.first_share, links.second_share], np.r_[links.second_share, links.first_share]
    rivals = np.lexsort((holder, -agreement, tiles[holder], held))
    best = np.r_[True, (np.diff(held[rivals]) != 0) | (np.diff(tiles[holder[rivals]]) != 0)][: len(held)]
    rows = rivals[best]
    rows = rows[share[rows] > MOST]
    rows = rows[np.lexsort((held[rows], tiles[held[rows]], holder[rows]))]
    return holder[rows], held[rows], agreement[rows], cover[rows]


def _outvoted(splits: _Splits, tiles: np.ndarray) -> _Splits:
    """The splits of the blobs for which at least as many tiles saw several things as saw one."""
    blob, one, other = splits
    _, pair = np.unique(np.stack([one, other], axis=1), axis=0, return_inverse=True)
    several = _distinct(blob, tiles[one])
    single = _distinct(pair.ravel(), tiles[blob])
    return splits.take(several >= single)


def _distinct(group: np.ndarray, value: np.ndarray) -> np.ndarray:
    """How many different values each row's group holds, int64[n]."""
    rows = np.unique(np.stack([group, value], axis=1), axis=0)
    return np.bincount(rows[:, 0])[group] if len(group) else group


def _part(
    polygons: np.ndarray, tiles: np.ndarray, splits: _Splits, rules: MergeRules
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of the blobs, one for each part, and the parts; a blob's rows are together."""
    # Of several tiles that saw a blob apart, the one that saw most parts decides, then the first.
    members = np.concatenate([np.stack([splits.blob, side], axis=1) for side in splits[1:]])
    blob, piece = np.unique(members, axis=0).T
    rows = np.stack([blob, tiles[piece]], axis=1)
    _, first, side, count = np.unique(
        rows, axis=0, return_index=True, return_inverse=True, return_counts=True
    )
    side = side.ravel()
    order = np.lexsort((piece[first], -count, blob[first]))
    chosen = order[np.r_[True, np.diff(blob[first][order]) != 0]]
    kept = np.isin(side, chosen)
    blob, piece = blob[kept], piece[kept]

    i, j = pairs_within(blob)
    forward = np.flatnonzero(i < j)
    backward = np.flatnonzero(i > j)
    backward = backward[np.lexsort((i[backward], j[backward]))]
    lines = np.empty((len(i), 3))
    lines[forward] = _parting_lines(polygons[piece[i[forward]]], polygons[piece[j[forward]]])
    lines[backward] = -lines[forward]
    parts = largest_parts(cut_away(polygons[blob], i, _beyond(lines, polygons[blob[i]])))
    solid = shapely.area(parts) >= rules.min_support_px2
    return blob[solid], parts[solid]


def _parting_lines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Lines n·x = d with `one` on the side of smaller and `other` on that of larger n·x: rows nx, ny, d.

    Where a line parts two convex shapes, one along an edge of theirs does (the separating axis
    theorem); that of the widest gap or smallest overlap is taken, and set amid the two.
    """
    hulls = [shapely.orient_polygons(shapely.convex_hull(side)) for side in (one, other)]
    lines = np.empty((len(one), 3))
    for row, (a, b) in enumerate(zip(*hulls, strict=True)):
        ours, theirs = shapely.get_coordinates(a), shapely.get_coordinates(b)
        normals = np.concatenate([_outward(ours), -_outward(theirs)])
        end, begin = (normals @ ours.T).max(axis=1), (normals @ theirs.T).min(axis=1)
        best = np.argmax(begin - end)
        lines[row] = *normals[best], (begin + end)[best] / 2
    return lines


def _outward(ring: np.ndarray) -> np.ndarray:
    """Unit normals of the edges of a ring (float64[n + 1, 2], counterclockwise) as float64[n, 2]."""
    step = np.diff(ring, axis=0)
    return np.stack([step[:, 1], -step[:, 0]], axis=1) / np.hypot(*step.T)[:, None]


def _beyond(lines: np.ndarray, polygons: np.ndarray) -> np.ndarray:
    """What lies beyond each line, as far as a polygon can reach: object[n] of quadrangles."""
    bounds = shapely.bounds(polygons).reshape(-1, 4)
    centre, reach = (bounds[:, :2] + bounds[:, 2:]) / 2, np.ptp(bounds, axis=1)[:, None]
    normal, along = lines[:, :2], np.stack([-lines[:, 1], lines[:, 0]], axis=1)
    foot = centre + normal * (lines[:, 2:] - (normal * centre).sum(axis=1, keepdims=True))
    corners = [foot - along * reach, foot + along * reach]
    return shapely.polygons(np.stack([*corners, *(c + normal * reach for c in corners[::-1])], axis=1))


def _linked_anew(
    parted: Detections,
    source: np.ndarray,
    links: Links,
    labels: np.ndarray,
    changed: np.ndarray,
    edges: np.ndarray,
    rules: MergeRules,
) -> Links:
    """The links between the parted detections: new ones in the components of blobs, else the old ones.

    Args:
        parted: blobs replaced by their parts.
        source: int64[m], what each was before, ascending.
        links: between what they were before.
        labels: int64[n], components of what they were before.
        changed: bool[n], what they were before and what belongs to a component of a blob.
        edges: float64[t, 4], x1, y1, x2, y2 of each window in image pixels.
        rules: the knobs.
    """
    kept = links.take(~changed[links.first])
    kept = kept.numbered(np.searchsorted(source, kept.first), np.searchsorted(source, kept.second))
    rows = np.flatnonzero(changed[source])
    polygons = parted.polygons[rows]
    found = find_links(polygons, shapely.bounds(polygons), parted.tiles[rows], edges, 0, rules)
    found = found.numbered(rows[found.first], rows[found.second])
    # Components must not meet here: which of them are at hand depends on how the stream is cut.
    found = found.take(labels[source[found.first]] == labels[source[found.second]])
    both = Links.concatenate([kept, found])
    return both.take(np.lexsort((both.second, both.first)))
