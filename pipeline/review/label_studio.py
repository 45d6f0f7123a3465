"""A project for Label Studio: labeling interface, tasks with predictions, and the way back.

Label Studio counts in percent of a picture's width and height; its numbers are kept as they are, so that a
polygon comes back to within rounding of the last bit. It knows no holes: a building that is left as it was
keeps those it had. Regions carry the id of their proposal, which Label Studio hands on to annotations.

Source: Label Studio documentation, "Import pre-annotated data" and "JSON export format".
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import PurePath
from typing import Annotated, Any

import numpy as np
import shapely
from pydantic import AfterValidator, BeforeValidator, TypeAdapter

from pipeline.errors import LabelError
from pipeline.review.records import (
    UNKNOWN,
    Answer,
    Coordinate,
    Moment,
    QueuedTile,
    ReviewedBuilding,
    Round,
    Shown,
    TileReview,
)
from pipeline.styles import category_styles

FROM_NAME, TO_NAME, IMAGE = "building", "image", "image"
_PROPOSAL = "proposal-"
_POLYGON = "polygonlabels"
_UNLABELLED = "polygon"
"""Of a polygon whose label was taken away."""
_OTHER_SHAPES = ("rectangle", "ellipse", "brush", "keypoint", "vector", "bitmask")


def labeling_config(categories: Sequence[str]) -> str:
    """The labeling interface as XML: one image, polygons of every category and of none."""
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", name=TO_NAME, value=f"${IMAGE}", zoom="true", zoomControl="true")
    labels = ElementTree.SubElement(
        view, "PolygonLabels", name=FROM_NAME, toName=TO_NAME, strokeWidth="2", pointSize="small"
    )
    for style in category_styles(categories, unknown=True):
        ElementTree.SubElement(labels, "Label", value=style.name, background=style.colour)
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode")


def labeling_task(tile: QueuedTile, shown: Sequence[Shown], picture: str) -> dict[str, Any]:
    """A task of one tile with what is proposed in it as a prediction.

    Args:
        tile: the tile.
        shown: the proposals, cut at the tile's edge.
        picture: where Label Studio finds the chip.
    """
    regions = [_region(tile, one) for one in shown]
    scores = [one.score for one in shown if not math.isnan(one.score)]
    prediction = {
        "model_version": " | ".join(sorted({one.source for one in shown})) or "nothing",
        "score": float(np.mean(scores)) if scores else 0.0,
        "result": regions,
    }
    data = {IMAGE: picture, "tile": tile.name, "uncertainty": round(tile.uncertainty, 4)}
    return {"data": data, "predictions": [prediction]}


def _region(tile: QueuedTile, shown: Shown) -> dict[str, Any]:
    col_off, row_off, width, height = tile.window
    xy = shapely.get_coordinates(shown.polygon_px.exterior)[:-1]
    percent = (xy - (col_off, row_off)) / (width, height) * 100
    region = {
        "id": f"{_PROPOSAL}{shown.row_id}",
        "type": _POLYGON,
        "from_name": FROM_NAME,
        "to_name": TO_NAME,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {
            "points": percent.tolist(),
            "closed": True,
            _POLYGON: [shown.category or UNKNOWN],
        },
    }
    return region if math.isnan(shown.score) else region | {"score": float(shown.score)}


def is_label_studio(content: Any) -> bool:
    """Whether parsed JSON is an export of Label Studio."""
    return isinstance(content, list) and all(isinstance(task, dict) and "data" in task for task in content)


def _shape(region: Any) -> Any:
    """The region; None for one that is no shape, as a choice, a text or a relation."""
    if not isinstance(region, dict) or (kind := str(region.get("type"))) in (_POLYGON, _UNLABELLED):
        return region
    if kind.endswith("labels") or kind in _OTHER_SHAPES:
        raise ValueError(f"{kind} instead of {_POLYGON}")
    return None


def _unturned(degrees: float) -> float:
    # Versions of Label Studio differ in whether points turn along with the picture.
    if degrees % 360:
        raise ValueError(f"drawn on a picture that was turned by {degrees:g} degrees")
    return degrees


class _Outline(Answer):
    points: list[tuple[Coordinate, Coordinate]]
    """Percent of the picture's width and height."""
    polygonlabels: tuple[str, ...] = ()


class _Polygon(Answer):
    id: str = ""
    image_rotation: Annotated[float, AfterValidator(_unturned)] = 0.0
    value: _Outline


class _Annotation(Answer):
    result: list[Annotated[_Polygon | None, BeforeValidator(_shape)]]
    was_cancelled: bool = False
    completed_by: Any = None
    lead_time: float | None = None
    created_at: Moment | None = None
    updated_at: Moment | None = None

    @property
    def person(self) -> str:
        """Who made it: an address, or a number where the export names people by that."""
        if isinstance(self.completed_by, dict):
            return str(self.completed_by.get("email") or self.completed_by.get("id"))
        return "" if self.completed_by is None else f"user {self.completed_by}"


class _Data(Answer):
    tile: str = ""


class _Task(Answer):
    id: Any = None
    data: _Data
    annotations: tuple[_Annotation, ...] = ()


def read_label_studio(content: Any, round_: Round, file: str) -> list[TileReview]:
    """The reviews in a JSON export: one per task and annotation that was not cancelled.

    Args:
        content: the export, parsed.
        round_: the round that it answers.
        file: its name.

    Raises:
        LabelError: a task is not of this round, or a label no category.
        ValidationError: it is no export of Label Studio, or a region is a shape other than a polygon.
    """
    reviews = []
    for task in TypeAdapter(list[_Task]).validate_python(content):
        tile = round_.tile(task.data.tile)
        if tile is None:
            raise LabelError(
                "a task of another round or project",
                where=file,
                found=task.data.tile or task.id,
                remedy=f"Export the project of round {round_.round}.",
            )
        for annotation in task.annotations:
            if not annotation.was_cancelled:
                reviews.append(_review(annotation, tile, round_, file))
    return reviews


def _review(annotation: _Annotation, tile: QueuedTile, round_: Round, file: str) -> TileReview:
    return TileReview(
        tile.image_id,
        tile.tile_id,
        annotation.person or PurePath(file).stem,
        annotation.updated_at or annotation.created_at or "",
        file,
        math.nan if annotation.lead_time is None else annotation.lead_time,
        True,
        [_building(region, tile, round_, file) for region in annotation.result if region],
    )


def _building(region: _Polygon, tile: QueuedTile, round_: Round, file: str) -> ReviewedBuilding:
    col_off, row_off, width, height = tile.window
    said = next(iter(region.value.polygonlabels), UNKNOWN)
    xy = np.array(region.value.points, dtype=np.float64).reshape(-1, 2) / 100 * (width, height)
    polygon = shapely.Polygon(np.add(xy, (col_off, row_off))) if len(xy) > 2 else shapely.Polygon()
    number = region.id.removeprefix(_PROPOSAL)
    return ReviewedBuilding(
        polygon,
        round_.category(said, "a label that is no category", file),
        int(number) if number != region.id and number.isdecimal() else None,
        math.nan,
    )
