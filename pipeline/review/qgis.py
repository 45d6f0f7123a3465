"""A GeoPackage for QGIS, one per image: buildings to edit, the tiles in the order to go through, styles.

A person edits outlines and classes, deletes or rejects what is no building, draws what is missing, and
sets a tile to `done`. Only tiles that are done count; what was drawn elsewhere waits in the file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pyogrio
import shapely

from pipeline.errors import LabelError
from pipeline.frames import crs_to_px, px_to_crs, reproject, window_box
from pipeline.matching import valid_polygons
from pipeline.qml import STYLES_TABLE, Look, style_table
from pipeline.review.proposals import MIN_SHOWN, source_of
from pipeline.review.records import UNKNOWN, QueuedTile, ReviewedBuilding, Round, TileReview
from pipeline.review.styles import BUILDING_STATUSES, NOW, TILE_STATUSES, style
from pipeline.schema import Grid
from pipeline.styles import category_styles
from pipeline.untouched import untouched

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
    pyogrio.write_dataframe(_building_layer(rows[near]), path, layer=BUILDINGS, **options)
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


def read_qgis(path: Path, round_: Round) -> list[TileReview]:
    """The reviews in an edited GeoPackage: one per tile that is done.

    Args:
        path: the file.
        round_: the round that it answers.

    Raises:
        LabelError: it is not a review's GeoPackage, is of another round, a class is no category, or its
            buildings cannot be placed in the image.
    """
    try:
        with untouched(path) as quiet:
            told = pyogrio.read_dataframe(quiet, layer=ROUND).iloc[0]
            buildings = pyogrio.read_dataframe(quiet, layer=BUILDINGS)
            tiles = pyogrio.read_dataframe(quiet, layer=TILES, datetime_as_string=True)
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, IndexError) as error:
        raise LabelError(
            f"not the GeoPackage of a review: {error}",
            where=path,
            remedy="Return the file that was exported, with its layers.",
        ) from error
    image_id = str(told["image_id"])
    if int(told["round"]) != round_.round or image_id not in round_.grids:
        raise LabelError(
            "of another round",
            where=path,
            found=f"round {told['round']} of {image_id}",
            remedy=f"Return what was exported for round {round_.round}.",
        )
    return _reviews(path, round_, image_id, buildings, tiles[tiles["status"] == "done"])


def _reviews(
    path: Path, round_: Round, image_id: str, buildings: geopandas.GeoDataFrame, done: geopandas.GeoDataFrame
) -> list[TileReview]:
    kept = buildings[buildings["status"].fillna("") != "rejected"]
    kept = kept[~(kept.geometry.isna() | kept.geometry.is_empty)]
    found = [_building(row, round_, path) for row in kept.to_dict("records")]
    polygons = _pixels(kept, round_.grids[image_id], path)
    windows = {tile.tile_id: tile.window for tile in round_.tiles if tile.image_id == image_id}
    boxes = {str(name): window_box(windows[str(name)]) for name in done["tile_id"]}
    homes = _homes(polygons, [building.proposal for building in found], boxes)
    reviews = []
    for row in done.to_dict("records"):
        person = row["reviewer"] if isinstance(row["reviewer"], str) and row["reviewer"] else path.stem
        finished = row["finished_at"] if isinstance(row["finished_at"], str) else ""
        mine = [
            building._replace(polygon_px=polygon)
            for building, polygon, home in zip(found, polygons, homes, strict=True)
            if row["tile_id"] in home
        ]
        seconds = 60 * row["minutes"]
        reviews.append(
            TileReview(image_id, row["tile_id"], person, finished, path.name, seconds, False, mine)
        )
    return reviews


def _pixels(buildings: geopandas.GeoDataFrame, grid: Grid, path: Path) -> np.ndarray:
    """Valid outlines in image pixels; QGIS saves a layer in any CRS."""
    if buildings.crs is None:
        raise LabelError(
            f"layer {BUILDINGS} has no CRS",
            where=path,
            remedy=f"Set the layer's CRS in QGIS to the one it went out with, {grid.crs[:60]}, and save it.",
        )
    placed = reproject(buildings.geometry.values, buildings.crs, grid.crs, where=path)
    return valid_polygons(crs_to_px(placed, grid.transform))


def _building(row: dict, round_: Round, path: Path) -> ReviewedBuilding:
    name = row["class_name"] if isinstance(row["class_name"], str) else UNKNOWN
    if name != UNKNOWN and name not in round_.categories:
        raise LabelError(
            "a class that is no category",
            where=path,
            found=name,
            remedy=f"The categories are {', '.join(round_.categories)}, and {UNKNOWN}.",
        )
    proposal = None if pd.isna(row["building_id"]) else int(row["building_id"])
    return ReviewedBuilding(row["geometry"], None if name == UNKNOWN else name, proposal, math.nan)


def _homes(
    polygons: np.ndarray, proposals: Sequence[int | None], boxes: dict[str, shapely.Polygon]
) -> list[set[str]]:
    """The tiles that answer for each: all that show a proposal, the one that shows most of a new one."""
    names, tiles = list(boxes), np.array(list(boxes.values()), dtype=object)
    one, place = np.unique(shapely.STRtree(tiles).query(polygons, predicate="intersects"), axis=1)
    shown = shapely.area(shapely.intersection(polygons[one], tiles[place]))
    enough = shown > MIN_SHOWN * shapely.area(polygons[one])
    seen: list[dict[str, float]] = [{} for _ in polygons]
    for building, tile, area in zip(one[enough], place[enough], shown[enough], strict=True):
        seen[building][names[tile]] = area
    return [
        {max(areas, key=lambda name: areas[name])} if areas and proposal is None else set(areas)
        for areas, proposal in zip(seen, proposals, strict=True)
    ]
