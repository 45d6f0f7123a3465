"""Symbols and layer styles as QGIS stores them, built as XML.

Source: QGIS 3.22, layer style files (QML) and the table `layer_styles` of a GeoPackage.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple
from xml.etree import ElementTree

import pandas as pd

HEAD = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
VERSION = "3.22.0"
GPKG_VERSION = {"VERSION": "1.2"}
"""Option of GDAL for a GeoPackage that people open: QGIS 3.22 doubts versions after it."""
STYLES_TABLE = "layer_styles"
"""Where QGIS looks for the styles of a GeoPackage's layers."""


class Look(NamedTuple):
    """How features of one kind are drawn."""

    colour: str
    """#rrggbb of the outline or the marker."""
    fill: int = 0
    """Opacity of the fill, 0 to 255."""
    width: float = 0.5
    """Of the outline in mm; a marker's size."""
    dashes: str = "solid"
    """`solid`, `dash` or `dot`."""
    opacity: str = ""
    """Expression of the symbol's opacity in percent; '' for opaque."""


def layer_style(
    attribute: str, looks: Mapping[str, Look], *, geometry: str, tip: str, shown: str
) -> list[ElementTree.Element]:
    """What stands in a style or in a project's layer.

    Args:
        attribute: whose values choose the look; '' where `looks` holds one for all.
        looks: by value.
        geometry: `fill` or `marker`.
        tip: HTML with expressions, shown under the pointer.
        shown: the field that names a feature.
    """
    name = ElementTree.Element("previewExpression")
    name.text = shown
    hover = ElementTree.Element("mapTip")
    hover.text = tip
    return [renderer(attribute, looks, geometry), name, hover]


def renderer(attribute: str, looks: Mapping[str, Look], geometry: str) -> ElementTree.Element:
    """How a layer's features are drawn; arguments as for `layer_style`."""
    kind = "categorizedSymbol" if attribute else "singleSymbol"
    drawn = ElementTree.Element("renderer-v2", type=kind, attr=attribute, forceraster="0")
    if attribute:
        categories = ElementTree.SubElement(drawn, "categories")
        for number, value in enumerate(looks):
            row = {"value": value, "label": value, "symbol": str(number), "render": "true"}
            ElementTree.SubElement(categories, "category", row)
    symbols = ElementTree.SubElement(drawn, "symbols")
    for number, look in enumerate(looks.values()):
        _symbol(symbols, number, look, geometry)
    return drawn


def style_document(parts: list[ElementTree.Element]) -> str:
    """A layer's style as QML."""
    root = ElementTree.Element("qgis", version=VERSION, styleCategories="Symbology|MapTips")
    root.extend(parts)
    return document(root)


def document(root: ElementTree.Element) -> str:
    """XML of QGIS as text."""
    ElementTree.indent(root)
    return HEAD + ElementTree.tostring(root, encoding="unicode") + "\n"


def style_table(styles: Mapping[str, str], name: str, updated: str, description: str = "") -> pd.DataFrame:
    """Rows of `STYLES_TABLE`, one per layer, each its layer's default.

    Args:
        styles: QML by layer.
        name: what QGIS calls the styles.
        updated: a date; of a reproducible file a fixed one.
        description: what QGIS says of them.
    """
    return pd.DataFrame(
        {
            "f_table_catalog": "",
            "f_table_schema": "",
            "f_table_name": list(styles),
            "f_geometry_column": "geom",
            "styleName": name,
            "styleQML": list(styles.values()),
            "styleSLD": "",
            "useAsDefault": True,
            "description": description,
            "owner": "",
            "ui": "",
            "update_time": pd.Timestamp(updated, tz="UTC"),
        }
    )


def _symbol(symbols: ElementTree.Element, number: int, look: Look, geometry: str) -> None:
    symbol = ElementTree.SubElement(
        symbols, "symbol", type=geometry, name=str(number), alpha="1", clip_to_extent="1", force_rhr="0"
    )
    if look.opacity:
        _by_expression(symbol, "alpha", look.opacity)
    kinds = {"fill": "SimpleFill", "marker": "SimpleMarker"}
    layer = ElementTree.SubElement(
        symbol, "layer", {"class": kinds[geometry], "enabled": "1", "locked": "0", "pass": "0"}
    )
    rgb = ",".join(str(int(look.colour[start : start + 2], 16)) for start in (1, 3, 5))
    fill = {
        "color": f"{rgb},{look.fill}",
        "style": "solid" if look.fill else "no",
        "outline_color": f"{rgb},255",
        "outline_style": look.dashes,
        "outline_width": str(look.width),
        "outline_width_unit": "MM",
    }
    marker = {
        "name": "circle",
        "color": f"{rgb},{look.fill}",
        "size": str(look.width),
        "size_unit": "MM",
        "outline_color": "255,255,255,255",
        "outline_width": "0.4",
        "outline_width_unit": "MM",
    }
    properties = ElementTree.SubElement(layer, "Option", type="Map")
    for name, value in (fill if geometry == "fill" else marker).items():
        ElementTree.SubElement(properties, "Option", name=name, value=value, type="QString")


def _by_expression(symbol: ElementTree.Element, property_: str, expression: str) -> None:
    """A property of a symbol that an expression decides for each feature."""
    defined = ElementTree.SubElement(symbol, "data_defined_properties")
    options = ElementTree.SubElement(defined, "Option", type="Map")
    ElementTree.SubElement(options, "Option", name="name", value="", type="QString")
    properties = ElementTree.SubElement(options, "Option", name="properties", type="Map")
    one = ElementTree.SubElement(properties, "Option", name=property_, type="Map")
    ElementTree.SubElement(one, "Option", name="active", value="true", type="bool")
    ElementTree.SubElement(one, "Option", name="expression", value=expression, type="QString")
    ElementTree.SubElement(one, "Option", name="type", value="3", type="int")
    ElementTree.SubElement(options, "Option", name="type", value="collection", type="QString")
