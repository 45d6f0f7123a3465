"""A COCO dataset of the round's chips, as CVAT and others take it, and the way back.

Annotations carry their proposal's row as the attribute `proposal`; tools that drop attributes lose nothing
but that: what overlaps a proposal is taken as made from it. COCO names no reviewer: the file's stem does.

Source: Lin et al., Microsoft COCO (2014), data format for object detection; CVAT documentation, COCO; of its
rectangles, the COCO converter of Datumaro, by which it exports.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import PurePath, PureWindowsPath
from typing import Annotated, Any, Self

import numpy as np
import shapely
from pydantic import AfterValidator, Field, field_validator, model_validator
from shapely.affinity import rotate, translate

from pipeline.errors import LabelError
from pipeline.review.records import (
    UNKNOWN,
    Answer,
    Coordinate,
    QueuedTile,
    ReviewedBuilding,
    Round,
    Shown,
    TileReview,
)


def coco_dataset(
    tiles: Sequence[QueuedTile], shown: Mapping[str, Sequence[Shown]], categories: Sequence[str]
) -> dict[str, Any]:
    """The dataset: chips `<tile name>.jpg` and what is proposed in them.

    Args:
        tiles: of the round.
        shown: by tile name, the proposals cut at the tile's edge.
        categories: names in order; `unknown` is added.
    """
    numbers = {name: number for number, name in enumerate((*categories, UNKNOWN), start=1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_number, tile in enumerate(tiles, start=1):
        _, _, width, height = tile.window
        images.append({"id": image_number, "file_name": f"{tile.name}.jpg", "width": width, "height": height})
        for one in shown[tile.name]:
            annotation = _annotation(one, tile, numbers)
            annotations.append({"id": len(annotations) + 1, "image_id": image_number, **annotation})
    return {
        "info": {"description": "Proposals of a review round"},
        "licenses": [],
        "images": images,
        "categories": [{"id": number, "name": name} for name, number in numbers.items()],
        "annotations": annotations,
    }


def _annotation(shown: Shown, tile: QueuedTile, numbers: Mapping[str, int]) -> dict[str, Any]:
    xy = shapely.get_coordinates(shown.polygon_px.exterior)[:-1] - tile.window[:2]
    (left, top), (right, bottom) = xy.min(axis=0).tolist(), xy.max(axis=0).tolist()
    attributes: dict[str, Any] = {"proposal": shown.row_id, "source": shown.source}
    if not math.isnan(shown.score):
        attributes["score"] = float(shown.score)
    return {
        "category_id": numbers[shown.category or UNKNOWN],
        "segmentation": [xy.ravel().tolist()],
        "area": float(shapely.Polygon(xy).area),
        "bbox": [left, top, right - left, bottom - top],
        "iscrowd": 0,
        "attributes": attributes,
    }


def is_coco(content: Any) -> bool:
    """Whether parsed JSON is a COCO dataset."""
    return isinstance(content, dict) and {"images", "annotations", "categories"} <= content.keys()


def _even(ring: list[float]) -> list[float]:
    if len(ring) % 2:
        raise ValueError(f"a ring of {len(ring)} numbers, which are no pairs of x and y")
    return ring


def _no_keypoints(keypoints: Any) -> Any:
    if keypoints:
        raise ValueError("keypoints instead of polygons")
    return keypoints


class _Image(Answer):
    id: int
    file_name: str
    width: int | None = None
    height: int | None = None


class _Category(Answer):
    id: int
    name: str


class _Attributes(Answer):
    proposal: Any = None
    rotation: float = 0.0
    """Degrees."""


class _Annotation(Answer):
    image_id: int
    category_id: int
    segmentation: list[Annotated[list[Coordinate], AfterValidator(_even)]] = Field(default_factory=list)
    bbox: tuple[Coordinate, Coordinate, Coordinate, Coordinate] | None = None
    """Left, top, width, height; read only where there is no segmentation."""
    keypoints: Annotated[Any, AfterValidator(_no_keypoints)] = None
    attributes: _Attributes | None = None

    @field_validator("segmentation", mode="before")
    @classmethod
    def _no_mask(cls, segmentation: Any) -> Any:
        if isinstance(segmentation, dict):
            raise ValueError("a mask instead of polygons")
        return segmentation

    @property
    def outlines(self) -> list[shapely.Polygon]:
        """In pixels of the picture; a rectangle of CVAT's comes back as a box without segmentation.

        The box is the rectangle before it was turned about its centre, clockwise on the screen.
        """
        if not self.segmentation and self.bbox is not None:
            left, top, width, height = self.bbox
            box = shapely.box(left, top, left + width, top + height)
            return [rotate(box, self.attributes.rotation if self.attributes else 0.0)]
        return [shapely.Polygon(np.reshape(ring, (-1, 2))) for ring in self.segmentation if len(ring) >= 6]


class _Dataset(Answer):
    images: list[_Image]
    categories: list[_Category]
    annotations: list[_Annotation]

    @model_validator(mode="after")
    def _hangs_together(self) -> Self:
        numbers = [image.id for image in self.images]
        if len(set(numbers)) < len(numbers):
            raise ValueError("two images have one id")
        if lost := {one.image_id for one in self.annotations} - set(numbers):
            raise ValueError(f"annotations of image {min(lost)}, which is not there")
        return self


def read_coco(content: Any, round_: Round, file: str) -> list[TileReview]:
    """The reviews in a COCO dataset: every picture in it counts as looked at.

    Args:
        content: the dataset, parsed.
        round_: the round that it answers.
        file: its name; the stem is the person.

    Raises:
        LabelError: a picture is not of this round, or a category unknown.
        ValidationError: it is no COCO dataset of polygons.
    """
    dataset = _Dataset.model_validate(content)
    names = {category.id: category.name for category in dataset.categories}
    found: dict[int, list[_Annotation]] = {image.id: [] for image in dataset.images}
    for annotation in dataset.annotations:
        found[annotation.image_id].append(annotation)
    reviews = []
    for image in dataset.images:
        tile = round_.tile(PureWindowsPath(image.file_name).stem)  # which takes either slash
        if tile is None:
            raise LabelError(
                "a picture of another round",
                where=file,
                found=image.file_name,
                remedy=f"Export the task of round {round_.round}.",
            )
        size, chip = (image.width, image.height), (tile.window.width, tile.window.height)
        if None not in size and size != chip:
            raise LabelError(
                "a picture of another size than the one that went out",
                where=file,
                found=f"{image.file_name} of {image.width} x {image.height} px",
                remedy=f"Export it as it was, {chip[0]} x {chip[1]} px.",
            )
        buildings = [
            building
            for annotation in found[image.id]
            for building in _buildings(annotation, names, tile, round_, file)
        ]
        person = PurePath(file).stem
        reviews.append(TileReview(tile.image_id, tile.tile_id, person, "", file, math.nan, True, buildings))
    return reviews


def _buildings(
    annotation: _Annotation, names: Mapping[int, str], tile: QueuedTile, round_: Round, file: str
) -> list[ReviewedBuilding]:
    said = names.get(annotation.category_id, annotation.category_id)
    category = round_.category(said, "a category that is none of the round's", file)
    proposal = str(annotation.attributes.proposal) if annotation.attributes else ""
    return [
        ReviewedBuilding(
            translate(outline, *tile.window[:2]),
            category,
            int(proposal) if proposal.isdecimal() else None,
            math.nan,
        )
        for outline in annotation.outlines
    ]
