"""InferShard: from an image's windows through the network to one JSON per tile."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import orjson
import shapely

from pipeline.atomic import write_atomic
from pipeline.errors import SettingsError
from pipeline.inference import InferenceRules, clip_to_ground, tile_detections
from pipeline.raster import Imagery, Raster
from pipeline.schema import CoarseTile, Grid, Tile, TileIndex
from pipeline.seams import Detections, merge
from pipeline.steps import Progress
from pipeline.vectorize import VectorizeRules, masks_to_polygons

if TYPE_CHECKING:
    from models.predict import Predictor


class Detector:
    """A network, loaded when it is first needed, and how what it sees becomes detections.

    Args:
        weights: of the network.
        categories: the names that it must know, in the order of the settings.
        rules: how it is run.
        outlines: how its masks become polygons.

    Attributes:
        counts: of what was made so far: `detections` written, and left out of them or cut back, see
            `pipeline.inference.clip_to_ground`, `on_nodata` and `clipped`.
    """

    def __init__(
        self, weights: Path, categories: tuple[str, ...], rules: InferenceRules, outlines: VectorizeRules
    ):
        self.weights, self.categories, self.rules, self.outlines = weights, categories, rules, outlines
        self.counts = Counter(detections=0, on_nodata=0, clipped=0)

    @cached_property
    def predictor(self) -> Predictor:
        """The network.

        Raises:
            SettingsError: its categories are not those of the settings.
        """
        from models.predict import Predictor

        rules = self.rules
        predictor = Predictor(
            self.weights,
            device=rules.device,
            precision=rules.precision,
            score_threshold=rules.score_threshold,
            nms_iou=rules.nms_iou,
            detections_per_tile=rules.detections_per_tile,
        )
        if predictor.categories != self.categories:
            raise SettingsError(
                "the network knows other categories than [Labels] categories",
                where=self.weights,
                found=predictor.categories,
                remedy=f"Use weights trained for {', '.join(self.categories)}, or change the setting.",
            )
        return predictor

    def detect(
        self,
        image_id: str,
        grid: Grid,
        tiles: Sequence[Tile | CoarseTile],
        images: np.ndarray,
        grounds: Sequence[shapely.MultiPolygon | None],
    ) -> Iterator[dict[str, Any]]:
        """The artifact of each tile, as `pipeline.inference.tile_detections` makes it.

        Args:
            image_id: the image.
            grid: its frame.
            tiles: of one size.
            images: uint8[n, 3, h, w], their pixels; fewer than their windows' where they were shrunk.
            grounds: valid ground of each in tile pixels, None where all of it is valid.
        """
        model = {"name": self.predictor.name, "weights": self.predictor.digest[:12]}
        found = self._find(images, tiles[0].window[2:])
        for tile, (polygons, boxes, probabilities), ground in zip(tiles, found, grounds, strict=True):
            polygons, counts = clip_to_ground(polygons, tile.window[2:], ground, self.rules.min_valid_share)
            artifact = tile_detections(
                image_id,
                tile,
                grid,
                polygons,
                boxes,
                probabilities,
                self.categories,
                model,
                created=datetime.now(UTC).isoformat(timespec="seconds"),
            )
            self.counts.update(counts, detections=len(artifact["detections"]))
            yield artifact

    def _find(self, images: np.ndarray, size: tuple[int, int]) -> list[_Found]:
        """What is found in each of n tiles of `size`, width and height in pixels."""
        from models.views import VIEWS, bring_back, show

        views, (height, width) = VIEWS[self.rules.views], images.shape[2:]
        looks = [
            [bring_back(found, view, height, width) for found in self.predictor.predict(show(images, view))]
            for view in views
        ]
        predictions = [prediction for tile in zip(*looks, strict=True) for prediction in tile]
        to_tile = np.tile(np.divide(size, (width, height)), 2)
        boxes = [prediction.boxes * to_tile for prediction in predictions]
        # One call for everything: half the time of one per tile, and the same outlines.
        masks = np.concatenate([prediction.masks for prediction in predictions])
        outlines = masks_to_polygons(masks, np.concatenate(boxes), self.outlines)
        parts = np.split(outlines, np.cumsum([len(rows) for rows in boxes])[:-1])
        found = [
            _Found(polygons, rows, prediction.probabilities)
            for polygons, rows, prediction in zip(parts, boxes, predictions, strict=True)
        ]
        if len(views) == 1:
            return found
        starts = range(0, len(found), len(views))
        return [_agreed(found[start : start + len(views)], size) for start in starts]


class _Found(NamedTuple):
    """What a look at a tile found, in tile pixels."""

    polygons: np.ndarray
    """object[n] of Polygon, None where a mask held nothing."""
    boxes: np.ndarray
    """float[n, 4]."""
    probabilities: np.ndarray
    """float[n, k]."""


def _agreed(looks: Sequence[_Found], size: tuple[int, int]) -> _Found:
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
    return _Found(merged.polygons, shapely.bounds(merged.polygons).reshape(-1, 4), merged.probabilities)


def infer_tiles(
    index: TileIndex,
    run: slice,
    source: Path | str,
    imagery: Imagery,
    detector: Detector,
    folder: Path,
    progress: Progress,
) -> dict[str, int]:
    """Writes <tile_id>.json for every tile of a run that has none yet; returns counts of what was done.

    A batch of which a tile is missing is inferred whole: a network's last digits depend on which tiles it
    sees together, and a resumed shard must not differ from an unbroken one.

    Args:
        index: the image's tiles.
        run: which of them.
        source: the image.
        imagery: how it is read.
        detector: the network.
        folder: an existing folder to write into.
        progress: told after every batch.
    """
    tiles, size = index.tiles[run], detector.rules.batch_size
    batches = [tiles[start : start + size] for start in range(0, len(tiles), size)]
    todo = [
        tile for batch in batches if not all(_path(folder, tile).exists() for tile in batch) for tile in batch
    ]
    done, started = len(tiles) - len(todo), time.monotonic()
    windows = _Windows(source, index.grid, imagery, todo)
    for batch, images, grounds in _read_batches(windows, detector) if todo else ():
        for tile, artifact in zip(
            batch, detector.detect(index.image_id, index.grid, batch, images, grounds), strict=True
        ):
            write_atomic(_path(folder, tile), orjson.dumps(artifact), durable=False)
        done += len(batch)
        rate = (done - len(tiles) + len(todo)) / (time.monotonic() - started)
        progress(done / len(tiles), f"tile {done}/{len(tiles)}, {rate:.1f} tiles/s")
    return {"tiles": len(tiles), "inferred": len(todo), **detector.counts}


def _path(folder: Path, tile: Tile) -> Path:
    return folder / f"{tile.tile_id}.json"


class _Windows:
    """A map-style dataset: uint8[3, h, w] and valid ground of each tile; a process opens the image once."""

    def __init__(self, source: Path | str, grid: Grid, imagery: Imagery, tiles: Sequence[Tile]):
        self.source, self.grid, self.imagery, self.tiles = source, grid, imagery, tiles
        self._raster: Raster | None = None

    def __len__(self) -> int:
        return len(self.tiles)

    def __getitem__(self, position: int):
        import torch

        if self._raster is None:
            self._raster = Raster(self.source, self.grid, self.imagery).__enter__()
        tile = self.tiles[position]
        image = torch.from_numpy(self._raster.read(tile.window)).permute(2, 0, 1).contiguous()
        return image, self._raster.ground(tile.window) if tile.valid_share < 1 else None


def _read_batches(
    windows: _Windows, detector: Detector
) -> Iterator[tuple[Sequence[Tile], np.ndarray, list[shapely.MultiPolygon | None]]]:
    from torch.utils.data import DataLoader

    loader: Iterable = DataLoader(
        windows,  # type: ignore[arg-type]
        batch_size=detector.rules.batch_size,
        num_workers=min(detector.rules.workers, len(windows)),
        collate_fn=_collate,
        pin_memory=detector.predictor.device.type == "cuda",
    )
    start = 0
    for images, grounds in loader:
        yield windows.tiles[start : start + len(images)], images.numpy(), grounds
        start += len(images)


def _collate(samples: Sequence[tuple]):
    """A batch: uint8[n, 3, h, w], and the n grounds as they are."""
    import torch

    images, grounds = zip(*samples, strict=True)
    return torch.stack(images), list(grounds)
