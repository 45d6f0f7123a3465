"""Which ground no tile covers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.coverage import Coverage, untiled_windows
from pipeline.tiling import TilingRules, tile_windows


@pytest.mark.parametrize("shape", [(1, 1), (1024, 1024), (8192, 4096), (3001, 1777)])
def test_a_whole_tiling_leaves_nothing_out(shape):
    windows = [window for *_, window in tile_windows(*shape, TilingRules())]
    assert untiled_windows(windows, *shape).shape == (0, 4)


def test_without_tiles_the_whole_image_is_left_out():
    assert untiled_windows([], 30, 20).tolist() == [[0, 0, 30, 20]]


def test_a_missing_tile_leaves_out_what_its_neighbours_do_not_see():
    windows = [window for *_, window in tile_windows(500, 300, TilingRules(200, 50))]
    assert untiled_windows(windows[1:], 500, 300).tolist() == [[0, 0, 150, 100]]


@settings(deadline=None, max_examples=100)
@given(st.data(), st.integers(1, 60), st.integers(1, 60))
def test_the_rest_is_told_pixel_by_pixel(data, width, height):
    size = data.draw(st.integers(5, 40))
    rules = TilingRules(size, data.draw(st.integers(0, size - 1)))
    windows = [window for *_, window in tile_windows(width, height, rules) if data.draw(st.booleans())]
    times = np.zeros((height, width), dtype=int)
    for col_off, row_off, across, down in windows:
        times[row_off : row_off + down, col_off : col_off + across] += 1
    bare = np.zeros((height, width), dtype=int)
    for col_off, row_off, across, down in untiled_windows(windows, width, height):
        bare[row_off : row_off + down, col_off : col_off + across] += 1
    assert np.array_equal(bare, times == 0)


def test_the_sentence_says_what_was_left_out():
    assert "Every valid pixel" in Coverage(uncovered_px=0, uncovered_share=0).sentence
    told = Coverage(uncovered_px=15_000, uncovered_share=0.1).sentence
    assert "15,000 valid pixels (10.00%)" in told and "min_valid_share" in told
