"""Buildings copied from one tile into free places of another.

Source: Ghiasi et al., "Simple Copy-Paste is a Strong Data Augmentation Method for Instance
Segmentation", CVPR 2021. Unlike there nothing is covered up: seen from above, buildings stand side by
side, and a half-covered one is no building that could be seen.
"""

from __future__ import annotations

import numpy as np
import shapely
import torch
from rasterio.features import rasterize
from rasterio.transform import Affine
from torch import Tensor
from torchvision.transforms.v2 import functional as v2

from models.tiles import Items

ATTEMPTS = 10
"""Places tried for each building."""

GAP_PX = 4.0
"""Least distance from what is there already, in tile px."""

FEATHER_PX = 2.0
"""Width of ground copied along with a building, over which it blends into the new ground, in tile px."""

LEAST_SIDE_PX = 8.0
"""Smaller buildings are not copied, in tile px: little but a blended edge would be left of them."""


def paste(
    image: Tensor, items: Items, source: Tensor, source_items: Items, most: int, chance: np.random.Generator
) -> tuple[Tensor, Items]:
    """Return a tile with up to `most` buildings of another one in free places.

    Copied are items of known category that their tile shows whole; at no place do they touch an item,
    leave the tile or stand on black ground.

    Args:
        image: uint8[3,h,w]; left as it is.
        items: its items.
        source: uint8[3,h,w] to copy from.
        source_items: its items.
        most: how many to copy.
        chance: decides which, and where.
    """
    image, taken = image.clone(), list(items.polygons)
    pasted: list[int] = []
    for row in chance.permutation(_whole(source_items))[:most]:
        polygon = source_items.polygons[row]
        shift = _free_place(image, polygon, taken, chance)
        if shift is None:
            continue
        _blend(image, source, polygon, shift)
        taken.append(shapely.affinity.translate(polygon, *shift))
        pasted.append(row)
    polygons = np.empty(len(taken), dtype=object)
    polygons[:] = taken
    return image, items._replace(
        polygons=polygons,
        categories=items.categories + tuple(source_items.categories[row] for row in pasted),
        visible_shares=np.append(items.visible_shares, np.ones(len(pasted))),
    )


def _whole(items: Items) -> np.ndarray:
    """Rows of the items that can be copied."""
    left, top, right, bottom = shapely.bounds(items.polygons).reshape(-1, 4).T
    whole = np.minimum(right - left, bottom - top) >= LEAST_SIDE_PX
    whole &= items.visible_shares >= 1
    whole &= np.array([category is not None for category in items.categories], dtype=bool)
    return np.flatnonzero(whole)


def _free_place(
    image: Tensor, polygon: shapely.Geometry, taken: list[shapely.Geometry], chance: np.random.Generator
) -> tuple[int, int] | None:
    """Return by how many whole pixels to shift a polygon to free ground; None where none was found."""
    height, width = image.shape[1:]
    left, top, right, bottom = _window(polygon)
    if right - left > width or bottom - top > height:
        return None
    footprint = polygon.buffer(GAP_PX)
    for _ in range(ATTEMPTS):
        x = int(chance.integers(width - (right - left) + 1))
        y = int(chance.integers(height - (bottom - top) + 1))
        ground = image[:, y : y + bottom - top, x : x + right - left]
        moved = shapely.affinity.translate(footprint, x - left, y - top)
        if ground.any(dim=0).all() and not shapely.intersects(moved, taken).any():
            return x - left, y - top
    return None


def _blend(image: Tensor, source: Tensor, polygon: shapely.Geometry, shift: tuple[int, int]) -> None:
    """Copy a polygon's pixels, in place, fading out over `FEATHER_PX` around it."""
    left, top, right, bottom = _clip(_window(polygon), *source.shape[1:])
    size = (bottom - top, right - left)
    drawn = rasterize(
        [polygon.buffer(FEATHER_PX / 2)], out_shape=size, transform=Affine.translation(left, top)
    )
    share = torch.from_numpy(drawn).float()[None]
    share = v2.gaussian_blur(share, [5, 5], [FEATHER_PX / 2, FEATHER_PX / 2])
    x, y = left + shift[0], top + shift[1]
    ground = image[:, y : y + size[0], x : x + size[1]]
    copied = source[:, top:bottom, left:right]
    ground.copy_((ground + share * (copied.float() - ground)).round())


def _window(polygon: shapely.Geometry) -> tuple[int, int, int, int]:
    """Whole pixels around a polygon and what is copied with it: left, top, right, bottom."""
    left, top, right, bottom = polygon.bounds
    return (
        int(np.floor(left - FEATHER_PX)),
        int(np.floor(top - FEATHER_PX)),
        int(np.ceil(right + FEATHER_PX)),
        int(np.ceil(bottom + FEATHER_PX)),
    )


def _clip(window: tuple[int, int, int, int], height: int, width: int) -> tuple[int, int, int, int]:
    left, top, right, bottom = window
    return max(left, 0), max(top, 0), min(right, width), min(bottom, height)
