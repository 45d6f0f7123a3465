import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from painted_tiles import CATEGORIES, item, write_tile

from models.errors import DatasetError
from models.recipe import Recipe
from models.sampling import Contents, draw_epoch, repeat_factors, showing_weights, survey

RECIPE = Recipe()


@settings(deadline=None, max_examples=50)
@given(count=st.integers(0, 30), wanted=st.integers(0, 90), epoch=st.integers(0, 5))
def test_an_epoch_draws_tiles_of_equal_weight_evenly(count, wanted, epoch):
    draws = draw_epoch(np.ones(count), epoch, Recipe(tiles_per_epoch=wanted))
    assert len(draws) == ((wanted or count) if count else 0)
    assert [draw.position for draw in draws] == list(range(len(draws)))
    shown = np.bincount([draw.tile for draw in draws], minlength=count)
    assert len(shown) == 0 or shown.max() - shown.min() <= 1


@settings(deadline=None, max_examples=50)
@given(weights=st.lists(st.floats(0.01, 9), min_size=1, max_size=20), wanted=st.integers(1, 60))
def test_a_tile_is_shown_as_often_as_it_is_due(weights, wanted):
    due = np.array(weights) / sum(weights) * wanted
    draws = draw_epoch(np.array(weights), 3, Recipe(tiles_per_epoch=wanted))
    shown = np.bincount([draw.tile for draw in draws], minlength=len(weights))
    assert len(draws) == wanted and (np.abs(shown - due) < 1 + 1e-6).all()


def test_epochs_differ_in_order():
    weights = np.ones(20)
    assert draw_epoch(weights, 0, RECIPE) == draw_epoch(weights, 0, RECIPE)
    assert [d.tile for d in draw_epoch(weights, 0, RECIPE)] != [
        d.tile for d in draw_epoch(weights, 1, RECIPE)
    ]


def test_tiles_of_rare_categories_repeat():
    """The square root of how far below the limit a tile's rarest category is, and never less than 1."""
    present = np.zeros((100, 3), dtype=bool)
    present[:90, 0] = True
    present[:4, 1] = True
    factors = repeat_factors(present, 0.16)
    assert factors[:4] == pytest.approx(2.0) and (factors[4:] == 1).all()
    assert (repeat_factors(present, 0.0) == 1).all()
    assert repeat_factors(present[:0], 0.16).shape == (0,)


def _contents(full, empty):
    return Contents(
        np.ones((full + empty, 1), dtype=bool) & (np.arange(full + empty) < full)[:, None],
        np.arange(full + empty) >= full,
        np.zeros(0),
    )


def test_tiles_without_items_keep_to_their_share():
    few, many = _contents(18, 2), _contents(10, 90)
    nothing = np.zeros(100, dtype=int)
    assert (showing_weights(few, nothing[:20], RECIPE) == 1).all()
    weights = showing_weights(many, nothing, Recipe(negative_share=0.25))
    assert weights[10:].sum() / weights.sum() == pytest.approx(0.25) and (weights[:10] == 1).all()
    assert (showing_weights(many, nothing, Recipe(negative_share=0.0))[10:] == 0).all()
    assert (showing_weights(many, nothing, Recipe(negative_share=1.0)) == 1).all()
    assert (showing_weights(_contents(0, 3), nothing[:3], RECIPE) == 1).all()


def test_hard_negatives_take_the_place_of_easy_ones():
    found = np.zeros(100, dtype=int)
    found[50] = 9
    weights = showing_weights(_contents(10, 90), found, Recipe(negative_share=0.25))
    assert weights[50] == pytest.approx(10 * weights[51])
    assert weights[10:].sum() / weights.sum() == pytest.approx(0.25)


def test_survey(tmp_path):
    tiles = [
        write_tile(tmp_path, "r0000_c0000", [item(0, 0, 10, 40), item(50, 50, 52, 90), item(4, 50, 20, 66)]),
        write_tile(tmp_path, "r0000_c0001", [item(0, 0, 20, 20, None)]),
        write_tile(tmp_path, "r0000_c0002", []),
    ]
    contents = survey(tiles, CATEGORIES, RECIPE)
    assert contents.present.tolist() == [[False, False, True], [False] * 3, [False] * 3]
    assert contents.empty.tolist() == [False, False, True]
    assert sorted(contents.sides.tolist()) == [16, 20, 20]
    palace = write_tile(tmp_path, "r0000_c0003", [item(0, 0, 20, 20, "palace")])
    with pytest.raises(DatasetError, match=r"grid/r0000_c0003.*palace"):
        survey([palace], CATEGORIES, RECIPE)
