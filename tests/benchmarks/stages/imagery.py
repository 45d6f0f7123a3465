"""Made images for the benchmarks: ground in colour as a JPEG COG would hold it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio
from rasterio.windows import Window
from scipy import ndimage

PATCH = 2048


def write_jpeg(path: Path, side: int, compress: str = "jpeg") -> Path:
    """A square image of `side` pixels in 512 px blocks, YCbCr JPEG of quality 85."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(40, 210, (3, PATCH // 32, PATCH // 32)).astype(float)
    patch = ndimage.zoom(coarse, (1, 32, 32), order=1) + rng.normal(0, 6, (3, PATCH, PATCH))
    patch = patch.clip(0, 255).astype(np.uint8)
    profile = {"driver": "GTiff", "width": side, "height": side, "count": 3, "dtype": "uint8"}
    profile |= {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": compress}
    profile |= {"photometric": "ycbcr", "JPEG_QUALITY": 85} if compress == "jpeg" else {}
    place = rasterio.Affine(0.075, 0, 530_000, 0, -0.075, 9_366_000)
    with rasterio.open(path, "w", crs="EPSG:32737", transform=place, **profile) as dst:
        for row in range(0, side, PATCH):
            for col in range(0, side, PATCH):
                height, width = min(PATCH, side - row), min(PATCH, side - col)
                dst.write(patch[:, :height, :width], window=Window(col, row, width, height))
    return path
