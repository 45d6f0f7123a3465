"""An image seen at another resolution than its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import rasterio
from affine import Affine
from rasterio.enums import MaskFlags, Resampling
from rasterio.vrt import WarpedVRT

from pipeline.frames import ground_m_per_px


@contextmanager
def at_resolution(
    src: rasterio.DatasetReader, metres_per_pixel: float, path: str | Path
) -> Iterator[rasterio.DatasetReader]:
    """The image with pixels of so many metres on the ground, in its own CRS and over the same ground.

    Pixels that become larger are means, read from the file's overviews where it has them; pixels that
    become smaller are interpolated. What the file says of invalid pixels holds.

    Args:
        src: the open image, in a CRS.
        metres_per_pixel: mean of a pixel's width and height; 0 leaves the image as it is.
        path: of the image, for messages.
    """
    if not metres_per_pixel:
        yield src
        return
    across, down = ground_m_per_px(src.transform[:6], src.width, src.height, src.crs.to_wkt(), where=path)
    factor = 2 * metres_per_pixel / (across + down)
    width, height = max(1, round(src.width / factor)), max(1, round(src.height / factor))
    masked = any(MaskFlags.per_dataset in band for band in src.mask_flag_enums)
    with ExitStack() as stack:
        if (level := _overview(src, factor)) is not None:
            # A warped view does not look for overviews itself.
            src = stack.enter_context(rasterio.open(path, overview_level=level))
        view = WarpedVRT(
            src,
            crs=src.crs,
            transform=src.transform @ Affine.scale(src.width / width, src.height / height),
            width=width,
            height=height,
            resampling=Resampling.average if factor > 1 else Resampling.bilinear,
            add_alpha=masked and MaskFlags.alpha not in src.mask_flag_enums[0],
        )
        yield stack.enter_context(view)


def _overview(src: rasterio.DatasetReader, factor: float) -> int | None:
    """The coarsest overview that is finer than pixels `factor` times as large, None where there is none."""
    finer = [level for level, times in enumerate(src.overviews(1)) if times <= factor]
    return finer[-1] if finer else None
