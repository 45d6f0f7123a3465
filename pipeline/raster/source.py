"""Opening an image: how it is to be read, and GDAL's environment and errors around it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import rasterio
from annotated_types import Interval
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from models.ranges import Amount, Positive
from pipeline.confinement import NO_CODE, NO_NETWORK, check_raster_file
from pipeline.errors import RasterError, SettingsError, SourceError
from pipeline.rules import Rules
from pipeline.schema import Window


@dataclass(frozen=True)
class Imagery(Rules):
    """How images are read."""

    metres_per_pixel: Amount = 0.0
    """Ground resolution, in metres per pixel, at which every image is read, from its overviews if it has any;
    0 reads each image at its native resolution."""
    bands: tuple[int, ...] = (1, 2, 3)
    """Source bands read as red, green, blue, counted from 1; a single band is repeated to three."""
    stretch: str = ""
    """How source values are mapped to 8 bits: empty reads 8-bit files only, unchanged; auto stretches files
    of higher bit depth from their 2nd to 98th percentile; low,high stretches every file from these values."""
    collars: bool = True
    """Whether black and white collars are detected in files without nodata value, alpha band or mask."""
    collar_tolerance: Annotated[int, Interval(ge=0, le=64)] = 4
    """Largest deviation of a collar's pixels from black or white, in 8-bit levels; files of higher bit depth
    must match exactly."""
    collar_size: Positive = 30.0
    """Side of the smallest solid square that counts as part of a collar, in metres on the ground."""
    cache_mb: Annotated[int, Interval(ge=16)] = 96
    """Cache of decoded blocks of an open image, in MiB."""
    jpeg_decoder: Literal["turbo", "gdal"] = "turbo"
    """Decoder of tiled JPEG-compressed files: libjpeg-turbo, or GDAL with the decoder it was built with,
    up to four times as slow. The two upsample subsampled chroma with different filters."""

    def __post_init__(self) -> None:
        """Refuse what cannot be honoured.

        Raises:
            SettingsError: a value is outside its range.
        """
        super().__post_init__()
        if len(self.bands) not in (1, 3) or not all(type(band) is int and band > 0 for band in self.bands):
            raise SettingsError(
                "bands must be one or three band numbers",
                found=self.bands,
                remedy="Count bands from 1, as in 1, 2, 3, or name one band to repeat it.",
            )
        _ = self.limits

    @property
    def rgb(self) -> list[int]:
        """The source bands of red, green and blue."""
        return list(self.bands) if len(self.bands) == 3 else [self.bands[0]] * 3

    @property
    def limits(self) -> tuple[float, float] | None:
        """Low and high of an explicit stretch, None where it is "" or "auto"."""
        if self.stretch in ("", "auto"):
            return None
        try:
            low, high = map(float, self.stretch.split(","))
        except ValueError:
            low = high = math.nan
        if not 0 < high - low < math.inf:
            raise SettingsError(
                "stretch cannot be read",
                found=self.stretch,
                remedy="Use '', 'auto', or 'low,high' in source values, as in '0,4095'.",
            )
        return low, high


@contextmanager
def opened(path: str | Path, imagery: Imagery, threads: int = 1) -> Iterator[rasterio.DatasetReader]:
    """The opened image, within a GDAL environment that bounds memory and waiting.

    Args:
        path: a file, a URL, or anything else GDAL opens.
        imagery: how it is to be read.
        threads: that decode the blocks of a window.

    Raises:
        SourceError: there is no such file or URL.
        RasterError: it is no raster.
    """
    remote = is_remote(path)
    if not remote and not Path(path).exists():
        raise SourceError("no such image", where=path, remedy="Put the file there, or correct its path.")
    if not remote and Path(path).is_file():
        check_raster_file(Path(path))
    options: dict[str, object] = {
        # An int goes to GDALSetCacheMax64, which counts bytes: 128 would leave no cache at all.
        "GDAL_CACHEMAX": imagery.cache_mb * 2**20,
        "GDAL_HTTP_MAX_RETRY": 3,
        "GDAL_HTTP_RETRY_DELAY": 1,
        "GDAL_HTTP_CONNECTTIMEOUT": 10,
        "GDAL_HTTP_TIMEOUT": 60,
        "GDAL_NUM_THREADS": threads,
        **NO_CODE,
    }
    if remote:
        # Looking for sidecar files would cost a request each.
        options["GDAL_DISABLE_READDIR_ON_OPEN"] = "EMPTY_DIR"
        # What broke off is not kept: opened again, it is asked for again.
        options["CPL_VSIL_CURL_NON_CACHED"] = f"/vsicurl/{path}" if "://" in str(path) else str(path)
    else:
        options |= NO_NETWORK
    with rasterio.Env(**options):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                src = rasterio.open(path)
        except (RasterioError, OSError) as error:
            kind = SourceError if any(word in str(error) for word in ("HTTP", "CURL")) else RasterError
            raise kind(
                "cannot be opened as an image",
                where=path,
                found=_reason(error),
                remedy="Check it with rio info, and fetch it again if it is damaged.",
            ) from error
        with src:
            if remote and src.driver == "VRT":
                raise RasterError(
                    "a virtual raster from elsewhere, which may name any file of this machine",
                    where=path,
                    remedy="Fetch it and its sources, and look at it first.",
                )
            yield src


@contextmanager
def naming(path: str | Path, window: Window) -> Iterator[None]:
    """Turns a failed read within it into an error that names the image and the window.

    Raises:
        RasterError: the read failed.
    """
    try:
        yield
    except (RasterioError, OSError) as error:
        raise RasterError(
            "pixels cannot be read",
            where=f"{path}, window {tuple(window)}",
            found=_reason(error),
            remedy="The file is damaged or out of reach: fetch it again.",
        ) from error


def is_remote(path: str | Path) -> bool:
    """Whether the path is a URL or one of GDAL's virtual file systems, which the os cannot see."""
    return "://" in str(path) or str(path).startswith("/vsi")


def _reason(error: BaseException) -> str:
    return str(error.__cause__ or error).splitlines()[0]
