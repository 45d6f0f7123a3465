"""What the seams cost: the metric near them beside the metric away from them, duplicates and splits.

A *seam* is the centre line of the strip that two neighbouring tiles share, for there the map passes
from one tile to the next. The *zone* is the ground within half an overlap of a seam: the shared strip
itself, whatever its width, at least 8 pixels to either side where tiles hardly overlap. Edges that face
no other tile, of the image and of its valid ground, are no seams.

A polygon is in the zone when it meets it. What stays in the interior was seen by one tile alone, and
wholly, so that no seam can have touched it: that is the measure the zone is held against. Large
buildings meet the zone more often, which a representative point would avoid, at the price of calling
halls that three tiles cut interior, and of an empty zone where tiles only touch. Tiles that overlap by
more than half leave no interior but along the image's edges.

Where the same tile saw most of two buildings that share a truth, it found two by itself: such duplicates and
splits are no seam's doing, wherever they lie, and do not count per km.

Nothing is matched anew. A matched pair goes where its truth lies, a building without a truth and a
truth without a building where they lie themselves, so the two sides add up to the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import shapely
from pydantic import Field

from pipeline.evaluate import Counts, Matches
from pipeline.matching import overlapping_pairs, valid_polygons
from pipeline.polygons import polygonal
from pipeline.schema import Artifact, Window

MIN_REACH_PX = 8.0
"""Least distance from a seam to the zone's edge: the halves of a cut building end so near to the cut."""
SPLIT_SHARE = 0.2
"""Share of a truth that a second building must add for the truth to count as split."""
FLIPPED = [1, 0, 3, 2]
"""Columns of a box or a window with x and y exchanged."""


class SeamSide(Artifact):
    """All buildings, whatever their category, on one side of the comparison."""

    counts: Counts
    duplicates: int
    """False positives that lie on a truth another building took, and add little to it."""
    splits: int
    """Truths of which two or more buildings hold a part of their own each."""
    duplicates_of_one_tile: int = 0
    """Those of `duplicates` that the same tile found beside another; 0 where nobody knows the tiles."""
    splits_of_one_tile: int = 0
    """Those of `splits` that no other tile had a part in; 0 where nobody knows the tiles."""

    @property
    def duplicates_between_tiles(self) -> int:
        """Duplicates that one tile alone would not have brought."""
        return self.duplicates - self.duplicates_of_one_tile

    @property
    def splits_between_tiles(self) -> int:
        """Splits that one tile alone would not have brought."""
        return self.splits - self.splits_of_one_tile


class SeamScore(Artifact):
    """The metric near the seams and away from them; without seams everything is interior."""

    seam_km: float = Field(ge=0)
    """Length on the ground, of the part on labelled ground where that is given."""
    zone: SeamSide
    """Within half an overlap of a seam."""
    interior: SeamSide
    """Seen by one tile alone."""
    duplicates_per_km: float | None
    """Duplicates in the zone per km of seam, without those of one tile; None without seams."""
    splits_per_km: float | None
    """Split truths in the zone per km of seam, without those of one tile; None without seams."""

    @property
    def sentence(self) -> str:
        """What the seams cost beside F1."""
        if self.duplicates_per_km is None or self.splits_per_km is None:
            return "No two tiles meet on the ground that counts: it has no seams."
        zone = self.zone
        of_one_tile = (
            f" A further {zone.duplicates_of_one_tile:,} duplicates and {zone.splits_of_one_tile:,} splits "
            "near them were made by single tiles."
        )
        return (
            f"{self.seam_km:,.2f} km of seams: {zone.duplicates_between_tiles:,} duplicates "
            f"({self.duplicates_per_km:.2f} per km), {zone.splits_between_tiles:,} split buildings "
            f"({self.splits_per_km:.2f} per km)."
            f"{of_one_tile if zone.duplicates_of_one_tile or zone.splits_of_one_tile else ''}"
        )


class Seams(NamedTuple):
    """The strips that each two neighbouring tiles share, float64[s, 4] of x1, y1, x2, y2 in image pixels.

    A strip is as wide as its two tiles overlap, so 0 where they only touch.
    """

    upright: np.ndarray
    """Between tiles side by side."""
    level: np.ndarray
    """Between a tile and the one below it."""

    @property
    def lines(self) -> np.ndarray:
        """The seams, object[l] of LineString in image pixels, no two of them on the same ground."""
        x, y1, y2 = _centre_lines(self.upright).T
        y, x1, x2 = _centre_lines(self.level[:, FLIPPED]).T
        ends = np.concatenate([np.stack([x, y1, x, y2], axis=1), np.stack([x1, y, x2, y], axis=1)])
        return shapely.linestrings(ends.reshape(-1, 2, 2))

    @property
    def zone(self) -> np.ndarray:
        """The ground near the seams, object[s] of rectangles in image pixels."""
        wide = [_at_least(self.upright, 0), _at_least(self.level, 1)]
        return shapely.box(*np.concatenate(wide).T)

    def near(self, polygons_px) -> np.ndarray:
        """Which polygons meet the zone, bool[n]; what is None or empty does not."""
        polygons = np.array(polygons_px, dtype=object)
        near = np.zeros(len(polygons), dtype=bool)
        near[shapely.STRtree(polygons).query(self.zone, predicate="intersects")[1]] = True
        return near

    def length_km(
        self, ground_m_per_px: tuple[float, float], judged_px: shapely.Geometry | None = None
    ) -> float:
        """Length of the seams on the ground.

        Args:
            ground_m_per_px: ground metres of a pixel's width and height.
            judged_px: the part of the image that counts, valid, in image pixels; None for all of it.
        """
        lines = self.lines if judged_px is None else shapely.intersection(self.lines, judged_px)
        on_ground = shapely.transform(lines, lambda xy: xy * ground_m_per_px)
        return float(shapely.length(on_ground).sum()) / 1000


def find_seams(windows: np.ndarray | Sequence[Window]) -> Seams:
    """Where the tiles of an image meet.

    Neighbours are the tiles that follow each other in a row or a column and touch or overlap; where a
    tile is left out, there is a seam only if those around it still meet. Tiles that share nothing but a
    corner are none. Time and memory grow with the number of tiles.

    Args:
        windows: int64[t, 4] of col_off, row_off, width, height in image pixels, all equally large.
    """
    boxes = np.asarray(windows, dtype=np.int64).reshape(-1, 4)
    return Seams(_strips(boxes), _strips(boxes[:, FLIPPED])[:, FLIPPED])


def score_seams(
    polygons_px,
    truths_px,
    matches: Matches,
    seams: Seams,
    ground_m_per_px: tuple[float, float],
    judged_px: shapely.Geometry | None = None,
    tiles: np.ndarray | None = None,
) -> SeamScore:
    """Score of one image's buildings near its seams and away from them.

    A building *holds* the truth it took, else the one that more than half of it lies on. The first
    holder of a truth is the one that took it, else the one that covers most of it. A later one that adds
    at least a fifth of the truth to what those before it cover makes the truth *split*; another one is a
    *duplicate*, if the truth was taken. Either is a false positive and counts for one thing only. The
    interior's counts are not the seams' doing: they show what labels and network alone bring about.

    Args:
        polygons_px: object[n], the buildings judged, image pixels.
        truths_px: object[m], the truths, image pixels, invalid ones included.
        matches: who took whom among them.
        seams: of the image's tiles.
        ground_m_per_px: ground metres of a pixel's width and height.
        judged_px: the ground on which buildings and truths were judged, in image pixels; None for all.
        tiles: [n], the tile that saw most of each building; None where nobody knows.
    """
    near, near_truths = seams.near(polygons_px), seams.near(truths_px)
    tiles = np.arange(len(near)) if tiles is None else np.unique(tiles, return_inverse=True)[1]
    repeats = _repeats(valid_polygons(polygons_px), np.array(truths_px, dtype=object), matches, tiles)
    found = near_truths[np.array([pair.truth for pair in matches.pairs], dtype=np.int64)]
    false = near[np.array(matches.false_positives, dtype=np.int64)]
    missed = near_truths[np.array(matches.misses, dtype=np.int64)]
    sides = (near, near_truths, near, near_truths)
    in_zone = found, false, missed, *(side[rows] for side, rows in zip(sides, repeats, strict=True))
    zone = _side(*in_zone)
    km = seams.length_km(ground_m_per_px, judged_px)
    return SeamScore(
        seam_km=km,
        zone=zone,
        interior=_side(*(~rows for rows in in_zone)),
        duplicates_per_km=zone.duplicates_between_tiles / km if km else None,
        splits_per_km=zone.splits_between_tiles / km if km else None,
    )


def _strips(boxes: np.ndarray) -> np.ndarray:
    """float64[s, 4]: what windows side by side share."""
    boxes = boxes[np.lexsort((boxes[:, 0], boxes[:, 1]))]
    left, right = boxes[:-1], boxes[1:]
    ends = left[:, 0] + left[:, 2]
    meet = (left[:, 1] == right[:, 1]) & (right[:, 0] <= ends)
    return np.column_stack([right[:, :2], ends, right[:, 1] + right[:, 3]])[meet].astype(np.float64)


def _centre_lines(strips: np.ndarray) -> np.ndarray:
    """float64[l, 3]: x, y1, y2 of the middles of upright strips, those that continue each other as one."""
    middle = (strips[:, 0] + strips[:, 2]) / 2
    order = np.lexsort((strips[:, 1], middle))
    middle, y1, y2 = middle[order], strips[order, 1], strips[order, 3]
    begins = np.ones(len(order), dtype=bool)
    # Strips are as long as their tiles, all alike: the one that begins last also ends last.
    begins[1:] = (middle[1:] != middle[:-1]) | (y1[1:] > y2[:-1])
    return np.column_stack([middle[begins], y1[begins], y2[np.roll(begins, -1)]])


def _at_least(strips: np.ndarray, axis: int) -> np.ndarray:
    """Strips that reach `MIN_REACH_PX` or more to either side of their centre line across `axis`."""
    wide = strips.copy()
    centre = strips[:, [axis, axis + 2]].mean(axis=1)
    wide[:, axis] = np.minimum(strips[:, axis], centre - MIN_REACH_PX)
    wide[:, axis + 2] = np.maximum(strips[:, axis + 2], centre + MIN_REACH_PX)
    return wide


def _side(*outcomes: np.ndarray) -> SeamSide:
    """The side on which `outcomes`, bool each, are true: found, false, missed, then those of `_repeats`."""
    hits, alarms, misses, *repeats = (int(np.count_nonzero(rows)) for rows in outcomes)
    duplicates, splits, own_duplicates, own_splits = repeats
    return SeamSide(
        counts=Counts.of(hits, alarms, misses),
        duplicates=duplicates,
        splits=splits,
        duplicates_of_one_tile=own_duplicates,
        splits_of_one_tile=own_splits,
    )


def _repeats(
    polygons: np.ndarray, truths: np.ndarray, matches: Matches, tiles: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Duplicates and split truths by index, then those of both that one tile brought about, int64 each."""
    holders, held, shared = _holders(polygons, truths, matches)
    later = np.zeros(len(held), dtype=bool)
    later[1:] = held[1:] == held[:-1]
    crowded = np.isin(held, held[later])
    holders, held, shared, later = holders[crowded], held[crowded], shared[crowded], later[crowded]
    parts = polygonal(shapely.intersection(polygons[holders], truths[held]))
    one, other = shapely.STRtree(parts).query(parts, predicate="intersects")
    before = (held[one] == held[other]) & (one < other)
    one, other = one[before], other[before]
    repeated = shapely.area(shapely.intersection(parts[one], parts[other]))
    added = shared - np.bincount(other, repeated, minlength=len(held))
    adds = later & (added >= SPLIT_SHARE * shapely.area(truths[held]))
    repeats = later & ~adds & np.isin(held, [pair.truth for pair in matches.pairs])
    own = np.ones(len(held), dtype=bool)
    # Of each truth the first holder that a tile saw is no repeat of that tile.
    own[np.unique(np.stack([held, tiles[holders]]), axis=1, return_index=True)[1]] = False
    split = np.unique(held[adds])
    own_splits = np.setdiff1d(split, held[adds & ~own])
    return np.sort(holders[repeats]), split, np.sort(holders[repeats & own]), own_splits


def _holders(
    polygons: np.ndarray, truths: np.ndarray, matches: Matches
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Holders, the truths they hold and the areas shared, by truth; the first holder of each first."""
    pairs = overlapping_pairs(polygons, truths, min_iou=0.0)
    areas = shapely.area(polygons)[pairs.proposals]
    # The IoU is shared / (one + other - shared): solved for what is shared.
    shared = pairs.ious / (1 + pairs.ious) * (areas + shapely.area(truths)[pairs.truths])
    took = np.full(len(polygons), -1, dtype=np.int64)
    took[[pair.proposal for pair in matches.pairs]] = [pair.truth for pair in matches.pairs]
    taken = took[pairs.proposals]
    claims = np.flatnonzero(np.where(taken < 0, shared > areas / 2, taken == pairs.truths))
    # Labels may overlap, and then a building lies on several: it holds the one it covers most of.
    claims = claims[np.lexsort((pairs.truths[claims], -shared[claims], pairs.proposals[claims]))]
    claims = claims[np.unique(pairs.proposals[claims], return_index=True)[1]]
    order = np.lexsort((pairs.proposals[claims], -shared[claims], taken[claims] < 0, pairs.truths[claims]))
    claims = claims[order]
    return pairs.proposals[claims], pairs.truths[claims], shared[claims]
