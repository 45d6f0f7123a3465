"""The door to rasterio: an image's grid, its pixels as uint8 RGB, and which of them are valid.

Any raster GDAL opens will do, tiled or striped, on disk or at a URL read in place; nothing
here ever holds a whole image. Paletted and complex rasters are refused with their remedy.
"""

from pipeline.raster.grid import image_size, read_grid
from pipeline.raster.header import Header, read_header
from pipeline.raster.reader import Raster
from pipeline.raster.source import Imagery, is_remote
from pipeline.raster.tiled import TiledImage

__all__ = ["Header", "Imagery", "Raster", "TiledImage", "image_size", "is_remote", "read_grid", "read_header"]
