"""How QGIS shows and edits the layers of a review: symbols, forms and value lists, as QML.

Source: QGIS 3.22, layer style files (QML) and the table `layer_styles` of a GeoPackage.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence

BUILDING_STATUSES = ("proposed", "accepted", "edited", "rejected", "added")
TILE_STATUSES = ("todo", "done")
NOW = "format_date(now(), 'yyyy-MM-ddTHH:mm:ss')"


def style(
    attribute: str,
    colours: Mapping[str, str],
    choices: Mapping[str, Sequence[str]],
    defaults: Mapping[str, tuple[str, bool]],
    locked: Sequence[str],
) -> str:
    """A layer's style as QML.

    Args:
        attribute: whose values choose the symbol.
        colours: `#rrggbb` by value.
        choices: values to choose from, by field.
        defaults: by field an expression, and whether it is also applied when a feature is changed.
        locked: fields that forms show and do not let change.
    """
    root = ElementTree.Element(
        "qgis", version="3.22.0", styleCategories="Symbology|Fields|Forms", readOnly="0"
    )
    renderer = ElementTree.SubElement(
        root, "renderer-v2", type="categorizedSymbol", attr=attribute, enableorderby="0", forceraster="0"
    )
    categories = ElementTree.SubElement(renderer, "categories")
    symbols = ElementTree.SubElement(renderer, "symbols")
    for number, (value, colour) in enumerate(colours.items()):
        ElementTree.SubElement(
            categories, "category", value=value, label=value, symbol=str(number), render="true"
        )
        _symbol(symbols, number, colour)
    fields = ElementTree.SubElement(root, "fieldConfiguration")
    for name, values in choices.items():
        field = ElementTree.SubElement(fields, "field", name=name, configurationFlags="None")
        widget = ElementTree.SubElement(field, "editWidget", type="ValueMap")
        options = _option(ElementTree.SubElement(widget, "config"), type="Map")
        listed = _option(options, type="List", name="map")
        for value in values:
            _option(_option(listed, type="Map"), type="QString", name=value, value=value)
    filled = ElementTree.SubElement(root, "defaults")
    for name, (expression, always) in defaults.items():
        ElementTree.SubElement(
            filled, "default", field=name, expression=expression, applyOnUpdate=str(int(always))
        )
    editable = ElementTree.SubElement(root, "editable")
    for name in locked:
        ElementTree.SubElement(editable, "field", name=name, editable="0")
    ElementTree.indent(root)
    head = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
    return head + ElementTree.tostring(root, encoding="unicode")


def _option(parent: ElementTree.Element, **attributes: str) -> ElementTree.Element:
    return ElementTree.SubElement(parent, "Option", attributes)


def _symbol(symbols: ElementTree.Element, number: int, colour: str) -> None:
    """A see-through fill with an outline of the same colour."""
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    symbol = ElementTree.SubElement(
        symbols, "symbol", type="fill", name=str(number), alpha="1", clip_to_extent="1", force_rhr="0"
    )
    layer = ElementTree.SubElement(
        symbol, "layer", {"class": "SimpleFill", "enabled": "1", "locked": "0", "pass": "0"}
    )
    properties = _option(layer, type="Map")
    for name, value in {
        "color": f"{red},{green},{blue},50",
        "style": "solid",
        "outline_color": f"{red},{green},{blue},255",
        "outline_style": "solid",
        "outline_width": "0.5",
        "outline_width_unit": "MM",
    }.items():
        _option(properties, name=name, value=value, type="QString")
