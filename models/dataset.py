"""Training tiles as images and targets.

What becomes of an item:

- visible enough and large enough: a *target* with a box, a label and a mask; of an item of unknown
  category (None) box and mask are learnt, and that it is an item of any category;
- else an *ignore box*: with less than `Recipe.min_visible_share` of it inside the tile, or with a side
  below `Recipe.min_item_px`. There is something, but nothing a network could be asked to name or draw:
  proposals that lie in it count neither as items nor as background.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import shapely
import torch
from rasterio.features import rasterize
from rasterio.transform import Affine
from torch import Tensor
from torch.utils.data import Dataset

from models.augment import move, relight
from models.categories import label_of, unknown_label
from models.copy_paste import paste
from models.errors import DatasetError, ModelError
from models.recipe import Recipe
from models.sampling import Draw
from models.tiles import Items, TrainingTile, read_image, read_items

Target = dict[str, Any]
"""boxes float32[n,4] (x1, y1, x2, y2), labels int64[n], masks uint8[n,h,w], ignore_boxes float32[m,4],
all in tile pixels; tile (its name) and seed (of the samples that losses are computed on)."""


def make_target(items: Items, height: int, width: int, categories: tuple[str, ...], recipe: Recipe) -> Target:
    """Return what a network should find in a tile, by the rule in this module's docstring.

    Boxes are the polygons' exact bounds inside the tile. Masks hold at index (row, column) whether
    the *corner* (x = column, y = row) is inside, not the centre of that pixel: torchvision reads a
    mask at box coordinates as if integers were pixel centres, so masks by centre would teach outlines
    half a pixel off.

    Raises:
        DatasetError: an item's category is none of `categories`.
    """
    bounds = shapely.bounds(items.polygons).reshape(-1, 4)
    boxes = np.clip(np.nan_to_num(bounds), 0, (width, height, width, height)).astype(np.float32)
    sides = np.minimum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    large = (sides >= recipe.min_item_px) & (items.visible_shares >= recipe.min_visible_share)

    learnt = np.flatnonzero(large)
    masks, drawn = _draw(items.polygons[learnt], boxes[learnt], height, width)
    if not drawn.all():
        learnt, masks = learnt[drawn], masks[drawn]
    ignored = np.setdiff1d(np.flatnonzero(sides > 0), learnt)
    return {
        "boxes": torch.from_numpy(boxes[learnt]),
        "labels": torch.tensor(_labels(items, learnt, categories), dtype=torch.int64),
        "masks": torch.from_numpy(masks),
        "ignore_boxes": torch.from_numpy(boxes[ignored]),
        "tile": items.tile,
    }


def _draw(polygons: np.ndarray, boxes: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return masks of polygons, uint8[n, h, w], 1 where corners are inside; and bool[n], whether any is.

    All are drawn side by side, a strip's column of pixels between two, in one call: a call for each takes
    longer than its drawing.
    """
    masks, drawn = (
        np.zeros((len(polygons), height, width), dtype=np.uint8),
        np.zeros(len(polygons), dtype=bool),
    )
    if not len(polygons):
        return masks, drawn
    starts, ends = np.floor(boxes[:, :2]).astype(int) - 1, np.ceil(boxes[:, 2:]).astype(int) + 2
    widths, heights = (ends - starts).T
    columns = np.cumsum(widths) - widths
    # What reaches beyond the tile would be drawn into the neighbour in the strip.
    inside = shapely.clip_by_rect(polygons, -1, -1, width + 1, height + 1)
    beyond = ~shapely.covered_by(polygons, shapely.box(0, 0, width, height))
    apart = np.where(beyond, inside, polygons)
    xy, owner = shapely.get_coordinates(apart, return_index=True)
    to_strip = np.stack([columns - starts[:, 0], -starts[:, 1]], axis=1)
    apart = shapely.set_coordinates(apart, xy + to_strip[owner])
    strip = rasterize(
        apart,
        out_shape=(heights.max(), widths.sum()),
        transform=Affine.translation(-0.5, -0.5),
        dtype="uint8",
    )
    for row, (mask, (left, top), (right, bottom), column) in enumerate(
        zip(masks, starts.tolist(), ends.tolist(), columns.tolist(), strict=True)
    ):
        part = mask[max(0, top) : bottom, max(0, left) : right]
        top, column = max(0, -top), column + max(0, -left)
        part[:] = strip[top : top + part.shape[0], column : column + part.shape[1]]
        drawn[row] = part.any()
    return masks, drawn


def _labels(items: Items, rows: np.ndarray, categories: tuple[str, ...]) -> list[int]:
    unknown = unknown_label(categories)
    try:
        named = [items.categories[row] for row in rows]
        return [unknown if category is None else label_of(categories, category) for category in named]
    except ModelError as error:
        raise DatasetError(str(error), where=items.tile) from None


class TileDataset(Dataset):
    """Images uint8[3,h,w] and targets of training tiles.

    `dataset[index]` is a tile as it is; `dataset[Draw(...)]` is the tile shown otherwise, as seed, epoch
    and position decide, whichever process reads it.
    """

    def __init__(self, tiles: Sequence[TrainingTile], categories: tuple[str, ...], recipe: Recipe):
        self.tiles, self.categories, self.recipe = tuple(tiles), categories, recipe

    def __len__(self) -> int:
        return len(self.tiles)

    def __getitem__(self, key: int | Draw) -> tuple[Tensor, Target]:
        if isinstance(key, Draw):
            chance = np.random.default_rng((self.recipe.seed, key.epoch, key.position))
            image, items = self._show(key.tile, chance)
        else:
            chance = np.random.default_rng((self.recipe.seed, key))
            image, items = self._read(key)
        height, width = image.shape[1:]
        target = make_target(items, height, width, self.categories, self.recipe)
        return image, target | {"seed": int(chance.integers(2**63))}

    def _read(self, index: int) -> tuple[Tensor, Items]:
        tile = self.tiles[index]
        return torch.from_numpy(read_image(tile.image)), read_items(tile.items)

    def _show(self, index: int, chance: np.random.Generator) -> tuple[Tensor, Items]:
        image, items = self._read(index)
        if self.recipe.paste:
            source = self._read(int(chance.integers(len(self))))
            image, items = paste(image, items, *source, self.recipe.paste, chance)
        image, items = move(image, items, self.recipe, chance)
        return relight(image, self.recipe, chance), items


def collate_fn(samples: list[tuple[Any, Any]]) -> tuple[list[Any], list[Any]]:
    """Return a batch as a list of images and a list of targets; tiles may differ in size."""
    images, targets = zip(*samples, strict=True)
    return list(images), list(targets)
