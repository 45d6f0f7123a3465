"""A tile shown several ways: mirrored, turned, at another size; and what is found there brought back.

A network that learnt buildings under every flip still answers a little differently to each; what several
views agree on is more likely there. Masks are small grids over boxes, so a view is undone exactly by
turning the grid and the box, without resampling.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torchvision.transforms.v2 import functional

from models.predict import Prediction


class View(NamedTuple):
    """How a tile is shown: mirrored left to right, then turned, then resized."""

    mirrored: bool = False
    turns: int = 0
    """Quarter turns, counter-clockwise."""
    scale: float = 1.0
    """Length of a pixel of the tile in pixels of the view."""


_FLIPS = (View(), View(mirrored=True), View(turns=2), View(mirrored=True, turns=2))
_TURNS = (*_FLIPS, View(turns=1), View(turns=3), View(True, 1), View(True, 3))
_COARSER = 0.75

VIEWS: dict[str, tuple[View, ...]] = {
    "one": (View(),),
    "flips": _FLIPS,
    "turns": _TURNS,
    "scales": (View(), View(scale=_COARSER)),
    "all": (*_TURNS, *(view._replace(scale=_COARSER) for view in _TURNS)),
}
"""The tile alone; its four mirror images; with quarter turns, eight; the tile at two sizes; the eight at
two sizes. The tile as it is comes first."""


def show(images: np.ndarray, view: View) -> np.ndarray:
    """The view of uint8[n,3,h,w] images, uint8[n,3,h',w']."""
    shown = images[..., ::-1] if view.mirrored else images
    shown = np.ascontiguousarray(np.rot90(shown, view.turns, axes=(2, 3)))
    if view.scale == 1:
        return shown
    size = [max(1, round(side * view.scale)) for side in shown.shape[2:]]
    return functional.resize(torch.from_numpy(shown), size, antialias=True).numpy()


def bring_back(prediction: Prediction, view: View, height: int, width: int) -> Prediction:
    """What was found in a view, as it lies in the tile.

    Args:
        prediction: of the view, boxes in its pixels.
        view: how the tile was shown.
        height: of the tile in pixels.
        width: of the tile in pixels.
    """
    turned = (height, width) if view.turns % 2 == 0 else (width, height)
    shown = [max(1, round(side * view.scale)) if view.scale != 1 else side for side in turned]
    corners = prediction.boxes.reshape(-1, 2, 2) * np.array([turned[1] / shown[1], turned[0] / shown[0]])
    masks = np.rot90(prediction.masks, -view.turns, axes=(1, 2))
    sides = turned
    for _ in range(view.turns):
        # A quarter turn takes (x, y) of a picture w wide to (y, w - x).
        sides = sides[::-1]
        corners = np.stack([sides[1] - corners[..., 1], corners[..., 0]], axis=-1)
    if view.mirrored:
        corners = np.stack([width - corners[..., 0], corners[..., 1]], axis=-1)
        masks = masks[:, :, ::-1]
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1).astype(np.float32)
    return prediction._replace(boxes=boxes, masks=np.ascontiguousarray(masks))
