"""From one tile's predictions to its artifact: masks become polygons in image pixels.

Pure: arrays in, `schema.TileDetections` as a plain mapping out (validated by `schema` where it is read).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import shapely

from models.ranges import Count, Natural, Share
from pipeline.polygons import clip_to_frame, largest_parts, node_on_grid
from pipeline.rules import Rules
from pipeline.schema import DETECTIONS_VERSION, CoarseTile, Grid, Tile

PX_DECIMALS = 1
"""Of pixels in per-tile JSON, of small buildings: a tenth is finer than any mask's grid."""
WHOLE_PX_FROM = 84.0
"""Shorter side in pixels from which whole pixels do: a cell of the mask is three of them there."""
READ_AHEAD = 2
"""Batches of tiles that wait for the network at most."""
_LEAST_CUT_PX2 = 1.0
"""Area from which cutting a polygon is worth it."""


@dataclass(frozen=True)
class InferenceRules(Rules):
    """How the network is run over tiles."""

    batch_size: Count = 8
    """Tiles per batch; automatically reduced if memory is short."""
    score_threshold: Share = 0.05
    """Score below which a detection is not written."""
    nms_iou: Share = 0.5
    """Overlap of boxes of one tile above which only the better detection stays."""
    detections_per_tile: Count = 200
    """Maximum number of detections per tile; the best are kept."""
    proposals_per_tile: Natural = 0
    """Maximum number of region proposals per tile; 0 for the network's default. Fewer are faster."""
    views: Literal["one", "flips", "turns", "scales", "all"] = "one"
    """Test-time augmentation: `one` for none; `flips`, four mirror images; `turns`, eight flips and quarter
    turns; `scales`, two scales; `all`, the eight at two scales. Detections of all views are merged like those
    of tiles."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the convolutions; `auto` is bfloat16 on a GPU and on a CPU that supports it, else float32.
    With float32, results are identical on CPUs with and without such support."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:<n>`, or `auto`: a GPU where there is one."""
    workers: Natural = 2
    """Threads that read tiles ahead and decode them; 0 reads between batches, as a network on all of a CPU's
    cores does a file."""
    writers: Natural = 2
    """Processes that draw outlines and write files while a GPU computes; on a CPU one thread does."""
    compile: bool = False
    """Whether the backbone is compiled (`torch.compile`): takes about a minute at the start, then is faster;
    on a CPU it needs a C++ compiler and pays only for large networks."""
    min_valid_share: Share = 0.5
    """Share of a detection's area on valid pixels from which it counts; the rest is cut off."""


def clip_to_ground(
    polygons_tile_px: np.ndarray,
    size: tuple[int, int],
    ground_tile_px: shapely.MultiPolygon | None,
    min_valid_share: float,
) -> tuple[np.ndarray, dict[str, int]]:
    """The polygons as far as they lie on valid ground, and how many of them did not.

    What lies beyond the tile is cut off uncounted: simplifying may have moved an outline there by a
    fraction of a pixel. Valid ground has straight edges, so what is cut along it keeps straight walls.

    Args:
        polygons_tile_px: object[n], valid Polygon in tile pixels or None.
        size: the tile's width and height in pixels.
        ground_tile_px: the tile's valid ground, None where all of it is valid.
        min_valid_share: share of a polygon's area on valid ground below which it is dropped.

    Returns:
        object[n] of Polygon, None where there was none or none is left; and counts: `on_nodata`,
        dropped for lying on invalid pixels, and `clipped`, cut back to the valid ones.
    """
    polygons, _ = clip_to_frame(polygons_tile_px, (0, 0, *size))
    counts = {"on_nodata": 0, "clipped": 0}
    if ground_tile_px is None:
        return polygons, counts
    shapely.prepare(ground_tile_px)
    partly = np.flatnonzero(~shapely.covered_by(polygons, ground_tile_px) & ~shapely.is_missing(polygons))
    rest = shapely.intersection(polygons[partly], ground_tile_px)
    areas, left = shapely.area(polygons[partly]), shapely.area(rest)
    gone, cut = left < min_valid_share * areas, areas - left >= _LEAST_CUT_PX2
    gone |= left <= 0
    polygons[partly[gone]] = None
    polygons[partly[cut & ~gone]] = largest_parts(rest[cut & ~gone])
    return polygons, {"on_nodata": int(gone.sum()), "clipped": int((cut & ~gone).sum())}


def tile_detections(
    image_id: str,
    tile: Tile | CoarseTile,
    grid: Grid,
    polygons_tile_px: np.ndarray,
    probabilities: np.ndarray,
    categories: tuple[str, ...],
    model: dict[str, str],
    created: str,
    ambiguities: np.ndarray | None = None,
) -> dict[str, Any]:
    """The per-tile artifact of one tile's predictions.

    Args:
        image_id: the image.
        tile: the tile the network saw.
        grid: the image's frame.
        polygons_tile_px: object[n], Polygon in tile pixels, or None where a mask held nothing.
        probabilities: float[n, k] in the order of `categories`.
        categories: the k names.
        model: name and weights digest.
        created: ISO 8601.
        ambiguities: float[n], of the masks, NaN where nothing is told; None for none of any.
    """
    polygons, whole = _rounded(np.asarray(polygons_tile_px, dtype=object))
    kept = ~shapely.is_missing(polygons)
    scores = np.asarray(probabilities, dtype=np.float64)[kept].round(4).tolist()
    unsure = [math.nan] * len(scores) if ambiguities is None else ambiguities[kept].round(3).tolist()
    return {
        "schema_version": DETECTIONS_VERSION,
        "image_id": image_id,
        "tile_id": tile.tile_id,
        "window": list(tile.window),
        "crs": grid.crs,
        "transform": list(grid.transform),
        "categories": list(categories),
        "model": model,
        "created": created,
        "detections": [
            {"scores": row, "polygon": outer}
            | ({"holes": holes} if holes else {})
            | ({} if math.isnan(doubt) else {"ambiguity": doubt})
            for row, doubt, (outer, *holes) in zip(
                scores, unsure, _rings(polygons[kept], whole[kept]), strict=True
            )
        ],
    }


def _rounded(polygons: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The polygons as they are written, valid, None where nothing is left; and bool[n], in whole pixels."""
    bounds = shapely.bounds(polygons).reshape(-1, 4)
    whole = (bounds[:, 2:] - bounds[:, :2]).min(axis=1) >= WHOLE_PX_FROM
    xy, owner = shapely.get_coordinates(polygons, return_index=True)
    numbers = np.where(whole[owner, None], xy.round(), xy.round(PX_DECIMALS))
    rounded = shapely.set_coordinates(polygons.copy(), numbers)
    broken = ~(shapely.is_valid(rounded) | shapely.is_missing(rounded))
    steps = np.where(whole, 1.0, 10.0**-PX_DECIMALS)
    rounded[broken] = node_on_grid(polygons[broken], steps[broken])
    return rounded, whole


def _rings(polygons: np.ndarray, whole: np.ndarray) -> list[list[list[float]]]:
    """The outer ring of each polygon and its holes, as the artifact has them."""
    rings, owners = shapely.get_rings(polygons, return_index=True)
    # Not minus zero, and integers where all are: shorter by two characters each.
    xy = shapely.get_coordinates(rings).round(PX_DECIMALS).ravel() + 0.0
    decimals, integers = xy.tolist(), xy.astype(np.int64).tolist()
    ends = (2 * np.cumsum(shapely.get_num_coordinates(rings))).tolist()
    found: list[list[list[float]]] = [[] for _ in polygons]
    for owner, start, end in zip(owners.tolist(), [0, *ends], ends, strict=False):
        found[owner].append((integers if whole[owner] else decimals)[start : end - 2])
    return found
