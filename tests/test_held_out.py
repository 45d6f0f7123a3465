"""Held-out ground: labels put together from their items, buildings merged from their tiles."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evidence import TileSample
from pipeline.frames import window_box
from pipeline.held_out import HeldOutTile, item_polygon, merged_sample, whole_labels
from pipeline.pairs import items_in_tile
from pipeline.schema import Tile, Window
from pipeline.seams import MergeRules
from pipeline.thresholds import choose_thresholds

CATEGORIES = ("foundation", "completed")
WINDOWS = [Window(x, y, 512, 512) for y in (0, 384) for x in (1000, 1384, 1768)]
FULL = dict(min_visible_share=0.3, min_area_px2=0.0)


def cut(labels, categories, windows=WINDOWS, probability=0.6, found=True):
    """Tiles of image-px labels, every piece of 30 px2 found with one probability of being completed."""
    for number, window in enumerate(windows):
        frame = window_box(window)
        pieces = shapely.intersection(labels, frame)
        here = np.flatnonzero(shapely.area(pieces) >= 30)
        items = items_in_tile(
            Tile(tile_id=f"r0000_c{number:04}", window=window, valid_share=1),
            pieces[here],
            here.tolist(),
            [categories[index] for index in here],
            (shapely.area(pieces[here]) / shapely.area(labels[here])).tolist(),
        )
        seen = here if found else here[:0]
        polygons = shapely.transform(pieces[seen], lambda xy, window=window: xy - window[:2])
        yield HeldOutTile(window, polygons, np.tile([0.1, probability], (len(seen), 1)), items)


def boxes(*corners, side=40):
    return np.array([shapely.box(x, y, x + side, y + side) for x, y in corners], dtype=object)


def same(one, other):
    return shapely.area(shapely.symmetric_difference(one, other)).max(initial=0)


ACROSS = [(1100, 100), (1370, 200), (1480, 300), (1490, 375), (1375, 380)]


def test_every_building_is_there_once_on_both_sides():
    labels = boxes(*ACROSS)
    sample = merged_sample(cut(labels, ["completed"] * 5), CATEGORIES, MergeRules(), **FULL)
    assert same(sample.truth_polygons, labels) < 1e-6
    assert sample.truth_categories.tolist() == [1] * 5
    assert len(sample.polygons) == 5
    shared = shapely.area(shapely.intersection(labels[:, None], sample.polygons))
    assert shared.max(axis=1) == pytest.approx(np.full(5, 1600), abs=1)
    assert not len(sample.ignored_polygons)


def test_agreement_raises_what_thresholds_are_chosen_on():
    # One tile sees the first label, two see the second.
    labels = boxes((1100, 100), (1420, 100))
    sample = merged_sample(cut(labels, ["completed"] * 2), CATEGORIES, MergeRules(), **FULL)
    once, twice = np.sort(sample.probabilities[:, 1])
    assert (once, twice > 0.65) == (0.6, True)
    assert choose_thresholds([sample], CATEGORIES)["completed"] == pytest.approx(0.3)


def test_labels_mostly_outside_are_ignored_and_those_of_unknown_condition_asked_for():
    labels = boxes((970, 100), (985, 200), (1100, 100))
    sample = merged_sample(
        cut(labels, ["completed", "completed", None], found=False), CATEGORIES, MergeRules(), **FULL
    )
    asked, (ignored,) = sample.truth_polygons, sample.ignored_polygons
    assert asked[0].bounds == (1000, 200, 1025, 240)  # 25 of its 40 px
    assert asked[1].bounds == (1100, 100, 1140, 140)
    assert sample.truth_categories.tolist() == [1, -1]
    assert ignored.bounds == (1000, 100, 1010, 140)


def test_a_label_seen_in_parts_by_many_tiles_is_seen():
    # A hall over three tiles, a quarter and less of it on each.
    hall = np.array([shapely.box(1100, 395, 2200, 420)])
    windows = [Window(x, 384, 300, 300) for x in (1000, 1200, 1400, 1600, 1800, 2000)]
    whole = merged_sample(cut(hall, ["completed"], windows), CATEGORIES, MergeRules(), **FULL)
    assert same(whole.truth_polygons, hall) < 1e-6
    part = merged_sample(cut(hall, ["completed"], windows[:1]), CATEGORIES, MergeRules(), **FULL)
    assert (len(part.truth_polygons), len(part.ignored_polygons)) == (0, 1)


def test_a_piece_too_thin_for_its_coordinates_does_not_tell_the_size():
    label = np.array([shapely.box(1511.9996, 100, 1552, 140)])
    items, offsets = [], []
    for window in WINDOWS[:2]:
        piece = shapely.intersection(label, window_box(window))
        share = shapely.area(piece) / shapely.area(label)
        frame = Tile(tile_id="r0000_c0000", window=window, valid_share=1)
        items += items_in_tile(frame, piece, [7], ["completed"], share)
        offsets.append(np.array(window[:2], dtype=float))
    assert items[0].visible_share > 0
    assert shapely.area(item_polygon(items[0])) == 0
    truths, known, shares = whole_labels(items, offsets, CATEGORIES)
    assert same(truths, label) < 0.1
    assert (known.tolist(), shares.tolist()) == ([1], [pytest.approx(1, abs=1e-4)])


def test_buildings_too_small_to_publish_are_not_judged():
    labels = np.array([shapely.box(1100, 100, 1110, 110), shapely.box(1200, 100, 1240, 140)])
    rules = MergeRules()
    sample = merged_sample(
        cut(labels, ["completed"] * 2), CATEGORIES, rules, min_visible_share=0.3, min_area_px2=200.0
    )
    assert shapely.area(sample.polygons).tolist() == [1600]
    assert len(sample.truth_polygons) == 2


@pytest.mark.parametrize("windows", [[], WINDOWS[:1]])
def test_nothing_there_and_nothing_found(windows):
    sample = merged_sample(cut(boxes(), [], windows), CATEGORIES, MergeRules(), **FULL)
    assert [len(column) for column in sample] == [0] * 5
    assert isinstance(sample, TileSample)
    assert choose_thresholds([sample], CATEGORIES) == {"foundation": 0.5, "completed": 0.5}


@settings(deadline=None, max_examples=25)
@given(st.sets(st.tuples(st.integers(11, 21), st.integers(1, 8)), min_size=1, max_size=12), st.randoms())
def test_any_labels_come_back_whole_whatever_the_order_of_tiles(places, random):
    labels = boxes(*((x * 100, y * 100) for x, y in sorted(places)))
    names = [CATEGORIES[index % 2] for index in range(len(labels))]
    tiles = list(cut(labels, names))
    random.shuffle(tiles)
    sample = merged_sample(tiles, CATEGORIES, MergeRules(), **FULL)
    assert same(sample.truth_polygons, labels) < 1e-6
    assert sample.truth_categories.tolist() == [index % 2 for index in range(len(labels))]
    assert len(sample.polygons) == len(labels)
