"""Blocks of a tiled JPEG file, each decoded once, by libjpeg-turbo.

Wheels of rasterio carry the IJG's libjpeg, which takes three to four times as long. What it and
libjpeg-turbo (of Debian's and conda's GDAL) make of a file is the same to the bit where colour has
the resolution of brightness (4:4:4); where colour is halved (4:2:0) the two blow it up by different
filters, both allowed by the standard. GDAL stays the way in: it finds the blocks, it decodes what
is not there or damaged, and it reads every file that is not a plain one of this kind.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np
import rasterio
import simplejpeg

from pipeline.errors import RasterError
from pipeline.schema import Window

Block = tuple[int, int]
"""Row and column of a block."""

_SAME = 4.0
"""Mean difference in levels from what GDAL decodes from which a file is left to GDAL."""


class JpegBlocks:
    """The pixels of an open file by its blocks, the last ones kept decoded.

    Made for windows that come row by row, in panels (`pipeline.tiling.in_panels`). When memory is short, a
    block above the present window goes first, or below it, which is one of the panel before; then the one
    just left behind: of all, it is needed last, in the next row of windows.

    Args:
        src: the open file; `readable` holds of it.
        file: the same, open to be read as bytes.
        cache_bytes: what the decoded blocks may take; those of one window are always kept.
        threads: that decode the blocks of a window.

    Attributes:
        decoded: how many blocks were decoded so far.
    """

    def __init__(self, src: rasterio.DatasetReader, file: BinaryIO, cache_bytes: int, threads: int = 1):
        self._src, self._file = src, file
        self._side = src.block_shapes[0]
        self._kept: dict[Block, np.ndarray] = {}
        self._room = max(1, cache_bytes // (3 * self._side[0] * self._side[1]))
        self._tables = bytes.fromhex(src.get_tag_item("JPEGTABLES", "TIFF", bidx=1) or "")
        self._pool = ThreadPoolExecutor(threads, "jpeg") if threads > 1 else None
        self.decoded = 0

    def close(self) -> None:
        """Ends the threads."""
        if self._pool:
            self._pool.shutdown()

    def read(self, window: Window) -> np.ndarray:
        """The window's pixels, uint8[height, width, 3]; it lies inside the image."""
        col_off, row_off, width, height = window
        block_height, block_width = self._side
        rows = range(row_off // block_height, -(-(row_off + height) // block_height))
        columns = range(col_off // block_width, -(-(col_off + width) // block_width))
        pixels = np.empty((height, width, 3), dtype=np.uint8)
        for (row, column), block in self._blocks([(row, column) for row in rows for column in columns]):
            top, left = row * block_height - row_off, column * block_width - col_off
            part = block[max(0, -top) : height - top, max(0, -left) : width - left]
            top, left = max(0, top), max(0, left)
            pixels[top : top + part.shape[0], left : left + part.shape[1]] = part
        return pixels

    def _blocks(self, wanted: list[Block]) -> list[tuple[Block, np.ndarray]]:
        missing = [place for place in wanted if place not in self._kept]
        # The file is read by one thread, decoded by several.
        data = [self._compressed(place) for place in missing]
        decode = self._pool.map if self._pool else map
        for place, block in zip(missing, decode(self._decode, missing, data), strict=True):
            self._kept[place] = gdals_block(self._src, place) if block is None else block
        self.decoded += len(missing)
        blocks = []
        for place in wanted:
            # To the end: what was used last stands last.
            self._kept[place] = block = self._kept.pop(place)
            blocks.append((place, block))
        self._forget(set(wanted), range(wanted[0][0], wanted[-1][0] + 1))
        return blocks

    def _forget(self, wanted: set[Block], rows: range) -> None:
        """Lets blocks go until the rest has room."""
        excess = len(self._kept) - self._room
        if excess <= 0:
            return
        others = [place for place in self._kept if place not in wanted]
        beyond = [place for place in others if place[0] not in rows]
        behind = [place for place in reversed(others) if place[0] in rows]
        for place in [*beyond, *behind][:excess]:
            del self._kept[place]

    def _compressed(self, place: Block) -> bytes:
        """A block's bytes as a JPEG file of its own, none of a block that was never written."""
        offset, size = (
            int(self._src.get_tag_item(f"BLOCK_{what}_{place[1]}_{place[0]}", "TIFF", bidx=1) or 0)
            for what in ("OFFSET", "SIZE")
        )
        if not offset or not size:
            return b""
        self._file.seek(offset)
        data = self._file.read(size)
        # The tables that all blocks share go behind the start-of-image marker.
        return data[:2] + self._tables[2:-2] + data[2:]

    def _decode(self, place: Block, data: bytes) -> np.ndarray | None:
        """The block, uint8[block height, block width, 3]; None where only GDAL can tell what it is.

        Raises:
            RasterError: the block breaks off. Decoders then make grey of the rest, and a warning nobody sees.
        """
        if not data:
            return None
        try:
            block = simplejpeg.decode_jpeg(data, "RGB")
        except ValueError as error:
            if not _decodes_somehow(data):
                return None
            raise RasterError(
                "a block of its JPEG is damaged",
                where=f"{self._src.name}, block {place}",
                found=str(error),
                remedy="Fetch the file again, or take what can be read: [Imagery] jpeg_decoder = gdal.",
            ) from error
        return block if block.shape == (*self._side, 3) else None


def _decodes_somehow(data: bytes) -> bool:
    """Whether a decoder that makes the best of it takes the data for a JPEG."""
    try:
        simplejpeg.decode_jpeg(data, "RGB", strict=False)
    except ValueError:
        return False
    return True


def gdals_block(src: rasterio.DatasetReader, place: Block) -> np.ndarray:
    """The part of a block inside the image as GDAL reads it, uint8[h, w, 3]."""
    height, width = src.block_shapes[0]
    row_off, col_off = place[0] * height, place[1] * width
    box = rasterio.windows.Window(
        col_off, row_off, min(width, src.width - col_off), min(height, src.height - row_off)
    )
    return np.moveaxis(src.read([1, 2, 3], window=box), 0, -1)


def readable(src: rasterio.DatasetReader, path: str | Path, bands: list[int]) -> bool:
    """Whether a file's blocks can be decoded here as GDAL would: a plain JPEG TIFF of red, green, blue."""
    height, width = src.block_shapes[0]
    return (
        src.driver in ("GTiff", "COG")
        and Path(path).is_file()
        and bands == [1, 2, 3] == list(range(1, src.count + 1))
        and set(src.dtypes) == {"uint8"}
        and src.tags(ns="IMAGE_STRUCTURE").get("COMPRESSION") == "YCbCr JPEG"
        and src.tags(ns="IMAGE_STRUCTURE").get("INTERLEAVE") == "PIXEL"
        and width < src.width
        and height % 8 == width % 8 == 0
    )


def agrees(blocks: JpegBlocks, src: rasterio.DatasetReader, window: Window) -> bool:
    """Whether a window looks as GDAL decodes it, edges of colours apart.

    A guard against files that are not what they say: channels in another order are far off.
    """
    box = rasterio.windows.Window(*window)
    expected = np.moveaxis(src.read([1, 2, 3], window=box), 0, -1).astype(np.int16)
    return float(np.abs(blocks.read(window) - expected).mean()) < _SAME
