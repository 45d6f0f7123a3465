"""Mask R-CNN's mask grids as polygons: each grid is contoured where it is small, then mapped by its box.

A mask is an M x M grid of probabilities over a box. Sample i of a row lies at the centre of its cell,
x1 + (i + 0.5) / M * (x2 - x1), which is where torchvision's `paste_masks_in_image` puts it. The contour
of the bilinear surface is found on the grid itself with sub-pixel marching squares, so the work
depends on M, never on the size of the building or of the tile, and no raster is made.

A contour has about four points per cell that it crosses, most of them on a wall. Douglas-Peucker finds
the corners; each wall is then the line of least squares through its part of the contour, and each
corner moves to where its walls meet. So a few vertices say what the mask says, and walls are where the
mask has them on average, not where its noise reaches farthest. All of this happens in cells: stretching
a grid to its box changes no intersection over union, so one tolerance serves a hut and a hall.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import shapely
from contourpy import FillType, LineType, SerialContourGenerator, ZInterp

from models.ranges import Amount, InnerShare
from pipeline.polygons import largest_parts
from pipeline.rules import Rules

_BATCH = 256  # masks contoured at once: about 6 MB of grids
_UNMASKED = np.array(False)
_FILLED: dict[str, Any] = {
    "corner_mask": False,
    "line_type": LineType.Separate,
    "fill_type": FillType.ChunkCombinedOffsetOffset,
    "quad_as_tri": False,
    "z_interp": ZInterp.Linear,
}
_PULL = 0.02  # weight of a corner's place on the contour against its distance from its two walls


@dataclass(frozen=True)
class VectorizeRules(Rules):
    """How mask grids become polygons."""

    threshold: InnerShare = 0.5
    """Probability from which a point belongs to the building."""
    simplify_cells: Amount = 0.3
    """Simplification tolerance: distance from which a bend of the outline counts as a corner, and by which a
    corner may move at most, in cells of the mask (1/28 of the box's side); 0 keeps every vertex."""
    min_hole_px2: Amount = 64.0
    """Area in square pixels below which holes are filled."""
    min_piece_px2: Amount = 16.0
    """Area in square pixels below which polygons are dropped."""


class _Rings(NamedTuple):
    """The rings of many masks, one after another: a piece's outer ring, its holes, the next piece."""

    xy: np.ndarray
    """float64[p, 2], cells from the box's corner; a ring ends where it starts."""
    counts: np.ndarray
    """int64[r], points of each ring."""
    owners: np.ndarray
    """int64[r], the mask of each ring, rising."""
    outer: np.ndarray
    """bool[r], False for holes."""

    @property
    def starts(self) -> np.ndarray:
        """int64[r], where each ring starts in `xy`."""
        return np.cumsum(self.counts) - self.counts

    @property
    def of_points(self) -> np.ndarray:
        """int64[p], the ring of each point."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    def areas(self) -> np.ndarray:
        """float64[r], in square cells; negative for holes."""
        (x, y), starts = self.xy.T, self.starts
        cross = np.zeros(len(x))
        cross[:-1] = x[:-1] * y[1:] - x[1:] * y[:-1]
        cross[starts[1:] - 1] = 0  # from one ring's end to the next one's start
        area = np.abs(np.add.reduceat(cross, starts)) / 2
        return np.where(self.outer, area, -area)

    def only(self, kept: np.ndarray) -> _Rings:
        """Those of bool[r]."""
        points = np.repeat(kept, self.counts)
        return _Rings(self.xy[points], self.counts[kept], self.owners[kept], self.outer[kept])


def mask_ambiguities(masks: np.ndarray) -> np.ndarray:
    """How unsure each mask is of its outline, float64[n] in 0..1.

    Mean of 4 p (1 - p) over the cells: 0 where every cell is surely inside or outside, 1 where none is. It
    tells how far an outline is off better than the score does (docs/benchmarks.md).

    Args:
        masks: float[n, rows, columns], probabilities over the box.
    """
    cells = np.asarray(masks, dtype=np.float64)
    return (4 * cells * (1 - cells)).mean(axis=(1, 2))


def masks_to_polygons(
    masks: np.ndarray, boxes: np.ndarray, rules: VectorizeRules | None = None
) -> np.ndarray:
    """The outline of each mask: its largest piece as a valid polygon, None where nothing is left.

    Args:
        masks: float[n, M, M], probabilities in [0, 1] over the box, row 0 at the top; any M.
        boxes: float[n, 4], x1, y1, x2, y2 in pixels of any frame.
        rules: the knobs.

    Returns:
        object[n] of Polygon or None, in the boxes' frame and inside the boxes, the same whatever else is in
        the arrays. None for a mask below the threshold everywhere, one smaller than `min_piece_px2`, or a
        box without area.

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
    cells = (boxes[:, 2:] - boxes[:, :2]) / masks.shape[1]
    rings = _largest_pieces(_contours(masks, rules.threshold), cells.prod(axis=1), rules)
    if not len(rings.counts):
        return np.full(len(boxes), None, dtype=object)
    fitted = _fitted(rings, rules.simplify_cells) if rules.simplify_cells else rings
    outlines = _polygons(fitted, cells, boxes)
    crossed = ~shapely.is_valid(outlines) & ~shapely.is_missing(outlines)
    if crossed.any():
        exact = _polygons(rings, cells, boxes)[crossed]
        outlines[crossed] = largest_parts(shapely.make_valid(exact))
    return outlines


@lru_cache(maxsize=2)
def _sample_places(size: int) -> tuple[np.ndarray, np.ndarray]:
    """float64[_BATCH * (size + 2), size + 2] twice: column and row of each sample of a stack, in cells.

    Every grid has its own coordinates: an offset in the stack would leave its rounding errors.
    """
    line = np.arange(size + 2) - 0.5
    x, y = np.meshgrid(line, np.tile(line, _BATCH))
    return x, y


def _contours(masks: np.ndarray, threshold: float) -> _Rings:
    """All rings of at most _BATCH masks."""
    count, size = masks.shape[:2]
    # A ring of zeros closes every contour and keeps the stacked grids apart: one call contours them all.
    stack = np.zeros((count, size + 2, size + 2))
    grid = stack[:, 1:-1, 1:-1]
    np.minimum(np.fmax(masks, 0, out=grid), 1, out=grid)
    # A sample exactly at the threshold would pinch outlines together at that sample.
    grid[np.abs(grid - threshold) < 1e-6] = threshold + 1e-6
    rows = count * (size + 2)
    x, y = (places[:rows] for places in _sample_places(size))
    # The class itself: contour_generator's checks take longer than the contours of a tile.
    contours = SerialContourGenerator(
        x, y, stack.reshape(x.shape), _UNMASKED, y_chunk_size=size + 2, **_FILLED
    )
    filled: Any = contours.filled(threshold, 2.0)
    drawn = np.array([mask for mask, points in enumerate(filled[0]) if points is not None], dtype=np.int64)
    if not len(drawn):
        return _Rings(np.empty((0, 2)), drawn, drawn, drawn.astype(bool))
    points, ring_ends, piece_ends = ([part[mask] for mask in drawn] for part in filled)
    # Both lists of ends start at 0 in every mask: a step back is where the next mask begins.
    steps = np.diff(np.concatenate(ring_ends).astype(np.int64))
    rings = np.array([len(ends) - 1 for ends in ring_ends])
    first_rings = np.repeat(np.cumsum(rings) - rings, [len(ends) for ends in piece_ends])
    outer = np.zeros(rings.sum() + 1, dtype=bool)
    outer[first_rings + np.concatenate(piece_ends)] = True
    return _Rings(np.concatenate(points), steps[steps > 0], np.repeat(drawn, rings), outer[:-1])


def _largest_pieces(rings: _Rings, cell_px2: np.ndarray, rules: VectorizeRules) -> _Rings:
    """Of each mask its largest piece, without small holes; nothing of a mask that is too small."""
    areas_px2 = rings.areas() * cell_px2[rings.owners]
    pieces = np.flatnonzero(rings.outer)
    piece_px2 = np.add.reduceat(areas_px2, pieces)
    owners = rings.owners[pieces]
    order = np.lexsort((piece_px2, owners))
    largest = np.zeros(len(pieces), dtype=bool)
    largest[order[np.diff(owners[order], append=-1) != 0]] = True
    largest &= piece_px2 >= max(rules.min_piece_px2, np.finfo(float).tiny)
    return rings.only(
        largest[np.cumsum(rings.outer) - 1] & (rings.outer | (-areas_px2 >= rules.min_hole_px2))
    )


def _fitted(rings: _Rings, tolerance: float) -> _Rings:
    """The rings as straight walls and the corners where they meet."""
    corners, counts = _corners(rings, tolerance)
    starts = np.cumsum(counts) - counts
    walls = _walls(rings, corners, counts)
    before = np.arange(len(corners)) - 1
    before[starts] += counts
    # The point of least squared distance from both walls and, far less, from the corner on the contour.
    drawn = rings.xy[corners].T
    form = walls + walls[:, before]
    form[[0, 2]] += _PULL
    form[3:] += _PULL * drawn
    xx, xy, yy, x, y = form
    move = np.array([yy * x - xy * y, xx * y - xy * x]) / (xx * yy - xy * xy) - drawn
    move *= tolerance / np.maximum(np.sqrt((move * move).sum(axis=0)), tolerance)
    # A ring ends where it starts.
    ring = np.arange(len(counts))
    places = np.arange(len(corners) + len(counts)) - np.repeat(ring, counts + 1)
    places[starts + counts + ring] = starts
    return rings._replace(xy=(drawn + move).T[places], counts=counts + 1)


def _corners(rings: _Rings, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """Douglas-Peucker's choice of points, as positions in `rings.xy`, and how many each ring has of them."""
    numbers = np.arange(len(rings.xy))
    numbers[rings.starts + rings.counts - 1] = rings.starts  # a ring closes in z, too
    whole = shapely.linearrings(np.column_stack([rings.xy, numbers]), indices=rings.of_points)
    simple = shapely.simplify(whole, tolerance, preserve_topology=False)
    # What would collapse keeps its points.
    simple = np.where(shapely.get_num_coordinates(simple) < 4, whole, simple)
    counts = shapely.get_num_coordinates(simple)
    opened = np.ones(counts.sum(), dtype=bool)
    opened[np.cumsum(counts) - 1] = False
    corners = shapely.get_coordinates(simple, include_z=True)[opened, 2]
    return corners.astype(np.int64), counts - 1


def _walls(rings: _Rings, corners: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """float64[5, k]: the line through the contour from each corner to the next one, by least squares.

    As the quadratic form of the squared distance from it: xx, xy, yy of the projection N onto its normal,
    and N times a point on it. N = (a I - C) / (a - b) for second moments C of eigenvalues a > b.
    """
    # Segment i of the contour runs from point i to point i + 1, none from a ring to the next.
    step = (rings.xy[1:] - rings.xy[:-1]).T
    length = np.sqrt((step * step).sum(axis=0))
    length[rings.starts[1:] - 1] = 0
    wall = np.zeros(len(length), dtype=np.int64)
    wall[corners] = 1
    wall = np.cumsum(wall) - 1
    # What comes before a ring's first corner belongs to its last wall.
    last = np.cumsum(counts) - 1
    early = wall < np.repeat(last - counts + 1, rings.counts)[:-1]
    wall[early] = np.repeat(last, rings.counts)[:-1][early]

    def mean(values: np.ndarray) -> np.ndarray:
        return np.bincount(wall, length * values, len(corners)) / total

    total = np.maximum(np.bincount(wall, length, len(corners)), np.finfo(float).tiny)
    (x, y), (u, v) = rings.xy[:-1].T + step / 2, step
    x0, y0 = mean(x), mean(y)
    xx = mean(x * x + u * u / 12) - x0 * x0
    yy = mean(y * y + v * v / 12) - y0 * y0
    xy = mean(x * y + u * v / 12) - x0 * y0
    spread = np.sqrt((xx - yy) ** 2 + 4 * xy * xy)
    largest, spread = (xx + yy + spread) / 2, np.maximum(spread, 1e-12)
    nxx, nxy, nyy = (largest - xx) / spread, -xy / spread, (largest - yy) / spread
    return np.array([nxx, nxy, nyy, nxx * x0 + nxy * y0, nxy * x0 + nyy * y0])


def _polygons(rings: _Rings, cells: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """object[n] of Polygon, None for a mask without rings, in the boxes' frame."""
    of_points = rings.of_points
    owners = rings.owners[of_points]
    low, high = boxes[owners, :2], boxes[owners, 2:]
    xy = np.minimum(np.maximum(low + rings.xy * cells[owners], low), high)
    polygons = np.full(len(boxes), None, dtype=object)
    polygons[rings.owners[rings.outer]] = shapely.polygons(
        shapely.linearrings(xy, indices=of_points), indices=np.cumsum(rings.outer) - 1
    )
    return polygons
