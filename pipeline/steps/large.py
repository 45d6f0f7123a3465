"""InferLarge: buildings that no tile sees whole, on windows that show them whole at a tile's resolution."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from pipeline.atomic import scratch_folder, write_atomic, write_many
from pipeline.large import LargeRules, coarse_tiles, confirmed, too_large
from pipeline.raster import Raster, TiledImage
from pipeline.schema import CoarseIndex, CoarseTile, TileDetections, TileIndex
from pipeline.seams import MergeRules, merge_stream
from pipeline.steps import Progress
from pipeline.steps.detection_rows import DetectionRows, outlines_px, read_detections
from pipeline.steps.detections import Detector


def infer_large(
    image: TiledImage,
    detections: Path,
    detector: Detector,
    rules: LargeRules,
    merging: MergeRules,
    folder: Path,
    progress: Progress,
) -> dict[str, int]:
    """Writes <tile_id>.json for every coarser window that has none yet, and their index.json.

    Args:
        image: what is looked at.
        detections: folder with one JSON per tile.
        detector: the network.
        rules: how large buildings are looked at.
        merging: how detections become buildings.
        folder: an existing folder to write into.
        progress: told after every row of tiles and every window.

    Returns:
        Counts: buildings too `large` for a tile, those `without_overview` to see them on, coarser
        `windows`, and detections on them that `confirmed` a building.
    """
    index, count = image.index, 0
    size = index.grid.width, index.grid.height
    buildings = _large_buildings(
        index, detections, detector.categories, merging, lambda share, text: progress(share / 2, text)
    )
    with image.open() as raster, scratch_folder(folder) as scratch:
        tiles, shown = coarse_tiles(buildings, size, index.tile_size, raster.overviews, rules)
        for number, tile in enumerate(tiles):
            path = folder / f"{tile.tile_id}.json"
            if not path.exists():
                artifact = _look(index, tile, buildings[shown == number], raster, detector, rules)
                write_many(scratch, [(path.name, orjson.dumps(artifact))])
            count += len(read_detections(path).detections)
            progress((1 + (number + 1) / len(tiles)) / 2, f"coarser window {number + 1}/{len(tiles)}")
    coarse = CoarseIndex(image_id=index.image_id, tiles=tiles)
    write_atomic(folder / "index.json", coarse.model_dump_json(indent=1))
    return {
        "large": len(buildings),
        "without_overview": int((shown < 0).sum()),
        "windows": len(tiles),
        "confirmed": count,
    }


def _large_buildings(
    index: TileIndex, detections: Path, categories: Sequence[str], merging: MergeRules, progress: Progress
) -> np.ndarray:
    """object[n], what the tiles show of the buildings that no tile could show whole, image pixels."""
    rows = DetectionRows(index, detections, None, categories, merging.gap_px, progress)
    found = [np.empty(0, dtype=object)]
    for merged in merge_stream(rows, rows.windows, merging):
        large = too_large(merged.polygons, merged.statuses, index.tile_size, merging.edge_px)
        found.append(merged.polygons[large])
    return np.concatenate(found)


def _look(
    index: TileIndex,
    tile: CoarseTile,
    buildings: np.ndarray,
    raster: Raster,
    detector: Detector,
    rules: LargeRules,
) -> dict[str, Any]:
    """The artifact of a coarser window, with the detections alone that confirm one of its buildings."""
    image = np.moveaxis(raster.read(tile.window, tile.factor), -1, 0)
    ground = raster.ground(tile.window, tile.factor)
    (artifact,) = detector.detect(index.image_id, index.grid, [tile], image[None], [ground])
    found = TileDetections.model_validate_json(orjson.dumps(artifact))
    scores = np.array([max(one.scores) for one in found.detections])
    kept = confirmed(outlines_px(found), scores, buildings, rules)
    return artifact | {"detections": [artifact["detections"][row] for row in kept]}
