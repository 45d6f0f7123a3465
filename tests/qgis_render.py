"""Opens a project and a GeoPackage in the real QGIS, without a screen, and draws the project as a PNG.

Run by Debian's Python, which has PyQGIS: python3 tests/qgis_render.py PROJECT.qgs PACKAGE.gpkg PICTURE.png
Prints what QGIS found as JSON.
"""

import json
import os
import sys

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from qgis.core import (
    QgsApplication,
    QgsMapRendererParallelJob,
    QgsMapSettings,
    QgsProject,
    QgsUnitTypes,
    QgsVectorLayer,
)
from qgis.PyQt.QtCore import QSize
from qgis.PyQt.QtGui import QColor
from qgis.PyQt.QtXml import QDomDocument


def looks(layer):
    """What a person would see of a layer's style."""
    renderer = layer.renderer()
    kinds = renderer.categories() if hasattr(renderer, "categories") else []  # holds the symbols
    values = [one.value() for one in kinds]
    symbol = kinds[0].symbol() if values else renderer.symbol()
    opacity = symbol.dataDefinedProperties().property(symbol.PropertyOpacity)
    return {
        "features": layer.featureCount(),
        "renderer": renderer.type(),
        "values": values,
        "colour": symbol.symbolLayer(0).properties()["outline_color" if values else "color"],
        "opacity": opacity.expressionString(),
        "tip": layer.mapTipTemplate(),
        "crs": layer.crs().authid(),
    }


def draw(project, path):
    """The shown layers of a project over its extent."""
    settings = QgsMapSettings()
    settings.setDestinationCrs(project.crs())
    shown = [node.layer() for node in project.layerTreeRoot().findLayers() if node.isVisible()]
    settings.setLayers(shown)
    settings.setExtent(project.mapLayer("image_of_the_image").extent())
    settings.setOutputSize(QSize(1100, 800))
    settings.setBackgroundColor(QColor("white"))
    job = QgsMapRendererParallelJob(settings)
    job.start()
    job.waitForFinished()
    job.renderedImage().save(path)
    return [layer.name() for layer in shown]


def canvas_units(project_path):
    """The units of the map window, as it reads the project."""
    document, settings = QDomDocument(), QgsMapSettings()
    with open(project_path) as file:
        document.setContent(file.read())
    settings.readXml(document.elementsByTagName("mapcanvas").at(0))
    return QgsUnitTypes.toString(settings.mapUnits())


def main(project_path, package, picture):
    """Prints what there is, and draws it."""
    application = QgsApplication([], False)
    application.initQgis()
    project = QgsProject.instance()
    found = {"read": project.read(project_path), "title": project.title(), "crs": project.crs().authid()}
    found["units"] = canvas_units(project_path)
    found["valid"] = {name: layer.isValid() for name, layer in project.mapLayers().items()}
    found["layers"] = {
        name: looks(layer) for name, layer in project.mapLayers().items() if isinstance(layer, QgsVectorLayer)
    }
    alone = {}
    for name in ("buildings", "raw_outlines", "tiles", "labels", "review"):
        layer = QgsVectorLayer(f"{package}|layername={name}", name, "ogr")
        _, loaded = layer.loadDefaultStyle()
        alone[name] = {"loaded": loaded, **looks(layer)}
    found["alone"] = alone
    found["shown"] = draw(project, picture)
    sys.stdout.write(json.dumps(found))
    sys.stdout.flush()
    os._exit(0)  # PyQGIS of Debian 12 may crash as it takes itself down


main(*sys.argv[1:])
