"""What mapping an image will cost on this machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline import settings
from pipeline.cost import Cost, Rates, expected_cost
from pipeline.inference import InferenceRules
from pipeline.raster import Imagery, Raster, read_grid, read_header
from pipeline.schema import Grid, Tile
from pipeline.steps.detections import Detector
from pipeline.tiling import TilingRules, build_tile_index, parse_size, tile_windows

_PLACES = 6
"""Tiles that rates are measured on."""


def image_cost(source: Path | str, network: str, rates: Rates | None = None) -> Cost:
    """The expected cost of an image under the present settings; with `rates` from its header alone.

    Args:
        source: the image.
        network: the network's name.
        rates: of this machine, as `measured_rates` finds them; None for those of an ordinary core.
    """
    imagery, tiling = settings.Imagery().rules(Imagery), settings.Tiling()
    grid = read_grid(source, imagery)
    rules = TilingRules(
        tile_size=parse_size(tiling.tile_size, grid.ground_m_per_px),
        overlap=parse_size(tiling.overlap, grid.ground_m_per_px),
        min_valid_share=tiling.min_valid_share,
    )
    header = read_header(source, imagery)
    inference = settings.Inference().rules(InferenceRules)
    share = valid_share(source, grid, imagery, rules) if header.cheap_to_look_at else 1.0
    return expected_cost(header, rules, inference, imagery, network, rates or Rates(), share)


def valid_share(source: Path | str, grid: Grid, imagery: Imagery, rules: TilingRules) -> float:
    """Share of an image's tiles that hold valid pixels, looked up as TileImage does."""
    windows = [window for _, _, window in tile_windows(grid.width, grid.height, rules)]
    with Raster(source, grid, imagery) as raster:
        shares = raster.valid_shares(windows)
    return len(build_tile_index("", grid, rules, shares).tiles) / len(windows)


def measured_rates(
    source: Path | str, grid: Grid, imagery: Imagery, tiles: Sequence[Tile], detector: Detector
) -> Rates:
    """The rates of this machine on a few tiles from all over an image: seconds, not minutes.

    Args:
        source: the image.
        grid: its grid.
        imagery: how it is read.
        tiles: of the image; at least one.
        detector: the network.
    """
    chosen = [tiles[place] for place in np.unique(np.linspace(0, len(tiles) - 1, _PLACES).astype(int))]
    megapixels = sum(tile.window.width * tile.window.height for tile in chosen) / 1e6
    with Raster(source, grid, imagery) as raster:
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
