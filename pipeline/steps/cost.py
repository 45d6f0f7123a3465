"""What mapping an image will cost on this machine."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline import settings
from pipeline.cost import Rates
from pipeline.inference import InferenceRules
from pipeline.raster import TiledImage
from pipeline.steps.detections import Detector
from pipeline.vectorize import VectorizeRules

_PLACES = 6
"""Tiles that rates are measured on."""


def rates_here(image: TiledImage, network: str, categories: tuple[str, ...]) -> Rates:
    """This machine's rates under the present settings, with the weights given or a network not yet taught.

    That is as fast as one that is, but what it finds tells nothing of the image: it is held to the
    detections of an ordinary tile, and starting to the time of an ordinary core.

    Args:
        image: with at least one tile.
        network: name of the network, where no weights are given.
        categories: the names of the settings.
    """
    given, outlines = settings.Inference(), settings.Outlines().rules(VectorizeRules)
    rules = given.rules(InferenceRules)
    if given.weights:
        detector = Detector(Path(given.weights), categories, rules, outlines)
        return measured_rates(image, detector)
    from models.maskrcnn import build
    from models.predict import Predictor

    ordinary = math.ceil(Rates.detections_per_megapixel * image.index.tile_size**2 / 1e6)
    detector = Detector(Path(), categories, rules, outlines)
    detector.predictor = Predictor(
        build(network, categories),
        device=rules.device,
        precision=rules.precision,
        detections_per_tile=ordinary,
        proposals_per_tile=rules.proposals_per_tile,
        compile=rules.compile,
    )
    rates = measured_rates(image, detector)
    return replace(rates, detections_per_megapixel=Rates.detections_per_megapixel, start_s=Rates.start_s)


def measured_rates(image: TiledImage, detector: Detector) -> Rates:
    """The rates of this machine on a few tiles from all over an image: seconds, not minutes.

    Args:
        image: with at least one tile.
        detector: the network.
    """
    tiles, grid = image.index.tiles, image.grid
    chosen = [tiles[place] for place in np.unique(np.linspace(0, len(tiles) - 1, _PLACES).astype(int))]
    megapixels = sum(tile.window.width * tile.window.height for tile in chosen) / 1e6
    with image.open() as raster:
        started = time.perf_counter()
        images = [raster.read(tile.window) for tile in chosen]
        read_s = time.perf_counter() - started
    batch = np.moveaxis(np.stack(images), 3, 1)
    started = time.perf_counter()
    list(detector.detect("", grid, chosen[:1], batch[:1], [None]))
    first_s = time.perf_counter() - started
    started = time.perf_counter()
    found = list(detector.detect("", grid, chosen, batch, [None] * len(chosen)))
    network_s = time.perf_counter() - started
    return replace(
        Rates(),
        read_megapixels_s=megapixels / read_s,
        network_megapixels_s=megapixels / network_s,
        detections_per_megapixel=sum(len(tile["detections"]) for tile in found) / megapixels,
        start_s=max(0.0, first_s - network_s / len(chosen)),
    )
