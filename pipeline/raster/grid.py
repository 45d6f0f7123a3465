"""Reading an image's grid, and refusing early what could not be read later."""

from __future__ import annotations

import urllib.error
import urllib.request
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from pyproj import CRS
from pyproj.exceptions import CRSError
from rasterio.enums import ColorInterp

from pipeline.errors import LabelError, RasterError
from pipeline.frames import exact_crs, grid_lonlat_bounds, ground_m_per_px
from pipeline.raster.resolution import at_resolution
from pipeline.raster.source import Imagery, is_remote, naming, opened
from pipeline.raster.validity import blank, is_tagged
from pipeline.schema import Grid, Stretch, Window

_MAX_PIXELS = 2**40
_MAX_BLOCK_BYTES = 2**30
_SAMPLE_PX = 1024
_HALF_THE_GLOBE = 180  # degrees
_ROUNDING = 1e-9  # degrees: a tenth of a millimetre


def read_grid(path: str | Path, imagery: Imagery | None = None) -> Grid:
    """The image's place on the ground and how its pixels are read.

    Reads the header and, for an automatic stretch, a sample of the pixels.

    Args:
        path: a file, a URL, or anything else GDAL opens.
        imagery: how the image is to be read.

    Raises:
        SourceError: there is no such file or URL.
        RasterError: the image is damaged, not georeferenced, or cannot be read as `imagery` asks.
    """
    imagery = imagery or Imagery()
    with opened(path, imagery) as src:
        _check_form(src, path)
        _check_bands(src, path, imagery)
        _check_whole(src, path)
        crs, srid = _crs(src, path)
        _transform(src, path)
        with at_resolution(src, imagery.metres_per_pixel, path) as seen:
            width, height, transform = seen.width, seen.height, _transform(seen, path)
        grid = Grid(
            width=width,
            height=height,
            crs=crs,
            srid=srid,
            transform=transform,
            ground_m_per_px=ground_m_per_px(transform, width, height, crs, where=path),
            bands=imagery.rgb,
            stretch=_stretch(src, path, imagery),
            **_observed(src, path),
        )
    _check_longitudes(grid, path)
    return grid


def image_size(path: str | Path) -> tuple[int, int]:
    """Width and height in pixels of a file that is whole.

    Raises:
        SourceError, RasterError: as `read_grid`.
    """
    with opened(path, Imagery()) as src:
        _check_form(src, path)
        _check_whole(src, path)
        return src.width, src.height


def _check_form(src: rasterio.DatasetReader, path: str | Path) -> None:
    """Refuse what could not be read a part at a time."""
    if src.count == 0:
        raise RasterError(
            "holds no bands of its own",
            where=path,
            found=src.subdatasets[:3],
            remedy="Convert the one you mean with gdal_translate.",
        )
    if src.width * src.height > _MAX_PIXELS:
        raise RasterError(
            "larger than 2^40 pixels",
            where=path,
            found=(src.width, src.height),
            remedy="Cut it with gdal_translate -srcwin, or check that the file is what it says.",
        )
    height, width = src.block_shapes[0]
    if height * width * sum(np.dtype(dtype).itemsize for dtype in src.dtypes) > _MAX_BLOCK_BYTES:
        raise RasterError(
            "its blocks are too large to read a part of the image",
            where=path,
            found=(width, height),
            remedy="Tile it: gdal_translate -of COG.",
        )


def _check_bands(src: rasterio.DatasetReader, path: str | Path, imagery: Imagery) -> None:
    """Refuse bands that are absent or not colours."""
    if max(imagery.bands) > src.count:
        raise RasterError(
            f"has {src.count} band(s), and band {max(imagery.bands)} was asked for",
            where=path,
            remedy="Set the bands to those it has; a single band is repeated to three.",
        )
    dtypes = [src.dtypes[band - 1] for band in imagery.bands]
    if any("complex" in dtype for dtype in dtypes):
        raise RasterError(
            "complex values are no picture", where=path, found=dtypes[0], remedy="Convert it to amplitudes."
        )
    if ColorInterp.palette in (src.colorinterp[band - 1] for band in imagery.bands):
        raise RasterError(
            "paletted images are not read", where=path, remedy="Expand it: gdal_translate -expand rgb."
        )
    if imagery.stretch == "" and any(dtype != "uint8" for dtype in dtypes):
        raise RasterError(
            "not 8 bits per band, and no stretch says how to make it so",
            where=path,
            found=dtypes[0],
            remedy="Set the stretch to 'auto', or to 'low,high' in source values.",
        )


def _check_whole(src: rasterio.DatasetReader, path: str | Path) -> None:
    """Refuse a TIFF that ends before its last block does, as a broken download leaves it."""
    if src.driver not in ("GTiff", "COG") or is_remote(path):
        return
    height, width = src.block_shapes[0]
    last = f"{(src.width - 1) // width}_{(src.height - 1) // height}"
    offset, size = (
        src.get_tag_item(f"BLOCK_{what}_{last}", "TIFF", bidx=src.count) for what in ("OFFSET", "SIZE")
    )
    end = int(offset or 0) + int(size or 0)
    if end > Path(path).stat().st_size:
        raise RasterError(
            f"truncated: its last block ends at byte {end}",
            where=path,
            found=Path(path).stat().st_size,
            remedy="Fetch the file again.",
        )


def _crs(src: rasterio.DatasetReader, path: str | Path) -> tuple[str, int | None]:
    """The horizontal CRS as text and its EPSG code."""
    if src.crs is None and src.gcps[0]:
        raise RasterError(
            "placed by ground control points only",
            where=path,
            found=f"{len(src.gcps[0])} points",
            remedy="Warp it to a grid: gdalwarp -t_srs EPSG:<code>.",
        )
    if src.crs is None:
        raise RasterError(
            "states no CRS", where=path, remedy="Add the one it is in: rio edit-info --crs EPSG:<code>."
        )
    try:
        crs = CRS.from_wkt(src.crs.to_wkt()).to_2d()
    except CRSError as error:
        raise RasterError(
            "its CRS cannot be read",
            where=path,
            found=src.crs.to_wkt()[:60],
            remedy="State it anew: rio edit-info --crs EPSG:<code>.",
        ) from error
    if crs.is_geocentric:
        raise RasterError(
            "its CRS is geocentric, which no map is drawn in",
            where=path,
            found=crs.name,
            remedy="Warp it: gdalwarp -t_srs EPSG:<code>, of a projected CRS or of longitude and latitude.",
        )
    text = exact_crs(crs)
    return text, int(text.removeprefix("EPSG:")) if text.startswith("EPSG:") else None


def _transform(
    src: rasterio.DatasetReader, path: str | Path
) -> tuple[float, float, float, float, float, float]:
    """The geotransform; rotated and south-up ones are as good as north-up ones."""
    transform = src.transform
    a, b, c, d, e, f = transform[:6]
    if transform == Affine.identity():
        raise RasterError(
            "has a CRS but no place in it",
            where=path,
            remedy="Add it: rio edit-info --transform, or put a world file beside the image.",
        )
    flat = abs(a * e - b * d) <= 1e-9 * max(abs(a), abs(b), abs(d), abs(e)) ** 2
    if flat or not np.isfinite(transform[:6]).all():
        raise RasterError(
            "its geotransform maps the image to a line",
            where=path,
            found=transform[:6],
            remedy="Correct it: rio edit-info --transform.",
        )
    return a, b, c, d, e, f


def _check_longitudes(grid: Grid, path: str | Path) -> None:
    """Refuse what files in degrees cannot hold: they would draw it around the globe, or not at all."""
    try:
        west, _, east, _ = grid_lonlat_bounds(grid)
    except LabelError as error:
        raise RasterError(
            "a part of it has no place on the earth",
            where=path,
            remedy="Cut the ground you mean out of it: gdalwarp -t_srs EPSG:<code> -te.",
        ) from error
    found = f"longitudes {west:.4f} to {east:.4f}"
    if west >= _HALF_THE_GLOBE or east <= -_HALF_THE_GLOBE:
        raise RasterError(
            "its longitudes are not between -180 and 180",
            where=path,
            found=found,
            remedy="Move it by 360 degrees: gdal_translate -a_ullr.",
        )
    beyond = west < -_HALF_THE_GLOBE - _ROUNDING or east > _HALF_THE_GLOBE + _ROUNDING
    if beyond or east - west > _HALF_THE_GLOBE:
        raise RasterError(
            "lies across the antimeridian, or spans half the globe",
            where=path,
            found=found,
            remedy="Cut it in two at 180 degrees: gdal_translate -projwin.",
        )


def _stretch(src: rasterio.DatasetReader, path: str | Path, imagery: Imagery) -> Stretch | None:
    """The map to uint8, None for none."""
    if imagery.limits is not None:
        low, high = imagery.limits
        return Stretch(low=[low] * 3, high=[high] * 3)
    if all(src.dtypes[band - 1] == "uint8" for band in imagery.bands):
        return None
    values, valid = _sample(src, path, imagery)
    if not valid.any():
        return Stretch(low=[0.0] * 3, high=[1.0] * 3)
    low, high = np.percentile(values[:, valid], [2, 98], axis=1)
    return Stretch(low=low.tolist(), high=np.where(high > low, high, low + 1).tolist())


def _sample(src: rasterio.DatasetReader, path: str | Path, imagery: Imagery) -> tuple[np.ndarray, np.ndarray]:
    """Values float64[3, n] from all over the image, about a million, and which of them are ground.

    Where nothing tags collars, what is as black or white as they are is left out. An image without
    overviews is read at 16 x 16 places, for a thinned read would decode it all.
    """
    bands, untagged = imagery.rgb, imagery.collars and not is_tagged(src)
    whole = Window(0, 0, src.width, src.height)
    if src.overviews(bands[0]) or src.width * src.height <= 16 * _SAMPLE_PX**2:
        thinned = (min(src.height, _SAMPLE_PX), min(src.width, _SAMPLE_PX))
        windows, shape = [whole], thinned
    else:
        shape = (min(src.height, _SAMPLE_PX // 16), min(src.width, _SAMPLE_PX // 16))
        middles = (np.arange(16) + 0.5) / 16
        rows = (middles * src.height - shape[0] / 2).astype(int)
        columns = (middles * src.width - shape[1] / 2).astype(int)
        windows = [Window(int(col), int(row), shape[1], shape[0]) for row in rows for col in columns]
    values, valid = [], []
    for window in windows:
        box = rasterio.windows.Window(*window)
        with naming(path, window):
            part = src.read(bands, window=box, out_shape=(len(bands), *shape))
            mask = src.dataset_mask(window=box, out_shape=shape) != 0
        values.append(part.astype(float))
        valid.append(mask & ~blank(part, imagery.collar_tolerance) if untagged else mask)
    pixels = np.concatenate([part.reshape(len(bands), -1) for part in values], axis=1)
    mask = np.concatenate([part.ravel() for part in valid])
    return pixels, mask & np.isfinite(pixels).all(axis=0)


def _observed(src: rasterio.DatasetReader, path: str | Path) -> dict[str, Any]:
    """When the image was taken or, failing that, last changed, and who says so; the epoch for nobody."""
    try:
        date, source = datetime.strptime(src.tags().get("TIFFTAG_DATETIME", ""), "%Y:%m:%d %H:%M:%S"), "image"
    except ValueError:
        changed = _last_modified(str(path)) if is_remote(path) else Path(path).stat().st_mtime
        date, source = datetime.fromtimestamp(int(changed), UTC), "file" if changed else "nobody"
    return {"observed": date.strftime("%Y-%m-%dT%H:%M:%SZ"), "observed_by": source}


def _last_modified(url: str) -> float:
    """Seconds since the epoch at which the server says the file changed, 0 where it does not say."""
    if not url.startswith(("http://", "https://")):
        return 0.0
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=10) as answer:
            return parsedate_to_datetime(answer.headers["Last-Modified"]).timestamp()
    except (OSError, TypeError, ValueError, urllib.error.URLError):
        return 0.0
