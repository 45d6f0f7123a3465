"""From reviews to corrected labels.

The rules, in words:

- Of two reviews of one tile the one finished later decides; where times are equal or missing, the one
  of the person whose name comes last. How far the two agree is reported.
- A building that several reviewed tiles show is decided in the tile that shows most of it.
- A proposal that is left as it was is accepted, whole, with its holes; one in another category is
  reclassified; one with another outline is edited. Of a building that a chip's edge cuts, the part inside is
  replaced, and a building keeps the holes that a chip does not show. One that is gone is rejected, unless a
  chip shows less than half of it.
- What overlaps no proposal is added. A drawing of several parts is several buildings, as in label files.
- Outside the reviewed tiles labels stay as they were, and proposals of networks are nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import geopandas
import numpy as np
import shapely

from pipeline.frames import window_box
from pipeline.matching import overlapping_pairs, walk
from pipeline.polygons import largest_parts
from pipeline.review.drawn import one_polygon_each
from pipeline.review.proposals import shown_in
from pipeline.review.records import ReviewedBuilding, Shown, TileReview
from pipeline.schema import Window

Status = Literal["accepted", "reclassified", "edited", "rejected", "added", "kept"]

UNCHANGED_PX = 0.05
"""Hausdorff distance up to which an outline is as it was."""
SAME_IOU = 0.3
"""Overlap from which a drawing without a proposal's id was made from it."""
REJECTING_SHARE = 0.5
"""Share of a building that a chip must show for its absence to mean anything."""
AT_EDGE_PX = 6.0
"""Distance from a chip's edge up to which a drawing is meant to reach it: a hand does no better."""


class Verdict(NamedTuple):
    """What was decided of one proposal, or that a building was added."""

    row_id: int
    """The proposal's; 0 for an added building."""
    status: Status
    polygon_px: shapely.Polygon
    """As decided; of a rejected one as proposed."""
    category: str | None
    review: TileReview
    seconds: float
    visible_share: float


class Agreement(NamedTuple):
    """How far two people agree on a tile."""

    image_id: str
    tile_id: str
    people: tuple[str, str]
    f1: float
    """Of one's buildings against the other's, whatever their categories; 1 where both find none."""


def last_reviews(reviews: Sequence[TileReview]) -> tuple[list[TileReview], list[Agreement]]:
    """The review that decides each tile, and how far what other people said of it agrees."""
    by_tile: dict[tuple[str, str], list[TileReview]] = {}
    for review in sorted(reviews, key=lambda one: (one.finished_at, one.person, one.file)):
        by_tile.setdefault((review.image_id, review.tile_id), []).append(review)
    deciding = [several[-1] for _, several in sorted(by_tile.items())]
    agreements = [
        _agreement(other, several[-1])
        for _, several in sorted(by_tile.items())
        for other in several[:-1]
        if other.person != several[-1].person
    ]
    return deciding, agreements


def _agreement(one: TileReview, other: TileReview) -> Agreement:
    polygons, others = (_polygons(one_polygon_each(review.buildings)) for review in (one, other))
    same = walk(overlapping_pairs(polygons, others), np.zeros(len(polygons)))
    drawn = len(polygons) + len(others)
    f1 = float(2 * np.count_nonzero(same >= 0) / drawn) if drawn else 1.0
    return Agreement(one.image_id, one.tile_id, (one.person, other.person), f1)


def decide(
    rows: geopandas.GeoDataFrame,
    polygons_px: np.ndarray,
    reviews: Sequence[TileReview],
    windows: Mapping[str, Window],
) -> list[Verdict]:
    """Verdicts on all proposals that reviewed tiles show, and on what was added.

    Args:
        rows: the proposals of one image.
        polygons_px: object[n], their polygons in image pixels.
        reviews: of this image, one per tile.
        windows: by tile id.
    """
    best: dict[int, Verdict] = {}
    added: dict[bytes, Verdict] = {}
    whole = dict(zip(rows["row_id"].tolist(), polygons_px, strict=True))
    tree = shapely.STRtree(polygons_px)
    for review in reviews:
        window = windows[review.tile_id]
        shown = shown_in(window, rows, tree, whole=not review.clipped)
        for verdict in _judge(shown, review, window, whole):
            if verdict.status == "added":
                # Two tiles of a map may show one drawing.
                added.setdefault(shapely.to_wkb(verdict.polygon_px), verdict)
            elif _outweighs(verdict, best.get(verdict.row_id)):
                best[verdict.row_id] = verdict
    return [*(best[row_id] for row_id in sorted(best)), *added.values()]


def _outweighs(verdict: Verdict, other: Verdict | None) -> bool:
    return other is None or verdict.visible_share > other.visible_share


def _judge(
    shown: Sequence[Shown], review: TileReview, window: Window, whole: Mapping[int, shapely.Polygon]
) -> list[Verdict]:
    """Verdicts of one review."""
    buildings = one_polygon_each(review.buildings)
    answers = _answers(shown, buildings)
    verdicts = []
    for one in shown:
        mine = answers.get(one.row_id)
        if mine is None:
            gone = not review.clipped or one.visible_share >= REJECTING_SHARE
            status: Status = "rejected" if gone else "kept"
            polygon, category, seconds = whole[one.row_id], one.category, float("nan")
        else:
            building = buildings[mine]
            status, polygon = _compare(one, building, window, whole[one.row_id], review.clipped)
            category, seconds = building.category, building.seconds
        verdicts.append(Verdict(one.row_id, status, polygon, category, review, seconds, one.visible_share))
    new = sorted(set(range(len(buildings))) - set(answers.values()))
    for place in new:
        building = buildings[place]
        verdicts.append(
            Verdict(0, "added", building.polygon_px, building.category, review, building.seconds, 1.0)
        )
    return verdicts


def _answers(shown: Sequence[Shown], buildings: Sequence[ReviewedBuilding]) -> dict[int, int]:
    """Building by proposal: by its id first, of several the largest, then by what overlaps best."""
    proposed = {one.row_id for one in shown}
    answers: dict[int, int] = {}
    for place in sorted(range(len(buildings)), key=lambda place: -buildings[place].polygon_px.area):
        if (proposal := buildings[place].proposal) in proposed:
            answers.setdefault(proposal, place)
    open_rows = [one for one in shown if one.row_id not in answers]
    open_places = [place for place in range(len(buildings)) if place not in set(answers.values())]
    pairs = overlapping_pairs(
        _polygons([buildings[place] for place in open_places]),
        np.array([one.polygon_px for one in open_rows], dtype=object),
        SAME_IOU,
    )
    for place, row in enumerate(walk(pairs, np.zeros(len(open_places))).tolist()):
        if row >= 0:
            answers[open_rows[row].row_id] = open_places[place]
    return answers


def _compare(
    shown: Shown, building: ReviewedBuilding, window: Window, whole: shapely.Polygon, clipped: bool
) -> tuple[Status, shapely.Polygon]:
    """What a person did to a proposal, and the outline that follows."""
    before, after = shown.polygon_px, building.polygon_px
    if clipped:  # chips show no holes
        before, after = shapely.Polygon(before.exterior), shapely.Polygon(after.exterior)
    if shapely.hausdorff_distance(before, after) <= UNCHANGED_PX:
        return ("accepted" if building.category == shown.category else "reclassified"), whole
    return "edited", _put_back(after, whole, window_box(window)) if clipped else after


def _put_back(inside: shapely.Polygon, whole: shapely.Polygon, chip: shapely.Polygon) -> shapely.Polygon:
    """A building whose part inside a chip was drawn anew, with what the chip did not show of it."""
    holes = shapely.union_all([shapely.Polygon(ring) for ring in whole.interiors])
    joined = shapely.union(shapely.difference(shapely.Polygon(whole.exterior), chip), inside)
    closed = joined.buffer(AT_EDGE_PX / 2, join_style="mitre").buffer(-AT_EDGE_PX / 2, join_style="mitre")
    edge = shapely.difference(chip, chip.buffer(-AT_EDGE_PX, join_style="mitre"))
    joined = shapely.union(joined, shapely.intersection(closed, edge))
    return largest_parts(np.array([shapely.difference(joined, holes)], dtype=object))[0]


def _polygons(buildings: Sequence[ReviewedBuilding]) -> np.ndarray:
    polygons = np.empty(len(buildings), dtype=object)
    polygons[:] = [building.polygon_px for building in buildings]
    return polygons
