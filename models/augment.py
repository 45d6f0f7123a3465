"""Training tiles shown otherwise: turned, nearer or farther, in other light, by another camera.

Geometry warps the picture, by torchvision.transforms.v2, and moves the corners of the items' polygons by
the very same affine map; boxes and masks are made from them afterwards. So outlines stay as exact as
they were drawn, and the cost does not grow with the number of items.

All colour is one affine map of (red, green, blue): a tenth of the time of torchvision's steps, whose
hue alone takes longer than reading a tile.
"""

from __future__ import annotations

import io
import math

import numpy as np
import shapely
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as v2

from models.recipe import Recipe
from models.tiles import Items

LUMA = np.array([0.299, 0.587, 0.114])
"""Share of red, green and blue in what is seen as brightness (ITU-R BT.601)."""

_YIQ = np.array([LUMA, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


def move(image: Tensor, items: Items, recipe: Recipe, chance: np.random.Generator) -> tuple[Tensor, Items]:
    """Return a tile mirrored, turned and magnified by chance; ground from beyond the tile is black.

    Args:
        image: uint8[3,h,w].
        items: its items; where the tile shows less of them now, their visible shares fall.
        recipe: how far it may go.
        chance: decides; draws the same numbers whatever the recipe.
    """
    mirrored, turns = bool(chance.integers(2)), int(chance.integers(4))
    degrees = chance.uniform(-1, 1) * recipe.rotation
    scale = math.exp(chance.uniform(math.log(recipe.scale_min), math.log(recipe.scale_max)))
    place = chance.random(2)
    if recipe.flips:
        image, items = _turn(image, items, turns, mirrored)
    if recipe.rotation:
        image, items = _rotate(image, items, degrees)
    if scale != 1:
        image, items = _magnify(image, items, scale, place)
    return image, items


def relight(image: Tensor, recipe: Recipe, chance: np.random.Generator) -> Tensor:
    """Return uint8[3,h,w] of uint8[3,h,w] in other light and by another camera, by chance.

    Args:
        image: the tile.
        recipe: how far it may go.
        chance: decides; draws the same numbers whatever the recipe.
    """
    brightness, contrast, saturation = 1 + chance.uniform(-1, 1, 3) * (
        recipe.brightness, recipe.contrast, recipe.saturation
    )  # fmt: skip
    tint = 1 + chance.uniform(-recipe.tint, recipe.tint, 3)
    degrees = chance.uniform(-recipe.hue, recipe.hue)
    blur, quality = chance.uniform(1, recipe.blur), round(chance.uniform(recipe.jpeg_quality, 100))
    gain = brightness * tint
    colours = gain[:, None] * contrast * hue_matrix(degrees) @ saturation_matrix(saturation)
    if not np.allclose(colours, np.eye(3)):
        # Contrast is a distance to the mean: what a colour loses, the mean makes up for.
        image = _recolour(image, colours, gain * (1 - contrast))
    if blur > 1.01:
        image = _blur(image, blur)
    return _compress(image, quality) if quality < 100 else image


def saturation_matrix(saturation: float) -> np.ndarray:
    """Return float64[3,3] that takes colours towards their grey (0) or beyond themselves (above 1)."""
    return saturation * np.eye(3) + (1 - saturation) * LUMA


def hue_matrix(degrees: float) -> np.ndarray:
    """Return float64[3,3] that turns the hue at equal luma (a rotation in YIQ)."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    return np.linalg.inv(_YIQ) @ turn @ _YIQ


def _turn(image: Tensor, items: Items, turns: int, mirrored: bool) -> tuple[Tensor, Items]:
    height, width = image.shape[1:]
    shown = np.eye(3)
    if mirrored:
        image = v2.horizontal_flip(image)
        shown = np.array([[-1, 0, width], [0, 1, 0], [0, 0, 1.0]])
    for _ in range(turns):
        shown = np.array([[0, 1, 0], [-1, 0, width], [0, 0, 1.0]]) @ shown
        height, width = width, height
    image = torch.rot90(image, turns, dims=(1, 2)).contiguous()
    return image, _moved(items, shown, height, width)


def _rotate(image: Tensor, items: Items, degrees: float) -> tuple[Tensor, Items]:
    """Turn counter-clockwise about the middle; corners that leave the tile are lost."""
    height, width = image.shape[1:]
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = width / 2, height / 2
    shown = np.array([[cos, sin, x - cos * x - sin * y], [-sin, cos, y + sin * x - cos * y], [0, 0, 1]])
    image = v2.rotate(image, degrees, interpolation=InterpolationMode.BILINEAR)
    return image, _moved(items, shown, height, width)


def _magnify(image: Tensor, items: Items, scale: float, place: np.ndarray) -> tuple[Tensor, Items]:
    """Show a window of the tile at the tile's size; at a scale below 1 one that is larger than the tile."""
    height, width = image.shape[1:]
    rows, columns = max(1, round(height / scale)), max(1, round(width / scale))
    left, top = np.round(place * (width - columns, height - rows)).astype(int).tolist()
    image = v2.resized_crop(image, top, left, rows, columns, [height, width], antialias=True)
    x, y = width / columns, height / rows
    shown = np.array([[x, 0, -left * x], [0, y, -top * y], [0, 0, 1]])
    return image, _moved(items, shown, height, width)


def _moved(items: Items, shown: np.ndarray, height: int, width: int) -> Items:
    """The items after an affine map of (x, y, 1), cut off at the tile's edges."""
    polygons = shapely.transform(items.polygons, lambda xy: xy @ shown[:2, :2].T + shown[:2, 2])
    inside = shapely.clip_by_rect(polygons, 0, 0, width, height)
    whole = shapely.area(polygons)
    shares = np.divide(shapely.area(inside), whole, out=np.zeros_like(whole), where=whole > 0)
    return items._replace(polygons=inside, visible_shares=items.visible_shares * shares)


def _recolour(image: Tensor, colours: np.ndarray, mean_share: np.ndarray) -> Tensor:
    pixels = image.reshape(3, -1).float()
    offset = torch.from_numpy(mean_share).float() * pixels.mean()
    changed = torch.addmm(offset[:, None], torch.from_numpy(colours).float(), pixels)
    return changed.round_().clamp_(0, 255).to(torch.uint8).reshape(image.shape)


def _blur(image: Tensor, factor: float) -> Tensor:
    """Lose resolution as a camera `factor` times as far away would, at a tenth of a Gaussian's cost."""
    size = list(image.shape[1:])
    return v2.resize(v2.resize(image, [max(1, round(side / factor)) for side in size], antialias=True), size)


def _compress(image: Tensor, quality: int) -> Tensor:
    """Store as JPEG and read again; torchvision is about to drop its own codec."""
    stored = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(stored, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(stored))).permute(2, 0, 1).contiguous()
