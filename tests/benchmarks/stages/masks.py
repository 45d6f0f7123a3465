"""Masks: instance masks to learn from, and what the network's masks become."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import shapely
import torch
from rasterio.features import rasterize
from rasterio.transform import Affine

from models.dataset import make_target
from models.recipe import Recipe
from models.tiles import Items
from tests.benchmarks.bench_polygons import find_contours, ours_of_all, trace
from tests.benchmarks.network_masks import look
from tests.benchmarks.rows import Row, interleaved
from tests.benchmarks.seams.scenes import typical

SIDE, INSTANCES = 1024, 60
CATEGORIES = ("foundation", "unfinished", "completed")


def items() -> Items:
    """60 houses in a tile."""
    rng = np.random.default_rng(0)
    corners = rng.uniform(60, SIDE - 60, (INSTANCES, 1, 2))
    angle = rng.uniform(0, np.pi, (INSTANCES, 1)) + np.arange(4) * np.pi / 2
    outlines = corners + rng.uniform(30, 80, (INSTANCES, 1, 1)) * np.stack(
        [np.cos(angle), np.sin(angle)], axis=2
    )
    polygons = np.array([shapely.MultiPolygon([shape]) for shape in shapely.polygons(outlines)], dtype=object)
    return Items("bench/tile", polygons, ("completed",) * INSTANCES, np.ones(INSTANCES))


def per_instance(polygons: np.ndarray) -> np.ndarray:
    """A call of rasterio per instance over the whole tile; corners, as torchvision reads masks."""
    corners = Affine.translation(-0.5, -0.5)
    return np.stack(
        [rasterize([shape], out_shape=(SIDE, SIDE), transform=corners, dtype="uint8") for shape in polygons]
    )


def rows() -> Iterator[Row]:
    """Both directions; equal to the bit where that is asked."""
    tile, recipe = items(), Recipe()

    def ours() -> np.ndarray:
        return make_target(tile, SIDE, SIDE, CATEGORIES, recipe)["masks"].numpy()

    if not np.array_equal(ours(), per_instance(tile.polygons)):
        raise AssertionError("masks differ from GDAL's")
    took = interleaved({"ours": ours, "peer": lambda: per_instance(tile.polygons)}, 7)
    yield Row("instance masks for training, 60 a tile", "rasterio.features.rasterize per instance",
              took["ours"] * 1e3, took["peer"] * 1e3, "ms", 0.25)  # fmt: skip
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    seen = look(typical(300), 6)
    instances = sum(len(one.boxes) for one in seen)
    took = interleaved(
        {
            "ours": lambda: ours_of_all(seen),
            "findContours": lambda: [find_contours(one) for one in seen],
            "shapes": lambda: [trace(one) for one in seen],
        }
    )
    us = {name: seconds / instances * 1e6 for name, seconds in took.items()}
    yield Row("mask to polygon", "paste + cv2.findContours", us["ours"], us["findContours"], "us", 1 / 20)
    yield Row("mask to polygon", "paste + rasterio.features.shapes", us["ours"], us["shapes"], "us", 1 / 80)
