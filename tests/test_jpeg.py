"""JPEG blocks decoded by libjpeg-turbo: the file's pixels, each block once, and GDAL wherever in doubt."""

import shutil
import subprocess

import numpy as np
import pytest
import rasterio
from rasterio.enums import Resampling
from rasterio.transform import from_origin
from scipy import ndimage

from pipeline.errors import RasterError
from pipeline.raster import Imagery, Raster, read_grid
from pipeline.schema import Tile
from pipeline.tiling import TilingRules, in_panels, tile_id, tile_windows

WIDTH, HEIGHT, SIDE = 500, 400, 64


def ground(bands=3):
    """Ground with colour, and no collar."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(40, 210, (bands, HEIGHT // 20, WIDTH // 20)).astype(float)
    fine = ndimage.zoom(coarse, (1, 20, 20), order=1) + rng.normal(0, 6, (bands, HEIGHT, WIDTH))
    return fine.clip(0, 255).astype(np.uint8)


def write(path, pixels=None, **profile):
    pixels = ground() if pixels is None else pixels
    profile = {"compress": "jpeg", "photometric": "ycbcr", "tiled": True} | profile
    with rasterio.open(
        path, "w", driver="GTiff", width=WIDTH, height=HEIGHT, count=len(pixels), dtype="uint8",
        crs="EPSG:32737", transform=from_origin(533000, 9367000, 0.5, 0.5), blockxsize=SIDE,
        blockysize=SIDE, **profile,
    ) as dst:  # fmt: skip
        dst.write(pixels)
    return path


def windows(size=96, overlap=32):
    return [window for _, _, window in tile_windows(WIDTH, HEIGHT, TilingRules(size, overlap))]


def read(path, imagery=None, threads=1):
    with Raster(path, read_grid(path), imagery, threads) as raster:
        return [raster.read(window) for window in windows()], raster.blocks_decoded


def test_each_block_is_decoded_once_however_many_windows_see_it(tmp_path):
    path = write(tmp_path / "a.tif")
    found, decoded = read(path)
    assert decoded == -(-WIDTH // SIDE) * -(-HEIGHT // SIDE)
    parallel, _ = read(path, threads=3)
    assert all(np.array_equal(one, other) for one, other in zip(found, parallel, strict=True))
    # One image, whatever the window.
    whole = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for (col, row, width, height), pixels in zip(windows(), found, strict=True):
        seen = whole[row : row + height, col : col + width]
        assert ((seen == 0) | (seen == pixels)).all()
        whole[row : row + height, col : col + width] = pixels
    gdals, none = read(path, Imagery(jpeg_decoder="gdal"))
    assert none is None
    difference = [np.abs(one.astype(int) - other).mean() for one, other in zip(found, gdals, strict=True)]
    assert max(difference) < 1.5, "but for the edges of colours"


def test_short_memory_costs_time_and_no_pixel(tmp_path, monkeypatch):
    path = write(tmp_path / "a.tif")
    expected, once = read(path)
    monkeypatch.setattr("pipeline.raster.reader.JpegBlocks", _short_of_memory(10))
    found, decoded = read(path)
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))
    rows_of_windows = len({window.row_off for window in windows()})
    assert once < decoded < rows_of_windows * 2 * -(-WIDTH // SIDE), "some of a row is still kept"


def test_panels_spare_what_a_wide_image_would_cost(tmp_path, monkeypatch):
    path = write(tmp_path / "a.tif")
    _, once = read(path)
    monkeypatch.setattr("pipeline.tiling.PANEL_COLUMNS", 3)
    monkeypatch.setattr("pipeline.raster.reader.JpegBlocks", _short_of_memory(8))
    _, in_rows = read(path)
    tiles = [
        Tile(tile_id=tile_id(row, column), window=window, valid_share=1)
        for row, column, window in tile_windows(WIDTH, HEIGHT, TilingRules(96, 32))
    ]
    with Raster(path, read_grid(path)) as raster:
        for tile in in_panels(tiles):
            raster.read(tile.window)
        in_order = raster.blocks_decoded
    seams = 2 * -(-HEIGHT // SIDE)
    assert once + seams <= in_order < once + 1.5 * seams < in_rows, (
        "a column of blocks at each seam of panels"
    )


def _short_of_memory(blocks):
    from pipeline.raster.jpeg import JpegBlocks

    return lambda src, file, room, threads: JpegBlocks(src, file, blocks * 3 * SIDE**2, threads)


@pytest.mark.skipif(shutil.which("gdal_translate") is None, reason="no gdal_translate on this machine")
def test_pixels_are_those_of_a_gdal_with_libjpeg_turbo(tmp_path):
    path = write(tmp_path / "a.tif")
    plain = tmp_path / "plain.tif"
    subprocess.run(["gdal_translate", "-q", "-co", "COMPRESS=NONE", path, plain], check=True)
    with rasterio.open(plain) as src:
        expected = np.moveaxis(src.read(), 0, -1)
    found, _ = read(path)
    for (col, row, width, height), pixels in zip(windows(), found, strict=True):
        assert np.array_equal(pixels, expected[row : row + height, col : col + width])


@pytest.mark.parametrize(
    "form",
    [
        {"photometric": "rgb"},
        {"compress": "deflate", "photometric": "rgb"},
        {"interleave": "band", "compress": "lzw", "photometric": "rgb"},
        {"pixels": ground(4), "photometric": "rgb", "alpha": "yes"},
    ],
)
def test_what_is_not_plain_is_gdals_to_the_bit(tmp_path, form):
    path = write(tmp_path / "a.tif", **form)
    found, decoded = read(path)
    assert decoded is None
    with rasterio.open(path) as src:
        expected = np.moveaxis(src.read([1, 2, 3]), 0, -1)
    for (col, row, width, height), pixels in zip(windows(), found, strict=True):
        assert np.array_equal(pixels, expected[row : row + height, col : col + width])


def test_grey_is_gdals_to_the_bit(tmp_path):
    # Without colours there is nothing to blow up: the inverse transform and YCbCr to RGB are the same.
    grey = np.repeat(ground()[:1], 3, axis=0)
    found, decoded = read(write(tmp_path / "a.tif", grey))
    gdals, _ = read(tmp_path / "a.tif", Imagery(jpeg_decoder="gdal"))
    assert decoded and all(np.array_equal(one, other) for one, other in zip(found, gdals, strict=True))


def test_blocks_never_written_and_damaged_ones_are_left_to_gdal(tmp_path):
    path = tmp_path / "a.tif"
    with rasterio.open(
        path, "w", driver="GTiff", width=WIDTH, height=HEIGHT, count=3, dtype="uint8", crs="EPSG:32737",
        transform=from_origin(533000, 9367000, 0.5, 0.5), compress="jpeg", photometric="ycbcr", tiled=True,
        blockxsize=SIDE, blockysize=SIDE, sparse_ok=True,
    ) as dst:  # fmt: skip
        dst.write(ground()[:, :128, :128], window=rasterio.windows.Window(192, 128, 128, 128))
    grid = read_grid(path)
    with Raster(path, grid, Imagery(collars=False)) as raster:
        assert not raster.read((0, 0, 128, 128)).any() and raster.read((192, 128, 128, 128)).any()
        assert raster.blocks_decoded == 8
    with rasterio.open(path) as src:
        offset = int(src.get_tag_item("BLOCK_OFFSET_3_2", "TIFF", bidx=1))
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * 200)

    with Raster(path, grid) as raster, pytest.raises(RasterError, match="pixels cannot be read"):
        raster.read((192, 128, 64, 64))


def test_a_block_that_breaks_off_is_no_grey_ground(tmp_path):
    path = write(tmp_path / "a.tif", ground())
    grid = read_grid(path)
    with rasterio.open(path) as src:
        place = [int(src.get_tag_item(f"BLOCK_{what}_1_1", "TIFF", bidx=1)) for what in ("OFFSET", "SIZE")]
    with open(path, "r+b") as file:
        file.seek(place[0] + place[1] // 2)
        file.write(b"\xff\xd9" * (place[1] // 4))
    with Raster(path, grid) as raster:
        raster.read((0, 0, SIDE, SIDE))
        with pytest.raises(RasterError, match=r"a.tif, block \(1, 1\).*damaged.*jpeg_decoder = gdal"):
            raster.read((SIDE, SIDE, SIDE, SIDE))
    with Raster(path, grid, Imagery(jpeg_decoder="gdal")) as raster:
        raster.read((SIDE, SIDE, SIDE, SIDE))


def test_empty_ground_is_found_without_decoding_a_block(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.raster.validity._MAX_CELLS", WIDTH * HEIGHT // 16)
    # Every block of the full resolution is spoilt: whoever decodes one fails.
    pixels = ground()
    pixels[:, :, 250:] = 255
    path = write(tmp_path / "a.tif", pixels)
    with rasterio.open(path, "r+") as dst:
        dst.build_overviews([2, 4], Resampling.average)
    with rasterio.open(path) as src:
        places = [(row, column) for row in range(-(-HEIGHT // SIDE)) for column in range(-(-WIDTH // SIDE))]
        offsets = [
            int(src.get_tag_item(f"BLOCK_OFFSET_{column}_{row}", "TIFF", bidx=1)) for row, column in places
        ]
    grid = read_grid(path)
    with open(path, "r+b") as file:
        for offset in offsets:
            file.seek(offset)
            file.write(b"\xff" * 40)
    with Raster(path, grid) as raster:
        shares = raster.valid_shares(windows())
        assert raster.blocks_decoded == 0
    empty = [window.col_off >= 288 for window in windows()]
    assert (np.asarray(shares)[empty] == 0).all() and (np.asarray(shares) > 0).any()
