"""ExportTraining: the training pairs as a COCO dataset and as one for YOLO's segmentation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import shapely
from PIL import Image

from pipeline.held_out import item_polygon
from pipeline.outputs.training_sets import (
    SIDES,
    Shape,
    coco_annotation,
    coco_dataset,
    coco_image,
    yolo_description,
    yolo_line,
)
from pipeline.schema import Item
from pipeline.steps import Progress
from pipeline.steps.training import FoundPair, read_sides, read_tile_items
from pipeline.styles import UNKNOWN

JPEG_QUALITY = 95


def export_training(
    folders: Sequence[Path],
    categories: Sequence[str],
    held_out_images: Sequence[str],
    share: float,
    target: Path,
    progress: Progress,
) -> dict[str, int]:
    """Writes both datasets into `target`; returns the tiles of each side and the buildings in them.

    Buildings of unknown condition are a category of their own, `unknown`, the last.

    Args:
        folders: of CutTiles, one per training image.
        categories: names in the order of the labels.
        held_out_images: images held out whole; none for a part of each.
        share: that part, 0 to 1.
        target: an existing folder to write into.
        progress: told after every tile.
    """
    names = [*categories, UNKNOWN]
    sides = dict(zip(SIDES, read_sides(folders, held_out_images, share), strict=True))
    counts = {f"{side}_tiles": len(pairs) for side, pairs in sides.items()} | {"buildings": 0}
    done, total = 0, sum(len(pairs) for pairs in sides.values())
    (target / "annotations").mkdir()
    for side, pairs in sides.items():
        for kind in ("images", "labels"):
            (target / kind / side).mkdir(parents=True)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number, pair in enumerate(pairs, start=1):
            image, shapes = _write_tile(pair, number, side, names, target)
            images.append(image)
            for shape in shapes:
                annotations.append(coco_annotation(len(annotations) + 1, number, shape))
            done += 1
            progress(done / total, f"tile {done}/{total}")
        content = coco_dataset(images, annotations, names)
        (target / "annotations" / f"{side}.json").write_text(json.dumps(content), encoding="utf-8")
        counts["buildings"] += len(annotations)
    (target / "data.yaml").write_text(yolo_description(names), encoding="utf-8")
    return counts


def _write_tile(
    pair: FoundPair, number: int, side: str, names: Sequence[str], target: Path
) -> tuple[dict[str, Any], list[Shape]]:
    """A tile's picture and YOLO's labels; what COCO lists of it."""
    folder, tile = pair
    content = read_tile_items(folder, tile)
    with rasterio.open(folder / "tiles" / f"{tile}.tif") as src:
        pixels = np.moveaxis(src.read(), 0, -1)
    name, (height, width) = f"{content.image_id}_{tile}", pixels.shape[:2]
    picture = f"images/{side}/{name}.jpg"
    Image.fromarray(pixels).save(target / picture, quality=JPEG_QUALITY)
    shapes = [shape for item in content.items if (shape := _shape(item, names))]
    lines = "".join(yolo_line(shape, width, height) + "\n" for shape in shapes)
    (target / "labels" / side / f"{name}.txt").write_text(lines, encoding="utf-8")
    return coco_image(number, picture, width, height), shapes


def _shape(item: Item, names: Sequence[str]) -> Shape | None:
    """The item as datasets take it; None for one without area."""
    whole = shapely.get_parts(item_polygon(item))
    polygon = shapely.union_all(whole[shapely.get_type_id(whole) == 3])
    return Shape(names.index(item.category or UNKNOWN), polygon) if polygon.area > 0 else None
