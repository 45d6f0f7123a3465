"""Training tiles for other people's networks: as a COCO dataset and as one for YOLO's segmentation.

One folder holds both: `images/<side>/<name>.jpg`, `labels/<side>/<name>.txt` and `data.yaml` for YOLO,
`annotations/<side>.json` for COCO; the sides are `train` and `val`, which share no ground. Neither knows
holes: a polygon with one is cut into parts without, whose area is the same.

Source: T.-Y. Lin et al., Microsoft COCO (2014), object detection format; Ultralytics documentation,
instance segmentation datasets (2024).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import shapely

DECIMALS_PX = 2
"""Of COCO's coordinates."""
DECIMALS_YOLO = 6
"""Of YOLO's, which are shares of the tile."""
SIDES = ("train", "val")


class Shape(NamedTuple):
    """A building of a tile."""

    category: int
    """Index from 0."""
    polygon: shapely.Geometry
    """Polygon or MultiPolygon in tile pixels, valid, with an area."""


def coco_image(number: int, name: str, width: int, height: int) -> dict[str, Any]:
    """A tile as COCO lists it; `name` is its file's, below the dataset's folder."""
    return {"id": number, "file_name": name, "width": width, "height": height}


def coco_annotation(number: int, image: int, shape: Shape) -> dict[str, Any]:
    """A building as COCO lists it, numbers and categories from 1."""
    left, top, right, bottom = shapely.bounds(shape.polygon).tolist()
    return {
        "id": number,
        "image_id": image,
        "category_id": shape.category + 1,
        "segmentation": [
            [round(value, DECIMALS_PX) for point in ring for value in point] for ring in _rings(shape.polygon)
        ],
        "area": round(float(shape.polygon.area), DECIMALS_PX),
        "bbox": [round(value, DECIMALS_PX) for value in (left, top, right - left, bottom - top)],
        "iscrowd": 0,
    }


def coco_dataset(
    images: list[dict[str, Any]], annotations: list[dict[str, Any]], categories: Sequence[str]
) -> dict[str, Any]:
    """All of one side."""
    return {
        "info": {"description": "Buildings in tiles of orthomosaics"},
        "licenses": [],
        "images": images,
        "categories": [{"id": number, "name": name} for number, name in enumerate(categories, start=1)],
        "annotations": annotations,
    }


def yolo_line(shape: Shape, width: int, height: int) -> str:
    """A building as a line of a tile's label file: its category, then x and y as shares of the tile.

    Several parts are one outline, joined by a line of no width that runs there and back.
    """
    first, *others = _rings(shape.polygon)
    outline = list(first)
    for ring in others:
        outline += [*ring, ring[0], first[-1]]
    places = (
        f"{min(max(value / size, 0.0), 1.0):.{DECIMALS_YOLO}f}"
        for point in outline
        for value, size in zip(point, (width, height), strict=True)
    )
    return f"{shape.category} {' '.join(places)}"


def yolo_description(categories: Sequence[str]) -> str:
    """The dataset's `data.yaml`."""
    names = "\n".join(f"  {number}: {_quoted(name)}" for number, name in enumerate(categories))
    return f"path: .\ntrain: images/train\nval: images/val\nnames:\n{names}\n"


def _quoted(name: str) -> str:
    """A name as a single-quoted scalar of YAML."""
    return "'" + name.replace("'", "''") + "'"


def _rings(polygon: shapely.Geometry) -> list[list[tuple[float, float]]]:
    """Corners of the parts without holes, none repeated."""
    return [
        [(float(x), float(y)) for x, y in part.exterior.coords[:-1]]
        for whole in shapely.get_parts(polygon)
        if isinstance(whole, shapely.Polygon)
        for part in _without_holes(whole)
    ]


def _without_holes(polygon: shapely.Polygon) -> Iterator[shapely.Polygon]:
    """Parts that make up the polygon, cut upright through each of its holes."""
    if not polygon.interiors:
        if polygon.area > 0:
            yield polygon
        return
    left, top, right, bottom = polygon.bounds
    hole_left, _, hole_right, _ = polygon.interiors[0].bounds
    middle = (hole_left + hole_right) / 2
    for side in (shapely.box(left, top, middle, bottom), shapely.box(middle, top, right, bottom)):
        for part in shapely.get_parts(shapely.intersection(polygon, side)):
            if isinstance(part, shapely.Polygon):
                yield from _without_holes(part)
