"""InferShard: from an image's windows through the network to one JSON per tile."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import orjson

from pipeline.atomic import write_atomic
from pipeline.errors import SettingsError
from pipeline.inference import InferenceRules, tile_detections
from pipeline.raster import Raster
from pipeline.schema import Grid, Tile
from pipeline.steps import Progress
from pipeline.vectorize import VectorizeRules, masks_to_polygons


def infer_tiles(
    image_id: str,
    tiles: Sequence[Tile],
    grid: Grid,
    source: Path | str,
    weights: Path,
    categories: tuple[str, ...],
    rules: InferenceRules,
    outlines: VectorizeRules,
    folder: Path,
    progress: Progress,
) -> dict[str, int]:
    """Writes <tile_id>.json for every tile that has none yet; returns counts of what was done.

    A batch of which a tile is missing is inferred whole: a network's last digits depend on which tiles it
    sees together, and a resumed shard must not differ from an unbroken one.

    Raises:
        SettingsError: the network's categories are not those of the settings.
    """
    starts = range(0, len(tiles), rules.batch_size)
    batches = [tiles[start : start + rules.batch_size] for start in starts]
    todo = [
        tile for batch in batches if not all(_path(folder, tile).exists() for tile in batch) for tile in batch
    ]
    if not todo:
        return {"tiles": len(tiles), "inferred": 0, "detections": 0}
    from models.predict import Predictor

    predictor = Predictor(
        weights,
        device=rules.device,
        precision=rules.precision,
        score_threshold=rules.score_threshold,
        nms_iou=rules.nms_iou,
        detections_per_tile=rules.detections_per_tile,
    )
    if predictor.categories != categories:
        raise SettingsError(
            "the network knows other categories than [Labels] categories",
            where=weights,
            found=predictor.categories,
            remedy=f"Use weights trained for {', '.join(categories)}, or change the setting.",
        )
    model = {"name": predictor.name, "weights": predictor.digest[:12]}
    done, written, started = len(tiles) - len(todo), 0, time.monotonic()
    for batch, images in _read_batches(source, grid, todo, rules, pin=predictor.device.type == "cuda"):
        for tile, prediction in zip(batch, predictor.predict(images.numpy()), strict=True):
            polygons = masks_to_polygons(prediction.masks, prediction.boxes, outlines)
            created = datetime.now(UTC).isoformat(timespec="seconds")
            artifact = tile_detections(
                image_id,
                tile,
                grid,
                polygons,
                prediction.boxes,
                prediction.probabilities,
                categories,
                model,
                created,
            )
            write_atomic(_path(folder, tile), orjson.dumps(artifact), durable=False)
            written += len(artifact["detections"])
        done += len(batch)
        rate = (done - len(tiles) + len(todo)) / (time.monotonic() - started)
        progress(done / len(tiles), f"tile {done}/{len(tiles)}, {rate:.1f} tiles/s")
    return {"tiles": len(tiles), "inferred": len(todo), "detections": written}


def _path(folder: Path, tile: Tile) -> Path:
    return folder / f"{tile.tile_id}.json"


class _Windows:
    """A map-style dataset: uint8[3, h, w] of each tile; a reading process opens the image once."""

    def __init__(self, source: Path | str, grid: Grid, tiles: Sequence[Tile]):
        self.source, self.grid, self.tiles = source, grid, tiles
        self._raster: Raster | None = None

    def __len__(self) -> int:
        return len(self.tiles)

    def __getitem__(self, position: int):
        import torch

        if self._raster is None:
            self._raster = Raster(self.source, self.grid).__enter__()
        image = self._raster.read(self.tiles[position].window)
        return torch.from_numpy(image).permute(2, 0, 1).contiguous()


def _read_batches(source: Path | str, grid: Grid, tiles: Sequence[Tile], rules: InferenceRules, pin: bool):
    from torch.utils.data import DataLoader

    loader: Iterable = DataLoader(
        _Windows(source, grid, tiles),  # type: ignore[arg-type]
        batch_size=rules.batch_size,
        num_workers=min(rules.workers, len(tiles)),
        pin_memory=pin,
    )
    start = 0
    for images in loader:
        yield tiles[start : start + len(images)], images
        start += len(images)
