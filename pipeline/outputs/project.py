"""A project for QGIS: the layers of an image's GeoPackage over the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from xml.etree import ElementTree

from pyproj import CRS

from pipeline.outputs.qgis import LAYERS
from pipeline.qml import VERSION, document


class ProjectImage(NamedTuple):
    """What a project shows below the buildings."""

    source: str
    """A path relative to the project, or what GDAL opens a URL by."""
    crs: str
    bounds: tuple[float, float, float, float]
    """West, south, east, north in `crs`."""


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
    _canvas(root, image)
    layers = ElementTree.SubElement(root, "projectlayers")
    for layer in LAYERS:
        source = f"./{package}|layername={layer.name}"
        _tree(tree, layer.name, source, "ogr", checked=layer.shown)
        kind = "Point" if layer.geometry == "marker" else "Polygon"
        entry = ElementTree.SubElement(layers, "maplayer", type="vector", geometry=kind)
        _describe(entry, layer.name, source, "ogr", image.crs)
        entry.extend(layer.style(categories))
    _tree(tree, "image", image.source, "gdal", checked=True)
    entry = ElementTree.SubElement(layers, "maplayer", type="raster")
    _describe(entry, "image", image.source, "gdal", image.crs)
    _properties(root)
    return document(root)


def _canvas(root: ElementTree.Element, image: ProjectImage) -> None:
    """The map window, with the whole image in it."""
    canvas = ElementTree.SubElement(root, "mapcanvas", name="theMapCanvas")
    extent = ElementTree.SubElement(canvas, "extent")
    for edge, place in zip(("xmin", "ymin", "xmax", "ymax"), image.bounds, strict=True):
        ElementTree.SubElement(extent, edge).text = repr(place)
    _srs(ElementTree.SubElement(canvas, "destinationsrs"), image.crs)


def _properties(root: ElementTree.Element) -> None:
    properties = ElementTree.SubElement(root, "properties")
    for group, name, kind, value in (
        ("Paths", "Absolute", "bool", "false"),
        ("SpatialRefSys", "ProjectionsEnabled", "int", "1"),
    ):
        entry = ElementTree.SubElement(properties, group)
        ElementTree.SubElement(entry, name, type=kind).text = value


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
