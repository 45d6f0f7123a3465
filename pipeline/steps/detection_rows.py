"""Per-tile detections as the seams take them: row by row of tiles, whoever wrote them."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain, groupby
from pathlib import Path

import numpy as np
import shapely
from pydantic import ValidationError

from pipeline.errors import ArtifactError
from pipeline.polygons import clip_to_frame, largest_parts
from pipeline.schema import CoarseIndex, CoarseTile, Grid, Tile, TileDetections, TileIndex
from pipeline.seams import Detections
from pipeline.steps import Progress

_FARTHEST_PX = 1e7  # from a window's corner: larger than any image
_ROUNDING = 1e-3  # by which rounded probabilities may exceed their sum
MAX_TILE_BYTES = 2**26
"""Of one tile's JSON: a hundred thousand detections; what is larger is no tile's."""
REMEDY = "Delete it and the manifests beside it, and run again."


def read_detections(path: Path) -> TileDetections:
    """The detections of one tile.

    Raises:
        ArtifactError: the file is missing, damaged, or of another version.
    """
    try:
        with path.open("rb", buffering=0) as stream:
            if (size := os.fstat(stream.fileno()).st_size) > MAX_TILE_BYTES:
                raise ArtifactError(
                    f"larger than {MAX_TILE_BYTES / 2**20:.0f} MiB", where=path, found=size, remedy=REMEDY
                )
            return TileDetections.model_validate_json(stream.read())
    except OSError as error:
        raise ArtifactError(
            f"cannot be read: {error.strerror}",
            where=path,
            remedy="Delete the manifests beside it and run again: what is missing is inferred.",
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        raise ArtifactError(
            f"not the detections of a tile: {first['msg']}",
            where=path,
            found=".".join(map(str, first["loc"])) or None,
            remedy=REMEDY,
        ) from error


def outlines_px(content: TileDetections) -> np.ndarray:
    """object[n] in image pixels, valid Polygon, None for one without area: any predictor may have drawn them.

    Raises:
        ValueError: a ring that is none.
    """
    found = content.detections
    rings = [ring for one in found for ring in (one.polygon, *one.holes)]
    owners = np.repeat(np.arange(len(found)), [1 + len(one.holes) for one in found])
    counts = np.fromiter(map(len, rings), dtype=np.int64, count=len(rings))
    xy = np.fromiter(chain.from_iterable(rings), dtype=np.float64, count=counts.sum())
    if (wrong := np.flatnonzero((counts % 2 == 1) | (counts < 6))).size:
        raise ValueError(f"{counts[wrong[0]]} numbers in a ring of detection {owners[wrong[0]]}")
    if (beyond := np.flatnonzero(np.abs(xy) > _FARTHEST_PX)).size:
        raise ValueError(f"{xy[beyond[0]]:g} in a ring of detection {np.repeat(owners, counts)[beyond[0]]}")
    points = xy.reshape(-1, 2) + content.window[:2]
    drawn = shapely.linearrings(points, indices=np.repeat(np.arange(len(rings)), counts // 2))
    outlines = shapely.polygons(drawn, indices=owners)
    crossed = ~shapely.is_valid(outlines) | shapely.is_empty(outlines)
    outlines[crossed] = largest_parts(shapely.buffer(outlines[crossed], 0))
    return outlines


def read_coarse_index(folder: Path) -> CoarseIndex:
    """The coarser windows whose detections lie in a folder.

    Raises:
        ArtifactError: their index is missing, damaged, or of another version.
    """
    path = folder / "index.json"
    try:
        return CoarseIndex.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ArtifactError(
            "not an index of coarser windows", where=path, found=str(error).splitlines()[0], remedy=REMEDY
        ) from error


class DetectionRows:
    """The detections of an image, a row of tiles in memory at a time.

    What reaches beyond the image, or further beyond its tile than merging tolerates, is cut off.

    Args:
        index: the image's tiles.
        folder: holds one JSON per tile.
        large: holds one JSON per coarser window, and their index; None where there are none.
        categories: names in the order of the columns.
        reach_px: how far a detection may reach beyond its tile, in pixels.
        progress: told after every row of tiles.

    Attributes:
        tiles: all of them, the coarser windows among them, from top to bottom.
        windows: int64[t, 4], their col_off, row_off, width, height.
        counts: `detections` read; of them `without_area`, `outside` where nothing of them may be,
            and `clipped` to where they may be.
        model: name and weights digest of the network that made them.
    """

    def __init__(
        self,
        index: TileIndex,
        folder: Path,
        large: Path | None,
        categories: Sequence[str],
        reach_px: float,
        progress: Progress,
    ):
        self._places: list[tuple[Tile | CoarseTile, Path]] = [(tile, folder) for tile in index.tiles]
        if large:
            self._places += [(tile, large) for tile in read_coarse_index(large).tiles]
        self._places.sort(key=lambda place: place[0].window.row_off)
        self._image_id = index.image_id
        self._grid, self._categories = index.grid, tuple(categories)
        self._reach_px, self._progress = reach_px, progress
        self.tiles = [tile for tile, _ in self._places]
        self.windows = np.array([tile.window for tile in self.tiles], dtype=np.int64).reshape(-1, 4)
        self.counts = Counter(detections=0, without_area=0, outside=0, clipped=0)
        self.model = ""

    def __iter__(self) -> Iterator[Detections]:
        """The detections of one row of tiles at a time, image px; `tiles` numbers their tiles."""
        total, started = len(self.tiles), time.monotonic()
        for _, members in groupby(range(total), key=lambda position: self.tiles[position].window.row_off):
            row = list(members)
            yield Detections.concatenate([self._read(position) for position in row])
            done = row[-1] + 1
            rate = done / (time.monotonic() - started)
            self._progress(done / total, f"tile {done}/{total}, {rate:.0f} tiles/s")

    def _read(self, position: int) -> Detections:
        tile, folder = self._places[position]
        path = folder / f"{tile.tile_id}.json"
        content = read_detections(path)
        told, asked = (content.image_id, content.tile_id), (self._image_id, tile.tile_id)
        if told != asked or content.window != tile.window:
            raise ArtifactError("the detections of another tile", where=path, found=told, remedy=REMEDY)
        self.model = f"{content.model.name}/{content.model.weights}"
        outlines, scores = _checked(content, self._categories, path)
        within, beyond = clip_to_frame(outlines, _frame(tile, self._grid, self._reach_px))
        solid, drawn = ~shapely.is_missing(outlines), ~shapely.is_missing(within)
        self.counts.update(
            detections=len(outlines),
            without_area=int((~solid).sum()),
            outside=int((solid & ~drawn).sum()),
            clipped=int((drawn & beyond).sum()),
        )
        return Detections(within[drawn], scores[drawn], np.full(drawn.sum(), position, dtype=np.int64))


def _frame(tile: Tile | CoarseTile, grid: Grid, reach_px: float) -> tuple[float, float, float, float]:
    """Where a tile's detections may lie: its window widened by `reach_px`, inside the image."""
    col_off, row_off, width, height = tile.window
    return (
        max(0, col_off - reach_px),
        max(0, row_off - reach_px),
        min(grid.width, col_off + width + reach_px),
        min(grid.height, row_off + height + reach_px),
    )


def _checked(
    content: TileDetections, categories: tuple[str, ...], path: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Outlines as `outlines_px` draws them and float64[n, k], their scores.

    Raises:
        ArtifactError: they are of other categories, or cannot be.
    """
    if tuple(content.categories) != categories:
        raise ArtifactError(
            "scores are not of the categories in [Labels] categories",
            where=path,
            found=content.categories,
            remedy="Run the inference again, or change the setting.",
        )
    rows = [found.scores for found in content.detections]
    for number, row in enumerate(rows):
        if len(row) != len(categories) or sum(row) > 1 + _ROUNDING:
            raise ArtifactError(
                f"not a probability of each of {len(categories)} categories",
                where=path,
                found=f"{row} in detection {number}",
                remedy=REMEDY,
            )
    try:
        outlines = outlines_px(content)
    except ValueError as error:
        raise ArtifactError("not a polygon", where=path, found=str(error), remedy=REMEDY) from error
    return outlines, np.array(rows, dtype=np.float64).reshape(-1, len(categories))
