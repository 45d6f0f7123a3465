"""Pictures of what comes out: a map, the page in a browser, the project in QGIS.

python docs/pictures.py WORKSPACE IMAGE_ID [map|report|qgis ...] [--window COL_OFF ROW_OFF WIDTH HEIGHT]

They are docs/pictures/<image_id>.jpg, report.jpg and qgis.jpg. `report` needs Chromium, `qgis` Debian's
python3-qgis.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import rasterio
from browser import photograph
from PIL import Image, ImageChops, ImageDraw

from pipeline.styles import LINES
from pipeline.submission import read_csv
from pipeline.targets import Workspace

PICTURES = Path(__file__).parent / "pictures"
RENDER = Path(__file__).parents[1] / "tests" / "qgis_render.py"
SIDE = 1000
PAGE = 1280, 2330
"""Of the page, as wide as its text and down to the map."""


def draw(workspace: Workspace, image_id: str, window: tuple[int, ...] | None) -> Image.Image:
    """The image, or a window of it, with the buildings published for it."""
    with rasterio.open(workspace.find_image(image_id)) as src:
        window = window or (0, 0, src.width, src.height)
        shape = (3, round(SIDE * window[3] / window[2]), SIDE)
        pixels = src.read((1, 2, 3), window=rasterio.windows.Window(*window), out_shape=shape)
    picture = Image.fromarray(np.moveaxis(pixels, 0, 2))
    pen = ImageDraw.Draw(picture)
    rows = read_csv(workspace.output / f"{image_id}.csv")
    scale, offset = SIDE / window[2], np.array(window[:2])
    for polygon, probabilities in zip(rows.polygons_px, rows.probabilities, strict=True):
        colour, _ = LINES[(len(probabilities) - 1 - int(probabilities.argmax())) % len(LINES)]
        points = (np.array(polygon.exterior.coords) - offset) * scale
        pen.line([tuple(point) for point in points], colour, SIDE // 400, joint="curve")
    return picture


def report(workspace: Workspace, image_id: str) -> Image.Image:
    """The upper part of the page."""
    page = (workspace.output / f"{image_id}.html").resolve()
    picture = photograph(page.as_uri(), *PAGE)
    return picture.resize((SIDE * 4 // 5, round(SIDE * 4 / 5 * PAGE[1] / PAGE[0])), Image.Resampling.LANCZOS)


def qgis(workspace: Workspace, image_id: str) -> Image.Image:
    """What QGIS shows of the project when it is opened."""
    made = [workspace.output / f"{image_id}.{ending}" for ending in ("qgs", "gpkg")]
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "map.png"
        subprocess.run(["/usr/bin/python3", RENDER, *made, picture], check=True, stdout=subprocess.DEVNULL)
        shown = Image.open(picture).convert("RGB")
    return shown.crop(ImageChops.difference(shown, Image.new("RGB", shown.size, "white")).getbbox())


def main() -> None:
    """Makes the pictures asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workspace", type=Path)
    parser.add_argument("image_id")
    parser.add_argument("pictures", nargs="*", choices=["map", "report", "qgis"], default=["map"])
    parser.add_argument("--window", type=int, nargs=4)
    given = parser.parse_args()
    workspace = Workspace(given.workspace)
    PICTURES.mkdir(exist_ok=True)
    for name in given.pictures:
        if name == "map":
            picture = draw(workspace, given.image_id, given.window)
        else:
            picture = {"report": report, "qgis": qgis}[name](workspace, given.image_id)
        path = PICTURES / f"{given.image_id if name == 'map' else name}.jpg"
        picture.save(path, quality=82, optimize=True)


if __name__ == "__main__":
    main()
