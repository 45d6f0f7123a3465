import os
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
import shapely
from affine import Affine
from range_server import serving
from rasterio.control import GroundControlPoint
from rasterio.enums import Resampling
from scipy import ndimage

from pipeline.errors import RasterError, SettingsError, SourceError
from pipeline.frames import LONLAT, reproject
from pipeline.raster import Imagery, Raster, read_grid, validity
from pipeline.raster import grid as grid_module
from pipeline.schema import Window
from pipeline.tiling import TilingRules, tile_windows

DATA = Path(__file__).parents[2] / "shared" / "data"
HALF_METRE = Affine(0.5, 0, 530_000, 0, -0.5, 9_366_000)
FULL_DISK = "+proj=geos +h=35786023 +lon_0=-75 +sweep=x +datum=WGS84 +units=m"
STRIPED = {"tiled": False}
TILED = {"tiled": True, "blockxsize": 128, "blockysize": 128}
JPEG = TILED | {"compress": "jpeg", "photometric": "ycbcr", "jpeg_quality": 75}


def ground(width=400, height=300, bands=3, dtype="uint8", top=220):
    """Bare ground: texture from 40 to `top`, neither black nor white anywhere."""
    rows, columns = np.mgrid[:height, :width]
    texture = np.random.default_rng(3).integers(0, top // 4, (bands, height, width))
    return (texture + 40 + (top * 3 // 4 - 40) * (rows + columns) / (width + height)).astype(dtype)


def write(path, pixels, *, transform=HALF_METRE, crs="EPSG:32737", overviews=(), **profile):
    shape = dict(zip(("count", "height", "width"), pixels.shape, strict=True))
    opening = {"driver": "GTiff", "dtype": pixels.dtype, "crs": crs, "transform": transform} | shape | profile
    with rasterio.open(path, "w", **opening) as dst:
        dst.write(pixels)
        if overviews:
            dst.build_overviews(overviews, Resampling.average)
    return path


def windows_of(grid, size=64):
    return [window for _, _, window in tile_windows(grid.width, grid.height, TilingRules(size, 0))]


def read_whole(path, imagery=None):
    grid = read_grid(path, imagery)
    with Raster(path, grid, imagery) as raster:
        return raster.read((0, 0, grid.width, grid.height))


def valid_of(path, imagery=None, size=64):
    """The whole image's valid pixels, and the shares of its tiles by both ways of counting."""
    grid = read_grid(path, imagery)
    with Raster(path, grid, imagery) as raster:
        windows = windows_of(grid, size)
        exact = np.array([raster.valid(window).mean() for window in windows])
        return raster.valid((0, 0, grid.width, grid.height)), raster.valid_shares(windows), exact


def reads_whole(path, pixels):
    grid = read_grid(path)
    with Raster(path, grid) as raster:
        for window in (Window(0, 0, 64, 64), Window(101, 53, 200, 77), Window(399, 299, 1, 1)):
            col_off, row_off, width, height = window
            part = pixels[:3, row_off : row_off + height, col_off : col_off + width]
            image = raster.read(window)
            assert image.dtype == np.uint8 and image.flags.c_contiguous
            assert np.array_equal(image, np.moveaxis(part, 0, 2))


@pytest.mark.parametrize("form", [STRIPED, TILED, TILED | {"compress": "deflate", "interleave": "band"}])
def test_windows_hold_the_pixels_of_the_file(tmp_path, form):
    pixels = ground()
    path = write(tmp_path / "a.tif", pixels, **form)
    reads_whole(path, pixels)
    grid = read_grid(path)
    assert (grid.width, grid.height, grid.crs, grid.srid) == (400, 300, "EPSG:32737", 32737)
    assert grid.transform == tuple(HALF_METRE)[:6] and grid.bands == [1, 2, 3] and grid.stretch is None
    assert grid.ground_m_per_px == pytest.approx((0.5, 0.5), rel=1e-3)


def test_a_vrt_is_read_as_a_file(tmp_path):
    pixels = ground()
    write(tmp_path / "a.tif", pixels)
    rasterio.shutil.copy(tmp_path / "a.tif", tmp_path / "a.vrt", driver="VRT")
    reads_whole(tmp_path / "a.vrt", pixels)


def test_the_alpha_band_is_no_colour_and_decides_what_is_valid(tmp_path):
    pixels = ground(bands=4)
    pixels[3] = 255
    pixels[3, :, 200:] = 0
    path = write(tmp_path / "a.tif", pixels, photometric="rgb", alpha="yes", **TILED)
    reads_whole(path, pixels)
    valid, shares, exact = valid_of(path, size=100)
    assert np.array_equal(valid, pixels[3] > 0)
    assert shares.tolist() == exact.tolist() == [1, 1, 0, 0] * 3


def test_an_internal_mask_decides_what_is_valid(tmp_path):
    path = tmp_path / "a.tif"
    mask = np.zeros((300, 400), dtype=bool)
    mask[:150] = True
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        write(path, ground(), **JPEG)
        with rasterio.open(path, "r+") as dst:
            dst.write_mask(mask)
    assert not path.with_suffix(".tif.msk").exists()
    valid, shares, exact = valid_of(path, size=50)
    assert np.array_equal(valid, mask)
    assert shares.tolist() == exact.tolist() == [1.0] * 24 + [0.0] * 24


def test_a_nodata_value_decides_what_is_valid(tmp_path):
    pixels = ground()
    pixels[:, 100:200] = 7
    valid, shares, exact = valid_of(write(tmp_path / "a.tif", pixels, nodata=7), size=100)
    assert not valid[100:200].any() and valid[:100].all() and valid[200:].all()
    assert shares.tolist() == exact.tolist() == [1.0] * 4 + [0.0] * 4 + [1.0] * 4


def test_a_nodata_value_the_type_cannot_hold_hides_no_collar(tmp_path):
    pixels = ground()
    pixels[:, :, :100] = 0
    write(tmp_path / "a.tif", pixels)
    place = f"<SRS>EPSG:32737</SRS><GeoTransform>{','.join(map(str, HALF_METRE.to_gdal()))}</GeoTransform>"
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{band}"><NoDataValue>-9999</NoDataValue><SimpleSource>'
        f'<SourceFilename relativeToVRT="1">a.tif</SourceFilename><SourceBand>{band}</SourceBand>'
        "</SimpleSource></VRTRasterBand>"
        for band in (1, 2, 3)
    )
    path = tmp_path / "a.vrt"
    path.write_text(f'<VRTDataset rasterXSize="400" rasterYSize="300">{place}{bands}</VRTDataset>')
    valid, shares, exact = valid_of(path, size=100)
    assert not valid[:, :100].any() and valid[:, 100:].all()
    assert shares.tolist() == exact.tolist() == [0, 1, 1, 1] * 3


@pytest.mark.parametrize("value", [0, 255])
@pytest.mark.parametrize("form", [STRIPED, TILED, JPEG])
def test_collars_without_a_tag_are_found(tmp_path, value, form):
    pixels = ground()
    rows, columns = np.mgrid[:300, :400]
    collar = columns + rows / 2 < 150
    pixels[:, collar] = value
    valid, shares, exact = valid_of(write(tmp_path / "a.tif", pixels, **form))
    # JPEG frays the edge by up to a block of 16 pixels; neither form calls ground a collar.
    assert (valid == ~collar).mean() > (0.98 if form is JPEG else 0.999)
    assert valid[~collar].mean() > 0.999
    assert np.abs(shares - exact).max() < 0.02
    assert shares[0] == 0 and shares[6] == 1


def test_a_hole_amid_the_image_is_found_and_may_be_allowed(tmp_path):
    pixels = ground()
    pixels[:, 100:228, 128:256] = 255
    path = write(tmp_path / "a.tif", pixels, **JPEG)
    valid, _, _ = valid_of(path)
    assert not valid[108:220, 136:248].any() and valid[:90].all() and valid[:, :120].all()
    assert all(part.all() for part in valid_of(path, Imagery(collars=False)))


def test_thin_collars_along_the_edge_are_found(tmp_path):
    pixels = ground()
    pixels[:, :, :5] = 0
    valid, _, _ = valid_of(write(tmp_path / "a.tif", pixels))
    assert not valid[:, :5].any() and valid[:, 5:].all()


@pytest.mark.parametrize("value", [0, 255])
def test_roofs_and_shadows_stay_valid(tmp_path, value):
    """A 28 m roof and a 150 m long but narrow one, as white or black as can be, at 0.5 m."""
    pixels = ground()
    pixels[:, 100:156, 100:156] = value
    pixels[:, 200:240, 20:320] = value
    valid, shares, exact = valid_of(write(tmp_path / "a.tif", pixels), size=32)
    assert valid.all() and (shares == 1).all() and (exact == 1).all()


def test_a_wholly_blank_image_has_no_valid_pixel(tmp_path):
    valid, shares, exact = valid_of(write(tmp_path / "a.tif", np.zeros((3, 300, 400), np.uint8)))
    assert not valid.any() and not shares.any() and not exact.any()


def test_validity_of_a_window_does_not_depend_on_the_window(tmp_path):
    pixels = ground()
    pixels[:, 50:140, 60:200] = 0
    pixels[:, 200:, 300:] = 255
    pixels[:, 80, 60:200] = 50
    path = write(tmp_path / "a.tif", pixels)
    valid, _, _ = valid_of(path)
    grid = read_grid(path)
    with Raster(path, grid) as raster:
        for col_off, row_off, width, height in windows_of(grid, 37):
            part = valid[row_off : row_off + height, col_off : col_off + width]
            assert np.array_equal(raster.valid((col_off, row_off, width, height)), part)


def test_a_window_is_read_from_the_overview_of_its_factor(tmp_path):
    pixels = ground()
    path = write(tmp_path / "a.tif", pixels, overviews=(2, 4), **TILED)
    with Raster(path, read_grid(path)) as raster:
        assert raster.overviews == [2, 4]
        image = raster.read((100, 60, 200, 100), 4)
        assert raster.read((100, 60, 200, 101), 4).shape == (26, 50, 3)
    means = pixels[:, 60:160, 100:300].reshape(3, 25, 4, 50, 4).mean(axis=(2, 4))
    assert image.shape == (25, 50, 3) and image.dtype == np.uint8
    assert np.abs(np.moveaxis(image.astype(float), 2, 0) - means).max() <= 1.5, "not every fourth pixel"


def test_collars_are_found_in_overviews_as_in_the_image(tmp_path):
    pixels = ground(800, 600)
    pixels[:, :, :200] = 0
    pixels[:, 500:] = 255
    path = write(tmp_path / "a.tif", pixels, overviews=(2, 4), **TILED)
    with Raster(path, read_grid(path)) as raster:
        valid, coarse = raster.valid((80, 300, 401, 300)), raster.valid((80, 300, 401, 300), 4)
    assert coarse.shape == (75, 101) and np.array_equal(coarse, valid[::4, ::4])


def test_valid_ground_has_straight_edges_and_no_specks(tmp_path):
    pixels = ground(800, 600, bands=4)
    rows, columns = np.mgrid[:600, :800]
    pixels[3] = np.where(columns + 3 * rows < 1200, 255, 0)
    pixels[3, 50:57, 50:57] = 0
    path = write(tmp_path / "a.tif", pixels, photometric="rgb", alpha="yes", overviews=(2,), **TILED)
    with Raster(path, read_grid(path)) as raster:
        assert raster.ground((100, 0, 100, 100)) is None
        assert raster.ground((700, 500, 100, 100)).is_empty
        for factor in (1, 2):
            (part,) = raster.ground((0, 0, 799, 600), factor).geoms
            straight = shapely.Polygon([(0, 0), (799, 0), (799, 401 / 3), (0, 400)])
            assert part.hausdorff_distance(straight) < 3 * factor
            assert len(part.exterior.coords) < 9 and not part.interiors


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (40, 30)])
def test_the_outline_of_anything_is_valid(shape):
    for seed in range(5):
        valid = np.random.default_rng(seed).random(shape) < 0.6
        outline = validity.outline(valid, 2 * shape[1], 2 * shape[0])
        assert outline.is_valid and outline.geom_type == "MultiPolygon"
        assert outline.within(shapely.box(0, 0, 2 * shape[1], 2 * shape[0])) or outline.is_empty


@pytest.mark.parametrize("overviews", [(), (2, 4, 8, 16)])
@pytest.mark.parametrize("form", [STRIPED, TILED, JPEG])
def test_a_sampled_image_loses_no_valid_tile(tmp_path, monkeypatch, overviews, form):
    monkeypatch.setattr(validity, "_MAX_CELLS", 2000)
    pixels = ground(800, 600)
    rows, columns = np.mgrid[:600, :800]
    flown = (np.abs(columns - 400) + np.abs(rows - 300)) < 280
    pixels[:, ~flown] = 0
    path = write(tmp_path / "a.tif", pixels, overviews=overviews, **form)
    assert validity.cell_side(800, 600) == 16
    _, shares, exact = valid_of(path, size=64)
    truth = np.array([flown[y : y + h, x : x + w].mean() for x, y, w, h in windows_of(read_grid(path))])
    assert (shares[truth > 0.01] > 0).all() and (shares[truth == 1] == 1).all()
    assert (shares == 0).sum() > 30
    assert (shares >= truth - 0.02).all() and (exact >= truth - 0.02).all()
    assert (exact - truth).max() < (0.15 if form is JPEG else 0.01)


@pytest.mark.parametrize("block", [128, 256])
def test_chunks_cover_the_image_once_in_whole_cells(tmp_path, block):
    path = write(tmp_path / "a.tif", ground(1000, 700), tiled=True, blockxsize=block, blockysize=block)
    with rasterio.open(path) as src:
        for multiple in (1, 16, 512):
            seen = np.zeros((700, 1000), dtype=int)
            for window in validity.chunks(src, multiple, 16):
                assert window.col_off % multiple == window.row_off % multiple == 0
                seen[window.row_off :, window.col_off :][: window.height, : window.width] += 1
            assert (seen == 1).all()


def test_a_collar_never_reached_by_a_square_is_no_collar():
    blanks = np.zeros((50, 50), dtype=bool)
    blanks[10:20, 10:20] = True
    assert np.array_equal(validity.solid(blanks, 9), blanks)
    assert not validity.solid(blanks, 11).any()
    blanks[15, 15] = False
    assert not validity.solid(blanks, 7).any()


@pytest.mark.parametrize("side", [1, 4, 7, 30])
def test_solid_is_the_morphological_opening(side: int):
    blanks = np.random.default_rng(side).random((40, 60)) < 0.7
    blanks[5:20, 10:35] = blanks[:3] = blanks[:, 58:] = True
    beyond = np.pad(blanks, 2 * side, constant_values=True)
    opened = ndimage.binary_opening(beyond, np.ones((side, side)))[2 * side : -2 * side, 2 * side : -2 * side]
    assert np.array_equal(validity.solid(blanks, side), opened)


def test_deep_images_need_a_stretch(tmp_path):
    path = write(tmp_path / "a.tif", ground(dtype="uint16", top=4000))
    with pytest.raises(RasterError, match=r"not 8 bits per band.*uint16.*Set the stretch to 'auto'"):
        read_grid(path)
    grid = read_grid(path, Imagery(stretch="auto"))
    low, high = np.percentile(ground(dtype="uint16", top=4000).reshape(3, -1), [2, 98], axis=1)
    assert np.allclose(grid.stretch.low, low, rtol=0.05) and np.allclose(grid.stretch.high, high, rtol=0.05)
    image = read_whole(path, Imagery(stretch="auto"))
    assert image.min() == 0 and image.max() == 255 and 90 < image.mean() < 165


@pytest.mark.parametrize("value", [0, 65535])
def test_collars_do_not_widen_a_stretch(tmp_path, value):
    pixels = ground(dtype="uint16", top=4000)
    pixels[:, :, :60] = value
    stretch = read_grid(write(tmp_path / "a.tif", pixels), Imagery(stretch="auto")).stretch
    low, high = np.percentile(pixels[:, :, 60:].reshape(3, -1), [2, 98], axis=1)
    assert np.allclose(stretch.low, low, rtol=0.05) and np.allclose(stretch.high, high, rtol=0.05)


def test_an_explicit_stretch_maps_low_to_black_and_high_to_white(tmp_path):
    pixels = np.zeros((3, 4, 4), np.uint16)
    pixels[:, 0] = [0, 1000, 2000, 3000]
    pixels[:, 1] = [4000, 1510, 5, 65535]
    image = read_whole(write(tmp_path / "a.tif", pixels), Imagery(stretch="1000,3000"))
    assert image[:2, :, 0].tolist() == [[0, 0, 128, 255], [255, 65, 0, 255]]


def test_auto_leaves_bytes_as_they_are_and_limits_do_not(tmp_path):
    path = write(tmp_path / "a.tif", ground())
    assert read_grid(path, Imagery(stretch="auto")).stretch is None
    assert read_grid(path, Imagery(stretch="0,127.5")).stretch.high == [127.5] * 3
    assert read_whole(path, Imagery(stretch="0,127.5")).mean() > 1.5 * read_whole(path).mean()


def test_nan_is_invalid_and_black(tmp_path):
    pixels = ground(dtype="float32", top=1000)
    pixels[:, :, :200] = np.nan
    path = write(tmp_path / "a.tif", pixels, **TILED)
    imagery = Imagery(stretch="auto")
    valid, shares, exact = valid_of(path, imagery, size=100)
    assert np.array_equal(valid, np.isfinite(pixels[0]))
    assert shares.tolist() == exact.tolist() == [0, 0, 1, 1] * 3
    image = read_whole(path, imagery)
    assert not image[:, :200].any() and image[:, 200:].mean() > 90


@pytest.mark.parametrize("fill", [np.nan, 12.0])
def test_a_stretch_of_nothing_is_still_a_stretch(tmp_path, fill):
    path = write(tmp_path / "a.tif", np.full((3, 20, 20), fill, np.float32))
    assert not read_whole(path, Imagery(stretch="auto")).any()


@pytest.mark.parametrize("overviews", [(), (2, 4, 8)])
def test_a_stretch_sees_the_whole_of_a_large_image(tmp_path, monkeypatch, overviews):
    monkeypatch.setattr(grid_module, "_SAMPLE_PX", 128)
    pixels = ground(800, 600, bands=1, dtype="uint16", top=4000)
    path = write(tmp_path / "a.tif", pixels, overviews=overviews, **TILED)
    stretch = read_grid(path, Imagery(bands=(1,), stretch="auto")).stretch
    # Averaged overviews narrow the range of noise, which here is most of it.
    truth = np.percentile(pixels, [2, 98])
    assert np.allclose([stretch.low[0], stretch.high[0]], truth, rtol=0.25 if overviews else 0.05)


def test_one_band_is_repeated_when_asked(tmp_path):
    path = write(tmp_path / "a.tif", ground(bands=1))
    with pytest.raises(RasterError, match=r"has 1 band\(s\), and band 3 was asked for.*repeated"):
        read_grid(path)
    assert read_grid(path, Imagery(bands=(1,))).bands == [1, 1, 1]
    image = read_whole(path, Imagery(bands=(1,)))
    assert np.array_equal(image, np.repeat(ground(bands=1)[0][:, :, None], 3, axis=2))


def test_bands_come_in_the_order_asked(tmp_path):
    pixels = ground(bands=5)
    image = read_whole(write(tmp_path / "a.tif", pixels), Imagery(bands=(5, 1, 3)))
    assert np.array_equal(image, np.moveaxis(pixels[[4, 0, 2]], 0, 2))


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:4326", Affine(1e-6, 0, 39.2, 0, -1e-6, -6.1)),
        ("EPSG:3857", Affine(0.149, 0, 9_519_391, 0, -0.149, 3_203_170)),
        ("EPSG:32737", Affine(0.06, 0.04, 530_000, 0.04, -0.06, 9_366_000)),
        ("EPSG:32737", Affine(0.1, 0, 530_000, 0, 0.1, 9_366_000)),
    ],
)
def test_any_crs_and_turn_is_honoured(tmp_path, crs, transform):
    path = write(tmp_path / "a.tif", ground(), crs=crs, transform=transform)
    grid = read_grid(path)
    assert grid.crs == crs and grid.transform == pytest.approx(tuple(transform)[:6], rel=1e-12)
    assert 0.05 < min(grid.ground_m_per_px) <= max(grid.ground_m_per_px) < 0.15


def test_heights_are_left_out_of_the_crs(tmp_path):
    path = write(tmp_path / "a.tif", ground(), crs="EPSG:32737+5773")
    assert read_grid(path).crs == "EPSG:32737"


@pytest.mark.parametrize(
    "crs",
    [
        "+proj=tmerc +lat_0=0 +lon_0=39.4 +k=0.9998 +x_0=530000 +datum=WGS84",
        # Of this ellipsoid in this zone PROJ knows Arc 1960, whose datum lies 250 m elsewhere.
        "+proj=utm +zone=37 +south +ellps=clrk80 +units=m",
    ],
    ids=["of a zone of its own", "of an unknown datum"],
)
def test_a_crs_without_a_code_is_kept_as_text(tmp_path, crs):
    grid = read_grid(write(tmp_path / "a.tif", ground(), crs=crs))
    assert grid.srid is None and grid.crs.startswith("PROJCRS[")
    (point,) = reproject([shapely.Point(530_000, 9_366_000)], grid.crs, LONLAT)
    assert point.equals_exact(reproject([shapely.Point(530_000, 9_366_000)], crs, LONLAT)[0], 1e-9)
    assert grid.ground_m_per_px == pytest.approx((0.5, 0.5), rel=1e-2)


def test_the_time_of_the_image_is_its_own_or_the_files(tmp_path):
    path = write(tmp_path / "a.tif", ground())
    os.utime(path, (1_500_000_000, 1_500_000_000))
    grid = read_grid(path)
    assert (grid.observed, grid.observed_by) == ("2017-07-14T02:40:00Z", "file")
    assert grid.date == "unknown; its file last changed 2017-07-14T02:40:00Z"
    with rasterio.open(path, "r+") as dst:
        dst.update_tags(TIFFTAG_DATETIME="2018:05:04 10:11:12")
    grid = read_grid(path)
    assert (grid.observed, grid.observed_by) == ("2018-05-04T10:11:12Z", "image")
    assert grid.date == "taken 2018-05-04T10:11:12Z"
    with rasterio.open(path, "r+") as dst:
        dst.update_tags(TIFFTAG_DATETIME="0000:00:00 00:00:00")
    os.utime(path, (1_500_000_000, 1_500_000_000))
    assert read_grid(path).observed == "2017-07-14T02:40:00Z"


def palette(path):
    write(path, ground(bands=1), photometric="palette")
    with rasterio.open(path, "r+") as dst:
        dst.write_colormap(1, {value: (value, value, value, 255) for value in range(256)})


def with_gcps(path):
    pixels, size = ground(), {"height": 300, "width": 400, "count": 3, "dtype": "uint8"}
    corners = [(0, 0), (0, 400), (300, 0), (300, 400)]
    gcps = [GroundControlPoint(row, col, 530_000 + col, 9_366_000 - row) for row, col in corners]
    with rasterio.open(path, "w", driver="GTiff", gcps=gcps, crs="EPSG:32737", **size) as dst:
        dst.write(pixels)


def cut_short(path, **form):
    write(path, np.random.default_rng(0).integers(0, 255, (3, 300, 400), dtype=np.uint8), **form)
    os.truncate(path, path.stat().st_size * 9 // 10)


REFUSED = {
    "geocentric": (lambda path: write(path, ground(), crs="EPSG:4978"), "geocentric.*gdalwarp -t_srs"),
    "no crs": (lambda path: write(path, ground(), crs=None), "states no CRS.*rio edit-info --crs"),
    "gcps": (with_gcps, "placed by ground control points only.*4 points.*gdalwarp"),
    "no place": (
        lambda path: write(path, ground(), transform=Affine.identity()),
        "has a CRS but no place in it",
    ),
    "flat": (
        lambda path: write(path, ground(), transform=Affine(0.1, 0.1, 5e5, 0.1, 0.1, 9e6)),
        "its geotransform maps the image to a line",
    ),
    "off the earth": (
        lambda path: write(path, ground(), crs="EPSG:4326", transform=Affine(1, 0, 0, 0, -1, 5000)),
        "has no place on the earth",
    ),
    "both ends of longitude": (
        lambda path: write(
            path, ground(), crs="EPSG:32760", transform=Affine(10, 0, 818800, 0, -10, 8140000)
        ),
        "across the antimeridian.*-projwin",
    ),
    "a longitude across the end": (
        lambda path: write(
            path, ground(), crs="EPSG:4326", transform=Affine(1e-6, 0, 179.9999, 0, -1e-6, -17)
        ),
        "across the antimeridian.*180.0003.*-projwin",
    ),
    "longitudes beyond the end": (
        lambda path: write(path, ground(), crs="EPSG:4326", transform=Affine(1e-6, 0, 181, 0, -1e-6, -17)),
        "not between -180 and 180.*181.0000.*-a_ullr",
    ),
    "a disk in space": (
        lambda path: write(
            path, ground(300, 300), crs=FULL_DISK, transform=Affine(4e4, 0, -6e6, 0, -4e4, 6e6)
        ),
        "a part of it has no place on the earth.*gdalwarp",
    ),
    "palette": (palette, "paletted images are not read.*-expand rgb"),
    "complex": (lambda path: write(path, ground(dtype="complex64")), "complex values are no picture"),
    "text": (lambda path: path.write_text("no raster"), "cannot be opened as an image.*rio info"),
    "nothing": (lambda path: path.write_bytes(b""), "cannot be opened as an image"),
    "short tiles": (lambda path: cut_short(path, **TILED), "truncated: its last block ends at byte"),
    "short strips": (lambda path: cut_short(path, **STRIPED), "truncated: its last block ends at byte"),
}


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_refused_in_one_line_with_a_remedy(tmp_path, case):
    make, message = REFUSED[case]
    path = tmp_path / "a.tif"
    make(path)
    imagery = Imagery(bands=(1,)) if case == "palette" else None
    with pytest.raises(RasterError, match=rf"a\.tif: .*{message}") as error:
        read_grid(path, imagery)
    assert error.value.remedy and "\n" not in str(error.value)


def test_absurd_sizes_are_refused_without_allocating(tmp_path):
    path = tmp_path / "a.vrt"
    bands = "".join(f'<VRTRasterBand dataType="Byte" band="{band}"/>' for band in (1, 2, 3))
    path.write_text(f'<VRTDataset rasterXSize="2000000000" rasterYSize="2000000000">{bands}</VRTDataset>')
    with pytest.raises(RasterError, match=r"larger than 2\^40 pixels"):
        read_grid(path)


def test_an_image_in_one_huge_block_is_refused(tmp_path):
    size = {"width": 20_000, "height": 20_000, "count": 3, "dtype": "uint8"}
    one_block = {"tiled": True, "blockxsize": 20_000, "blockysize": 20_000, "sparse_ok": True}
    place = {"crs": "EPSG:32737", "transform": HALF_METRE}
    rasterio.open(tmp_path / "a.tif", "w", driver="GTiff", **size, **one_block, **place).close()
    with pytest.raises(RasterError, match=r"its blocks are too large.*-of COG"):
        read_grid(tmp_path / "a.tif")


def test_a_missing_image_is_a_missing_source(tmp_path):
    with pytest.raises(SourceError, match=r"absent\.tif: no such image"):
        read_grid(tmp_path / "absent.tif")


def test_a_damaged_block_is_named_when_it_is_met(tmp_path):
    path = write(tmp_path / "a.tif", ground(), compress="deflate", **TILED)
    with rasterio.open(path) as src:
        offset = int(src.get_tag_item("BLOCK_OFFSET_1_1", "TIFF", bidx=1))
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * 400)
    grid = read_grid(path)
    with Raster(path, grid) as raster:
        assert raster.read((0, 0, 100, 100)).any()
        for look in (raster.read, raster.valid, lambda window: raster.valid_shares([window])):
            with pytest.raises(
                RasterError, match=r"a\.tif, window \(\d+, \d+, \d+, \d+\): pixels cannot be read"
            ):
                look((120, 120, 64, 64))


@pytest.mark.parametrize("window", [(-1, 0, 10, 10), (395, 0, 10, 10), (0, 0, 400, 301), (0, 0, 0, 10)])
def test_windows_beyond_the_image_are_refused(tmp_path, window):
    path = write(tmp_path / "a.tif", ground())
    with (
        Raster(path, read_grid(path)) as raster,
        pytest.raises(RasterError, match="window outside the image"),
    ):
        raster.read(window)


def test_another_image_under_the_same_name_is_refused(tmp_path):
    path = write(tmp_path / "a.tif", ground())
    grid = read_grid(path)
    write(path, ground(500, 300))
    with pytest.raises(RasterError, match="not the image of 400 x 300 px that was tiled"), Raster(path, grid):
        pass


def test_no_windows_no_shares(tmp_path):
    path = write(tmp_path / "a.tif", ground())
    with Raster(path, read_grid(path)) as raster:
        assert raster.valid_shares([]).shape == (0,)


@pytest.mark.parametrize(
    "given",
    [
        {"bands": ()},
        {"bands": (1, 2)},
        {"bands": (0,)},
        {"stretch": "linear"},
        {"stretch": "5,5"},
        {"stretch": "1,2,3"},
        {"stretch": "0,inf"},
        {"collar_tolerance": -1},
        {"collar_size": 0},
        {"cache_mb": 1},
    ],
)
def test_settings_that_cannot_be_honoured_are_refused(given):
    with pytest.raises(SettingsError):
        Imagery(**given)


def test_gdals_cache_is_bounded_while_open_and_as_before_after(tmp_path):
    path = write(tmp_path / "a.tif", ground())
    before = rasterio.env.get_gdal_config("GDAL_CACHEMAX") if rasterio.env.hasenv() else None
    with Raster(path, read_grid(path), Imagery(cache_mb=32)):
        assert rasterio.env.get_gdal_config("GDAL_CACHEMAX") == 32 * 2**20
    assert (rasterio.env.get_gdal_config("GDAL_CACHEMAX") if rasterio.env.hasenv() else None) == before


@pytest.fixture
def served(tmp_path):
    with serving(tmp_path) as served:
        yield served


def test_a_url_is_read_in_place(tmp_path, served):
    pixels = np.random.default_rng(0).integers(1, 255, (3, 2048, 2048), dtype=np.uint8)
    path = write(tmp_path / "a.tif", pixels, tiled=True)
    os.utime(path, (1_500_000_000, 1_500_000_000))
    grid = read_grid(f"{served.address}/a.tif")
    assert grid == read_grid(path)
    with Raster(f"{served.address}/a.tif", grid) as raster:
        image = raster.read((700, 900, 100, 50))
    assert np.array_equal(image, np.moveaxis(pixels[:, 900:950, 700:800], 0, 2))
    assert 0 < served.sent < path.stat().st_size / 4


def test_an_image_that_is_away_for_a_moment_is_asked_for_again(tmp_path, served):
    pixels = np.random.default_rng(0).integers(1, 255, (3, 2048, 2048), dtype=np.uint8)
    write(tmp_path / "a.tif", pixels, tiled=True)
    with Raster(f"{served.address}/a.tif", read_grid(f"{served.address}/a.tif")) as raster:
        served.broken_ranges, served.away = 1, 2
        image = raster.read((700, 900, 100, 50))
    assert np.array_equal(image, np.moveaxis(pixels[:, 900:950, 700:800], 0, 2))
    assert (served.broken_ranges, served.away, served.errors) == (0, 0, 2)


def test_a_url_that_is_not_there_is_a_missing_source(served):
    with pytest.raises(SourceError, match=r"absent\.tif: cannot be opened as an image.*404"):
        read_grid(f"{served.address}/absent.tif")
    assert served.errors <= 2, "asked for its size and for itself, and not again"


@pytest.mark.parametrize(
    "name", sorted(str(path.relative_to(DATA)) for path in DATA.glob("*/*.tif")) or ["none"]
)
def test_real_images_are_read(name):
    if name == "none":
        pytest.skip("shared data is absent")
    imagery = Imagery(bands=(1,), stretch="auto") if "one_band" in name else Imagery()
    grid = read_grid(DATA / name, imagery)
    windows = [window for _, _, window in tile_windows(grid.width, grid.height, TilingRules())]
    with Raster(DATA / name, grid, imagery) as raster:
        shares = raster.valid_shares(windows)
        middle = raster.read((grid.width // 2 - 50, grid.height // 2 - 50, 100, 100))
    assert middle.shape == (100, 100, 3) and middle.std() > 3
    # Bright roofs, shadows and water lower no share: one image alone has a real hole.
    assert ((shares > 0).all() and shares.min() < 1) if "banepa" in name else (shares == 1).all()


def test_the_white_hole_of_a_real_image_is_found_and_its_white_roofs_are_not():
    path = DATA / "banepa" / "banepa.tif"
    if not path.exists():
        pytest.skip("shared data is absent")
    grid = read_grid(path)
    windows = windows_of(grid, 256)
    with Raster(path, grid) as raster:
        shares = raster.valid_shares(windows)
        invalid = [(1 - raster.valid(window)).sum() for window in np.array(windows)[shares < 1]]
    assert (shares == 0).any()
    # 381,216 pixels are white in one piece, whose corners no square of 30 m reaches.
    assert 330_000 < sum(invalid) < 395_000


COARSE = Imagery(metres_per_pixel=1.0)


def test_an_image_is_seen_at_another_resolution(tmp_path):
    pixels = ground(400, 300)
    path = write(tmp_path / "a.tif", pixels, **TILED)
    own, grid = read_grid(path), read_grid(path, COARSE)
    assert (grid.width, grid.height) == (200, 150) and grid.crs == own.crs
    assert grid.ground_m_per_px == pytest.approx((1, 1), rel=2e-3)
    corners = [Affine(*one.transform) @ (one.width, one.height) for one in (own, grid)]
    assert corners[0] == pytest.approx(corners[1])
    means = pixels.reshape(3, 150, 2, 200, 2).mean(axis=(2, 4))
    assert np.abs(np.moveaxis(read_whole(path, COARSE), 2, 0) - means).max() < 8
    assert read_whole(path, Imagery(metres_per_pixel=0.25)).shape == (600, 800, 3)


def test_a_coarser_image_is_read_from_its_overviews(tmp_path):
    """A chequerboard's overview of nearest pixels has one colour only, its means another."""
    board = np.broadcast_to(np.indices((256, 256)).sum(axis=0) % 2 * 160 + 40, (3, 256, 256)).astype(np.uint8)
    plain, nearest = (write(tmp_path / name, board, **TILED) for name in ("plain.tif", "nearest.tif"))
    with rasterio.open(nearest, "r+") as dst:
        dst.build_overviews([2], Resampling.nearest)
    coarse = Imagery(metres_per_pixel=1.01)  # a little coarser than the overview, which it then is made from
    assert np.abs(read_whole(plain, coarse).mean() - 120) < 1
    assert set(np.unique(read_whole(nearest, coarse))) < {40, 200}


@pytest.mark.parametrize("overviews", [(), (2,)])
@pytest.mark.parametrize("tag", ["nodata", "alpha", "mask", "collar"])
def test_invalid_pixels_stay_invalid_at_another_resolution(tmp_path, tag, overviews):
    pixels = ground(400, 400)
    pixels[:, :, :200] = 0
    path = tmp_path / "a.tif"
    if tag == "alpha":
        alpha = np.where(pixels[:1] > 0, 255, 0).astype(np.uint8)
        write(path, np.concatenate([pixels, alpha]), photometric="rgb", alpha="unassociated", **TILED)
    else:
        write(path, pixels, **TILED, **({"nodata": 0} if tag == "nodata" else {}))
    if tag == "mask":
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as dst:
            dst.write_mask(pixels[0] > 0)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as dst:
        dst.build_overviews(overviews, Resampling.average)
    valid, shares, exact = valid_of(path, Imagery(metres_per_pixel=1.01), size=50)
    assert valid.shape == (198, 198)
    assert not valid[:, :98].any() and valid[:, 100:].all()
    assert shares == pytest.approx(exact, abs=0.05)


def test_no_resolution_below_zero():
    with pytest.raises(SettingsError, match="metres_per_pixel"):
        Imagery(metres_per_pixel=-0.1)
