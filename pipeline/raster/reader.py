"""Reading an image window by window."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import rasterio.windows
import shapely
from scipy import ndimage
from tenacity import (
    Retrying,
    before_sleep_log,
    retry_if_exception_type,
    stop_after_attempt,
    wait_exponential,
)

from pipeline.errors import RasterError, SourceError
from pipeline.raster.jpeg import JpegBlocks, agrees, readable
from pipeline.raster.resolution import at_resolution
from pipeline.raster.source import Imagery, is_remote, naming, opened
from pipeline.raster.validity import blank, cell_side, chunks, is_tagged, outline, solid
from pipeline.schema import Grid, Window

logger = logging.getLogger("luigi-interface")

_ATTEMPTS = 5


class Raster:
    """An open image, read window by window.

    A context manager for the thread that enters it::

        with Raster(path, grid) as raster:
            image = raster.read(tile.window)

    Args:
        path: a file, a URL, or anything else GDAL opens.
        grid: what `read_grid` said of the image; its bands and stretch hold.
        imagery: at what resolution it is seen, how collars are told, decoded blocks kept, and JPEG decoded.
        threads: that decode the blocks of a window.

    Raises:
        SourceError: on entering, there is no such file or URL.
        RasterError: on entering, the file is not the image that `grid` describes.
    """

    def __init__(self, path: str | Path, grid: Grid, imagery: Imagery | None = None, threads: int = 1):
        self.path, self.grid, self.imagery = path, grid, imagery or Imagery()
        self._threads = threads

    def __enter__(self) -> Raster:
        with ExitStack() as stack:
            file = stack.enter_context(opened(self.path, self.imagery, self._threads))
            src = stack.enter_context(at_resolution(file, self.imagery.metres_per_pixel, self.path))
            self._src, size = src, (src.width, src.height)
            if size != (self.grid.width, self.grid.height) or src.count < max(self.grid.bands):
                raise RasterError(
                    f"not the image of {self.grid.width} x {self.grid.height} px that was tiled",
                    where=self.path,
                    found=size,
                    remedy="Restore that image, or tile this one.",
                )
            self._tagged = is_tagged(src)
            self._watched = self.imagery.collars and not self._tagged
            self._floats = np.dtype(src.dtypes[self.grid.bands[0] - 1]).kind == "f"
            self._jpeg, self._compared = self._jpeg_blocks(stack), False
            self._stack = stack.pop_all()
        return self

    def _jpeg_blocks(self, stack: ExitStack) -> JpegBlocks | None:
        """The image's blocks where libjpeg-turbo can decode them and may, None where GDAL must."""
        wanted = self.imagery.jpeg_decoder == "turbo" and self.grid.stretch is None
        wanted = wanted and not self.imagery.metres_per_pixel
        if not wanted or not readable(self._src, self.path, self.grid.bands):
            return None
        file = stack.enter_context(Path(self.path).open("rb"))  # noqa: SIM115
        blocks = JpegBlocks(self._src, file, self.imagery.cache_mb * 2**20, self._threads)
        stack.callback(blocks.close)
        return blocks

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    @property
    def blocks_decoded(self) -> int | None:
        """Blocks of a JPEG file decoded at full resolution so far; None where GDAL decodes."""
        return self._jpeg.decoded if self._jpeg else None

    @property
    def overviews(self) -> list[int]:
        """Image pixels per overview pixel and axis, of each overview of the file, rising."""
        return sorted(self._src.overviews(self.grid.bands[0]))

    def read(self, window: Window | Sequence[int], factor: int = 1) -> np.ndarray:
        """The window's pixels, uint8[ceil(height / factor), ceil(width / factor), 3] of red, green, blue.

        Args:
            window: col_off, row_off, width, height in image pixels, inside the image.
            factor: image pixels per pixel returned and axis; read from the overview of that factor
                where the file has it. The window's offsets are multiples of it.

        Raises:
            RasterError: the window reaches beyond the image, or its blocks are damaged.
        """
        return self._rgb(self._pixels(Window(*window), _shape(Window(*window), factor)))

    def shrunk(self, max_side: int) -> np.ndarray:
        """The whole image shrunk to at most `max_side` pixels a side, uint8[h, w, 3].

        Read from overviews where it has them; elsewhere every nth pixel, without holding the rest.

        Raises:
            RasterError: a block of the image is damaged.
        """
        width, height = self.grid.width, self.grid.height
        scale = min(1.0, max_side / max(width, height))
        shape = (max(1, round(height * scale)), max(1, round(width * scale)))
        return self._rgb(self._pixels(Window(0, 0, width, height), shape))

    def _rgb(self, pixels: np.ndarray) -> np.ndarray:
        """Source values [3, h, w] as the uint8[h, w, 3] that the grid's stretch makes of them."""
        stretch = self.grid.stretch
        if stretch is not None:
            low = np.array(stretch.low)[:, None, None]
            scale = 255 / (np.array(stretch.high)[:, None, None] - low)
            scaled = ((pixels - low) * scale).clip(0, 255)
            pixels = np.rint(np.nan_to_num(scaled, nan=0)).astype(np.uint8)
        return np.ascontiguousarray(np.moveaxis(pixels, 0, -1))

    def valid(self, window: Window | Sequence[int], factor: int = 1) -> np.ndarray:
        """Which pixels of `read(window, factor)` are valid, bool[h, w]: see `pipeline.raster.validity`.

        Args:
            window: col_off, row_off, width, height in image pixels, inside the image.
            factor: as `read`.

        Raises:
            RasterError: as `read`.
        """
        col_off, row_off, width, height = window = Window(*window)
        valid, blanks = self._look(window, _shape(window, factor))
        if not blanks.any():
            return valid
        # A square that covers a pixel of the window reaches less than its side beyond it.
        side = self._collar_side(factor)
        reach = side * factor
        left, top = max(0, col_off - reach), max(0, row_off - reach)
        right = min(self.grid.width, col_off + width + reach)
        bottom = min(self.grid.height, row_off + height + reach)
        around = Window(left, top, right - left, bottom - top)
        _, blanks = self._look(around, _shape(around, factor))
        collar = solid(blanks, side)[(row_off - top) // factor :, (col_off - left) // factor :]
        return valid & ~collar[: valid.shape[0], : valid.shape[1]]

    def ground(self, window: Window | Sequence[int], factor: int = 1) -> shapely.MultiPolygon | None:
        """The window's valid pixels as polygons with straight edges, None where all are valid.

        Looked up in the blocks that `read` has just decoded, as long as GDAL's cache holds them; only
        where a collar may be, their neighbours are read as well.

        Args:
            window: col_off, row_off, width, height in image pixels, inside the image.
            factor: as `read`.

        Returns:
            In image pixels from the window's corner; see `pipeline.raster.validity.outline`.

        Raises:
            RasterError: as `read`.
        """
        _, _, width, height = window = Window(*window)
        valid = self.valid(window, factor)
        return None if valid.all() else outline(valid, width, height)

    def valid_shares(
        self, windows: Sequence[Window] | np.ndarray, on_progress: Callable[[float], None] | None = None
    ) -> np.ndarray:
        """Share of valid pixels of each window, float64[t] in 0..1.

        One pass in block order samples the image, from its overviews where it has them, into at most
        8 million cells of a power of two pixels a side, in which the windows are then counted. Valid
        ground is taken one cell wider than sampled: 0 is certain but for specks smaller than a cell,
        1 is certain, and what lies between is up to two cells too generous along collars.

        Args:
            windows: int64[t, 4] of col_off, row_off, width, height in image pixels, inside the image.
            on_progress: told the share of the image that has been looked at, 0 to 1.

        Raises:
            RasterError: a block of the image is damaged.
        """
        boxes = np.asarray(windows, dtype=np.int64).reshape(-1, 4)
        if not len(boxes) or not (self._tagged or self._watched or self._floats):
            return np.ones(len(boxes))
        valid, side = self._cells(on_progress or (lambda share: None))
        starts = (boxes[:, :2] // side).tolist()
        stops = (-(-(boxes[:, :2] + boxes[:, 2:]) // side)).tolist()
        return np.array(
            [valid[y0:y1, x0:x1].mean() for (x0, y0), (x1, y1) in zip(starts, stops, strict=True)]
        )

    def _pixels(self, window: Window, shape: tuple[int, int]) -> np.ndarray:
        """Source values [3, h, w], sampled to `shape`."""
        col_off, row_off, width, height = window
        inside = 0 <= col_off < col_off + width <= self.grid.width
        if not (inside and 0 <= row_off < row_off + height <= self.grid.height):
            size = f"{self.grid.width} x {self.grid.height} px"
            raise RasterError(f"window outside the image of {size}", where=self.path, found=tuple(window))
        with naming(self.path, window):
            if shape == (height, width) and (jpeg := self._trusted(window)):
                return np.moveaxis(jpeg.read(window), -1, 0)
        box = rasterio.windows.Window(*window)
        return self._patiently(
            window, lambda src: src.read(self.grid.bands, window=box, out_shape=(3, *shape))
        )

    def _patiently(self, window: Window, read: Callable[[rasterio.DatasetReader], np.ndarray]) -> np.ndarray:
        """What GDAL reads. An image from elsewhere is opened anew and asked again, five times in all.

        GDAL itself asks again where a server is overloaded, not where an answer breaks off or nobody answers.
        """
        for attempt in Retrying(
            stop=stop_after_attempt(_ATTEMPTS if is_remote(self.path) else 1),
            wait=wait_exponential(multiplier=0.5, max=8),
            retry=retry_if_exception_type((RasterError, SourceError)),
            before_sleep=before_sleep_log(logger, logging.WARNING),
            reraise=True,
        ):
            with attempt:
                if attempt.retry_state.attempt_number > 1:
                    self._stack.close()
                    self.__enter__()
                with naming(self.path, window):
                    return read(self._src)
        raise AssertionError("the last attempt returns or raises")

    def _trusted(self, window: Window) -> JpegBlocks | None:
        """What decodes full resolution, None for GDAL; the first window that is read decides."""
        if self._jpeg is not None and not self._compared:
            self._compared = True
            if not agrees(self._jpeg, self._src, window):
                self._jpeg = None
        return self._jpeg

    def _look(self, window: Window, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """What the file itself calls valid, and what may be a collar, bool[h, w] each."""
        valid, blanks = np.ones(shape, dtype=bool), np.zeros(shape, dtype=bool)
        if self._tagged:
            box = rasterio.windows.Window(*window)
            valid = self._patiently(window, lambda src: src.dataset_mask(window=box, out_shape=shape)) != 0
        if self._floats or self._watched:
            pixels = self._pixels(window, shape)
            if self._floats:
                valid &= np.isfinite(pixels).all(axis=0)
            if self._watched:
                blanks = blank(pixels, self.imagery.collar_tolerance)
        return valid, blanks

    def _cells(self, on_progress: Callable[[float], None]) -> tuple[np.ndarray, int]:
        """The image's valid cells, bool[rows, columns], and a cell's side in pixels."""
        side = cell_side(self.grid.width, self.grid.height)
        shape = -(-self.grid.height // side), -(-self.grid.width // side)
        valid, blanks = np.empty(shape, dtype=bool), np.empty(shape, dtype=bool)
        for window in chunks(self._src, side, self.imagery.cache_mb):
            row, col = window.row_off // side, window.col_off // side
            rows, columns = -(-window.height // side), -(-window.width // side)
            part = slice(row, row + rows), slice(col, col + columns)
            valid[part], blanks[part] = self._look(window, (rows, columns))
            on_progress((window.row_off + window.height) / self.grid.height)
        if self._watched:
            valid &= ~solid(blanks, self._collar_side(side))
        if side > 1:
            valid = ndimage.maximum_filter(valid, size=3, mode="constant", cval=0)
        return valid, side

    def _collar_side(self, cell: int) -> int:
        """`collar_size` in cells of `cell` pixels: odd, so that a square has a centre."""
        return max(3, 2 * round(self.imagery.collar_size / min(self.grid.ground_m_per_px) / cell / 2) + 1)


def _shape(window: Window, factor: int) -> tuple[int, int]:
    """Rows and columns of a window read at one pixel for `factor` image pixels and axis."""
    return -(-window.height // factor), -(-window.width // factor)
