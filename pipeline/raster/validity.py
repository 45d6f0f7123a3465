"""Which pixels of an image are valid.

A pixel is valid unless one of these speaks against it:

- The file's own word: a nodata value, an alpha band or a mask. Where it has one, that decides;
  NaN and infinity are invalid in any case.
- Where it has none, the collars and holes a mosaic leaves: pixels black or white in every band,
  give or take a tolerance for JPEG, inside a *solid* square of such pixels, `collar_size` on the
  ground a side. Ground beyond the image's edge counts as blank, so thin collars are found too.
  Shadows and bright roofs are as blank, but smaller and ragged: no square fits, they stay valid.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import reduce

import numpy as np
import rasterio
import shapely
from affine import Affine
from rasterio import features
from rasterio.enums import MaskFlags
from shapely.geometry import shape

from pipeline.polygons import polygonal
from pipeline.schema import Window

_MAX_CELLS = 2**23
SPECK_PX = 64
"""Pixels below which an area is too small to bound valid ground: 8 by 8."""


def is_tagged(src: rasterio.DatasetReader) -> bool:
    """Whether the file says itself which pixels are invalid."""
    flags = {flag for band in src.mask_flag_enums for flag in band}
    if flags & {MaskFlags.per_dataset, MaskFlags.alpha}:
        return True
    # A nodata value that the type cannot hold, such as -9999 in uint8, tags nothing.
    return any(
        nodata is not None and (np.dtype(dtype).kind == "f" or _holds(dtype, nodata))
        for dtype, nodata in zip(src.dtypes, src.nodatavals, strict=True)
    )


def _holds(dtype: str, value: float) -> bool:
    info = np.iinfo(dtype)
    return float(value).is_integer() and info.min <= value <= info.max


def blank(pixels: np.ndarray, tolerance: int) -> np.ndarray:
    """Where every band is black or every band is white, bool[h, w].

    Args:
        pixels: source values [b, h, w]; black is 0 and white the most an integer type holds.
        tolerance: how far from either a uint8 value may be; other types must match exactly.
    """
    # Band by band: along bands that lie pixel by pixel a reduction takes thirty times as long.
    darkest, brightest = reduce(np.minimum, pixels), reduce(np.maximum, pixels)
    slack = tolerance if pixels.dtype == np.uint8 else 0
    black = (brightest <= slack) & (darkest >= -slack)
    return black if pixels.dtype.kind == "f" else black | (darkest >= np.iinfo(pixels.dtype).max - slack)


def solid(blanks: np.ndarray, side: int) -> np.ndarray:
    """The part of `blanks` that squares of `side` pixels cover when they hold nothing else.

    That is its morphological opening, with everything beyond the array taken as blank.

    Args:
        blanks: bool[h, w].
        side: in pixels.
    """
    around = np.pad(blanks, side - 1, constant_values=True)
    squares = _all_of_square(around, side)
    return ~_all_of_square(~squares, side)


def _all_of_square(cells: np.ndarray, side: int) -> np.ndarray:
    """Whether the squares with their upper left corner here hold nothing but True.

    Doubled until they are large enough: a filter along each axis, such as SciPy's, takes six times as long.

    Args:
        cells: bool[h, w].
        side: at most h and w.

    Returns:
        bool[h - side + 1, w - side + 1].
    """
    span = 1
    while span < side:
        step = min(span, side - span)
        cells = cells[:-step] & cells[step:]
        cells = cells[:, :-step] & cells[:, step:]
        span += step
    return cells


def outline(valid: np.ndarray, width: int, height: int) -> shapely.MultiPolygon:
    """The valid pixels as polygons whose edges run straight where pixels make stairs.

    A building cut along them keeps straight walls, and specks, such as single pixels in a shadow that
    happen to hold the nodata value, cut nothing.

    Args:
        valid: bool[h, w].
        width: what the w columns stand for, in the unit of the result.
        height: what the h rows stand for.

    Returns:
        From 0, 0 to `width`, `height`; at most two pixels off the pixels' own edges, areas of fewer
        than `SPECK_PX` pixels given to what surrounds them. Empty where nothing is valid.
    """
    pixel = Affine.scale(width / valid.shape[1], height / valid.shape[0])
    parts = features.sieve(valid.astype(np.uint8), min(SPECK_PX, valid.size))
    found = [shape(geometry) for geometry, _ in features.shapes(parts, mask=parts > 0, transform=pixel)]
    ground = shapely.simplify(shapely.MultiPolygon(found), 2 * max(pixel.a, pixel.e))
    # Stairs that met in a corner may cross when they are straightened.
    (ground,) = polygonal(np.array([shapely.make_valid(ground)], dtype=object))
    return shapely.MultiPolygon(shapely.get_parts(ground).tolist())


def cell_side(width: int, height: int) -> int:
    """The power of two of pixels that divides an image into at most 8 million square cells."""
    side = 1
    while -(-width // side) * -(-height // side) > _MAX_CELLS:
        side *= 2
    return side


def chunks(src: rasterio.DatasetReader, multiple: int, cache_mb: int) -> Iterator[Window]:
    """Windows that cover the image in block order, offsets in multiples of `multiple` pixels.

    A block row of a window fits into half of GDAL's cache, so that no block is decoded twice.
    """
    block_height, block_width = src.block_shapes[0]
    step_x, step_y = math.lcm(block_width, multiple), math.lcm(block_height, multiple)
    column_bytes = block_height * sum(np.dtype(dtype).itemsize for dtype in src.dtypes)
    step_x *= max(1, cache_mb * 2**19 // column_bytes // step_x)
    for row_off in range(0, src.height, step_y):
        for col_off in range(0, src.width, step_x):
            width, height = min(step_x, src.width - col_off), min(step_y, src.height - row_off)
            yield Window(col_off, row_off, width, height)
