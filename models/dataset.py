"""Training tiles as images and targets.

A training tile is a picture (RGB GeoTIFF, uint8) and its items (JSON): labels clipped to the tile, as
polygons in tile pixels (x = column, y = row, integers at pixel edges). What becomes of an item:

- of known category, visible enough and large enough: a *target* with a box, a label and a mask;
- else an *ignore box*: of unknown category (None), with less than `Recipe.min_visible_share` of it
  inside the tile, or with a side below `Recipe.min_item_px`. There is something, but nothing a network
  could be asked to name or draw: proposals that lie in it count neither as items nor as background.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio
import shapely
import torch
from rasterio.features import rasterize
from rasterio.transform import Affine
from torch.utils.data import Dataset

from models.categories import label_of
from models.errors import DatasetError, ModelError
from models.recipe import Recipe

Target = dict[str, torch.Tensor]
"""boxes float32[n,4] (x1, y1, x2, y2), labels int64[n], masks uint8[n,h,w], ignore_boxes float32[m,4],
image_id int64[1] (the tile's index); tile pixels."""


class TrainingTile(NamedTuple):
    """A tile's picture and its items."""

    image: Path
    items: Path


class Items(NamedTuple):
    """The items of one tile."""

    tile: str
    """`image_id/tile_id`, for messages."""
    polygons: np.ndarray
    """object[n], MultiPolygons in tile px."""
    categories: tuple[str | None, ...]
    """None where the condition is not known."""
    visible_shares: np.ndarray
    """float64[n], share of a label's area inside the tile, 0 to 1."""


class Draw(NamedTuple):
    """One showing of a tile, by its index, and the epoch and place there that decide how it is shown."""

    tile: int
    epoch: int
    position: int


def read_items(path: Path) -> Items:
    """Return the items of one tile.

    Raises:
        DatasetError: the file is missing or not what it should be.
    """
    try:
        content = json.loads(path.read_bytes())
        items = content["items"]
        polygons = np.empty(len(items), dtype=object)
        for row, item in enumerate(items):
            polygons[row] = shapely.MultiPolygon([(part[0], part[1:]) for part in item["polygons"]])
        return Items(
            tile=f"{content['image_id']}/{content['tile_id']}",
            polygons=polygons,
            categories=tuple(item["category"] for item in items),
            visible_shares=np.array([item["visible_share"] for item in items], dtype=np.float64),
        )
    except FileNotFoundError:
        raise DatasetError("no such item file", where=path, remedy="Cut the training tiles anew") from None
    except (ValueError, KeyError, TypeError, IndexError, shapely.GEOSException) as error:
        raise DatasetError(
            f"not an item file: {error!r}", where=path, remedy="Cut the training tiles anew"
        ) from error


def read_image(path: Path) -> np.ndarray:
    """Return a tile's picture, uint8[3,h,w].

    Raises:
        DatasetError: the file is missing, cannot be read, or is not three bands of uint8.
    """
    try:
        with rasterio.open(path) as src:
            bands, dtypes = src.count, set(src.dtypes)
            if bands == 3 and dtypes == {"uint8"}:
                return src.read()
    except rasterio.errors.RasterioError as error:
        reason = " ".join(str(error).split())
        raise DatasetError(
            f"unreadable tile: {reason}", where=path, remedy="Cut the training tiles anew"
        ) from error
    raise DatasetError("a training tile has three bands of uint8", where=path, found=(bands, *sorted(dtypes)))


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
    learnt = (sides >= recipe.min_item_px) & (items.visible_shares >= recipe.min_visible_share)
    learnt &= np.array([category is not None for category in items.categories], dtype=bool)

    masks = np.zeros((len(boxes), height, width), dtype=np.uint8)
    corners = Affine.translation(-0.5, -0.5)
    for row in np.flatnonzero(learnt):
        rasterize([items.polygons[row]], out=masks[row], transform=corners, default_value=1)
    learnt &= masks.any(axis=(1, 2))
    try:
        labels = [label_of(categories, category) for category in np.array(items.categories, object)[learnt]]
    except ModelError as error:
        raise DatasetError(str(error), where=items.tile) from None
    return {
        "boxes": torch.from_numpy(boxes[learnt]),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "masks": torch.from_numpy(masks[learnt]),
        "ignore_boxes": torch.from_numpy(boxes[~learnt & (sides > 0)]),
    }


def draw_epoch(tiles: int, epoch: int, recipe: Recipe) -> list[Draw]:
    """Return the showings of one epoch in order: every tile once, or `Recipe.tiles_per_epoch` of them.

    They follow from the seed and the epoch alone. Where more are asked for than there are tiles, no
    tile is shown an (n+1)-th time before each was shown n times.
    """
    chance = np.random.default_rng((recipe.seed, epoch))
    wanted = recipe.tiles_per_epoch or tiles
    rounds = -(-wanted // tiles) if tiles else 0
    order = [index for _ in range(rounds) for index in chance.permutation(tiles).tolist()]
    return [Draw(index, epoch, position) for position, index in enumerate(order[:wanted])]


class TileDataset(Dataset):
    """Images uint8[3,h,w] and targets of training tiles.

    `dataset[index]` is a tile as it is; `dataset[Draw(...)]` is the tile turned, mirrored and lit
    otherwise as seed, epoch and position decide, whichever process reads it.
    """

    def __init__(self, tiles: Sequence[TrainingTile], categories: tuple[str, ...], recipe: Recipe):
        self.tiles, self.categories, self.recipe = tuple(tiles), categories, recipe

    def __len__(self) -> int:
        return len(self.tiles)

    def __getitem__(self, key: int | Draw) -> tuple[torch.Tensor, Target]:
        index = key.tile if isinstance(key, Draw) else key
        image, items = read_image(self.tiles[index].image), read_items(self.tiles[index].items)
        if isinstance(key, Draw):
            chance = np.random.default_rng((self.recipe.seed, key.epoch, key.position))
            image, items = _show(image, items, self.recipe, chance)
        height, width = image.shape[1:]
        target = make_target(items, height, width, self.categories, self.recipe)
        target["image_id"] = torch.tensor([index])
        return torch.from_numpy(np.ascontiguousarray(image)), target


def collate_fn(samples: list[tuple[Any, Any]]) -> tuple[list[Any], list[Any]]:
    """Return a batch as a list of images and a list of targets; tiles may differ in size."""
    images, targets = zip(*samples, strict=True)
    return list(images), list(targets)


def _show(
    image: np.ndarray, items: Items, recipe: Recipe, chance: np.random.Generator
) -> tuple[np.ndarray, Items]:
    turns, mirrored = int(chance.integers(4)), bool(chance.integers(2))
    brightness = 1 + chance.uniform(-recipe.brightness, recipe.brightness)
    contrast = 1 + chance.uniform(-recipe.contrast, recipe.contrast)
    tint = 1 + chance.uniform(-recipe.tint, recipe.tint, 3)
    if recipe.flips:
        height, width = image.shape[1:]
        image = np.rot90(image[:, :, ::-1] if mirrored else image, turns, axes=(1, 2))
        polygons = shapely.transform(items.polygons, lambda xy: _turn(xy, height, width, turns, mirrored))
        items = items._replace(polygons=polygons)
    if recipe.brightness or recipe.contrast or recipe.tint:
        mean = image.mean()
        gain = (brightness * tint)[:, None, None]
        image = np.clip(((image - mean) * contrast + mean) * gain + 0.5, 0, 255).astype(np.uint8)
    return image, items


def _turn(xy: np.ndarray, height: int, width: int, turns: int, mirrored: bool) -> np.ndarray:
    x, y = xy.T
    if mirrored:
        x = width - x
    for _ in range(turns):
        x, y = y, width - x
        height, width = width, height
    return np.column_stack((x, y))
