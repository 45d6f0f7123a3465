"""A GeoPackage for QGIS, one per image: buildings to edit, the tiles in the order to go through, styles.

A person edits outlines and classes, deletes or rejects what is no building, draws what is missing, and
sets a tile to `done`. Only tiles that are done count; what was drawn elsewhere waits in the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pyogrio
import shapely

from pipeline.frames import px_to_crs, window_box
from pipeline.qml import GPKG_VERSION, STYLES_TABLE, Look, style_table
from pipeline.review.proposals import source_of
from pipeline.review.records import UNKNOWN, QueuedTile
from pipeline.review.styles import BUILDING_STATUSES, NOW, TILE_STATUSES, style
from pipeline.schema import Grid
from pipeline.styles import category_styles

BUILDINGS, TILES, ROUND = "buildings", "tiles", "review_round"
_TILES = {"todo": Look("#e69f00", width=0.8), "done": Look("#009e73", width=0.8)}
_SEE_THROUGH = 50  # of 255, so that the imagery stays visible


def write_qgis(
    path: Path,
    round_number: int,
    image_id: str,
    grid: Grid,
    rows: geopandas.GeoDataFrame,
    tiles: Sequence[QueuedTile],
    categories: Sequence[str],
) -> None:
    """Writes the GeoPackage of one image.

    Args:
        path: where it goes, `.gpkg`.
        round_number: of the review.
        image_id: the image.
        grid: its frame.
        rows: the proposals, of which those near the tiles are written.
        tiles: of this image, in the order to go through.
        categories: names to choose from; `unknown` is added.
    """
    queue = _tile_layer(tiles, grid)
    near = shapely.intersects(rows.geometry.values, shapely.union_all(queue.geometry.values))
    options = {"driver": "GPKG", "geometry_type": "Polygon", "SPATIAL_INDEX": "YES"}
    buildings = _building_layer(rows[near])
    pyogrio.write_dataframe(buildings, path, layer=BUILDINGS, dataset_options=GPKG_VERSION, **options)
    pyogrio.write_dataframe(queue, path, layer=TILES, append=True, **options)
    told = pd.DataFrame([{"round": round_number, "image_id": image_id}])
    pyogrio.write_dataframe(told, path, layer=ROUND, driver="GPKG", append=True)
    styles = _styles(categories)
    pyogrio.write_dataframe(
        styles, path, layer=STYLES_TABLE, driver="GPKG", append=True, layer_options={"FID": "id"}
    )


def _building_layer(rows: geopandas.GeoDataFrame) -> geopandas.GeoDataFrame:
    categories = [name if isinstance(name, str) else UNKNOWN for name in rows["category"]]
    columns = {
        "building_id": rows["row_id"].astype("Int64"),
        "class_name": pd.Series(categories, index=rows.index, dtype="string"),
        "status": pd.Series("proposed", index=rows.index, dtype="string"),
        "note": pd.Series(None, index=rows.index, dtype="string"),
        "score": rows["score"].astype("float64"),
        "source": pd.Series(
            [source_of(row) for row in rows.to_dict("records")], index=rows.index, dtype="string"
        ),
    }
    return geopandas.GeoDataFrame(columns, geometry=rows.geometry, crs=rows.crs)


def _tile_layer(tiles: Sequence[QueuedTile], grid: Grid) -> geopandas.GeoDataFrame:
    empty = pd.Series([None] * len(tiles), dtype="string")
    columns = {
        "turn": np.arange(1, len(tiles) + 1),
        "tile_id": [tile.tile_id for tile in tiles],
        "status": ["todo"] * len(tiles),
        "reviewer": empty,
        "finished_at": empty,
        "minutes": np.full(len(tiles), np.nan),
        "reason": [tile.reason for tile in tiles],
        "uncertainty": [tile.uncertainty for tile in tiles],
    }
    boxes = np.array([window_box(tile.window) for tile in tiles], dtype=object)
    return geopandas.GeoDataFrame(columns, geometry=px_to_crs(boxes, grid.transform), crs=grid.crs)


def _styles(categories: Sequence[str]) -> pd.DataFrame:
    """The table in which QGIS looks for the styles of a GeoPackage's layers."""
    looks = {one.name: Look(one.colour, _SEE_THROUGH) for one in category_styles(categories, unknown=True)}
    buildings = style(
        "class_name",
        looks,
        {"class_name": tuple(looks), "status": BUILDING_STATUSES},
        {"status": ("'added'", False)},
        ("building_id", "score", "source"),
    )
    tiles = style(
        "status",
        _TILES,
        {"status": TILE_STATUSES},
        {"reviewer": ("@user_account_name", True), "finished_at": (NOW, True)},
        ("turn", "tile_id", "reason", "uncertainty"),
    )
    return style_table(
        {BUILDINGS: buildings, TILES: tiles}, "review", "1970-01-01", description="of a review round"
    )
