"""Cutting an image into overlapping tiles, and the index of them that later steps share.

Tiles stand `tile_size - overlap` pixels apart, row by row from the top left; the last row and
column snap back to the image's edge, so every tile of an image is equally large and every pixel
lies in one. An image smaller than a tile is one tile of the image's size.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import orjson
import shapely
from pydantic import ConfigDict, Field, ValidationError

from models.ranges import Count, Natural, Share
from pipeline.errors import ArtifactError, SettingsError
from pipeline.frames import LONLAT, px_to_crs, reproject, window_boxes
from pipeline.rules import Rules
from pipeline.schema import Artifact, Grid, Tile, TileIndex, Window

PANEL_COLUMNS = 24
"""Columns of tiles that are read together: with the default tiles, three rows of 512 px blocks across them
take 86 MiB, which `[Imagery] cache_mb` holds, so that each block is decoded once."""
_MAX_TILES = 1_000_000
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(px|m)?\s*")


@dataclass(frozen=True)
class TilingRules(Rules):
    """How images are cut into tiles."""

    tile_size: Count = 1024
    """Side of a tile, in pixels."""
    overlap: Natural = 256
    """How far neighbouring tiles reach into each other, in pixels."""
    min_valid_share: Share = 0.0
    """Share of a tile's pixels that must be valid for it to count; one must be in any case."""

    def __post_init__(self) -> None:
        """Refuse what cannot be honoured.

        Raises:
            SettingsError: a value is outside its range, or tiles would not advance.
        """
        super().__post_init__()
        if self.overlap >= self.tile_size:
            raise SettingsError(
                "overlap must be below tile_size",
                found=(self.tile_size, self.overlap),
                remedy="A quarter of tile_size is a good overlap.",
            )

    @property
    def stride(self) -> int:
        """Distance from one tile to the next, in pixels."""
        return self.tile_size - self.overlap


def parse_size(size: str | float, ground_m_per_px: tuple[float, float]) -> int:
    """A size in pixels, from "1024", "1024px" or "75m" on the ground.

    >>> parse_size("75m", (0.075, 0.073))
    1014

    Args:
        size: the size; a number without a unit is in pixels.
        ground_m_per_px: ground metres of a pixel's width and height; their mean counts.

    Raises:
        SettingsError: it is not a size.
    """
    match = _SIZE.fullmatch(str(size))
    if match is None or (match[2] != "m" and not float(match[1]).is_integer()):
        raise SettingsError(
            "not a size", found=size, remedy="Use pixels, as in '1024', or ground metres, as in '75m'."
        )
    value = float(match[1])
    return round(value / (sum(ground_m_per_px) / 2)) if match[2] == "m" else int(value)


def tile_windows(width: int, height: int, rules: TilingRules) -> list[tuple[int, int, Window]]:
    """Row, column and window of every tile, row by row.

    Args:
        width: columns of the image.
        height: rows of the image.
        rules: the tiles' size and overlap.

    Raises:
        SettingsError: there would be more than a million tiles.
    """
    columns, rows = _offsets(width, rules), _offsets(height, rules)
    if len(columns) * len(rows) > _MAX_TILES:
        raise SettingsError(
            f"{rules.tile_size} px tiles, {rules.stride} px apart, are too many for {width} x {height} px",
            found=len(columns) * len(rows),
            remedy="Raise tile_size or lower overlap.",
        )
    size = min(rules.tile_size, width), min(rules.tile_size, height)
    return [
        (row, col, Window(col_off, row_off, *size))
        for row, row_off in enumerate(rows)
        for col, col_off in enumerate(columns)
    ]


def _offsets(length: int, rules: TilingRules) -> list[int]:
    last = max(0, length - rules.tile_size)
    return [*range(0, last, rules.stride), last]


def tile_id(row: int, col: int) -> str:
    """The tile's name.

    >>> tile_id(3, 12)
    'r0003_c0012'
    """
    return f"r{row:04d}_c{col:04d}"


def tile_row_col(tile_id: str) -> tuple[int, int]:
    """Row and column of a tile, from its name: the inverse of `tile_id`."""
    row, col = tile_id[1:].split("_c")
    return int(row), int(col)


def shard_slices(n_tiles: int, shards: int, batch: int = 1) -> list[slice]:
    """Contiguous runs that deal n tiles to shards as evenly as may be; the last ones may be empty.

    >>> shard_slices(10, 3, batch=4)
    [slice(0, 4, None), slice(4, 8, None), slice(8, 10, None)]

    Args:
        n_tiles: tiles of the image.
        shards: how many runs are wanted.
        batch: runs begin at multiples of this many tiles. A network's last digits depend on which tiles
            it sees together; so they do not depend on the number of shards.

    Raises:
        SettingsError: there is no shard to deal to.
    """
    if shards < 1:
        raise SettingsError("shards must be at least 1", where="[Inference] shards", found=shards)
    batches = -(-n_tiles // batch)
    edges = [min(n_tiles, batch * (batches * shard // shards)) for shard in range(shards + 1)]
    return [slice(start, stop) for start, stop in pairwise(edges)]


def build_tile_index(image_id: str, grid: Grid, rules: TilingRules, valid_shares: np.ndarray) -> TileIndex:
    """The tiles of one image that are worth looking at.

    Args:
        image_id: the image's name.
        grid: the image's grid.
        rules: the tiles' size and overlap, and how much of them must be valid.
        valid_shares: float64[t] in 0..1, of `tile_windows(grid.width, grid.height, rules)`.
    """
    windows = tile_windows(grid.width, grid.height, rules)
    tiles = [
        Tile(tile_id=tile_id(row, col), window=window, valid_share=share)
        for (row, col, window), share in zip(windows, np.asarray(valid_shares).tolist(), strict=True)
        if share > 0 and share >= rules.min_valid_share
    ]
    return TileIndex(
        image_id=image_id,
        grid=grid,
        tile_size=rules.tile_size,
        overlap=rules.overlap,
        empty_tiles=len(windows) - len(tiles),
        tiles=tiles,
    )


def in_panels(tiles: Sequence[Tile]) -> list[Tile]:
    """Tiles of one image in the order to read them: panels of `PANEL_COLUMNS` columns, row by row in each.

    Row by row across a wide image, a block is let go before the next row of tiles needs it: at 75,000 px and
    128 MiB of decoded blocks, 1.37 times as many are decoded as there are; in panels 1.03 times.

    Args:
        tiles: row by row.
    """
    return sorted(tiles, key=lambda tile: tile_row_col(tile.tile_id)[1] // PANEL_COLUMNS)


def write_tile_index(path: str | Path, index: TileIndex) -> None:
    """Writes the tiles as GeoJSON in lon/lat, with everything else as foreign members.

    Source: RFC 7946, sections 6.1 (foreign members) and 3.1.6 (winding).

    Args:
        path: the file to write, usually `tiles.geojson`.
        index: the tiles.
    """
    windows = np.array([tile.window for tile in index.tiles], dtype=np.int64).reshape(-1, 4)
    boxes_crs = px_to_crs(window_boxes(windows), index.grid.transform)
    boxes = shapely.orient_polygons(reproject(boxes_crs, index.grid.crs, LONLAT))
    # Nine decimals of a degree are a tenth of a millimetre.
    rings = shapely.get_coordinates(boxes).round(9).reshape(-1, 5, 2).tolist()
    bounds = shapely.bounds(boxes_crs).tolist()
    document = {
        "type": "FeatureCollection",
        **index.model_dump(exclude={"tiles"}),
        "features": [
            _feature(tile, ring, box) for tile, ring, box in zip(index.tiles, rings, bounds, strict=True)
        ],
    }
    Path(path).write_bytes(orjson.dumps(document))


def _feature(tile: Tile, ring: list[list[float]], bounds: list[float]) -> dict[str, object]:
    row, col = tile_row_col(tile.tile_id)
    return {
        "type": "Feature",
        "id": tile.tile_id,
        "properties": {
            "tile_id": tile.tile_id,
            "row": row,
            "col": col,
            "window": list(tile.window),
            "valid_share": tile.valid_share,
            "bounds": bounds,
        },
        "geometry": {"type": "Polygon", "coordinates": [ring]},
    }


def read_tile_index(path: str | Path) -> TileIndex:
    """The tiles that `write_tile_index` wrote.

    Raises:
        ArtifactError: the file is damaged, or of another version.
    """
    try:
        document = _TileCollection.model_validate_json(Path(path).read_bytes())
    except (OSError, ValidationError) as error:
        told = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise ArtifactError(
            "not a tile index",
            where=path,
            found=told,
            remedy="Remove the file and run TileImage, which makes it again.",
        ) from error
    members = {name: getattr(document, name) for name in TileIndex.model_fields if name != "tiles"}
    return TileIndex(**members, tiles=[feature.properties for feature in document.features])


class _TileFeature(Artifact):
    """A tile as a feature; of its geometry, which follows from its window, no object is made."""

    model_config = ConfigDict(extra="ignore")

    properties: Tile


class _TileCollection(TileIndex):
    """`tiles.geojson` as it is read: straight from its bytes into tiles, without a tree of dictionaries."""

    model_config = ConfigDict(extra="ignore")

    tiles: list[Tile] = Field(default_factory=list)
    features: list[_TileFeature]
