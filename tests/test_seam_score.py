"""What the seams cost, against hand-counted layouts, naive geometry, and the merging it is to judge."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline.evaluate import score_image
from pipeline.frames import window_boxes
from pipeline.seam_score import MIN_REACH_PX, find_seams, score_seams
from pipeline.seams import Detections, merge
from pipeline.tiling import TilingRules, tile_windows

METRES = (1.0, 1.0)
PAIR = [(0, 0, 100, 100), (80, 0, 100, 100)]
"""Two tiles side by side; their seam is x = 90, its zone x = 80 to 100."""
BOW_TIE = shapely.Polygon([(0, 0), (10, 10), (10, 0), (0, 10)])


def box(left, right, top=10, bottom=30):
    return shapely.box(left, top, right, bottom)


def matches_of(proposals, truths):
    """Matches of proposals in falling rank."""
    ranks = np.linspace(0.9, 0.1, len(proposals))[:, None]
    return score_image(proposals, ranks, truths, np.zeros(len(truths), dtype=int), ["building"])


def seam_score(proposals, truths, windows=PAIR, ground_m_per_px=METRES, judged=None, tiles=None):
    matches = matches_of(proposals, truths).matches
    return score_seams(proposals, truths, matches, find_seams(windows), ground_m_per_px, judged, tiles)


def counts(side):
    return (side.counts.true_positives, side.counts.false_positives, side.counts.false_negatives)


def layout(width, height, tile_size, overlap):
    return np.array([window for *_, window in tile_windows(width, height, TilingRules(tile_size, overlap))])


def ends(seams):
    return sorted(tuple(shapely.bounds(line).tolist()) for line in seams.lines)


def test_a_seam_is_the_middle_of_what_two_tiles_share():
    seams = find_seams(PAIR)
    assert seams.upright.tolist() == [[80, 0, 100, 100]] and len(seams.level) == 0
    assert ends(seams) == [(90, 0, 90, 100)]
    below = find_seams([(0, 0, 100, 100), (0, 60, 100, 100)])
    assert below.level.tolist() == [[0, 60, 100, 100]] and ends(below) == [(0, 80, 100, 80)]


def test_seams_of_overlapping_rows_count_once():
    seams = find_seams(layout(180, 180, 100, 20))
    assert ends(seams) == [(0, 90, 180, 90), (90, 0, 90, 180)]
    assert seams.length_km(METRES) == pytest.approx(0.36)


def test_length_is_measured_on_the_ground_along_each_axis():
    # 180 px down at 0.25 m, 180 px across at 0.5 m.
    assert find_seams(layout(180, 180, 100, 20)).length_km((0.5, 0.25)) == pytest.approx(0.135)


def test_the_last_column_shares_a_wider_strip():
    assert find_seams(layout(520, 200, 200, 50)).upright[:, [0, 2]].tolist() == [
        [150, 200],
        [300, 350],
        [320, 500],
    ]


@pytest.mark.parametrize(
    ("windows", "why"),
    [
        ([], "no tile"),
        ([(0, 0, 100, 100)], "one tile"),
        ([(0, 0, 100, 100), (160, 0, 100, 100)], "the tile between is left out"),
        ([(0, 0, 100, 100), (80, 80, 100, 100)], "a corner alone"),
    ],
)
def test_without_seams_everything_is_interior(windows, why):
    result = seam_score([box(70, 95)], [box(70, 95), box(110, 130)], windows)
    assert result.seam_km == 0, why
    assert counts(result.zone) == (0, 0, 0) and counts(result.interior) == (1, 0, 1)
    assert result.duplicates_per_km is None and result.splits_per_km is None
    assert "no seams" in result.sentence


def test_tiles_around_one_left_out_may_still_meet():
    seams = find_seams([(0, 0, 200, 200), (100, 0, 200, 200)])
    assert seams.upright.tolist() == [[100, 0, 200, 200]], "of (0, 50, 100), the middle one is left out"


def test_a_seam_breaks_where_tiles_are_left_out():
    windows = layout(180, 500, 100, 0)
    windows = np.delete(windows, np.flatnonzero((windows[:, 0] == 80) & (windows[:, 1] == 200)), axis=0)
    upright = [line for line in ends(find_seams(windows)) if line[0] == line[2]]
    assert upright == [(90, 0, 90, 200), (90, 300, 90, 500)]


def test_tiles_that_only_touch_have_a_seam_with_ground_beside_it():
    windows = [(0, 0, 100, 100), (100, 0, 100, 100)]
    assert ends(find_seams(windows)) == [(100, 0, 100, 100)]
    reach = MIN_REACH_PX
    near = find_seams(windows).near([box(60, 99), box(100, 120), box(90, 110), box(60, 100 - reach - 1)])
    assert near.tolist() == [True, True, True, False]


def test_a_matched_pair_goes_where_its_truth_lies():
    found = [box(10, 30), box(60, 81), box(85, 95), box(101, 150)]
    truths = [box(10, 30), box(60, 79), box(85, 95), box(99, 150)]
    result = seam_score(found, truths)
    assert counts(result.interior) == (2, 0, 0), "the second one's truth ends before the zone"
    assert counts(result.zone) == (2, 0, 0), "the last one's truth reaches into the zone"


def test_what_is_unmatched_goes_where_it_lies_itself():
    found = [box(10, 30), box(98, 103), box(140, 150)]
    truths = [box(10, 30), box(75, 82), box(50, 60), box(101, 120)]
    result = seam_score(found, truths)
    assert counts(result.zone) == (0, 1, 1)
    assert counts(result.interior) == (1, 1, 2)
    assert result.interior.counts.f1 == pytest.approx(2 / 5)


TRUTH = box(80, 100)
REPEATS = {
    "once": ([box(80, 100)], 0, 0),
    "twice": ([box(80, 100), box(81, 100)], 1, 0),
    "three times": ([box(80, 100), box(81, 100), box(80, 99)], 2, 0),
    "in halves": ([box(80, 90), box(90, 100)], 0, 1),
    "in a taker and a part": ([box(80, 92), box(92, 100)], 0, 1),
    "in three parts": ([box(80, 86.5), box(86.5, 93.2), box(93.2, 100)], 0, 1),
    "in halves, one of them twice": ([box(80, 91), box(91, 100), box(92, 100)], 1, 1),
    "whole, and a crumb beside it": ([box(80, 97), box(97, 100)], 1, 0),
    "whole, and a neighbour that leans on it": ([box(80, 100), box(96, 110)], 0, 0),
    "not at all, but for two sheds": ([box(81, 83), box(95, 97)], 0, 0),
    "with a crossed ring": ([box(80, 100), BOW_TIE], 0, 0),
    "with nothing beside it": ([box(80, 100), None, shapely.Polygon()], 0, 0),
}


@pytest.mark.parametrize(("found", "duplicates", "splits"), REPEATS.values(), ids=REPEATS.keys())
def test_repeats_of_one_truth(found, duplicates, splits):
    result = seam_score(found, [TRUTH])
    assert (result.zone.duplicates, result.zone.splits) == (duplicates, splits)
    assert (result.interior.duplicates, result.interior.splits) == (0, 0)
    assert result.duplicates_per_km == pytest.approx(duplicates / 0.1)
    assert result.splits_per_km == pytest.approx(splits / 0.1)


HALVES = [box(80, 90), box(90, 100)]
TILES = {
    "halves of one tile": (HALVES, ["a", "a"], (0, 0), (0, 1)),
    "halves of two tiles": (HALVES, ["a", "b"], (0, 1), (0, 0)),
    "thirds, two of one tile": ([box(80, 87), box(87, 93), box(93, 100)], ["a", "a", "b"], (0, 1), (0, 0)),
    "twice in one tile": ([box(80, 100), box(81, 100)], ["a", "a"], (0, 0), (1, 0)),
    "twice in two tiles": ([box(80, 100), box(81, 100)], ["a", "b"], (1, 0), (0, 0)),
    "twice, and twice in the other tile": (
        [box(80, 100), box(81, 100), box(80, 99)],
        ["a", "b", "b"],
        (1, 0),
        (1, 0),
    ),
}


@pytest.mark.parametrize(("found", "tiles", "between", "of_one"), TILES.values(), ids=TILES.keys())
def test_what_one_tile_brought_by_itself_is_no_seam_s_doing(found, tiles, between, of_one):
    result = seam_score(found, [TRUTH], tiles=np.array(tiles))
    zone = result.zone
    assert (zone.duplicates, zone.splits) == tuple(np.add(between, of_one))
    assert (zone.duplicates_of_one_tile, zone.splits_of_one_tile) == of_one
    assert result.duplicates_per_km == pytest.approx(between[0] / 0.1)
    assert result.splits_per_km == pytest.approx(between[1] / 0.1)
    assert ("by single tiles" in result.sentence) == any(of_one)


def test_repeats_are_told_apart_by_place():
    truths = [box(10, 30), box(40, 60), box(85, 95)]
    found = [*truths, box(10, 29), box(86, 95), box(40, 48), box(52, 60)]
    result = seam_score(found, truths)
    assert (result.zone.duplicates, result.interior.duplicates) == (1, 3)
    halves = seam_score([box(40, 49.9), box(50, 60)], [box(40, 60)])
    assert (halves.zone.splits, halves.interior.splits) == (0, 1)


def test_a_building_that_took_a_truth_repeats_no_other():
    # Labels may lie on each other, and then so do the buildings that take them.
    truths = [box(80, 100), box(80, 99)]
    result = seam_score([box(80, 100), box(80, 99)], truths)
    assert counts(result.zone) == (2, 0, 0) and result.zone.duplicates == 0


def test_only_the_ground_that_counts_has_seams():
    judged = shapely.box(0, 0, 200, 25)
    assert seam_score([], [], judged=judged).seam_km == pytest.approx(0.025)
    assert "no seams" in seam_score([], [], judged=shapely.box(0, 0, 50, 100)).sentence


def test_nothing_against_nothing():
    result = seam_score([], [])
    assert counts(result.zone) == counts(result.interior) == (0, 0, 0)
    assert result.duplicates_per_km == result.splits_per_km == 0
    assert "0.10 km of seams: 0 duplicates (0.00 per km)" in result.sentence
    assert type(result).model_validate_json(result.model_dump_json()) == result


@st.composite
def layouts(draw):
    """A tiling of a small image, some tiles left out."""
    size = draw(st.integers(2, 30))
    windows = layout(draw(st.integers(1, 90)), draw(st.integers(1, 90)), size, draw(st.integers(0, size - 1)))
    assume(len(windows) < 150)
    kept = draw(st.lists(st.booleans(), min_size=len(windows), max_size=len(windows)))
    return windows, windows[np.array(kept, dtype=bool)]


@settings(deadline=None, max_examples=80)
@given(layouts())
def test_strips_are_the_ground_that_more_than_one_tile_sees(case):
    whole, _ = case
    width, height = (whole[:, :2] + whole[:, 2:]).max(axis=0)
    seen, strips = np.zeros((height, width), int), np.zeros((height, width), bool)
    for left, top, across, down in whole:
        seen[top : top + down, left : left + across] += 1
    for left, top, right, bottom in np.concatenate(find_seams(whole)).astype(int):
        strips[top:bottom, left:right] = True
    assert np.array_equal(strips, seen > 1)


@settings(deadline=None, max_examples=80)
@given(layouts())
def test_length_is_that_of_the_union_of_every_pair_s_line(case):
    _, windows = case
    lines = []
    for axis in (0, 1):
        for one in windows:
            beside = windows[(windows[:, 1 - axis] == one[1 - axis]) & (windows[:, axis] > one[axis])]
            if len(beside):
                near = beside[beside[:, axis].argmin()]
                if near[axis] <= one[axis] + one[axis + 2]:
                    middle = (near[axis] + one[axis] + one[axis + 2]) / 2
                    line = [(middle, one[1 - axis]), (middle, one[1 - axis] + one[3 - axis])]
                    lines.append(shapely.LineString(line if axis == 0 else [(y, x) for x, y in line]))
    # Lines that cross share a point, those on one another ground that the union counts once.
    expected = shapely.length(shapely.union_all(lines)) / 1000
    assert find_seams(windows).length_km(METRES) == pytest.approx(expected)


coordinate = st.integers(0, 80)
polygon = st.one_of(
    st.builds(
        lambda x, y, w, h: shapely.box(x, y, x + w, y + h),
        coordinate,
        coordinate,
        st.integers(1, 25),
        st.integers(1, 25),
    ),
    st.sampled_from([BOW_TIE, None, shapely.Polygon()]),
)


@settings(deadline=None, max_examples=100)
@given(layouts(), st.lists(polygon, max_size=14), st.lists(polygon, max_size=10))
def test_both_sides_add_up_to_the_whole(case, found, truths):
    result = seam_score(found, truths, case[1])
    whole = matches_of(found, truths).all_buildings
    both = np.add(counts(result.zone), counts(result.interior))
    assert both.tolist() == [whole.true_positives, whole.false_positives, whole.false_negatives]
    for side in (result.zone, result.interior):
        assert side.duplicates <= side.counts.false_positives
        assert side.splits <= side.counts.true_positives + side.counts.false_negatives
    parts = [side.duplicates + side.splits for side in (result.zone, result.interior)]
    assert sum(parts) <= whole.false_positives


@settings(deadline=None, max_examples=40)
@given(layouts(), st.permutations([(x, y) for x in (5, 30, 62) for y in (3, 34, 60)]))
def test_the_order_of_truths_and_tiles_does_not_matter(case, corners):
    _, windows = case
    truths = [shapely.box(x, y, x + 16, y + 14) for x, y in corners]
    found = [part for x, y in sorted(corners)[:6] for part in (shapely.box(x, y, x + 10, y + 14),
             shapely.box(x + 10, y, x + 16, y + 14), shapely.box(x, y, x + 9, y + 14))]  # fmt: skip
    result = seam_score(found, truths, windows)
    assert result == seam_score(found, sorted(truths, key=lambda t: t.bounds), windows[::-1])
    assert result.zone.splits + result.interior.splits == 6
    assert result.zone.duplicates + result.interior.duplicates == 6


def test_it_tells_merged_pieces_from_pieces():
    windows = layout(1000, 1000, 256, 64)
    x, y = (grid.ravel() for grid in np.meshgrid(np.arange(10, 960, 37), np.arange(10, 960, 41)))
    truths = shapely.box(x, y, x + 30, y + 33)
    tiles, seen = shapely.STRtree(truths).query(window_boxes(windows), predicate="intersects")
    pieces = shapely.intersection(truths[seen], window_boxes(windows)[tiles])
    solid = shapely.area(pieces) > 30
    detections = Detections(pieces[solid], np.full((solid.sum(), 1), 0.9), tiles[solid])

    raw = seam_score(detections.polygons, truths, windows)
    assert counts(raw.interior)[1:] == (0, 0) and counts(raw.interior)[0] > 100
    assert raw.zone.duplicates > 100 and raw.zone.splits > 10
    merged = seam_score(merge(detections, windows).polygons, truths, windows)
    assert counts(merged.interior) == counts(raw.interior)
    assert merged.zone.counts.f1 == 1 and merged.zone.duplicates == merged.zone.splits == 0
