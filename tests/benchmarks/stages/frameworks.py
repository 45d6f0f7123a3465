"""CPU milliseconds per tile of a framework's own way to read tiles; run in .venv/frameworks.

python -m tests.benchmarks.stages.frameworks NAME IMAGE
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

TILES = 60


def torchgeo(path: Path) -> int:
    """A raster dataset behind its grid sampler, as its tutorials read."""
    import torch
    from torch.utils.data import DataLoader
    from torchgeo.datasets import RasterDataset, stack_samples
    from torchgeo.samplers import GridGeoSampler, Units

    class Ground(RasterDataset):
        filename_glob = path.name
        is_image = True

    data = Ground(str(path.parent))
    sampler = GridGeoSampler(data, size=512, stride=448, units=Units.PIXELS)
    torch.set_num_threads(1)
    count = 0
    for _batch in DataLoader(data, sampler=sampler, collate_fn=stack_samples):
        count += 1
        if count == TILES:
            break
    return count


def rio_tiler(path: Path) -> int:
    """`Reader.read` of one window after another, from one open reader."""
    from rasterio.windows import Window
    from rio_tiler.io import Reader

    with Reader(str(path)) as image:
        side, count = image.dataset.width, 0
        for row in range(0, side - 511, 448):
            for col in range(0, side - 511, 448):
                image.read(window=Window(col, row, 512, 512))
                count += 1
                if count == TILES:
                    return count
    return count


def main() -> None:
    """Prints the figure as JSON; what is loaded once is not counted."""
    name, path = sys.argv[1], Path(sys.argv[2])
    read = {"torchgeo": torchgeo, "rio-tiler": rio_tiler}[name]
    read(path)
    started = time.process_time()
    count = read(path)
    print(json.dumps((time.process_time() - started) / count * 1e3))


if __name__ == "__main__":
    main()
