"""How QGIS shows and edits the layers of a review: symbols, forms and value lists, as QML.

Source: QGIS 3.22, layer style files (QML).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

from pipeline.qml import VERSION, Look, document, renderer

BUILDING_STATUSES = ("proposed", "accepted", "edited", "rejected", "added")
TILE_STATUSES = ("todo", "done")
NOW = (
    "with_variable('s', floor(epoch(now()) / 1000), "
    "format_date(make_datetime(1970, 1, 1, 12, 0, 0) + to_interval(floor(@s / 86400) || ' days'),"
    " 'yyyy-MM-dd') || 'T' || lpad(floor(@s % 86400 / 3600), 2, '0')"
    " || ':' || lpad(floor(@s % 3600 / 60), 2, '0')"
    " || ':' || lpad(@s % 60, 2, '0') || 'Z')"
)
"""The time in UTC, as Label Studio tells it. QGIS's `now` is the reviewer's own, and before 3.44 it cannot
say of which zone; days are counted at noon, since one of local time may have 23 hours."""


def style(
    attribute: str,
    looks: Mapping[str, Look],
    choices: Mapping[str, Sequence[str]],
    defaults: Mapping[str, tuple[str, bool]],
    locked: Sequence[str],
) -> str:
    """A layer's style as QML.

    Args:
        attribute: whose values choose the symbol.
        looks: by value.
        choices: values to choose from, by field.
        defaults: by field an expression, and whether it is also applied when a feature is changed.
        locked: fields that forms show and do not let change.
    """
    root = ElementTree.Element(
        "qgis", version=VERSION, styleCategories="Symbology|Fields|Forms", readOnly="0"
    )
    root.append(renderer(attribute, looks, "fill"))
    fields = ElementTree.SubElement(root, "fieldConfiguration")
    number = ElementTree.SubElement(fields, "field", name="fid", configurationFlags="None")
    ElementTree.SubElement(number, "editWidget", type="Hidden")
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
    return document(root)


def _option(parent: ElementTree.Element, **attributes: str) -> ElementTree.Element:
    return ElementTree.SubElement(parent, "Option", attributes)
