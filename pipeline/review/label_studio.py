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
from typing import Any

import numpy as np
import shapely

from pipeline.errors import LabelError
from pipeline.review.records import UNKNOWN, QueuedTile, ReviewedBuilding, Round, Shown, TileReview
from pipeline.styles import category_styles

FROM_NAME, TO_NAME, IMAGE = "building", "image", "image"
_PROPOSAL = "proposal-"


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
        "type": "polygonlabels",
        "from_name": FROM_NAME,
        "to_name": TO_NAME,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {
            "points": percent.tolist(),
            "closed": True,
            "polygonlabels": [shown.category or UNKNOWN],
        },
    }
    return region if math.isnan(shown.score) else region | {"score": float(shown.score)}


def is_label_studio(content: Any) -> bool:
    """Whether parsed JSON is an export of Label Studio."""
    return isinstance(content, list) and all(isinstance(task, dict) and "data" in task for task in content)


def read_label_studio(content: list[dict[str, Any]], round_: Round, file: str) -> list[TileReview]:
    """The reviews in a JSON export: one per task and annotation that was not cancelled.

    Args:
        content: the export, parsed.
        round_: the round that it answers.
        file: its name.

    Raises:
        LabelError: a task is not of this round, or a region is not a polygon of its labels.
    """
    reviews = []
    for task in content:
        name = task["data"].get("tile", "")
        tile = round_.tile(name)
        if tile is None:
            raise LabelError(
                "a task of another round or project",
                where=file,
                found=name or task.get("id"),
                remedy=f"Export the project of round {round_.round}.",
            )
        for annotation in task.get("annotations", []):
            if annotation.get("was_cancelled"):
                continue
            reviews.append(_review(annotation, tile, round_, file))
    return reviews


def _review(annotation: dict[str, Any], tile: QueuedTile, round_: Round, file: str) -> TileReview:
    seconds = annotation.get("lead_time")
    regions = [region for region in annotation["result"] if region.get("type") == "polygonlabels"]
    return TileReview(
        tile.image_id,
        tile.tile_id,
        _person(annotation),
        annotation.get("updated_at") or annotation.get("created_at") or "",
        file,
        math.nan if seconds is None else float(seconds),
        True,
        [_building(region, tile, round_, file) for region in regions],
    )


def _person(annotation: dict[str, Any]) -> str:
    by = annotation.get("completed_by")
    if isinstance(by, dict):
        return str(by.get("email") or by.get("id"))
    return "" if by is None else f"user {by}"


def _building(region: dict[str, Any], tile: QueuedTile, round_: Round, file: str) -> ReviewedBuilding:
    col_off, row_off, width, height = tile.window
    value = region["value"]
    category = value["polygonlabels"][0] if value.get("polygonlabels") else UNKNOWN
    if category != UNKNOWN and category not in round_.categories:
        raise LabelError(
            "a label that is no category",
            where=file,
            found=category,
            remedy=f"The categories are {', '.join(round_.categories)}.",
        )
    xy = np.array(value["points"], dtype=np.float64).reshape(-1, 2) / 100 * (width, height)
    polygon = shapely.Polygon(np.add(xy, (col_off, row_off))) if len(xy) > 2 else shapely.Polygon()
    proposal = str(region.get("id", ""))
    number = proposal.removeprefix(_PROPOSAL)
    return ReviewedBuilding(
        polygon,
        None if category == UNKNOWN else category,
        int(number) if number != proposal and number.isdecimal() else None,
        math.nan,
    )
