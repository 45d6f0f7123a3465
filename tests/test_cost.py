"""What an image is expected to cost, beside what it does cost; times are measured in the benchmarks."""

from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
from bright_roofs import bright_detector
from rasterio.enums import Resampling
from rasterio.transform import from_origin

from models.memory import NEEDS
from pipeline.cost import Rates, expected_cost
from pipeline.inference import InferenceRules
from pipeline.raster import Imagery, TiledImage, read_header
from pipeline.steps.cost import measured_rates
from pipeline.steps.tiles import tile_image
from pipeline.tiling import TilingRules


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """2,000 by 1,500 px, the right half white; with overviews."""
    path = tmp_path_factory.mktemp("cost") / "a.tif"
    pixels = np.random.default_rng(0).integers(40, 90, (3, 1500, 2000)).astype(np.uint8)
    pixels[:, :, 1000:] = 255
    with rasterio.open(
        path, "w", driver="GTiff", width=2000, height=1500, count=3, dtype="uint8", crs="EPSG:32737",
        transform=from_origin(533000, 9367000, 0.5, 0.5), tiled=True, blockxsize=256, blockysize=256,
    ) as dst:  # fmt: skip
        dst.write(pixels)
    with rasterio.open(path, "r+") as dst:
        dst.build_overviews([2, 4], Resampling.average)
    return path


RULES = TilingRules(tile_size=256, overlap=64)
TILING = {"tile_size": "256", "overlap": "64", "min_valid_share": 0.0}


def index_of(image):
    return tile_image("a", image, Imagery(), SimpleNamespace(**TILING), lambda share, text: None)


def cost(image, rates=None, **inference):
    index, rules = index_of(image), InferenceRules(**inference)
    share = len(index.tiles) / (len(index.tiles) + index.empty_tiles)
    return expected_cost(
        read_header(image), RULES, rules, Imagery(), "maskrcnn_small", rates or Rates(), share
    )


def test_the_header_says_what_is_read(image):
    header = read_header(image)
    assert (header.width, header.height, header.bytes_per_px) == (2000, 1500, 3)
    assert header.overviews == (2, 4) and header.looked_at
    assert not read_header(image, Imagery(collars=False)).looked_at


def test_tiles_are_counted_as_tiling_does(image):
    index = index_of(image)
    expected = cost(image)
    assert expected.tiles == len(index.tiles) < expected.all_tiles
    assert expected.all_tiles == len(index.tiles) + index.empty_tiles


def test_time_follows_the_rates_and_memory_the_batch(image):
    slow, fast = cost(image), cost(image, Rates(network_megapixels_s=5.0))
    looks = [slow.seconds["InferShard"], fast.seconds["InferShard"]]
    megapixels = slow.tiles * 256**2 / 1e6
    assert looks[0] - looks[1] == pytest.approx(megapixels * (1 / 0.5 - 1 / 5))
    often = cost(image, views="flips").seconds["InferShard"]
    assert often - looks[0] == pytest.approx(3 * megapixels / 0.5)
    few, many = (cost(image, batch_size=size).memory_mib["InferShard"] for size in (1, 16))
    assert many - few == pytest.approx(NEEDS["maskrcnn_small"].batch(15, 256**2), rel=0.05)
    assert "tiles, about" in slow.sentence


def test_rates_are_measured_on_the_image_itself(image):
    index = index_of(image)
    rates = measured_rates(TiledImage(index, image), bright_detector())
    assert rates.read_megapixels_s > 0 and rates.network_megapixels_s > 0 and rates.start_s >= 0
    assert cost(image, rates).total_seconds > 0
