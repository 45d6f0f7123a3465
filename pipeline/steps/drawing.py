"""From what a network finds in tiles to one JSON per tile, here or in another process."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
import shapely

from pipeline.atomic import write_many
from pipeline.inference import InferenceRules, clip_to_ground, tile_detections
from pipeline.schema import CoarseTile, Grid, Tile
from pipeline.seams import Detections, merge
from pipeline.vectorize import VectorizeRules, mask_ambiguities, masks_to_polygons


class Seen(NamedTuple):
    """What a network found in one view of a tile; nothing of torch, so that it may go to any process."""

    boxes: np.ndarray
    """float[n, 4], in pixels of the image that the network saw."""
    probabilities: np.ndarray
    """float[n, k]."""
    masks: np.ndarray
    """float[n, 28, 28], probabilities over the box."""


class Found(NamedTuple):
    """What was found in a tile, in its pixels."""

    polygons: np.ndarray
    """object[n] of Polygon, None where a mask held nothing."""
    probabilities: np.ndarray
    """float[n, k]."""
    ambiguities: np.ndarray
    """float[n], of the masks; NaN where several views were merged."""


@dataclass(frozen=True)
class Draughtsman:
    """Turns what was seen in tiles of an image into their artifacts."""

    image_id: str
    grid: Grid
    categories: tuple[str, ...]
    model: dict[str, str]
    rules: InferenceRules
    outlines: VectorizeRules

    def draw(
        self,
        tiles: Sequence[Tile | CoarseTile],
        seen: Sequence[Seen],
        shape: tuple[int, int],
        grounds: Sequence[shapely.MultiPolygon | None],
        counts: Counter[str],
    ) -> Iterator[dict[str, Any]]:
        """The artifact of each tile, as `pipeline.inference.tile_detections` makes it.

        Args:
            tiles: of one size.
            seen: every view of each tile, the views of one side by side.
            shape: height and width of the images that the network saw.
            grounds: valid ground of each tile in its pixels, None where all of it is valid.
            counts: grows by `detections` written, and left out of them or cut back, `on_nodata` and
                `clipped`, see `pipeline.inference.clip_to_ground`.
        """
        size = tiles[0].window[2:]
        looked = find(seen, shape, size, len(tiles), self.outlines)
        for tile, found, ground in zip(tiles, looked, grounds, strict=True):
            polygons, cut = clip_to_ground(found.polygons, size, ground, self.rules.min_valid_share)
            artifact = tile_detections(
                self.image_id,
                tile,
                self.grid,
                polygons,
                found.probabilities,
                self.categories,
                self.model,
                datetime.now(UTC).isoformat(timespec="seconds"),
                found.ambiguities,
            )
            counts.update(cut, detections=len(artifact["detections"]))
            yield artifact

    def write(
        self,
        scratch: Path,
        tiles: Sequence[Tile],
        seen: Sequence[Seen],
        shape: tuple[int, int],
        grounds: Sequence[shapely.MultiPolygon | None],
    ) -> tuple[Counter[str], float]:
        """Writes <tile_id>.json of each tile that has none into the folder that `scratch` lies in.

        Returns:
            The counts of `draw`, and the seconds it took.
        """
        started, counts = time.perf_counter(), Counter[str]()
        drawn = zip(tiles, self.draw(tiles, seen, shape, grounds, counts), strict=True)
        # What is there may stand in the manifest of a shard with other borders.
        missing = (pair for pair in drawn if not tile_path(scratch.parent, pair[0]).exists())
        write_many(scratch, ((f"{tile.tile_id}.json", orjson.dumps(artifact)) for tile, artifact in missing))
        return counts, time.perf_counter() - started


def find(
    seen: Sequence[Seen], shape: tuple[int, int], size: tuple[int, int], tiles: int, outlines: VectorizeRules
) -> list[Found]:
    """What was found in each of some tiles, all its views together.

    Args:
        seen: every view of each tile, the views of one side by side.
        shape: height and width of the images that the network saw.
        size: width and height of a tile in pixels.
        tiles: how many they are.
        outlines: how masks become polygons.
    """
    height, width = shape
    to_tile = np.tile(np.divide(size, (width, height)), 2)
    boxes = [view.boxes * to_tile for view in seen]
    # One call for everything: half the time of one per tile, and the same outlines.
    polygons = masks_to_polygons(
        np.concatenate([view.masks for view in seen]), np.concatenate(boxes), outlines
    )
    parts = np.split(polygons, np.cumsum([len(rows) for rows in boxes])[:-1])
    found = [
        Found(part, view.probabilities, mask_ambiguities(view.masks))
        for part, view in zip(parts, seen, strict=True)
    ]
    views = len(found) // tiles
    if views == 1:
        return found
    return [_agreed(found[start : start + views], size) for start in range(0, len(found), views)]


def get_ready() -> None:
    """Does nothing: a process that is asked for it has imported this module, which takes it a second."""


def tile_path(folder: Path, tile: Tile) -> Path:
    """Where a tile's artifact lies."""
    return folder / f"{tile.tile_id}.json"


def _agreed(looks: Sequence[Found], size: tuple[int, int]) -> Found:
    """What several looks at one tile found, merged as if each were a tile of its own at the same place."""
    drawn = [~shapely.is_missing(look.polygons) for look in looks]
    merged = merge(
        Detections(
            np.concatenate([look.polygons[rows] for look, rows in zip(looks, drawn, strict=True)]),
            np.concatenate([look.probabilities[rows] for look, rows in zip(looks, drawn, strict=True)]),
            np.repeat(np.arange(len(looks)), [rows.sum() for rows in drawn]),
        ),
        np.array([[0, 0, *size]] * len(looks)),
    )
    return Found(merged.polygons, merged.probabilities, np.full(len(merged.polygons), np.nan))
