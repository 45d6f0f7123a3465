"""Training tiles for tests: bright rectangles on a dark ground, one colour per category."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import Affine

from models.tiles import TrainingTile

CATEGORIES = ("foundation", "unfinished", "completed")
COLOURS = {
    "foundation": (200, 200, 60),
    "unfinished": (60, 200, 200),
    "completed": (220, 80, 80),
    None: (120, 120, 120),
}


def item(x1, y1, x2, y2, category="completed", visible_share=1.0):
    """An upright rectangle in tile px."""
    ring = [[x1, y1], [x2, y1], [x2, y2], [x1, y2], [x1, y1]]
    return {"label_id": 1, "category": category, "polygons": [[ring]], "visible_share": visible_share}


def write_tile(folder: Path, name: str, items: list[dict], width: int = 96, height: int = 96) -> TrainingTile:
    """Paint the items and write the pair."""
    image = np.random.default_rng(0).integers(20, 50, (3, height, width), dtype=np.uint8)
    for entry in items:
        for part in entry["polygons"]:
            (x1, y1), (x2, y2) = np.min(part[0], axis=0), np.max(part[0], axis=0)
            colour = np.array(COLOURS.get(entry["category"], (0, 0, 0)), np.uint8)
            image[:, int(y1) : int(y2), int(x1) : int(x2)] = colour[:, None, None]
    (folder / "tiles").mkdir(parents=True, exist_ok=True)
    (folder / "items").mkdir(exist_ok=True)
    tile = TrainingTile(folder / "tiles" / f"{name}.tif", folder / "items" / f"{name}.json")
    with rasterio.open(
        tile.image, "w", driver="GTiff", width=width, height=height, count=3, dtype="uint8",
        compress="deflate", crs="EPSG:32737", transform=Affine(0.1, 0, 5e5, 0, -0.1, 9e6),
    ) as dst:  # fmt: skip
        dst.write(image)
    content = {"schema_version": 1, "image_id": "grid", "tile_id": name, "window": [0, 0, width, height]}
    tile.items.write_text(json.dumps(content | {"items": items}))
    return tile


def tiles(folder: Path, count: int = 4) -> list[TrainingTile]:
    """A few tiles with one rectangle of each category, the last tile empty."""
    made = []
    for number in range(count - 1):
        shift = 4 * number
        items = [
            item(6 + shift, 8, 34 + shift, 36, "foundation"),
            item(50, 10 + shift, 84, 40 + shift, "unfinished"),
            item(12, 56, 44, 84 - shift, "completed"),
        ]
        made.append(write_tile(folder, f"r0000_c{number:04d}", items))
    return [*made, write_tile(folder, f"r0000_c{count - 1:04d}", [])]
