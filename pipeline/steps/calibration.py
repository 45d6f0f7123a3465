"""CalibrateNetwork: what a network's confidences mean on held-out ground, and from which on to publish."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import shapely

from models.tiles import read_image
from pipeline.calibration import Calibration, CalibrationRules, calibrate
from pipeline.evidence import TileSample
from pipeline.held_out import HeldOutTile, merged_sample
from pipeline.seams import MergeRules
from pipeline.settings import Training
from pipeline.steps import Progress
from pipeline.steps.detections import Detector
from pipeline.steps.training import FoundPair, read_tile_items
from pipeline.thresholds import ThresholdRules


def calibrate_network(
    held_out: Sequence[FoundPair],
    min_areas_px2: dict[Path, float],
    detector: Detector,
    training: Training,
    merging: MergeRules,
    thresholds: ThresholdRules,
    rules: CalibrationRules,
    progress: Progress,
) -> Calibration:
    """Temperature and thresholds, chosen on held-out tiles merged as an image's tiles are.

    Args:
        held_out: tiles that the network has not learnt from, those of an image together.
        min_areas_px2: folder of CutTiles to the smallest area published of its image, square pixels.
        detector: the network, as it will be run.
        training: the settings that say what nobody is asked to find.
        merging: how detections become buildings.
        thresholds: how to choose them.
        rules: how to calibrate.
        progress: told after every batch of tiles.
    """

    def told() -> Iterator[tuple[Path, HeldOutTile]]:
        for done, found in enumerate(_look(detector, held_out), start=1):
            progress(done / len(held_out), f"held-out tile {done}/{len(held_out)}")
            yield found

    def samples() -> Iterator[TileSample]:
        for folder, found in groupby(told(), key=lambda looked: looked[0]):
            yield merged_sample(
                (tile for _, tile in found),
                detector.categories,
                merging,
                min_visible_share=training.min_visible_share,
                min_area_px2=min_areas_px2[folder],
            )

    return calibrate(
        samples(),
        detector.categories,
        thresholds,
        rules,
        tiles=len(held_out),
        weights=detector.predictor.digest,
    )


def _look(detector: Detector, pairs: Sequence[FoundPair]) -> Iterator[tuple[Path, HeldOutTile]]:
    """What the network finds in each tile and what is there, by image."""
    size = detector.rules.batch_size
    for folder, group in groupby(pairs, key=lambda pair: pair[0]):
        tiles = [tile for _, tile in group]
        for batch in (tiles[start : start + size] for start in range(0, len(tiles), size)):
            images = np.stack([read_image(folder / "tiles" / f"{tile}.tif") for tile in batch])
            for tile, (polygons, probabilities, _) in zip(batch, detector.find(images), strict=True):
                drawn = ~shapely.is_missing(polygons)
                items = read_tile_items(folder, tile)
                yield folder, HeldOutTile(items.window, polygons[drawn], probabilities[drawn], items.items)
