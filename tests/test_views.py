"""Views of a tile: what is drawn in one comes back to where it is in the tile."""

from __future__ import annotations

from typing import get_args, get_type_hints

import numpy as np
import pytest

from models.predict import Prediction
from models.views import VIEWS, View, bring_back, show
from pipeline.inference import InferenceRules

HEIGHT, WIDTH = 96, 128
ALL = sorted({view for views in VIEWS.values() for view in views})


def finder(images: np.ndarray) -> Prediction:
    """What a perfect network finds of the one bright rectangle with a dark corner."""
    bright = images[0, 0] > 127
    rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
    box = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    inside = bright[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    grid = [np.floor((np.arange(28) + 0.5) / 28 * side).astype(int) for side in inside.shape]
    masks = inside[np.ix_(*grid)].astype(np.float32)[None]
    ones = np.ones(1, np.float32)
    return Prediction(np.array([box], np.float32), ones, ones[:, None], masks)


@pytest.fixture
def images() -> np.ndarray:
    images = np.zeros((1, 3, HEIGHT, WIDTH), np.uint8)
    images[:, :, 20:48, 36:92] = 255
    images[:, :, 20:34, 36:64] = 0  # an L, different under every flip and turn
    return images


@pytest.mark.parametrize("view", ALL)
def test_what_is_found_in_a_view_comes_back_to_its_place(images, view):
    plain = finder(images)
    shown = show(images, view)
    found = bring_back(finder(shown), view, HEIGHT, WIDTH)
    assert np.abs(found.boxes - plain.boxes).max() <= (0 if view.scale == 1 else 1.5)
    assert (found.masks == plain.masks).mean() >= (1 if view.scale == 1 else 0.9)


def test_every_choice_of_the_settings_has_its_views():
    assert list(VIEWS) == list(get_args(get_type_hints(InferenceRules)["views"]))


def test_views_of_a_choice_differ_and_begin_with_the_tile(images):
    for views in VIEWS.values():
        assert views[0] == View()
        assert len({show(images, view).tobytes() for view in views}) == len(views)


def test_a_view_has_the_size_it_says(images):
    assert show(images, View(turns=1, scale=0.75)).shape == (1, 3, 96, 72)
    assert np.array_equal(show(images, View()), images)


def test_nothing_found_stays_nothing():
    nothing = Prediction(
        np.empty((0, 4), np.float32), np.empty(0), np.empty((0, 3)), np.empty((0, 28, 28), np.float32)
    )
    for view in ALL:
        assert bring_back(nothing, view, HEIGHT, WIDTH).boxes.shape == (0, 4)
