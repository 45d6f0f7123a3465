"""Training tiles as they lie on disk.

A training tile is a picture (RGB GeoTIFF, uint8) and its items (JSON): labels clipped to the tile, as
polygons in tile pixels (x = column, y = row, integers at pixel edges).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import rasterio
import shapely

from models.errors import DatasetError

_REMEDY = "Cut the training tiles anew"


class TrainingTile(NamedTuple):
    """A tile's picture and its items."""

    image: Path
    items: Path
    weight: float = 1.0
    """How often it is shown, for each showing of a tile with weight 1."""


class Items(NamedTuple):
    """The items of one tile."""

    tile: str
    """`image_id/tile_id`, for messages."""
    polygons: np.ndarray
    """object[n], polygons of one or more parts in tile px."""
    categories: tuple[str | None, ...]
    """None where the condition is not known."""
    visible_shares: np.ndarray
    """float64[n], share of a label's area inside the tile, 0 to 1."""


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
        raise DatasetError("no such item file", where=path, remedy=_REMEDY) from None
    except (ValueError, KeyError, TypeError, IndexError, RecursionError, shapely.GEOSException) as error:
        raise DatasetError(f"not an item file: {error!r}", where=path, remedy=_REMEDY) from error


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
        reason = " ".join(str(error).split()).rstrip(".")
        raise DatasetError(f"unreadable tile: {reason}", where=path, remedy=_REMEDY) from error
    raise DatasetError("a training tile has three bands of uint8", where=path, found=(bands, *sorted(dtypes)))


def digest_tiles(tiles: Sequence[TrainingTile]) -> str:
    """Return the SHA-256 of what is learnt from: pictures, item files, weights.

    All of them are read, as by an epoch of training: sizes would not tell a picture from another one, nor
    times the same pictures cut anew.

    Raises:
        DatasetError: a file is missing.
    """
    digest = hashlib.sha256()
    for tile in tiles:
        try:
            for path in (tile.image, tile.items):
                with path.open("rb") as file:
                    content = hashlib.file_digest(file, "sha256").hexdigest()
                digest.update(f"{path.name} {content}\n".encode())
            digest.update(f"{tile.weight!r}\n".encode())
        except FileNotFoundError as error:
            raise DatasetError("no such file", where=error.filename, remedy=_REMEDY) from None
    return digest.hexdigest()
