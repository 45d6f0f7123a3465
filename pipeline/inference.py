"""From one tile's predictions to its artifact: masks become polygons in image pixels.

Pure: arrays in, `schema.TileDetections` as a plain mapping out (validated by `schema` where it is read).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import shapely

from pipeline.frames import lonlat_of_px
from pipeline.schema import SCHEMA_VERSION, Grid, Tile


@dataclass(frozen=True)
class InferenceRules:
    """How the network is run over tiles."""

    batch_size: int = 8
    """Tiles per step; halved when memory runs out."""
    score_threshold: float = 0.05
    """Score below which a detection is not written, 0 to 1."""
    nms_iou: float = 0.5
    """Overlap of boxes of one tile above which only the better detection stays, IoU 0 to 1."""
    detections_per_tile: int = 200
    """Most detections of one tile, the best are kept."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Arithmetic of the convolutions; `auto` is bfloat16 on a GPU and float32 on a CPU."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:<n>`, or `auto`: a GPU where there is one."""
    workers: int = 2
    """Processes that read tiles ahead; 0 reads in this one."""


def tile_detections(
    image_id: str,
    tile: Tile,
    grid: Grid,
    polygons_tile_px: np.ndarray,
    boxes_tile_px: np.ndarray,
    probabilities: np.ndarray,
    categories: tuple[str, ...],
    model: dict[str, str],
    created: str,
) -> dict[str, Any]:
    """The per-tile artifact of one tile's predictions.

    Args:
        image_id: the image.
        tile: the tile the network saw.
        grid: the image's frame.
        polygons_tile_px: object[n], Polygon in tile pixels, or None where a mask held nothing.
        boxes_tile_px: float[n, 4] x1, y1, x2, y2.
        probabilities: float[n, k] in the order of `categories`.
        categories: the k names.
        model: name and weights digest.
        created: ISO 8601.
    """
    kept = np.array([polygon is not None for polygon in polygons_tile_px], dtype=bool)
    offset = np.array(tile.window[:2], dtype=np.float64)
    polygons = shapely.transform(np.asarray(polygons_tile_px, dtype=object)[kept], lambda xy: xy + offset)
    polygons = shapely.set_precision(polygons, 0.01, mode="valid_output") if len(polygons) else polygons
    single = np.array([p.geom_type == "Polygon" and not p.is_empty for p in polygons], dtype=bool)
    boxes = np.asarray(boxes_tile_px, dtype=np.float64)[kept][single] + np.tile(offset, 2)
    probabilities = np.asarray(probabilities, dtype=np.float64)[kept][single].round(4)
    polygons = polygons[single]
    lonlat = lonlat_of_px(shapely.get_coordinates(shapely.centroid(polygons)), grid.transform, grid.crs)
    return {
        "schema_version": SCHEMA_VERSION,
        "image_id": image_id,
        "tile_id": tile.tile_id,
        "window": list(tile.window),
        "crs": grid.crs,
        "transform": list(grid.transform),
        "model": model,
        "created": created,
        "detections": [
            {
                "polygon": _ring(polygon.exterior),
                "holes": [_ring(hole) for hole in polygon.interiors],
                "box": box,
                "lonlat": point,
                "score": max(row),
                "scores": dict(zip(categories, row, strict=True)),
            }
            for polygon, box, point, row in zip(
                polygons,
                boxes.round(2).tolist(),
                lonlat.round(7).tolist(),
                probabilities.tolist(),
                strict=True,
            )
        ],
    }


def _ring(ring: shapely.LinearRing) -> list[list[float]]:
    return shapely.get_coordinates(ring).round(2).tolist()
