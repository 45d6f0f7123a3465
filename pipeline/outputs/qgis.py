"""How QGIS shows the layers of an image's GeoPackage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple
from xml.etree import ElementTree

from pipeline.outputs.geopackage import BUILDINGS, LABELS, RAW_OUTLINES, REVIEW, TILES
from pipeline.outputs.review import REASONS
from pipeline.qml import Look, layer_style, style_document
from pipeline.styles import UNKNOWN, category_styles

Looks = Callable[[Sequence[str]], dict[str, Look]]


class Layer(NamedTuple):
    """How a layer looks."""

    name: str
    looks: Looks
    """From the categories' names, how features are drawn by what `field` holds."""
    field: str
    """'' where all are drawn alike."""
    key: str
    """The field that names a feature."""
    tip: str
    """Shown under the pointer when QGIS's map tips are on: HTML with expressions."""
    shown: bool = False
    """Whether a project shows it from the start."""
    geometry: str = "fill"

    def style(self, categories: Sequence[str]) -> list[ElementTree.Element]:
        """What stands in its style or in a project."""
        looks = self.looks(categories)
        return layer_style(self.field, looks, geometry=self.geometry, tip=self.tip, shown=self.key)


def _buildings(categories: Sequence[str]) -> dict[str, Look]:
    opacity = '25 + 75 * "confidence"'  # in percent: the surer, the fuller
    return {
        style.name: Look(style.colour, 60, 0.7, "solid" if style.dashes == "none" else "dash", opacity)
        for style in category_styles(categories)
    }


def _labels(categories: Sequence[str]) -> dict[str, Look]:
    looks = {style.name: Look(style.colour, 110, 0.3) for style in category_styles(categories)}
    return looks | {UNKNOWN: Look("#f5f5f5", 110, 0.3)}


def _outlines(_: Sequence[str]) -> dict[str, Look]:
    return {"": Look("#f5f5f5", width=0.3, dashes="dot")}


def _tiles(_: Sequence[str]) -> dict[str, Look]:
    return {"buildings": Look("#9aa5ad", width=0.2), "nothing found": Look("#5c646c", 30, 0.2, "dot")}


def _review(_: Sequence[str]) -> dict[str, Look]:
    colours = ("#d55e00", "#cc79a7", "#e69f00", "#f0e442", "#56b4e9", "#f5f5f5")  # the most urgent first
    return {reason.name: Look(colour, 255, 3.2) for reason, colour in zip(REASONS, colours, strict=True)}


LAYERS = (
    Layer(
        REVIEW,
        _review,
        "reason",
        "reason",
        '<b>[% "reason" %]</b>: [% "meaning" %]',
        shown=True,
        geometry="marker",
    ),
    Layer(
        BUILDINGS,
        _buildings,
        "class_name",
        "building_id",
        '<b>[% "class_name" %]</b> [% round("confidence", 2) %]<br>Building [% "building_id" %], '
        '[% round("area_m2") %] m²',
        shown=True,
    ),
    Layer(
        LABELS,
        _labels,
        "class_name",
        "label_id",
        'Label [% "label_id" %]: <b>[% "class_name" %]</b> [% coalesce("outcome", \'\') %]',
    ),
    Layer(RAW_OUTLINES, _outlines, "", "building_id", 'Building [% "building_id" %] as it was found'),
    Layer(
        TILES,
        _tiles,
        "status",
        "tile_id",
        'Tile [% "tile_id" %]: [% "buildings" %] buildings, mean confidence '
        "[% coalesce(round(\"mean_confidence\", 2), '-') %]",
    ),
)
"""From the top."""


def layer_styles(categories: Sequence[str]) -> dict[str, str]:
    """QML of each layer of the GeoPackage, by name."""
    return {layer.name: style_document(layer.style(categories)) for layer in LAYERS}
