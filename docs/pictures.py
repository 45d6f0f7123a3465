"""Draws docs/pictures/<image_id>.jpg: an image of a workspace with the buildings published for it.

python docs/pictures.py WORKSPACE IMAGE_ID [--side 1200] [--window COL_OFF ROW_OFF WIDTH HEIGHT]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import rasterio
from PIL import Image, ImageDraw

from pipeline.report import LINES
from pipeline.submission import read_csv
from pipeline.targets import Workspace

PICTURES = Path(__file__).parent / "pictures"


def draw(workspace: Workspace, image_id: str, side: int, window: tuple[int, ...] | None) -> Image.Image:
    """The picture, `side` pixels wide."""
    with rasterio.open(workspace.find_image(image_id)) as src:
        window = window or (0, 0, src.width, src.height)
        shape = (3, round(side * window[3] / window[2]), side)
        pixels = src.read((1, 2, 3), window=rasterio.windows.Window(*window), out_shape=shape)
    picture = Image.fromarray(np.moveaxis(pixels, 0, 2))
    pen = ImageDraw.Draw(picture)
    rows = read_csv(workspace.output / f"{image_id}.csv")
    scale, offset = side / window[2], np.array(window[:2])
    for polygon, probabilities in zip(rows.polygons_px, rows.probabilities, strict=True):
        colour, _ = LINES[(len(probabilities) - 1 - int(probabilities.argmax())) % len(LINES)]
        points = (np.array(polygon.exterior.coords) - offset) * scale
        pen.line([tuple(point) for point in points], colour, max(2, side // 400), joint="curve")
    return picture


def main() -> None:
    """Draws one picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workspace", type=Path)
    parser.add_argument("image_id")
    parser.add_argument("--side", type=int, default=1200)
    parser.add_argument("--window", type=int, nargs=4)
    given = parser.parse_args()
    picture = draw(Workspace(given.workspace), given.image_id, given.side, given.window)
    PICTURES.mkdir(exist_ok=True)
    picture.save(PICTURES / f"{given.image_id}.jpg", quality=82, optimize=True)


if __name__ == "__main__":
    main()
