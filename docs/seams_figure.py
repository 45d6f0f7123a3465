"""Draws docs/pictures/seams.png: what tiles see of a painted neighbourhood, and what two rules make of it.

python -m docs.seams_figure
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import shapely
from PIL import Image, ImageDraw, ImageFont

from pipeline.matching import overlapping_pairs, walk
from pipeline.sample import SceneSpec, paint_scene
from pipeline.seams import Detections
from tests.benchmarks.seams.network import Network, see
from tests.benchmarks.seams.peers import box_nms, ours
from tests.benchmarks.seams.scenes import windows_over

PICTURE = Path(__file__).parent / "pictures" / "seams.png"
SPEC = SceneSpec(seed=42)
VIEW = (530, 380, 740, 740)  # col_off, row_off, width, height in image pixels
TILE_SIZE, OVERLAP = 384, 64
NETWORK = Network(jitter_px=1.5, jitter_scale=0.02, ragged_px=1.2, edge_px=2.0, min_visible_px2=60.0)

PANEL, GAP, HEAD = 480, 12, 58  # pixels of the picture
SMOOTH = 3  # drawn so many times larger, then reduced
COLOURS = 256  # of the picture's palette, for a small file
PALE = 0.45  # how far the ground fades into white
# Okabe and Ito's colours, which colour-blind readers tell apart.
TILE_COLOURS = ["#E69F00", "#0072B2", "#009E73", "#CC79A7"]
RIGHT, WRONG, INK = "#0072B2", "#D55E00", "#222222"


Words = list[tuple[str, str]]
"""A line of text in pieces, each with its colour."""


class Panel:
    """One view of the neighbourhood; what is drawn on it is in image pixels.

    Args:
        image: uint8[h, w, 3], the scene's pixels.
    """

    def __init__(self, image: np.ndarray):
        column, row, width, height = VIEW
        ground = image[row : row + height, column : column + width]
        pale = (1 - PALE) * ground + PALE * 255
        self._side = PANEL * SMOOTH
        self._picture = Image.fromarray(pale.astype(np.uint8)).resize((self._side, self._side))

    def polygon(self, polygon: shapely.Polygon, colour: str, opacity: float, width: float = 2.0) -> None:
        """Fill a polygon, holes left open, and draw its rings."""
        rings = [self._on_panel(shapely.get_coordinates(ring)) for ring in shapely.get_rings(polygon)]
        mask = Image.new("L", self._picture.size)
        pen = ImageDraw.Draw(mask)
        for ring, level in zip(rings, [round(255 * opacity)] + [0] * len(polygon.interiors), strict=True):
            pen.polygon(ring, fill=level)
        self._picture.paste(colour, mask=mask)
        line = ImageDraw.Draw(self._picture)
        for ring in rings:
            line.line([*ring, ring[1]], colour, round(width * SMOOTH), joint="curve")

    def tile_edges(self, windows: np.ndarray) -> None:
        """Draw the edges of tiles, dashed."""
        pen = ImageDraw.Draw(self._picture)
        for axis in (0, 1):
            ends = np.unique(np.concatenate([windows[:, axis], windows[:, axis] + windows[:, axis + 2]]))
            for at in ((ends - VIEW[axis]) * self._side / VIEW[axis + 2]).tolist():
                for start in range(0, self._side, 10 * SMOOTH):
                    dash = [(at, start), (at, start + 6 * SMOOTH)]
                    pen.line(dash if axis == 0 else [(y, x) for x, y in dash], INK, SMOOTH)

    def picture(self) -> Image.Image:
        """The panel in its final size."""
        return self._picture.resize((PANEL, PANEL), Image.Resampling.LANCZOS)

    def _on_panel(self, xy: np.ndarray) -> list[tuple[float, float]]:
        return [tuple(point) for point in ((xy - VIEW[:2]) * self._side / VIEW[2:]).tolist()]


def what_tiles_see(
    image: np.ndarray, detections: Detections, windows: np.ndarray
) -> tuple[Image.Image, Words]:
    """Every detection in its tile's colour, and how many there are."""
    columns, rows = (np.unique(windows[:, axis], return_inverse=True)[1] for axis in (0, 1))
    colour = columns % 2 + 2 * (rows % 2)
    panel = Panel(image)
    shown = np.flatnonzero(_in_view(detections.polygons))
    for index in shown.tolist():
        panel.polygon(detections.polygons[index], TILE_COLOURS[colour[detections.tiles[index]]], 0.35)
    panel.tile_edges(windows)
    return panel.picture(), [(f"{len(shown)} detections, a colour for each tile", INK)]


def what_is_made(image: np.ndarray, found: np.ndarray, truth: np.ndarray) -> tuple[Image.Image, Words]:
    """The buildings of a rule, right ones and wrong ones, and how many of them there are."""
    pairs = overlapping_pairs(found, truth)
    best = np.zeros(len(found))
    np.maximum.at(best, pairs.proposals, pairs.ious)
    right = walk(pairs, best) >= 0
    panel = Panel(image)
    shown = _in_view(found)
    for polygon in found[shown & right]:
        panel.polygon(polygon, RIGHT, 0.3)
    for polygon in found[shown & ~right]:
        panel.polygon(polygon, WRONG, 0.45)
    counts = f"{(shown & right).sum()} buildings right,", f"{(shown & ~right).sum()} wrong"
    return panel.picture(), list(zip(counts, (RIGHT, WRONG), strict=True))


def _in_view(polygons: np.ndarray) -> np.ndarray:
    """bool[n]: which polygons the view shows some of."""
    column, row, width, height = VIEW
    return shapely.intersects(polygons, shapely.box(column, row, column + width, row + height))


def side_by_side(panels: list[tuple[str, Image.Image, Words]]) -> Image.Image:
    """The panels in a row, each with its title and a line below it."""
    width = len(panels) * (PANEL + GAP) + GAP
    picture = Image.new("RGB", (width, HEAD + PANEL + GAP), "white")
    pen = ImageDraw.Draw(picture)
    title, note = ImageFont.load_default(24), ImageFont.load_default(17)
    for number, (name, panel, words) in enumerate(panels):
        left = GAP + number * (PANEL + GAP)
        pen.text((left, 5), name, INK, title)
        at = float(left)
        for text, colour in words:
            pen.text((at, 34), text, colour, note)
            at += note.getlength(text + " ")
        picture.paste(panel, (left, HEAD))
    return picture


def main() -> None:
    """Draw the picture."""
    scene = paint_scene(SPEC)
    windows = windows_over(SPEC.width, SPEC.height, TILE_SIZE, OVERLAP)
    detections = see(scene.buildings, np.zeros(len(scene.buildings), np.int64), windows, NETWORK, seed=0)
    panels = [("What the tiles saw", *what_tiles_see(scene.image, detections, windows))]
    for name, rule in (("Box NMS", box_nms), ("Jengo", ours)):
        found = rule(detections, windows).polygons
        panels.append((name, *what_is_made(scene.image, found, scene.buildings)))
    picture = side_by_side(panels).quantize(COLOURS, kmeans=2, dither=Image.Dither.NONE)
    picture.save(PICTURE, optimize=True)


if __name__ == "__main__":
    main()
