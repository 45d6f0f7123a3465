"""What an image's header says about the work of reading it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.raster.source import Imagery, opened
from pipeline.raster.validity import cell_side, is_tagged


@dataclass(frozen=True)
class Header:
    """An image without its pixels."""

    width: int
    height: int
    transform: tuple[float, float, float, float, float, float]
    """Rasterio's (a, b, c, d, e, f)."""
    bytes_per_px: int
    """Of all bands, decoded."""
    is_cog: bool
    """Whether GDAL knows it for a cloud-optimized GeoTIFF."""
    overviews: tuple[int, ...]
    """Image pixels per overview pixel and axis, rising."""
    looked_at: bool
    """Whether pixels are looked at to find empty tiles."""

    @property
    def megapixels_looked_at(self) -> float:
        """Pixels decoded to find out which tiles are empty, in millions."""
        return self.width * self.height / self._factor_looked_at**2 / 1e6 if self.looked_at else 0.0

    @property
    def _factor_looked_at(self) -> int:
        side = cell_side(self.width, self.height)
        return max((factor for factor in self.overviews if factor <= side), default=1)


def read_header(path: str | Path, imagery: Imagery | None = None) -> Header:
    """The image's header; no pixel is read.

    Raises:
        SourceError: there is no such file or URL.
        RasterError: it is no raster.
    """
    imagery = imagery or Imagery()
    with opened(path, imagery) as src:
        return Header(
            width=src.width,
            height=src.height,
            transform=src.transform[:6],
            bytes_per_px=sum(np.dtype(dtype).itemsize for dtype in src.dtypes),
            is_cog=src.tags(ns="IMAGE_STRUCTURE").get("LAYOUT") == "COG",
            overviews=tuple(sorted(src.overviews(1))),
            looked_at=is_tagged(src) or imagery.collars or np.dtype(src.dtypes[0]).kind == "f",
        )
