"""The two sides of training: on real tile windows, no pixel and no building on both."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import LabelError, SettingsError
from pipeline.frames import px_to_crs, window_box
from pipeline.schema import Pair, PairIndex, Window
from pipeline.split import split_by_area, split_pairs
from pipeline.steps.training import held_out_ground
from pipeline.tiling import TilingRules, tile_id, tile_windows

METRES = 0.1
PLACES = {"a": 0.0, "b": 100.0, "c": 200.0}


def index_of(image_id, size, rules, buildings=(), left_m=0.0, kept=lambda: True):
    """The pairs of an image at `left_m` metres east, as CutTiles lists them."""
    pairs = [
        Pair(
            tile_id=tile_id(row, col),
            window=window,
            label_ids=[
                number
                for number, building in enumerate(buildings)
                if shapely.area(shapely.intersection(building, window_box(window))) > 0
            ],
        )
        for row, col, window in tile_windows(*size, rules)
        if kept()
    ]
    place = (METRES, 0, 533_000 + left_m, 0, -METRES, 9_367_000)
    return PairIndex(image_id=image_id, crs="EPSG:32737", transform=place, pairs=pairs)


def shown(image, indices, what):
    return {value for index in indices for value in what(image.pairs[index])}


def pixels(pair):
    col_off, row_off, width, height = pair.window
    return {(col, row) for col in range(col_off, col_off + width) for row in range(row_off, row_off + height)}


@settings(deadline=None, max_examples=80)
@given(
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    tile_size=st.integers(8, 24),
    overlap=st.integers(0, 12),
    share=st.floats(0, 0.95),
    corners=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(1, 20)), max_size=12),
    random=st.randoms(use_true_random=False),
)
def test_no_pixel_and_no_building_lies_on_both_sides(size, tile_size, overlap, share, corners, random):
    rules = TilingRules(tile_size, min(overlap, tile_size - 1))
    buildings = [shapely.box(x, y, x + side, y + side) for x, y, side in corners]
    image = index_of("a", size, rules, buildings, kept=lambda: random.random() < 0.8)
    windows = np.array([pair.window for pair in image.pairs], dtype=np.int64).reshape(-1, 4)
    learnt, held_out = split_by_area(windows, [pair.label_ids for pair in image.pairs], share)
    assert not shown(image, learnt, pixels) & shown(image, held_out, pixels)
    assert not shown(image, learnt, lambda pair: pair.label_ids) & shown(
        image, held_out, lambda pair: pair.label_ids
    )
    assert len(learnt) or not image.pairs
    if not len(held_out):
        assert learnt.tolist() == list(range(len(image.pairs)))


def test_a_building_across_the_border_is_not_learnt_where_it_is_held_out():
    # Without overlap the cut runs between neighbours, and through the building at column 300.
    image = index_of("a", (400, 200), TilingRules(100, 0), [shapely.box(290, 10, 310, 30)])
    (sides,) = split_pairs([image], [], 0.25)
    held_out = {image.pairs[index].tile_id for index in sides.held_out}
    learnt = {image.pairs[index].tile_id for index in sides.learnt}
    assert held_out == {"r0000_c0003", "r0001_c0003"}
    assert learnt == {"r0000_c0000", "r0001_c0000", "r0000_c0001", "r0001_c0001", "r0001_c0002"}


def test_the_split_comes_near_the_share():
    image = index_of("a", (20_000, 20_000), TilingRules())
    (sides,) = split_pairs([image], [], 0.2)
    learnt, held_out = len(sides.learnt), len(sides.held_out)
    assert held_out / (learnt + held_out) == pytest.approx(0.2, abs=0.02)
    assert learnt + held_out >= 0.9 * len(image.pairs)


def test_of_cuts_equally_near_the_share_the_one_that_keeps_most_tiles():
    # Between columns one tile is left on either side, between rows two are.
    windows = np.array([[0, 0, 10, 10], [10, 0, 10, 10], [0, 10, 20, 10], [5, 10, 20, 10]])
    sides = split_by_area(windows, [[]] * 4, 0.5)
    assert (sides.learnt.tolist(), sides.held_out.tolist()) == ([0, 1], [2, 3])


@pytest.mark.parametrize(
    ("windows", "label_ids"),
    [
        ([], []),
        ([Window(0, 0, 10, 10)], [[1]]),
        ([Window(0, 0, 10, 10), Window(5, 0, 10, 10)], [[], []]),
        ([Window(0, 0, 10, 10), Window(10, 0, 10, 10)], [[1], [1]]),
    ],
)
def test_what_cannot_be_split_is_learnt(windows, label_ids):
    sides = split_by_area(np.array(windows, dtype=np.int64).reshape(-1, 4), label_ids, 0.2)
    assert sides.learnt.tolist() == list(range(len(windows))) and sides.held_out.tolist() == []


def test_no_share_nothing_held_out():
    image = index_of("a", (5000, 5000), TilingRules())
    assert [len(side) for side in split_pairs([image], [], 0)[0]] == [len(image.pairs), 0]
    with pytest.raises(SettingsError, match="below 1"):
        split_pairs([image], [], 1)


def test_named_images_are_held_out_whole_and_neighbours_that_touch_are_learnt():
    images = [index_of(name, (500, 500), TilingRules(200, 50), left_m=50 * n) for n, name in enumerate("abc")]
    sides = split_pairs(images, ["b"], 0.25)
    assert [[len(side) for side in image] for image in sides] == [[9, 0], [0, 9], [9, 0]]
    closer = [images[0], index_of("b", (500, 500), TilingRules(200, 50), left_m=49.8)]
    assert [[len(side) for side in image] for image in split_pairs(closer, ["b"], 0.25)] == [[6, 0], [0, 9]]
    with pytest.raises(SettingsError, match="not learnt from"):
        split_pairs(images, ["d"], 0.25)
    with pytest.raises(SettingsError, match="nothing is left"):
        split_pairs(images, ["a", "b", "c"], 0.25)


def test_labels_of_another_place_are_not_blamed_on_a_setting():
    with pytest.raises(LabelError, match=r"b: no label lies on the ground of a training image.*labels check"):
        split_pairs([index_of("b", (500, 500), TilingRules(200, 50), kept=lambda: False)], [], 0.25)


@pytest.mark.parametrize("held_out", [["b"], []])
def test_ground_that_two_images_show_is_on_one_side_only(held_out):
    # 50 m wide each, the second one flown again over the last 20 m of the first, off its pixels.
    rules = TilingRules(100, 20)
    images = [index_of("a", (500, 300), rules), index_of("b", (500, 300), rules, left_m=30.03)]
    sides = split_pairs(images, held_out, 0.3)

    def ground(side):
        return shapely.union_all(
            [
                px_to_crs([window_box(image.pairs[index].window)], image.transform)[0]
                for image, indices in zip(images, sides, strict=True)
                for index in getattr(indices, side)
            ]
        )

    learnt, judged = ground("learnt"), ground("held_out")
    assert learnt.area > 0 and judged.area > 0
    assert shapely.intersection(learnt, judged).area < METRES**2


def test_held_out_ground_is_what_the_split_holds_out_and_what_was_so_before(tmp_path):
    before = Window(0, 0, 24, 24)
    images = [index_of(name, (96, 72), TilingRules(24, 8), left_m=place) for name, place in PLACES.items()]
    images.append(images[0].model_copy(update={"image_id": "reviewed", "held_out": [before]}))
    folders = [tmp_path / image.image_id for image in images]
    for folder, image in zip(folders, images, strict=True):
        folder.mkdir()
        (folder / "pairs.json").write_text(image.model_dump_json())
    expected = {
        image.image_id: sorted({image.pairs[place].window for place in side.held_out})
        for image, side in zip(images, split_pairs(images, [], 0.3), strict=True)
    }
    assert expected["a"] and expected["reviewed"] == [before]
    assert held_out_ground(folders, [], 0.3) == expected
