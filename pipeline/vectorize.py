"""Mask R-CNN's mask grids as polygons: each grid is contoured where it is small, then mapped by its box.

A mask is an M x M grid of probabilities over a box. Sample i of a row lies at the centre of its cell,
x1 + (i + 0.5) / M * (x2 - x1), which is where torchvision's `paste_masks_in_image` puts it. The contour
of the bilinear surface is found on the grid itself with sub-pixel marching squares, so the work
depends on M, never on the size of the building or of the tile, and no raster is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from contourpy import FillType, contour_generator

from pipeline.polygons import fill_holes, largest_parts

_BATCH = 2048  # masks contoured at once: about 15 MB of grid


@dataclass(frozen=True)
class VectorizeRules:
    """How mask grids become polygons."""

    threshold: float = 0.5
    """Probability from which a point belongs to the building, in (0, 1)."""
    simplify_px: float = 0.5
    """Largest distance in pixels that simplifying may move an outline; 0 keeps every vertex."""
    min_hole_px2: float = 64.0
    """Area in square pixels below which a hole is filled."""
    min_piece_px2: float = 16.0
    """Area in square pixels below which a polygon is dropped."""


def masks_to_polygons(
    masks: np.ndarray, boxes: np.ndarray, rules: VectorizeRules | None = None
) -> np.ndarray:
    """The outline of each mask: its largest piece as a valid polygon, None where nothing is left.

    Simplifying cuts convex corners and so loses area; each polygon is scaled about its centroid to
    the area that it had before.

    Args:
        masks: float[n, M, M], probabilities in [0, 1] over the box, row 0 at the top; any M.
        boxes: float[n, 4], x1, y1, x2, y2 in pixels of any frame.
        rules: the knobs.

    Returns:
        object[n] of Polygon or None, in the boxes' frame. None for a mask below the threshold
        everywhere, one smaller than `min_piece_px2`, or a box without area.

    Raises:
        ValueError: when masks and boxes differ in number or masks are not square.
    """
    rules = rules or VectorizeRules()
    masks = np.asarray(masks)
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    polygons = np.full(len(boxes), None, dtype=object)
    if len(masks) != len(boxes) or (len(masks) and (masks.ndim != 3 or masks.shape[1] != masks.shape[2])):
        raise ValueError(f"masks {masks.shape} are not one square grid for each of {len(boxes)} boxes")
    usable = np.flatnonzero(
        (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]) & np.isfinite(boxes).all(1)
    )
    for start in range(0, len(usable), _BATCH):
        batch = usable[start : start + _BATCH]
        polygons[batch] = _outlines(masks[batch], boxes[batch], rules)
    return polygons


def _outlines(masks: np.ndarray, boxes: np.ndarray, rules: VectorizeRules) -> np.ndarray:
    """One batch of `masks_to_polygons`, every box with an area."""
    pieces, owner = _contours(masks, boxes, rules.threshold)
    area = shapely.area(pieces)
    order = np.lexsort((area, owner))
    outlines = np.full(len(boxes), None, dtype=object)
    outlines[owner[order]] = pieces[order]  # the last write of an owner is its largest piece
    found = np.flatnonzero(shapely.area(outlines) >= max(rules.min_piece_px2, np.finfo(float).tiny))
    polygons = fill_holes(outlines[found], rules.min_hole_px2)
    outlines[:] = None
    outlines[found] = _valid(_simplify(polygons, rules.simplify_px))
    return outlines


def _contours(masks: np.ndarray, boxes: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """All pieces of all masks as polygons with holes, and the mask each belongs to."""
    size = masks.shape[1]
    # A ring of zeros closes every contour and keeps the stacked grids apart: one call contours them all.
    grid = np.zeros((len(masks), size + 2, size + 2))
    grid[:, 1:-1, 1:-1] = np.clip(np.nan_to_num(masks), 0, 1)
    # A sample exactly at the threshold would pinch outlines together at that sample.
    near = np.abs(grid - threshold) < 1e-6
    grid[near] = threshold + 1e-6
    contours = contour_generator(
        z=grid.reshape(-1, size + 2), name="serial", fill_type=FillType.ChunkCombinedOffsetOffset
    )
    filled: Any = contours.filled(threshold, 2.0)
    (points,), (ring_starts,), (piece_starts,) = filled
    if points is None:
        return np.empty(0, dtype=object), np.empty(0, dtype=np.int64)
    ring_starts, piece_starts = ring_starts.astype(np.int64), piece_starts.astype(np.int64)
    ring_of_point = np.repeat(np.arange(len(ring_starts) - 1), np.diff(ring_starts))
    piece_of_ring = np.repeat(np.arange(len(piece_starts) - 1), np.diff(piece_starts))
    owner = (points[ring_starts[:-1], 1] // (size + 2)).astype(np.int64)
    of_point = owner[ring_of_point]
    x1, y1, x2, y2 = boxes[of_point].T
    column, row = (_exact(grid, of_point, points, threshold).T - 0.5) / size
    xy = np.column_stack([x1 + column * (x2 - x1), y1 + row * (y2 - y1)])
    rings = shapely.linearrings(xy, indices=ring_of_point)
    return shapely.polygons(rings, indices=piece_of_ring), owner[piece_starts[:-1]]


def _exact(grid: np.ndarray, owner: np.ndarray, points: np.ndarray, threshold: float) -> np.ndarray:
    """Contour points of the stack as (column, row) in their own grids.

    Interpolated anew: subtracting a grid's offset in the stack would leave rounding errors that
    depend on the other masks of the batch.
    """
    points = points - np.column_stack([np.zeros(len(owner)), owner * grid.shape[1]])
    nearest = np.rint(points)
    # Each point lies on a grid line: one coordinate is whole, along the other the surface is linear.
    along = np.argmax(np.abs(points - nearest), axis=1)
    every = np.arange(len(points))
    start = nearest.astype(np.int64)
    start[every, along] = np.floor(points[every, along])
    end = start.copy()
    end[every, along] += 1
    low, high = grid[owner, start[:, 1], start[:, 0]], grid[owner, end[:, 1], end[:, 0]]
    nearest[every, along] = start[every, along] + (threshold - low) / (high - low)
    return nearest


def _simplify(polygons: np.ndarray, tolerance_px: float) -> np.ndarray:
    """The polygons with fewer vertices and the same areas."""
    if not tolerance_px or not len(polygons):
        return polygons
    simple = shapely.simplify(polygons, tolerance_px, preserve_topology=True)
    before, after = shapely.area(polygons), shapely.area(simple)
    # What collapses is too small to lose vertices; scaling it back would blow it up.
    sound = shapely.is_valid(simple) & (after > 0.8 * before)
    simple[~sound] = polygons[~sound]
    ratio = np.sqrt(before / np.where(sound, after, before))
    centre = shapely.get_coordinates(shapely.centroid(simple))
    count = shapely.get_num_coordinates(simple)
    ratio, centre = np.repeat(ratio, count)[:, None], np.repeat(centre, count, axis=0)
    return shapely.set_coordinates(simple, centre + (shapely.get_coordinates(simple) - centre) * ratio)


def _valid(polygons: np.ndarray) -> np.ndarray:
    """The polygons, those that rounding has made invalid replaced by their largest valid part."""
    broken = ~shapely.is_valid(polygons)
    polygons[broken] = largest_parts(shapely.make_valid(polygons[broken]))
    return polygons
