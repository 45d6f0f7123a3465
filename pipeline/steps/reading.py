"""Batches of tiles, read by a thread while the network computes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from queue import Empty, Full, Queue
from typing import NamedTuple

import numpy as np
import shapely

from pipeline.inference import READ_AHEAD
from pipeline.raster import TiledImage
from pipeline.schema import Tile

_PATIENCE_S = 0.1


class Batch(NamedTuple):
    """Tiles that the network sees together."""

    tiles: Sequence[Tile]
    images: np.ndarray
    """uint8[n, 3, h, w]; in pinned memory where a GPU will fetch them."""
    grounds: list[shapely.MultiPolygon | None]
    """Valid ground of each tile in its pixels, None where all of it is valid."""
    seconds: float
    """That reading them took."""


class Batches:
    """An image's batches, in order: a context manager that yields an iterator.

    One reader decodes each block of the image once, however many tiles see it; `threads` share the
    decoding. So much is read ahead as the network will take next, and no more.

    Args:
        image: what is read.
        batches: tiles of one size, in the order of the image.
        threads: that decode; 0 reads in the caller's, when it asks.
        pinned: whether images go into memory that a GPU can fetch by itself.
    """

    def __init__(
        self,
        image: TiledImage,
        batches: Sequence[Sequence[Tile]],
        threads: int,
        pinned: bool = False,
    ):
        self.image, self.batches, self.threads, self.pinned = image, batches, threads, pinned
        self._ready: Queue[Batch | BaseException | None] = Queue(READ_AHEAD)
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Iterator[Batch]:
        if not self.threads:
            return self._read()
        self._thread = threading.Thread(target=self._fill, name="reading", daemon=True)
        self._thread.start()
        return self._take()

    def __exit__(self, *exc_info: object) -> None:
        self._stopped.set()
        if self._thread:
            self._thread.join()

    def _read(self) -> Iterator[Batch]:
        with self.image.open(max(1, self.threads)) as raster:
            for tiles in self.batches:
                started = time.perf_counter()
                _, _, width, height = tiles[0].window
                images = _room((len(tiles), 3, height, width), self.pinned)
                grounds = []
                for image, tile in zip(images, tiles, strict=True):
                    image[:] = np.moveaxis(raster.read(tile.window), -1, 0)
                    grounds.append(raster.ground(tile.window) if tile.valid_share < 1 else None)
                yield Batch(tiles, images, grounds, time.perf_counter() - started)

    def _fill(self) -> None:
        try:
            for batch in self._read():
                if not self._put(batch):
                    return
            self._put(None)
        # Whatever it is, it belongs to whoever waits for the batch.
        except BaseException as error:
            self._put(error)

    def _put(self, what: Batch | BaseException | None) -> bool:
        """Whether somebody still wants it."""
        while not self._stopped.is_set():
            try:
                self._ready.put(what, timeout=_PATIENCE_S)
                return True
            except Full:
                continue
        return False

    def _take(self) -> Iterator[Batch]:
        while True:
            try:
                batch = self._ready.get(timeout=_PATIENCE_S)
            except Empty:
                continue
            if batch is None:
                return
            if isinstance(batch, BaseException):
                raise batch
            yield batch


def _room(shape: tuple[int, ...], pinned: bool) -> np.ndarray:
    """An uint8 array of that shape."""
    if not pinned:
        return np.empty(shape, dtype=np.uint8)
    import torch

    return torch.empty(shape, dtype=torch.uint8, pin_memory=True).numpy()
