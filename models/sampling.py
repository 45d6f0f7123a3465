"""Which tiles an epoch shows, and how often: so that rare categories and hard ground are seen.

Every tile has a weight, its share of an epoch's showings:

- with items: by how rare its rarest category is (`repeat_factors`);
- without: by how much was wrongly found in it (hard negatives), all of them together held to
  `Recipe.negative_share`;
- and all by the weight they were given, such as for having been looked at by people.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import shapely

from models.categories import label_of
from models.errors import DatasetError, ModelError
from models.recipe import Recipe
from models.tiles import TrainingTile, read_items


class Draw(NamedTuple):
    """One showing of a tile, by its index, and the epoch and place there that decide how it is shown."""

    tile: int
    epoch: int
    position: int


class Contents(NamedTuple):
    """What is in each of n tiles."""

    present: np.ndarray
    """bool[n,k], whether the tile has an item of the category."""
    empty: np.ndarray
    """bool[n], whether the tile has no item at all, of known category or not."""
    sides: np.ndarray
    """float64[m], mean side (root of width x height) in px of the box of every item that is learnt."""
    given: np.ndarray | float = 1.0
    """float64[n], the weight that each tile was given."""


def survey(tiles: Sequence[TrainingTile], categories: tuple[str, ...], recipe: Recipe) -> Contents:
    """Return what is in each tile.

    Raises:
        DatasetError: an item file cannot be read, or names another category.
    """
    present = np.zeros((len(tiles), len(categories)), dtype=bool)
    empty, sides = np.zeros(len(tiles), dtype=bool), [np.zeros(0)]
    for row, tile in enumerate(tiles):
        items = read_items(tile.items)
        try:
            named = [label_of(categories, name) - 1 for name in set(items.categories) - {None} if name]
        except ModelError as error:
            raise DatasetError(str(error), where=items.tile) from None
        present[row, named] = True
        empty[row] = not items.categories
        left, top, right, bottom = shapely.bounds(items.polygons).reshape(-1, 4).T
        learnt = np.minimum(right - left, bottom - top) >= recipe.min_item_px
        learnt &= items.visible_shares >= recipe.min_visible_share
        sides.append(np.sqrt((right - left) * (bottom - top))[learnt])
    return Contents(present, empty, np.concatenate(sides), np.array([tile.weight for tile in tiles]))


def repeat_factors(present: np.ndarray, rare_share: float) -> np.ndarray:
    """Return how often to show each tile, 1 or more: by its rarest category.

    A category in a share f of the tiles counts max(1, sqrt(rare_share / f)) times.

    Args:
        present: bool[n,k], whether a tile has an item of a category.
        rare_share: share of the tiles below which a category is rare, 0 to 1.

    Returns:
        float64[n].

    Source: Gupta, Dollár, Girshick, "LVIS", CVPR 2019, section 6.
    """
    shares = present.mean(axis=0) if len(present) else np.zeros(present.shape[1])
    factors = np.sqrt(np.divide(rare_share, shares, out=np.ones_like(shares), where=shares > 0))
    return np.where(present, np.maximum(factors, 1), 1).max(axis=1, initial=1)


def showing_weights(contents: Contents, false_positives: np.ndarray, recipe: Recipe) -> np.ndarray:
    """Return the weight of every tile, float64[n].

    Args:
        contents: what is in the tiles.
        false_positives: int[n], what was found in each tile without items where nothing is.
        recipe: the shares.
    """
    weights, empty = np.ones(len(contents.empty)), contents.empty
    weights[~empty] = repeat_factors(contents.present[~empty], recipe.rare_share)
    weights[empty] += false_positives[empty]
    full, rest = weights[~empty].sum(), weights[empty].sum()
    if full and rest and rest > recipe.negative_share * (full + rest):
        weights[empty] *= recipe.negative_share / (1 - recipe.negative_share) * full / rest
    return weights * contents.given


def draw_epoch(weights: np.ndarray, epoch: int, recipe: Recipe) -> list[Draw]:
    """Return the showings of one epoch in order: as many as tiles, or `Recipe.tiles_per_epoch`.

    They follow from weights, seed and epoch alone. A tile that is due x times is shown x times
    rounded up or down (systematic sampling), so equal weights show every tile once.

    Args:
        weights: float64[n], share of the showings each tile is due, of any sum.
        epoch: number of epochs before this one.
        recipe: seed and length.
    """
    if not len(weights):
        return []
    chance = np.random.default_rng((recipe.seed, epoch))
    wanted = recipe.tiles_per_epoch or len(weights)
    order = chance.permutation(len(weights))
    due = np.cumsum(weights[order])
    marks = (chance.random() + np.arange(wanted)) * (due[-1] / wanted)
    places = np.searchsorted(due, marks, side="right").clip(max=len(weights) - 1)
    shown = chance.permutation(order[places])
    return [Draw(int(index), epoch, position) for position, index in enumerate(shown)]
