"""What is drawn over the picture of a building, and said below it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from pipeline import verdicts
from pipeline.report.gallery import Crop
from pipeline.report.vectors import svg_path
from pipeline.report.wording import WORDS
from pipeline.schema import Window
from pipeline.verdicts import Verdicts

if TYPE_CHECKING:
    from pipeline.report.context import ReportContext
    from pipeline.styles import Style

BESIDE = 50
"""Outlines of buildings, and of labels, that a picture shows at most."""


class Cards:
    """Makes the cards of a page: outlines from the lowest to the uppermost, and words."""

    def __init__(self, context: ReportContext, styles: Sequence[Style]):
        truths = () if context.truth_polygons_px is None else context.truth_polygons_px
        self._context, self._styles = context, styles
        self._buildings = shapely.STRtree(np.array(context.polygons_px, dtype=object))
        self._labels = shapely.STRtree(np.array(truths, dtype=object))
        self._found = context.found or Verdicts.of_nothing(len(context.polygons_px))
        self._labelled = context.labelled or Verdicts.of_nothing(len(truths))

    def card(self, crop: Crop) -> dict[str, Any]:
        """What the layout needs of a crop, but its picture."""
        if crop.building >= 0:
            polygon, name = self._buildings.geometries[crop.building], f"Building {crop.building + 1}"
            area_m2 = self._context.areas_m2[crop.building]
            words = f"{self._style(crop.building).name} {self._context.confidences[crop.building]:.2f}"
            why = self._why_building(crop)
        else:
            polygon, name = self._labels.geometries[crop.label], f"Label {crop.label + 1}"
            area_m2 = shapely.area(polygon) * math.prod(self._context.ground_m_per_px)
            words, why = f"labelled {self._label_style(crop).name}", self._why_label(crop)
        centre = shapely.centroid(polygon)
        return {
            "window": crop.window,
            "outlines": [outline for outline in self._outlines(crop) if outline["path"]],
            "name": name,
            "words": f"{words}, {why}" if why else words,
            "area_m2": float(area_m2),
            "x": round(centre.x, 1),
            "y": round(centre.y, 1),
            "reach": max(crop.window.width, crop.window.height),
        }

    def _outlines(self, crop: Crop) -> Iterator[dict[str, Any]]:
        """The label of a mistake filled, all labels, all buildings by category, and the building itself."""

        def outline(kind: str, key: str, polygons: np.ndarray) -> dict[str, Any]:
            return {"kind": kind, "key": key, "path": svg_path(polygons, crop.factor)}

        buildings, labels = self._buildings.geometries, self._labels.geometries
        if crop.label >= 0 and self._labelled.names[crop.label] != verdicts.RIGHT:
            yield outline("filled", self._label_style(crop).key, labels[[crop.label]])
        yield outline("labelled", "", labels[_shown(self._labels, crop.window)])
        beside = _shown(self._buildings, crop.window)
        categories = np.asarray(self._context.building_categories)[beside]
        for category in np.unique(categories).tolist():
            yield outline("beside", self._styles[category].key, buildings[beside[categories == category]])
        building = crop.building if crop.building >= 0 else int(self._labelled.others[crop.label])
        if building >= 0:
            yield outline("predicted", self._style(building).key, buildings[[building]])

    def _why_building(self, crop: Crop) -> str:
        """What there is to say of the building's verdict."""
        label, overlap = f"label {crop.label + 1}", f"IoU {self._found.ious[crop.building]:.2f}"
        match self._found.names[crop.building]:
            case verdicts.FALSE:
                return WORDS[verdicts.FALSE]
            case verdicts.MISTAKEN:
                return f"labelled {self._label_style(crop).name}"
            case verdicts.INEXACT:
                return f"{overlap} with {label}"
            case verdicts.REPEATED:
                taker = self._labelled.others[crop.label] + 1
                return f"{overlap} with {label}, which building {taker} took"
            case verdicts.INVALID:
                return f"on {label}, which is invalid"
        return ""

    def _why_label(self, crop: Crop) -> str:
        """What there is to say of the label's verdict."""
        building = self._labelled.others[crop.label] + 1
        overlap = f"IoU {self._labelled.ious[crop.label]:.2f}"
        match self._labelled.names[crop.label]:
            case verdicts.INEXACT:
                return f"{overlap} with building {building}"
            case verdicts.REPEATED:
                other = self._found.others[building - 1] + 1
                return f"{overlap} with building {building}, which took label {other}"
            case verdicts.INVALID:
                return shapely.is_valid_reason(self._labels.geometries[crop.label]).partition("[")[0].lower()
        return ""

    def _style(self, building: int) -> Style:
        return self._styles[int(self._context.building_categories[building])]

    def _label_style(self, crop: Crop) -> Style:
        assert self._context.truth_categories is not None
        return self._styles[int(self._context.truth_categories[crop.label])]  # -1, the last one, is unknown


def _shown(tree: shapely.STRtree, window: Window) -> np.ndarray:
    """int64[b], rising: the polygons of a tree that a window shows, the `BESIDE` largest of them."""
    left, top, width, height = window
    rows = tree.query(shapely.box(left, top, left + width, top + height))
    return np.sort(rows[np.argsort(-shapely.area(tree.geometries[rows]), kind="stable")[:BESIDE]])
