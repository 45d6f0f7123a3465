"""The imagery below the map: a pyramid of small JPEG tiles whose size is bounded."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

MAP_SIDE = 4096
"""Longer side of the sharpest level at most, in pixels."""
TILE_SIDE = 256
IMAGERY_BYTES = 7 * 2**20
"""What the tiles of all levels hold together at most, before they are written as text."""
QUALITY = 78


class Pyramid(NamedTuple):
    """Tiles by level, each level half as sharp as the one before."""

    factor: float
    """Image pixels per pixel of level 0, and axis."""
    levels: int
    tiles: dict[str, bytes]
    """JPEG by `<level>/<column>/<row>`; a tile of one colour throughout is left out."""


def build_pyramid(sharpest: np.ndarray, factor: float) -> Pyramid:
    """The pyramid over an image shrunk to at most `MAP_SIDE`.

    The sharpest levels are left out where all of them would hold more than `IMAGERY_BYTES`: what is
    written never does.

    Args:
        sharpest: uint8[h, w, 3].
        factor: image pixels per pixel of `sharpest`, and axis.
    """
    levels = [Image.fromarray(sharpest)]
    while max(levels[-1].size) > TILE_SIDE:
        levels.append(levels[-1].reduce(2))
    kept: list[dict[str, bytes]] = []
    held = 0
    # From the least sharp, so that what exceeds the bound is what can be missed.
    for level in reversed(levels):
        tiles = dict(_tiles(level))
        held += sum(map(len, tiles.values()))
        if held > IMAGERY_BYTES:
            break
        kept.insert(0, tiles)
    named = {f"{z}/{place}": tile for z, tiles in enumerate(kept) for place, tile in tiles.items()}
    return Pyramid(factor * 2 ** (len(levels) - len(kept)), len(kept), named)


def _tiles(level: Image.Image) -> Iterator[tuple[str, bytes]]:
    """Tiles of one level by column and row; those at the right and the bottom may be narrower."""
    width, height = level.size
    for row in range(-(-height // TILE_SIDE)):
        for column in range(-(-width // TILE_SIDE)):
            left, top = column * TILE_SIDE, row * TILE_SIDE
            tile = level.crop((left, top, min(left + TILE_SIDE, width), min(top + TILE_SIDE, height)))
            pixels = np.asarray(tile)
            if (pixels != pixels[0, 0]).any():
                yield f"{column}/{row}", jpeg(tile, QUALITY)


def jpeg(picture: Image.Image | np.ndarray, quality: int) -> bytes:
    """A picture as JPEG."""
    buffer = io.BytesIO()
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(buffer, format="JPEG", quality=quality, optimize=True)
    return buffer.getvalue()
