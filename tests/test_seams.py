"""Merging across tiles: what any grid cuts comes back as it was, in any order and any number of steps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import shapely
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from shapely import affinity, box

from pipeline.schema import MergeStatus
from pipeline.seams import Buildings, Detections, MergeRules, merge, merge_stream

EXACT = MergeRules(margin_px=0.5, edge_px=0.5, min_overlap_px2=0.01)
"""For ideal pieces, where every square pixel can be trusted."""


def tiling(width: int, height: int, size: int, overlap: int) -> np.ndarray:
    """int64[t, 4]: windows over the image, the last row and column snapped to its edge."""

    def starts(length: int) -> np.ndarray:
        last = max(length - size, 0)
        return np.unique(np.r_[np.arange(0, last, size - overlap), last])

    row, column = np.meshgrid(starts(height), starts(width), indexing="ij")
    size_x, size_y = min(size, width), min(size, height)
    sizes = np.tile([size_x, size_y], (row.size, 1))
    return np.column_stack([column.ravel(), row.ravel(), sizes]).astype(np.int64)


def cut(
    polygons: list, windows: np.ndarray, jitter: float = 0.0, seed: int = 0, least: float = 0.0
) -> Detections:
    """What a perfect network finds in every tile; `jitter` moves each find by about that many pixels."""
    rng = np.random.default_rng(seed)
    parts, tiles = [], []
    for tile, (x, y, width, height) in enumerate(windows.tolist()):
        frame = box(x, y, x + width, y + height)
        for part in shapely.get_parts(shapely.intersection(np.array(polygons, dtype=object), frame)):
            part = affinity.translate(part, *rng.normal(0, jitter, 2)).intersection(frame) if jitter else part
            if part.geom_type == "Polygon" and part.area > least:
                parts.append(part)
                tiles.append(tile)
    probabilities = rng.dirichlet(np.ones(4), len(parts))[:, :3] if parts else np.empty((0, 3))
    return detections(parts, tiles, probabilities)


def detections(polygons: list, tiles: list, probabilities: object = None) -> Detections:
    if probabilities is None:
        probabilities = np.tile([0.1, 0.2, 0.6], (len(polygons), 1))
    objects = np.empty(len(polygons), dtype=object)
    objects[:] = polygons
    return Detections(objects, np.asarray(probabilities, float), np.array(tiles, np.int64))


def as_detections(buildings: Buildings) -> Detections:
    return Detections(buildings.polygons, buildings.probabilities, buildings.tiles)


def assert_same(one: Buildings, other: Buildings) -> None:
    assert len(one) == len(other)
    assert shapely.to_wkb(one.polygons).tolist() == shapely.to_wkb(other.polygons).tolist()
    assert one.probabilities.tobytes() == other.probabilities.tobytes()
    assert list(one.statuses) == list(other.statuses)
    assert one.tile_counts.tolist() == other.tile_counts.tolist()
    assert one.tiles.tolist() == other.tiles.tolist()


def by_rows(found: Detections, windows: np.ndarray, per_tile: bool = False) -> list[Detections]:
    """Batches by row of tiles, or by tile."""
    key = found.tiles if per_tile else windows[found.tiles, 1]
    order = np.unique(np.column_stack([windows[found.tiles, 1], key]), axis=0)[:, 1]
    return [found.take(key == value) for value in order]


def worst_iou(found: np.ndarray, truth: list) -> float:
    """The smallest IoU of a true polygon with its best counterpart."""
    truth = np.array(truth, dtype=object)
    shared = shapely.area(shapely.intersection(found[:, None], truth))
    return float((shared / (shapely.area(found)[:, None] + shapely.area(truth) - shared)).max(axis=0).min())


PITCH = 90  # px from plot to plot


@st.composite
def towns(draw: st.DrawFn) -> tuple[list, int, int]:
    """Disjoint convex houses, party walls among them, on an image of the returned width and height."""
    columns, rows = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    houses = []
    for row in range(rows):
        for column in range(columns):
            if draw(st.booleans()):
                # From wall to wall of the plot, or free inside it.
                low, high = draw(st.sampled_from([(0, 0), (0, 7), (9, 0), (5, 12)]))
                house = box(
                    column * PITCH + low,
                    row * PITCH + low,
                    (column + 1) * PITCH - high,
                    (row + 1) * PITCH - high,
                )
                if low and high:
                    house = affinity.scale(affinity.rotate(house, draw(st.floats(0, 90))), 0.7, 0.7)
                houses.append(house)
    return houses, columns * PITCH, rows * PITCH


grids = st.tuples(st.integers(110, 260), st.integers(0, 60))

TURNED = shapely.from_wkt("POLYGON ((345.4 323.9, 299.1 345.4, 277.6 299.1, 323.9 277.6, 345.4 323.9))")
TIPPED = affinity.rotate(box(196, 107, 247, 158), 20)


def one_sided(windows: np.ndarray, overlap: int) -> bool:
    """Whether a party wall stands on a seam where windows hardly overlap: no tile sees both sides of it."""
    edges = np.hstack([windows[:, :2], windows[:, :2] + windows[:, 2:]]).reshape(-1, 2)
    inner = edges[(edges > 0) & (edges < edges.max(axis=0))]
    return overlap <= 2 * EXACT.margin_px and bool((inner % PITCH == 0).any())


@settings(deadline=None, max_examples=60)
@given(towns(), grids)
@example(([TURNED], 450, 450), (110, 0))  # a corner of 1 px² reaches over a corner of four tiles
@example(([TIPPED], 270, 360), (163, 0))  # and one of 7 px² over a seam
def test_cut_by_any_grid_comes_back(town, grid):
    houses, width, height = town
    windows = tiling(width, height, *grid)
    assume(not one_sided(windows, grid[1]))
    found = merge(cut(houses, windows, least=1.0), windows, EXACT)
    assert len(found) == len(houses)
    if houses:
        assert worst_iou(found.polygons, houses) > 0.99


@settings(deadline=None, max_examples=40)
@given(towns(), grids, st.floats(0, 4), st.integers(0, 99))
def test_order_steps_and_repetition_change_nothing(town, grid, jitter, seed):
    houses, width, height = town
    windows = tiling(width, height, *grid)
    found = cut(houses, windows, jitter, seed, least=1.0)
    buildings = merge(found, windows)
    shuffled = found.take(np.random.default_rng(seed).permutation(len(found)))
    assert_same(merge(shuffled, windows), buildings)
    for per_tile in (False, True):
        streamed = list(merge_stream(by_rows(shuffled, windows, per_tile), windows))
        assert_same(Buildings.concatenate(streamed) if streamed else buildings, buildings)

    other = np.random.default_rng(seed).permutation(len(windows))
    renumbered = merge(replace(found, tiles=np.argsort(other)[found.tiles]), windows[other])
    assert_same(replace(renumbered, tiles=other[renumbered.tiles]), buildings)

    everything = np.array([[0, 0, width, height]])
    once = replace(as_detections(buildings), tiles=np.zeros(len(buildings), np.int64))
    for again in (merge(as_detections(buildings), windows), merge(once, everything)):
        assert shapely.to_wkb(again.polygons).tolist() == shapely.to_wkb(buildings.polygons).tolist()
        assert again.probabilities.tobytes() == buildings.probabilities.tobytes()


@settings(deadline=None, max_examples=40)
@given(towns(), grids, st.floats(0, 6), st.integers(0, 99))
def test_what_comes_out_is_sound(town, grid, jitter, seed):
    houses, width, height = town
    windows = tiling(width, height, *grid)
    found = cut(houses, windows, jitter, seed, least=1.0)
    buildings = merge(found, windows)
    assert len(buildings) <= len(found)
    assert shapely.is_valid(buildings.polygons).all()
    assert (shapely.get_type_id(buildings.polygons) == 3).all()
    assert (buildings.probabilities >= 0).all() and (buildings.probabilities.sum(axis=1) <= 1 + 1e-12).all()
    assert set(buildings.statuses) <= set(MergeStatus.__args__)
    assert ((buildings.tile_counts > 1) == np.isin(buildings.statuses, ["duplicate", "stitched"])).all()
    one, other = shapely.STRtree(buildings.polygons).query(buildings.polygons, predicate="intersects")
    shared = shapely.area(shapely.intersection(buildings.polygons[one], buildings.polygons[other]))
    assert (shared[one < other] < MergeRules().min_overlap_px2 + 1e-3).all()
    assert (np.diff(shapely.bounds(buildings.polygons)[:, 1]) >= 0).all()


PAIR = tiling(300, 200, 200, 100)  # x 0..200 and 100..300


def test_seen_once_is_untouched():
    house = affinity.rotate(box(20, 30, 70, 90), 17)
    found = merge(detections([house], [0], [[0.1, 0.3, 0.2]]), PAIR)
    assert shapely.to_wkb(found.polygons[0]) == shapely.to_wkb(house)
    assert found.probabilities.tolist() == [[0.1, 0.3, 0.2]]
    assert (found.statuses[0], found.tile_counts[0], found.tiles[0]) == ("single", 1, 0)


def test_duplicate_is_the_most_confident_detection_then_the_deepest():
    left, right = box(120, 50, 160, 100), box(121, 51, 161, 101)
    found = merge(detections([left, right], [0, 1], [[0.7, 0.1], [0.8, 0.0]]), PAIR)
    assert len(found) == 1 and found.polygons[0].equals(right) and found.tiles[0] == 1
    found = merge(detections([left, right], [0, 1]), PAIR)
    assert len(found) == 1 and found.polygons[0].equals(left)  # 40 px from its edge, the other 21
    assert (found.statuses[0], found.tile_counts[0], found.tiles[0]) == ("duplicate", 2, 0)


def test_whole_beats_cut():
    house = box(150, 50, 250, 100)
    found = merge(cut([house], PAIR), PAIR)
    assert len(found) == 1 and found.polygons[0].equals(house) and found.statuses[0] == "duplicate"


def test_stitched_changes_hands_half_way():
    left, right = box(50, 50, 200, 100), box(100, 52, 250, 102)
    found = merge(detections([left, right], [0, 1]), PAIR)
    assert found.statuses[0] == "stitched" and found.tile_counts[0] == 2
    assert found.polygons[0].equals(box(50, 50, 150, 100) | box(150, 52, 250, 102))


def test_fragment_is_cut_without_a_counterpart_and_the_image_edge_cuts_nothing():
    found = merge(detections([box(150, 50, 200, 100), box(0, 120, 40, 200)], [0, 0]), PAIR)
    assert list(found.statuses) == ["fragment", "single"]


def test_sliver_at_an_edge_is_left_to_the_tile_that_sees_the_place():
    found = merge(detections([box(190, 50, 200, 90), box(192, 52, 240, 92)], [0, 1]), PAIR)
    assert len(found) == 1 and found.polygons[0].equals(box(192, 52, 240, 92))
    alone = np.array([[0, 0, 200, 200], [200, 0, 200, 200]])
    assert len(merge(detections([box(190, 50, 200, 90)], [0]), alone)) == 1


@pytest.mark.parametrize(("shift", "buildings"), [(21, 1), (23, 2)])
def test_two_views_agree_from_an_iou_of_0_3_on(shift: int, buildings: int):
    views = box(110, 50, 150, 100), box(110 + shift, 50, 150 + shift, 100)  # IoU .31, then .27
    assert len(merge(detections([*views], [0, 1]), PAIR)) == buildings


@pytest.mark.parametrize(("shift", "buildings"), [(0, 1), (13, 2)])
def test_arms_that_a_tile_sees_apart_are_joined_by_firm_links_only(shift: int, buildings: int):
    arms = [box(150, 20, 200, 50), box(150, 110, 200, 140)]
    upper, lower = box(150, 20 + shift, 250, 50 + shift), box(150, 110 - shift, 250, 140 - shift)
    court = upper | lower | box(220, 20 + shift, 250, 140 - shift)  # an IoU of .4 with either arm, shifted
    assert len(merge(detections([*arms, court], [0, 0, 1]), PAIR)) == buildings


def test_a_fragment_gives_way_to_a_whole_building_that_is_less_sure():
    whole, fragment = box(110, 50, 160, 100), box(150, 50, 200, 100)
    found = merge(detections([whole, fragment], [0, 0], [[0.5], [0.9]]), PAIR)
    assert worst_iou(found.polygons, [whole, box(160, 50, 200, 100)]) == 1


@pytest.mark.parametrize(("depth", "buildings"), [(30, 0), (60, 1)])
def test_a_shallow_piece_is_left_to_the_tile_that_sees_the_place(depth: int, buildings: int):
    assert len(merge(detections([box(200 - depth, 50, 200, 130)], [0]), PAIR)) == buildings


def test_touching_neighbours_stay_two():
    houses = [box(120, 40, 160, 80), box(160, 40, 210, 80), box(120, 80, 160, 120), box(60, 120, 180, 160)]
    for jitter in (0.0, 1.0):
        found = merge(cut(houses, PAIR, jitter), PAIR)
        assert len(found) == 4 and worst_iou(found.polygons, houses) > (0.99 if not jitter else 0.85)


def test_one_tile_that_saw_two_outweighs_one_that_saw_a_blob():
    one, two = box(120, 40, 150, 80), box(150, 40, 178, 80)
    blob = one | two
    found = merge(detections([blob, one, two], [0, 1, 1], [[0.5, 0, 0], [0.9, 0, 0], [0.9, 0, 0]]), PAIR)
    assert found.tile_counts.tolist() == [2, 2] and worst_iou(found.polygons, [one, two]) == 1


@pytest.mark.parametrize(("weaker", "buildings"), [(0.65, 2), (0.6, 1)])
def test_pieces_part_a_blob_if_both_are_about_as_sure(weaker: float, buildings: int):
    one, two = box(120, 40, 150, 80), box(150, 40, 178, 80)
    seen = detections([one | two, one, two], [0, 1, 1], [[0.9, 0], [0.9, 0], [weaker, 0.05]])
    assert len(merge(seen, PAIR, MergeRules(parting_score=0.7))) == buildings


def test_what_one_tile_parts_another_parts_further():
    windows = np.array([[0, 0, 300, 200], [40, 0, 300, 200], [80, 0, 300, 200]])
    one, two, three = box(100, 40, 130, 80), box(130, 40, 160, 80), box(160, 40, 280, 80)
    # The blob of three is parted by the second tile, whose blob of two is parted by the third.
    seen = detections([one | two | three, one | two, three, one, two], [0, 1, 1, 2, 2])
    found = merge(seen, windows)
    assert sorted(found.tile_counts.tolist()) == [2, 3, 3]
    assert worst_iou(found.polygons, [one, two, three]) == 1


@pytest.mark.parametrize("overlap", [0, 20, 100])
def test_corner_where_four_tiles_meet(overlap: int):
    windows = tiling(400 - overlap, 400 - overlap, 200, overlap)
    middle = 200 - overlap / 2
    house = affinity.rotate(box(middle - 60, middle - 40, middle + 70, middle + 50), 10)
    for jitter in (0.0, 1.0):
        found = merge(cut([house], windows, jitter), windows)
        assert len(found) == 1 and found.tile_counts[0] == 4
        assert worst_iou(found.polygons, [house]) > (0.95 if jitter else 0.999)


@pytest.mark.parametrize("overlap", [64, 256])
def test_hall_over_nine_tiles_is_one(overlap: int):
    windows = tiling(2600, 2600, 1024, overlap)
    hall = affinity.rotate(box(500, 500, 2100, 2000), 30)
    found = merge(cut([hall], windows, jitter=1.0), windows)
    assert len(found) == 1 and found.statuses[0] == "stitched" and found.tile_counts[0] >= 9
    assert worst_iou(found.polygons, [hall]) > 0.99


def test_courtyard_house_over_many_tiles_is_one():
    # Middle tiles see its two wings apart: the pieces above and below hold them together.
    windows = tiling(1000, 2400, 700, 100)
    ring = box(100, 100, 600, 2300) - box(200, 200, 500, 2200)
    found = merge(cut([ring], windows), windows)
    assert len(found) == 1 and worst_iou(found.polygons, [ring]) > 0.999
    assert len(found.polygons[0].interiors) == 1


def test_houses_along_the_image_edge():
    windows = tiling(300, 100, 200, 100)
    houses = [box(90, 0, 150, 3), box(160, 97, 220, 100), box(0, 20, 3, 60)]
    found = merge(cut(houses, windows), windows)
    assert len(found) == 3 and worst_iou(found.polygons, houses) == 1


def test_tiles_without_overlap_are_matched_along_the_seam():
    windows = tiling(400, 400, 200, 0)
    houses = [box(150, 20, 250, 80), box(150, 80, 250, 140), box(20, 150, 90, 260), box(200, 160, 260, 190)]
    found = merge(cut(houses, windows), windows)
    assert len(found) == 4 and worst_iou(found.polygons, houses) == 1
    # Masks end a little before the edge.
    short = detections([box(150, 20, 198.5, 80), box(201, 21, 250, 81)], [0, 1])
    found = merge(short, windows)
    assert len(found) == 1 and found.statuses[0] == "stitched"
    assert worst_iou(found.polygons, [box(150, 20, 250, 80)]) > 0.97


def test_neighbours_face_to_face_across_a_seam_without_overlap_are_not_matched():
    windows = tiling(400, 200, 200, 0)
    found = merge(detections([box(150, 20, 200, 80), box(200, 78, 250, 140)], [0, 1]), windows)
    assert len(found) == 2


def test_views_agree_where_masks_can_tell_no_difference():
    windows = tiling(1792, 1024, 1024, 256)  # a common strip of x 768..1024, trusted from 772 on
    hall = detections([box(20, 100, 779, 1000), box(768, 100, 798, 1000)], [0, 1])
    house = detections([box(740, 100, 779, 140), box(768, 100, 798, 140)], [0, 1])
    # Of either, 7 px reach into the strip here and 26 there: a cell of the hall's mask, many of the house's.
    found = merge(hall, windows)
    assert len(found) == 1 and found.tile_counts[0] == 2
    assert len(merge(house, windows)) == 2


def test_nearly_the_same_twice_in_one_tile_is_one():
    polygons = [box(120, 40, 180, 80), box(121, 40, 181, 80), box(120, 41, 180, 81)]
    assert len(merge(detections(polygons, [0, 0, 1]), PAIR)) == 1


def test_what_others_cover_is_dropped_and_small_overlaps_are_cut():
    strong, inner, edge = box(20, 20, 80, 80), box(30, 30, 60, 60), box(70, 20, 120, 60)
    found = merge(detections([inner, edge, strong], [0, 0, 0], [[0.5], [0.6], [0.9]]), PAIR)
    assert len(found) == 2
    assert worst_iou(found.polygons, [strong, box(80, 20, 120, 60)]) == 1


def test_a_cut_leaves_no_sliver_along_the_outline_that_it_follows():
    strong, weak = box(60, 21, 120, 80), box(20, 20, 80, 80)
    found = merge(detections([strong, weak], [0, 0], [[0.9], [0.6]]), PAIR)
    (kept,) = found.polygons[found.probabilities[:, 0] < 0.7]
    assert kept.equals(box(20, 20, 60, 80)), "without a strip of one pixel above its neighbour"
    assert shapely.area(shapely.intersection(*found.polygons)) == 0


def test_probabilities_are_weighted_by_area_and_raised_by_agreement():
    left, right = box(120, 50, 160, 100), box(120, 50, 160, 150)
    found = merge(
        detections([left, right], [0, 1], [[0.6, 0.0], [0.3, 0.3]]), PAIR, MergeRules(agreement_gain=0.5)
    )
    mean, agreement = np.array([(0.6 + 0.3 * 2) / 3, 0.3 * 2 / 3]), 0.5
    total = mean.sum()
    expected = mean / total * (1 - (1 - total) ** (1 + 0.5 * agreement))
    assert np.allclose(found.probabilities, expected)
    off = merge(
        detections([left, right], [0, 1], [[0.6, 0.0], [0.3, 0.3]]), PAIR, MergeRules(agreement_gain=0)
    )
    assert np.allclose(off.probabilities, mean)


def test_nothing_in_nothing_out():
    empty = detections([], [], np.empty((0, 3)))
    for windows in (PAIR, np.empty((0, 4), np.int64)):
        found = merge(empty, windows)
        assert len(found) == 0 and found.probabilities.shape == (0, 3)
        assert list(merge_stream([], windows)) == [] and list(merge_stream([empty], windows)) == []


def test_stream_lets_go_of_what_no_later_row_can_reach():
    windows = tiling(200, 4000, 200, 50)
    houses = [box(20, 10 + 60 * number, 100, 60 + 60 * number) for number in range(60)]
    batches = list(merge_stream(by_rows(cut(houses, windows), windows), windows))
    assert max(len(batch) for batch in batches) < 12
    assert sum(len(batch) for batch in batches) == 60


def test_stream_refuses_rows_out_of_order():
    windows = tiling(200, 500, 200, 50)
    found = cut([box(20, 20, 80, 80), box(20, 300, 80, 380)], windows)
    with pytest.raises(ValueError, match="came after"):
        list(merge_stream(reversed(by_rows(found, windows)), windows))
