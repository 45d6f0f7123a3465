"""One GeoPackage with all about an image: buildings, tiles, labels, what to review, and their styles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import geopandas
import pyogrio

from pipeline.outputs.buildings import RAW, empty_frame
from pipeline.outputs.formats import NO_CLOCK, no_clock
from pipeline.qml import GPKG_VERSION, STYLES_TABLE, style_table

BUILDINGS, RAW_OUTLINES, TILES, LABELS, REVIEW = "buildings", "raw_outlines", "tiles", "labels", "review"
"""The layers. `raw_outlines` holds every building's outline as it was found, by `building_id`."""


def write_gpkg(
    path: Path,
    batches: Iterable[geopandas.GeoDataFrame],
    categories: Sequence[str],
    crs: str,
    others: Mapping[str, geopandas.GeoDataFrame] | None = None,
    styles: Mapping[str, str] | None = None,
) -> None:
    """Layers in the image's CRS, written to `path`.

    Args:
        path: where the file goes.
        batches: frames of `building_frame`, one in memory at a time.
        categories: names that give the columns, with or without rows.
        crs: of the image.
        others: further layers by name: polygons, and points in `review`.
        styles: QML by layer, which QGIS applies as it opens the file.
    """
    options: dict[str, Any] = {"driver": "GPKG", "engine": "pyogrio"}
    with no_clock():
        for number, batch in enumerate(chain([empty_frame(categories, crs)], batches)):
            mode = "a" if number else "w"
            whole = options if number else options | {"dataset_options": GPKG_VERSION}
            batch.drop(columns=RAW).to_file(
                path, layer=BUILDINGS, mode=mode, geometry_type="Polygon", **whole
            )
            raw = batch[["building_id", RAW]].set_geometry(RAW).rename_geometry("geometry")
            raw.to_file(path, layer=RAW_OUTLINES, mode="a", geometry_type="Polygon", **options)
        for layer, frame in (others or {}).items():
            kind = {REVIEW: "Point", LABELS: "MultiPolygon"}.get(layer, "Polygon")
            frame.to_file(
                path, layer=layer, mode="a", geometry_type=kind, promote_to_multi=layer == LABELS, **options
            )
        if styles:
            pyogrio.write_dataframe(
                style_table(styles, "jengo", NO_CLOCK),
                path,
                layer=STYLES_TABLE,
                driver="GPKG",
                append=True,
                layer_options={"FID": "id"},
            )
