"""Large buildings: what a coarser window has to show, where it lies, and which detection counts.

A building that no tile sees whole is put together from pieces, each of them found without the rest in
sight. On a window a power of two larger, read from the overview of that factor so that the network gets
a tile's number of pixels, it is one detection.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely

from models.ranges import InnerShare, Share
from pipeline.rules import Rules
from pipeline.schema import CoarseTile, Window

_NEAR = 1.2
"""Ratio up to which an overview's factor passes for another one."""


@dataclass(frozen=True)
class LargeRules(Rules):
    """How buildings larger than a tile are detected again on coarser windows."""

    refine: bool = False
    """Whether they are, on coarser windows centred on them, if the image has overviews."""
    fill: InnerShare = 0.6
    """Largest part of a coarser window's side that the building takes."""
    min_iou: Share = 0.5
    """IoU with what the tiles showed of the building from which a detection counts."""
    min_score: Share = 0.5
    """Score from which a detection counts: what is unsure from further away replaces nothing."""


def too_large(polygons: np.ndarray, statuses: np.ndarray, tile_size: int, edge_px: float) -> np.ndarray:
    """bool[n]: the buildings that no tile saw whole, because none could.

    Args:
        polygons: object[n], merged from the tiles, image pixels.
        statuses: object[n] of schema.MergeStatus.
        tile_size: side of a tile in pixels.
        edge_px: distance to a tile's edge at which a building counts as cut by it.
    """
    bounds = shapely.bounds(polygons).reshape(-1, 4)
    extent = (bounds[:, 2:] - bounds[:, :2]).max(axis=1, initial=0)
    cut = np.isin(statuses.astype(str), ("stitched", "fragment"))
    return cut & (extent > tile_size - 2 * edge_px)


def coarse_tiles(
    polygons: np.ndarray, size: tuple[int, int], tile_size: int, overviews: list[int], rules: LargeRules
) -> tuple[list[CoarseTile], np.ndarray]:
    """Windows that show large buildings whole, and which of them shows each.

    A window is centred on a building, or as near to that as the image allows, and shows others too
    where it leaves them half the room that their own would.

    Args:
        polygons: object[n], the buildings in image pixels.
        size: the image's width and height in pixels.
        tile_size: side of a tile in pixels.
        overviews: image pixels per overview pixel and axis, of each overview of the image.
        rules: the knobs.

    Returns:
        The windows from top to bottom, offsets in multiples of their factor; and int64[n], the window
        of each building, -1 where the image has no overview of about the factor that it takes.
    """
    bounds = shapely.bounds(polygons).reshape(-1, 4)
    extent = (bounds[:, 2:] - bounds[:, :2]).max(axis=1, initial=0)
    factors = 2 ** np.ceil(np.log2(extent / (rules.fill * tile_size))).clip(1).astype(np.int64)
    at_hand = np.array(overviews, dtype=float)[None, :] / factors[:, None]
    readable = ((at_hand <= _NEAR) & (at_hand >= 1 / _NEAR)).any(axis=1)
    shown = np.full(len(polygons), -1)
    windows, scales = np.empty((0, 4), np.int64), np.empty(0, np.int64)
    for index in np.flatnonzero(readable)[np.lexsort(bounds[readable, 1::-1].T)]:
        factor = int(factors[index])
        room = (1 - rules.fill) / 4 * tile_size * factor
        seen = (scales == factor) & _inside(bounds[index], windows, size, room)
        if not seen.any():
            window = _centred(bounds[index], size, tile_size, factor)
            windows, scales = np.vstack([windows, window]), np.append(scales, factor)
            seen = np.append(seen, True)
        shown[index] = np.argmax(seen)
    order = np.lexsort((windows[:, 0], windows[:, 1]))
    tiles = [
        CoarseTile(tile_id=f"large_{number:04d}", window=Window(*windows[row].tolist()), factor=scales[row])
        for number, row in enumerate(order, start=1)
    ]
    return tiles, np.where(shown < 0, -1, np.argsort(order)[shown] if len(order) else -1)


def _inside(bounds: np.ndarray, windows: np.ndarray, size: tuple[int, int], room: float) -> np.ndarray:
    """bool[w]: whether `bounds` lie `room` inside each window, but for the image's own edges."""
    low, high = windows[:, :2], windows[:, :2] + windows[:, 2:]
    left = (bounds[:2] - low >= room) | (low <= 0)
    right = (high - bounds[2:] >= room) | (high >= size)
    return (left & right).all(axis=1)


def _centred(bounds: np.ndarray, size: tuple[int, int], tile_size: int, factor: int) -> list[int]:
    """The window around the middle of `bounds`, moved into the image and cut to it."""
    side = tile_size * factor
    offsets = []
    for axis, length in enumerate(size):
        first = int((bounds[axis] + bounds[axis + 2] - side) / 2) // factor
        last = -(-(length - side) // factor)
        offsets.append(max(0, min(first, last)) * factor)
    return [*offsets, *(min(side, length - offset) for offset, length in zip(offsets, size, strict=True))]


def confirmed(found: np.ndarray, scores: np.ndarray, buildings: np.ndarray, rules: LargeRules) -> np.ndarray:
    """The detections that show a building: of those that agree with it the most probable one.

    Args:
        found: object[d], detections of one window, image pixels.
        scores: float[d], their largest probabilities.
        buildings: object[n], what the tiles showed of the buildings, image pixels.
        rules: the knobs.

    Returns:
        int64[k], rows of `found`, ascending.
    """
    if not len(found) or not len(buildings):
        return np.empty(0, dtype=np.int64)
    shared = shapely.area(shapely.intersection(found[:, None], buildings))
    iou = shared / (shapely.area(found)[:, None] + shapely.area(buildings) - shared)
    scores = np.asarray(scores, dtype=float)[:, None]
    rank = np.where((iou >= rules.min_iou) & (scores >= rules.min_score), scores, -np.inf)
    best = rank.argmax(axis=0)
    return np.unique(best[np.isfinite(rank.max(axis=0))])
