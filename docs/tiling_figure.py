"""Draws docs/pictures/tiling.png: the tiles of a painted village that lies askew in its image.

python docs/tiling_figure.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from pipeline.raster import Imagery, Raster
from pipeline.sample import SceneSpec, write_scene
from pipeline.settings import Tiling
from pipeline.steps.tiles import tile_image

PICTURE = Path(__file__).parent / "pictures" / "tiling.png"
SPEC = SceneSpec(width=2000, height=1280, seed=7, collar=330)
SIDE = 1000  # pixels of the picture's width
OVERLAP, TILE = (230, 159, 0, 70), "#E69F00"  # Okabe and Ito's orange


def main() -> None:
    """Draws the picture."""
    with tempfile.TemporaryDirectory() as folder:
        image, labels = Path(folder) / "village.tif", Path(folder) / "village.geojson"
        write_scene(SPEC, image, labels)
        tiling = Tiling(tile_size="320", overlap="80", min_valid_share=0.0)
        index = tile_image("village", image, Imagery(), tiling, lambda *_: None)
        with Raster(image, index.grid, Imagery()) as raster:
            ground = raster.shrunk(SIDE)
    scale = SIDE / index.grid.width
    picture = Image.fromarray(ground).convert("RGBA")
    shade = Image.new("RGBA", picture.size)
    pen = ImageDraw.Draw(shade)
    boxes = [tuple(round(scale * side) for side in _corners(tile.window)) for tile in index.tiles]
    for number, one in enumerate(boxes):
        for other in boxes[number + 1 :]:
            box = (*map(max, one[:2], other[:2]), *map(min, one[2:], other[2:]))
            if box[0] < box[2] and box[1] < box[3]:
                pen.rectangle(box, OVERLAP)
    picture = Image.alpha_composite(picture, shade)
    pen = ImageDraw.Draw(picture)
    font = ImageFont.load_default(13)
    for tile, box in zip(index.tiles, boxes, strict=True):
        pen.rectangle(box, outline=TILE, width=1)
        middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        told = f"{tile.tile_id}\n{tile.valid_share:.0%}"
        pen.text(
            middle, told, "white", font, anchor="mm", align="center", stroke_width=2, stroke_fill="black"
        )
    picture.convert("RGB").quantize(96).save(PICTURE, optimize=True)


def _corners(window: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    col_off, row_off, width, height = window
    return col_off, row_off, col_off + width, row_off + height


if __name__ == "__main__":
    main()
