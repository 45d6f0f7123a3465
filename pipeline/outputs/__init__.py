"""The buildings of an image for others: files of many formats, and a GeoPackage ready for QGIS.

::

    buildings    what every output holds of a building
    formats      GeoJSON, GeoParquet, FlatGeobuf, shapefile, vector tiles
    review       which buildings and labels are worth a person's look
    geopackage   buildings, outlines as found, tiles, labels and review points in one file
    qgis         how QGIS shows them
    project      a project that opens them over the image
    stac         image, labels and results as an Item of a catalogue
    training_sets  the training tiles as COCO and YOLO datasets

The same buildings give the same bytes: nothing written here looks at the clock.
"""

from pipeline.outputs.buildings import LONLAT, RAW, Building, building_columns, building_frame
from pipeline.outputs.formats import WRITERS, write_geojson, write_parquet

FORMATS = ("csv", *WRITERS)
"""What AggregateImage can publish an image's buildings as; `csv` is the submission."""

__all__ = [
    "FORMATS",
    "LONLAT",
    "RAW",
    "WRITERS",
    "Building",
    "building_columns",
    "building_frame",
    "write_geojson",
    "write_parquet",
]
