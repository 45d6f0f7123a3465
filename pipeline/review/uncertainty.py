"""How unsure networks are of a tile, in doubtful buildings: what a look at it may teach.

A tile's uncertainty is a sum over what was found in it, so that a tile with many doubts comes before one
with few: of each detection the entropy of its probabilities, background included, on a scale where an even
spread is 1, and its score times the ambiguity of its mask; of each that lies in the strip it shares with a
neighbouring tile, its score times the share of it on which the two masks differ, all of it where the
neighbour saw nothing; and of each building the same between two networks.

Source: Settles, Active Learning Literature Survey (2009), uncertainty sampling and query by committee.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import shapely

from pipeline.frames import window_boxes
from pipeline.matching import overlapping_pairs
from pipeline.schema import Window

AGREEMENT = 0.3
"""Share |A∩B| / |A∪B| in a common strip from which two tiles show the same building, as in merging."""
MARGIN_PX = 8.0
"""Width along a window's edge in which tiles are not compared: masks are not trusted there."""
MIN_STRIP_SHARE = 0.5
"""Share of a detection inside a strip from which the neighbour should have seen it."""
COMMITTEE_IOU = 0.5
"""Overlap from which two networks found the same building."""


class TileFindings(NamedTuple):
    """What a network found in one tile."""

    window: Window
    polygons: np.ndarray
    """object[n] of valid polygons, image pixels."""
    probabilities: np.ndarray
    """float64[n, k]."""
    ambiguities: np.ndarray | float = 0.0
    """float64[n] of the masks, 0 where nothing is told."""


def entropies(probabilities: np.ndarray) -> np.ndarray:
    """float64[n] in 0..1: entropy of each row and its rest to 1, over that of an even spread.

    Args:
        probabilities: float64[n, k] in [0, 1], rows sum to at most 1.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    rest = np.clip(1 - probabilities.sum(axis=1, keepdims=True), 0, 1)
    spread = np.concatenate([probabilities, rest], axis=1)
    logs = np.log(spread, out=np.zeros_like(spread), where=spread > 0)
    return -(spread * logs).sum(axis=1) / np.log(spread.shape[1])


def tile_uncertainties(tiles: Sequence[TileFindings]) -> np.ndarray:
    """float64[t]: doubts of one network about each tile of an image.

    Args:
        tiles: of one image, each with all that was found in it.
    """
    doubts = np.array([_own_doubts(tile).sum() for tile in tiles], dtype=np.float64)
    trusted = shapely.buffer(window_boxes([tile.window for tile in tiles]), -MARGIN_PX)
    trees = [shapely.STRtree(tile.polygons) for tile in tiles]
    first, second = shapely.STRtree(trusted).query(trusted, predicate="intersects")
    once = first < second
    for here, there in zip(first[once].tolist(), second[once].tolist(), strict=True):
        strip = shapely.intersection(trusted[here], trusted[there])
        if strip.area > 0:
            mine, other = (_in_strip(tiles[number], trees[number], strip) for number in (here, there))
            same = overlapping_pairs(mine.parts, other.parts, AGREEMENT)
            doubts[here] += _disputed(mine, same.proposals, same.ious)
            doubts[there] += _disputed(other, same.truths, same.ious)
    return doubts


def _own_doubts(tile: TileFindings) -> np.ndarray:
    """float64[n], of each detection by itself."""
    return entropies(tile.probabilities) + tile.probabilities.max(axis=1, initial=0.0) * tile.ambiguities


class InStrip(NamedTuple):
    """What a tile shows in the strip that it shares with another."""

    parts: np.ndarray
    """object[n], what of each detection lies in the strip."""
    due: np.ndarray
    """bool[n], whether the other tile should have seen it."""
    scores: np.ndarray
    """float64[n]."""


def _in_strip(tile: TileFindings, tree: shapely.STRtree, strip: shapely.Polygon) -> InStrip:
    near = np.sort(tree.query(strip))
    whole = tile.polygons[near]
    parts = shapely.intersection(whole, strip)
    due = shapely.area(parts) >= MIN_STRIP_SHARE * shapely.area(whole)
    return InStrip(parts, due, tile.probabilities[near].max(axis=1, initial=0.0))


def _disputed(shown: InStrip, seen: np.ndarray, ious: np.ndarray) -> float:
    """Scores of what one tile shows in the common strip, times the share that the other shows otherwise."""
    return float(shown.scores[shown.due] @ _differences(len(shown.parts), seen, ious)[shown.due])


def differences(polygons: np.ndarray, others: np.ndarray, min_iou: float) -> np.ndarray:
    """float64[n] in 0..1: 1 - IoU with the best of the others, 1 without one above `min_iou`."""
    pairs = overlapping_pairs(polygons, others, min_iou)
    return _differences(len(polygons), pairs.proposals, pairs.ious)


def _differences(count: int, seen: np.ndarray, ious: np.ndarray) -> np.ndarray:
    """float64[n]: 1 - the best of the IoUs, of what is `seen`, int64[p]; 1 where it is not."""
    agreement = np.zeros(count)
    np.maximum.at(agreement, seen, ious)
    return 1 - agreement


def committee_doubts(
    windows: Sequence[Window],
    polygons: np.ndarray,
    scores: np.ndarray,
    others: np.ndarray,
) -> np.ndarray:
    """float64[t]: by tile, the scores of one network's buildings, times the share another shows otherwise.

    A building counts in every tile that holds its centre.

    Args:
        windows: the tiles'.
        polygons: object[n], what the one network found, image pixels.
        scores: float64[n].
        others: object[m], what the other found.
    """
    doubts = scores * differences(polygons, others, COMMITTEE_IOU)
    boxes = window_boxes(windows)
    building, tile = shapely.STRtree(boxes).query(shapely.centroid(polygons), predicate="intersects")
    return np.bincount(tile, doubts[building], minlength=len(windows)).astype(np.float64)
