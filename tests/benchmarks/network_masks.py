"""Masks as rough as a network's, of known footprints.

A mask is the footprint's cover of the 28 x 28 cells of a box that misses it a little, blurred, with noise
on the logits. Blur and noise were chosen so that the contour's steepness (0.28 per cell) and the vertices
it needs (26 at `simplify_cells` 0.3, 16 at 0.5) are those of `maskrcnn_small` after 16 epochs on painted
scenes: rougher than those of a network that had more time.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import shapely
from rasterio.features import rasterize
from rasterio.transform import Affine
from scipy.ndimage import gaussian_filter

from tests.benchmarks.seams.scenes import Scene

TILE, CELLS = 1024, 28
SIDES_PX = (20, 600)
_FINER = 8  # points per cell and axis that cover is counted at
_BLUR_CELLS, _WAVE_CELLS = 1.2, 1.5
_WAVES, _GRAIN = 0.5, 0.25  # standard deviations of the logits' noise, smooth and not


class Seen(NamedTuple):
    """What a network made of one tile."""

    window: np.ndarray
    """int64[4], image px."""
    truth: np.ndarray
    """object[n], the visible parts of footprints, tile px."""
    masks: np.ndarray
    """float32[n, 28, 28]."""
    boxes: np.ndarray
    """float32[n, 4], tile px."""


def look(scene: Scene, tiles: int, seed: int = 0) -> list[Seen]:
    """What a network sees in `tiles` tiles drawn from those that show a building of SIDES_PX."""
    rng, tree = np.random.default_rng(seed), shapely.STRtree(scene.footprints)
    seen: list[Seen] = []
    for window in rng.permutation(scene.windows(TILE, 256)):
        frame = shapely.box(*window[:2], *(window[:2] + TILE))
        parts = shapely.get_parts(shapely.intersection(scene.footprints[tree.query(frame)], frame))
        bounds = shapely.bounds(parts).reshape(-1, 4)
        sides = bounds[:, 2:] - bounds[:, :2]
        fits = (sides >= SIDES_PX[0]).all(axis=1) & (sides <= SIDES_PX[1]).all(axis=1)
        parts = parts[fits & (shapely.get_type_id(parts) == 3)]
        if len(parts):
            truth = shapely.transform(parts, lambda xy, corner=window[:2]: xy - corner)
            seen.append(Seen(window, truth, *_predicted(truth, rng)))
        if len(seen) == tiles:
            break
    return seen


def _predicted(truth: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """float32[n, 28, 28] and float32[n, 4]: masks and boxes."""
    bounds = shapely.bounds(truth)
    miss = rng.normal(0, 1, bounds.shape) * (0.5 + 0.01 * np.tile(bounds[:, 2:] - bounds[:, :2], 2))
    boxes = np.clip(bounds + miss, 0, TILE).astype(np.float32)
    masks = [_mask(footprint, box, rng) for footprint, box in zip(truth, boxes.astype(float), strict=True)]
    return np.array(masks, dtype=np.float32), boxes


def _mask(footprint: shapely.Polygon, box: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """float64[28, 28]."""
    (x1, y1, x2, y2), fine = box, CELLS * _FINER
    place = Affine((x2 - x1) / fine, 0, x1, 0, (y2 - y1) / fine, y1)
    cover = rasterize([footprint], out_shape=(fine, fine), transform=place).astype(float)
    cover = gaussian_filter(cover, _BLUR_CELLS * _FINER, mode="nearest")
    cover = cover.reshape(CELLS, _FINER, CELLS, _FINER).mean(axis=(1, 3)).clip(0.01, 0.99)
    waves = gaussian_filter(rng.normal(0, 1, cover.shape), _WAVE_CELLS)
    noise = _WAVES * waves / waves.std() + rng.normal(0, _GRAIN, cover.shape)
    return 1 / (1 + (1 - cover) / cover * np.exp(-noise))
