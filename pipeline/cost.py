"""What mapping an image will cost: time and memory, from its header and the rates of a machine.

Pure: `pipeline.raster.read_header` says what the header holds, `pipeline.steps.cost` measures rates.
Tasks are taken one after another; with more workers they overlap, and so does their memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from models.memory import NEEDS
from pipeline.inference import READ_AHEAD, InferenceRules
from pipeline.raster import Header, Imagery
from pipeline.raster.validity import cell_side
from pipeline.tiling import TilingRules, tile_windows


@dataclass(frozen=True)
class Rates:
    """How fast a machine is. The defaults are those of one core of an ordinary server, without a GPU."""

    read_megapixels_s: float = 60.0
    """Pixels of such an image read and decoded per second, in millions."""
    network_megapixels_s: float = 0.5
    """Pixels of tiles through the network per second, in millions: until its masks are polygons."""
    seconds_per_detection: float = 150e-6
    """To merge, make regular and write."""
    detections_per_megapixel: float = 20.0
    """Of tiles with valid pixels."""
    start_s: float = 4.0
    """To start a task that loads a network."""


PYTHON_MIB = 180.0
"""Of a process with the pipeline's libraries and without a network."""
TORCH_MIB = 730.0
"""The same with torch."""
AGGREGATION_MIB = 320.0


@dataclass(frozen=True)
class Cost:
    """What is to be expected."""

    tiles: int
    """That will be looked at by the network."""
    all_tiles: int
    """Of the image, empty ones included."""
    seconds: dict[str, float] = field(default_factory=dict)
    """By task, all its shards together."""
    memory_mib: dict[str, float] = field(default_factory=dict)
    """Peak of a process, by task."""

    @property
    def total_seconds(self) -> float:
        """All tasks one after another."""
        return sum(self.seconds.values())

    @property
    def sentence(self) -> str:
        """In a line.

        >>> Cost(90, 100, {"InferShard": 5400.0}, {"InferShard": 1100.0}).sentence
        '90 of 100 tiles, about 1.5 h and 1.1 GiB'
        """
        seconds, mib = self.total_seconds, max(self.memory_mib.values(), default=0.0)
        unit, name = next((u for u in ((3600, "h"), (60, "min")) if seconds >= u[0]), (1, "s"))
        tiles = f"{self.tiles:,} of {self.all_tiles:,} tiles"
        return f"{tiles}, about {seconds / unit:.2g} {name} and {mib / 1024:.2g} GiB"


def expected_cost(
    header: Header,
    tiling: TilingRules,
    inference: InferenceRules,
    imagery: Imagery,
    network: str,
    rates: Rates,
    valid_share: float = 1.0,
) -> Cost:
    """What mapping an image with a network will cost, on its CPU or GPU as the rates were measured.

    Args:
        header: of the image.
        tiling: how it is cut into tiles.
        inference: how many tiles are computed at once, and how often each is looked at.
        imagery: how it is read.
        network: one of `models.memory.NEEDS`.
        rates: of the machine.
        valid_share: share of the tiles that hold valid pixels, 0 to 1.
    """
    windows = tile_windows(header.width, header.height, tiling)
    tiles = round(len(windows) * valid_share)
    tile_px = math.prod(windows[0][2][2:])
    megapixels = tiles * tile_px / 1e6
    looks = {"one": 1, "flips": 4, "turns": 8, "scales": 1.56, "all": 12.5}[inference.views]
    detections = megapixels * rates.detections_per_megapixel
    batch = min(inference.batch_size, max(tiles, 1))
    # A network that was never weighed counts as the heaviest.
    need = NEEDS.get(network, NEEDS["maskrcnn_resnet50_fpn_v2"])
    network_mib = need.of(batch, tile_px) + 3 * READ_AHEAD * batch * tile_px / 2**20
    cells_mib = header.width * header.height / cell_side(header.width, header.height) ** 2 * 8 / 2**20
    cache_mib = min(float(imagery.cache_mb), header.width * header.height * header.bytes_per_px / 2**20)
    return Cost(
        tiles=tiles,
        all_tiles=len(windows),
        seconds={
            "TileImage": header.megapixels_looked_at / rates.read_megapixels_s + 30e-6 * len(windows),
            "InferShard": rates.start_s
            + megapixels * (looks / rates.network_megapixels_s + 1 / rates.read_megapixels_s),
            "AggregateImage": detections * rates.seconds_per_detection,
        },
        memory_mib={
            "TileImage": PYTHON_MIB + cache_mib + cells_mib,
            "InferShard": TORCH_MIB + network_mib + cache_mib,
            "AggregateImage": AGGREGATION_MIB,
        },
    )
