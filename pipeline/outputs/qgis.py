"""How QGIS shows the layers of an image's GeoPackage, and a project that opens them over the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from xml.etree import ElementTree

from pyproj import CRS

from pipeline.outputs.geopackage import BUILDINGS, LABELS, RAW_OUTLINES, REVIEW, TILES
from pipeline.outputs.review import REASONS
from pipeline.qml import VERSION, Look, document, layer_style, style_document
from pipeline.styles import UNKNOWN, category_styles

TILE_LOOKS = {"buildings": Look("#9aa5ad", width=0.2), "nothing found": Look("#5c646c", 30, 0.2, "dot")}
"""By the tile's status."""
REVIEW_COLOURS = ("#d55e00", "#cc79a7", "#e69f00", "#f0e442", "#56b4e9", "#f5f5f5")
"""By reason, the most urgent first."""
OPACITY = '25 + 75 * "confidence"'
"""Of a building in percent: the surer, the fuller."""
TIPS = {
    BUILDINGS: '<b>[% "class_name" %]</b> [% round("confidence", 2) %]<br>Building [% "building_id" %], '
    '[% round("area_m2") %] m²',
    RAW_OUTLINES: 'Building [% "building_id" %] as it was found',
    TILES: 'Tile [% "tile_id" %]: [% "buildings" %] buildings, mean confidence '
    "[% coalesce(round(\"mean_confidence\", 2), '-') %]",
    LABELS: 'Label [% "label_id" %]: <b>[% "class_name" %]</b> [% coalesce("outcome", \'\') %]',
    REVIEW: '<b>[% "reason" %]</b>: [% "meaning" %]',
}
"""Shown under the pointer when QGIS's map tips are on."""
NAMES = {
    BUILDINGS: "building_id",
    RAW_OUTLINES: "building_id",
    TILES: "tile_id",
    LABELS: "label_id",
    REVIEW: "reason",
}
"""The field that names a feature."""
ORDER = (REVIEW, BUILDINGS, LABELS, RAW_OUTLINES, TILES)
"""Of the layers in a project, from the top."""
HIDDEN = frozenset({LABELS, RAW_OUTLINES, TILES})
"""Layers of a project that are there and not yet shown."""


class ProjectImage(NamedTuple):
    """What a project shows below the buildings."""

    source: str
    """A path relative to the project, or what GDAL opens a URL by."""
    crs: str
    bounds: tuple[float, float, float, float]
    """West, south, east, north in `crs`."""


def layer_styles(categories: Sequence[str]) -> dict[str, str]:
    """QML of each layer of the GeoPackage, by name."""
    return {layer: style_document(_parts(layer, categories)) for layer in NAMES}


def _parts(layer: str, categories: Sequence[str]) -> list[ElementTree.Element]:
    styles = category_styles(categories)
    kinds = {"none": "solid"}
    looks = {
        BUILDINGS: {
            style.name: Look(style.colour, 60, 0.7, kinds.get(style.dashes, "dash"), OPACITY)
            for style in styles
        },
        RAW_OUTLINES: {"": Look("#f5f5f5", width=0.3, dashes="dot")},
        TILES: TILE_LOOKS,
        LABELS: {style.name: Look(style.colour, 110, 0.3) for style in styles}
        | {UNKNOWN: Look("#f5f5f5", 110, 0.3)},
        REVIEW: {
            reason.name: Look(colour, 255, 3.2)
            for reason, colour in zip(REASONS, REVIEW_COLOURS, strict=True)
        },
    }[layer]
    attribute = {
        BUILDINGS: "class_name",
        RAW_OUTLINES: "",
        TILES: "status",
        LABELS: "class_name",
        REVIEW: "reason",
    }[layer]
    geometry = "marker" if layer == REVIEW else "fill"
    return layer_style(attribute, looks, geometry=geometry, tip=TIPS[layer], shown=NAMES[layer])


def project(title: str, package: str, categories: Sequence[str], image: ProjectImage) -> str:
    """A QGIS project as XML (`.qgs`): the layers of a GeoPackage over the image, paths relative to it.

    Args:
        title: of the project.
        package: name of the GeoPackage beside it.
        categories: the k names.
        image: what lies below.
    """
    root = ElementTree.Element("qgis", projectname=title, version=VERSION)
    ElementTree.SubElement(root, "homePath", path="")
    ElementTree.SubElement(root, "title").text = title
    _srs(ElementTree.SubElement(root, "projectCrs"), image.crs)
    tree = ElementTree.SubElement(root, "layer-tree-group")
    canvas = ElementTree.SubElement(root, "mapcanvas", name="theMapCanvas")
    extent = ElementTree.SubElement(canvas, "extent")
    for edge, place in zip(("xmin", "ymin", "xmax", "ymax"), image.bounds, strict=True):
        ElementTree.SubElement(extent, edge).text = repr(place)
    _srs(ElementTree.SubElement(canvas, "destinationsrs"), image.crs)
    layers = ElementTree.SubElement(root, "projectlayers")
    for layer in ORDER:
        source = f"./{package}|layername={layer}"
        _tree(tree, layer, source, "ogr", checked=layer not in HIDDEN)
        kind = "Point" if layer == REVIEW else "Polygon"
        entry = ElementTree.SubElement(layers, "maplayer", type="vector", geometry=kind)
        _describe(entry, layer, source, "ogr", image.crs)
        entry.extend(_parts(layer, categories))
    _tree(tree, "image", image.source, "gdal", checked=True)
    entry = ElementTree.SubElement(layers, "maplayer", type="raster")
    _describe(entry, "image", image.source, "gdal", image.crs)
    properties = ElementTree.SubElement(root, "properties")
    for group, name, kind, value in (
        ("Paths", "Absolute", "bool", "false"),
        ("SpatialRefSys", "ProjectionsEnabled", "int", "1"),
    ):
        entry = ElementTree.SubElement(properties, group)
        ElementTree.SubElement(entry, name, type=kind).text = value
    return document(root)


def layer_id(layer: str) -> str:
    """What a project calls a layer: QGIS gives new names to those of ten letters or fewer."""
    return f"{layer}_of_the_image"


def _tree(tree: ElementTree.Element, layer: str, source: str, provider: str, *, checked: bool) -> None:
    row = {"id": layer_id(layer), "name": layer.replace("_", " "), "source": source, "providerKey": provider}
    row |= {"checked": "Qt::Checked" if checked else "Qt::Unchecked", "expanded": "1" if checked else "0"}
    ElementTree.SubElement(tree, "layer-tree-layer", row)


def _describe(entry: ElementTree.Element, layer: str, source: str, provider: str, crs: str) -> None:
    ElementTree.SubElement(entry, "id").text = layer_id(layer)
    ElementTree.SubElement(entry, "datasource").text = source
    ElementTree.SubElement(entry, "layername").text = layer.replace("_", " ")
    _srs(ElementTree.SubElement(entry, "srs"), crs)
    ElementTree.SubElement(entry, "provider", encoding="UTF-8").text = provider


def _srs(parent: ElementTree.Element, crs: str) -> None:
    reference = ElementTree.SubElement(parent, "spatialrefsys", nativeFormat="Wkt")
    ElementTree.SubElement(reference, "wkt").text = CRS.from_user_input(crs).to_wkt()
    if crs.startswith("EPSG:"):
        ElementTree.SubElement(reference, "authid").text = crs
