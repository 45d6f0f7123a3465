"""An image and its tiles: what most steps of the graph begin with."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pipeline.raster.reader import Raster
from pipeline.raster.source import Imagery
from pipeline.schema import Grid, TileIndex


@dataclass(frozen=True)
class TiledImage:
    """An image, how it is read, and its tiles."""

    index: TileIndex
    source: Path | str
    """A file, a URL, or anything else GDAL opens."""
    imagery: Imagery = field(default_factory=Imagery)

    @property
    def grid(self) -> Grid:
        """The frame that the tiles' windows are in."""
        return self.index.grid

    def open(self, threads: int = 1) -> Raster:
        """The image to be read, see `Raster`."""
        return Raster(self.source, self.grid, self.imagery, threads)
