"""Edits the GeoPackage of a review as a person does, in the real QGIS without a screen, and takes a picture.

Run by Debian's Python, which has PyQGIS: python3 tests/qgis_review.py PACKAGE.gpkg IMAGE PICTURE.png
Rejects the first building, makes the second a foundation, moves the third by a metre, draws one in the first
tile and sets all tiles to done. Prints what QGIS offers in its forms, and what the edits became, as JSON.
"""

import json
import os
import sys

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from qgis.core import (
    QgsApplication,
    QgsGeometry,
    QgsMapRendererParallelJob,
    QgsMapSettings,
    QgsRasterLayer,
    QgsVectorLayer,
    QgsVectorLayerUtils,
)
from qgis.gui import QgsAttributeForm, QgsGui
from qgis.PyQt.QtCore import QSize
from qgis.PyQt.QtGui import QColor, QImage, QPainter

MAP = QSize(760, 560)


def opened(package, name):
    """A layer with the style that the file carries."""
    layer = QgsVectorLayer(f"{package}|layername={name}", name, "ogr")
    _, loaded = layer.loadDefaultStyle()
    assert layer.isValid() and loaded, name
    return layer


def offers(layer):
    """What the form of a layer offers, field by field."""
    told = {}
    for index, field in enumerate(layer.fields()):
        widget, default = layer.editorWidgetSetup(index), layer.defaultValueDefinition(index)
        choices = (
            [next(iter(one)) for one in widget.config().get("map", [])] if widget.type() == "ValueMap" else []
        )
        told[field.name()] = {
            "widget": widget.type(),
            "choices": choices,
            "default": default.expression(),
            "on_update": default.applyOnUpdate(),
            "locked": layer.editFormConfig().readOnly(index),
        }
    return told


def edit(buildings, tiles):
    """The edits, through QGIS's own buffer and its default values."""
    column = {field.name(): index for index, field in enumerate(buildings.fields())}
    buildings.startEditing()
    first, second, third = sorted(buildings.getFeatures(), key=lambda one: one["building_id"])[:3]
    buildings.changeAttributeValue(first.id(), column["status"], "rejected")
    buildings.changeAttributeValue(second.id(), column["class_name"], "foundation")
    moved = QgsGeometry(third.geometry())
    moved.translate(1.0, 0.0)
    buildings.changeGeometry(third.id(), moved)
    corner = min(tiles.getFeatures(), key=lambda one: one["turn"]).geometry().boundingBox()
    x, y = corner.xMinimum(), corner.yMinimum()
    drawn = f"POLYGON(({x + 2} {y + 2}, {x + 8} {y + 2}, {x + 8} {y + 7}, {x + 2} {y + 7}, {x + 2} {y + 2}))"
    new = QgsVectorLayerUtils.createFeature(
        buildings, QgsGeometry.fromWkt(drawn), {column["class_name"]: "completed"}
    )
    buildings.addFeature(new)
    assert buildings.commitChanges(), buildings.commitErrors()
    tiles.startEditing()
    status = tiles.fields().indexOf("status")
    for tile in list(tiles.getFeatures()):
        tiles.changeAttributeValue(tile.id(), status, "done", "todo")
    assert tiles.commitChanges(), tiles.commitErrors()
    ids = {"rejected": first, "reclassified": second, "moved": third}
    return {what: one["building_id"] for what, one in ids.items()}


def picture(buildings, tiles, image, path):
    """The first tile over the image, beside the form of a building in it."""
    raster = QgsRasterLayer(image, "image")
    raster.setCrs(buildings.crs())
    settings = QgsMapSettings()
    settings.setDestinationCrs(buildings.crs())
    settings.setLayers([buildings, tiles, raster])
    tile = min(tiles.getFeatures(), key=lambda one: one["turn"]).geometry().boundingBox()
    tile.scale(1.15)
    settings.setExtent(tile)
    settings.setOutputSize(MAP)
    settings.setBackgroundColor(QColor("white"))
    job = QgsMapRendererParallelJob(settings)
    job.start()
    job.waitForFinished()
    buildings.startEditing()
    form = QgsAttributeForm(buildings, next(buildings.getFeatures(tile)))
    form.resize(MAP.width() // 2, MAP.height())
    form.show()
    QgsApplication.processEvents()
    whole = QImage(settings.outputSize().width() + form.width(), MAP.height(), QImage.Format_RGB32)
    whole.fill(QColor("white"))
    painter = QPainter(whole)
    painter.drawImage(0, 0, job.renderedImage())
    painter.drawPixmap(MAP.width(), 0, form.grab())
    painter.end()
    buildings.rollBack()
    whole.save(path)


def main(package, image, path):
    """Looks, takes the picture, edits, and tells."""
    application = QgsApplication([], True)
    application.initQgis()
    QgsGui.editorWidgetRegistry().initEditors()
    buildings, tiles = opened(package, "buildings"), opened(package, "tiles")
    told = {"buildings": offers(buildings), "tiles": offers(tiles)}
    picture(buildings, tiles, image, path)
    told["edited"] = edit(buildings, tiles)
    told["new_status"] = [
        one["status"] for one in buildings.getFeatures() if one["class_name"] == "completed"
    ][-1]
    told["finished"] = [[one["reviewer"], one["finished_at"]] for one in tiles.getFeatures()]
    sys.stdout.write(json.dumps(told, default=str))
    sys.stdout.flush()
    os._exit(0)  # PyQGIS of Debian 12 may crash as it takes itself down


main(*sys.argv[1:])
