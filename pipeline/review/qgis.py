"""A GeoPackage for QGIS, one per image: buildings to edit, the tiles in the order to go through, styles.

A person edits outlines and classes, deletes or rejects what is no building, draws what is missing, and
sets a tile to `done`. Only tiles that are done count; what was drawn elsewhere waits in the file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pyogrio
import shapely
from pydantic import Field

from pipeline.errors import LabelError
from pipeline.frames import crs_to_px, px_to_crs, reproject, window_box
from pipeline.qml import GPKG_VERSION, STYLES_TABLE, Look, style_table
from pipeline.review.drawn import one_polygon_each
from pipeline.review.proposals import MIN_SHOWN, source_of
from pipeline.review.records import (
    UNKNOWN,
    Answer,
    Moment,
    QueuedTile,
    ReviewedBuilding,
    Round,
    TileReview,
)
from pipeline.review.styles import BUILDING_STATUSES, NOW, TILE_STATUSES, style
from pipeline.schema import Grid
from pipeline.styles import category_styles
from pipeline.untouched import untouched

BUILDINGS, TILES, ROUND = "buildings", "tiles", "review_round"
_TILES = {"todo": Look("#e69f00", width=0.8), "done": Look("#009e73", width=0.8)}
_POLYGONAL = ("Polygon", "MultiPolygon", "GeometryCollection")
_AS_EXPORTED = "Return the file that was exported, with its layers and columns."
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


class _Told(Answer):
    round: int
    image_id: str


class _Tile(Answer):
    tile_id: str
    reviewer: str | None
    finished_at: Moment | None
    minutes: float | None


class _Building(Answer):
    building_id: int | None
    class_name: str | None


class _Edited(Answer):
    """Rows that count, by the number that QGIS shows for them."""

    review_round: dict[int, _Told] = Field(min_length=1, max_length=1)
    tiles: dict[int, _Tile]
    buildings: dict[int, _Building]


_COLUMNS = {
    ROUND: list(_Told.model_fields),
    TILES: ["status", *_Tile.model_fields],
    BUILDINGS: ["status", *_Building.model_fields, "geometry"],
}


def read_qgis(path: Path, round_: Round) -> list[TileReview]:
    """The reviews in an edited GeoPackage: one per tile that is done.

    Args:
        path: the file.
        round_: the round that it answers.

    Raises:
        LabelError: it is not a review's GeoPackage, is of another round, a tile is none of it, a class is no
            category, or its buildings cannot be placed in the image.
        ValidationError: a row that counts holds something else than was asked for.
    """
    layers = _layers(path)
    done = layers[TILES][_statuses(layers, TILES, TILE_STATUSES, path) == "done"]
    kept = layers[BUILDINGS][_statuses(layers, BUILDINGS, BUILDING_STATUSES, path) != "rejected"]
    kept = kept[~(kept.geometry.isna() | kept.geometry.is_empty)]
    edited = _Edited.model_validate(
        {name: _rows(rows) for name, rows in ((ROUND, layers[ROUND]), (TILES, done), (BUILDINGS, kept))}
    )
    (told,) = edited.review_round.values()
    if told.round != round_.round or told.image_id not in round_.grids:
        raise LabelError(
            "of another round",
            where=path,
            found=f"round {told.round} of {told.image_id}",
            remedy=f"Return what was exported for round {round_.round}.",
        )
    polygons = _pixels(kept, round_.grids[told.image_id], path)
    buildings = [
        _building(row, polygon, round_, path)
        for row, polygon in zip(edited.buildings.values(), polygons, strict=True)
    ]
    return _reviews(path, round_, told.image_id, one_polygon_each(buildings), list(edited.tiles.values()))


def _layers(path: Path) -> dict[str, pd.DataFrame]:
    """The layers by name; each row's index is its number in the file."""
    try:
        with untouched(path) as quiet:
            layers = {
                name: pyogrio.read_dataframe(
                    quiet,
                    layer=name,
                    read_geometry=name == BUILDINGS,
                    fid_as_index=True,
                    datetime_as_string=True,
                    on_invalid="fix",
                )
                for name in _COLUMNS
            }
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
        raise LabelError(
            f"not the GeoPackage of a review: {error}", where=path, remedy=_AS_EXPORTED
        ) from error
    for name, columns in _COLUMNS.items():
        if missing := [column for column in columns if column not in layers[name]]:
            raise LabelError(
                f"layer {name} has no column {missing[0]}",
                where=path,
                found=list(layers[name]),
                remedy=_AS_EXPORTED,
            )
    return layers


def _statuses(layers: Mapping[str, pd.DataFrame], name: str, known: Sequence[str], path: Path) -> pd.Series:
    """What rows of a layer are said to be, in whatever case; '' for those of which nothing is said."""
    given = layers[name]["status"]
    statuses = given.fillna("").astype(str).str.strip().str.casefold()
    if len(strange := given[~statuses.isin(["", *known])]):
        raise LabelError(
            f"layer {name} has a status that is none",
            where=path,
            found=strange.iloc[0],
            remedy=f"It is one of {', '.join(known)}.",
        )
    return statuses


def _rows(frame: pd.DataFrame) -> Mapping[Any, Any]:
    """Rows by index, what is not told as None."""
    values = pd.DataFrame(frame.drop(columns="geometry", errors="ignore")).astype(object)
    return values.where(values.notna(), None).to_dict("index")


def _pixels(buildings: geopandas.GeoDataFrame, grid: Grid, path: Path) -> np.ndarray:
    """Outlines in image pixels; QGIS saves a layer in any CRS."""
    if buildings.crs is None:
        raise LabelError(
            f"layer {BUILDINGS} has no CRS",
            where=path,
            remedy=f"Set the layer's CRS in QGIS to the one it went out with, {grid.crs[:60]}, and save it.",
        )
    if len(strange := buildings[~buildings.geom_type.isin(_POLYGONAL)]):
        raise LabelError(
            f"layer {BUILDINGS} has a row that is no polygon",
            where=path,
            found=strange.geom_type.iloc[0],
            remedy=f"Draw row {strange.index[0]} as a polygon, or delete it.",
        )
    placed = reproject(buildings.geometry.values, buildings.crs, grid.crs, where=path)
    return crs_to_px(placed, grid.transform)


def _building(row: _Building, polygon: shapely.Geometry, round_: Round, path: Path) -> ReviewedBuilding:
    name = row.class_name or UNKNOWN
    if name != UNKNOWN and name not in round_.categories:
        raise LabelError(
            "a class that is no category",
            where=path,
            found=name,
            remedy=f"The categories are {', '.join(round_.categories)}, and {UNKNOWN}.",
        )
    return ReviewedBuilding(polygon, None if name == UNKNOWN else name, row.building_id, math.nan)


def _reviews(
    path: Path, round_: Round, image_id: str, buildings: Sequence[ReviewedBuilding], done: Sequence[_Tile]
) -> list[TileReview]:
    windows = {tile.tile_id: tile.window for tile in round_.tiles if tile.image_id == image_id}
    if strange := [tile.tile_id for tile in done if tile.tile_id not in windows]:
        raise LabelError(
            "a tile that nobody was asked to look at",
            where=path,
            found=strange[0],
            remedy=f"Set it to todo, or delete it: {', '.join(windows)} went out.",
        )
    boxes = {tile.tile_id: window_box(windows[tile.tile_id]) for tile in done}
    homes = _homes(buildings, boxes)
    return [
        TileReview(
            image_id,
            tile.tile_id,
            tile.reviewer or path.stem,
            tile.finished_at or "",
            path.name,
            math.nan if tile.minutes is None else 60 * tile.minutes,
            False,
            [building for building, home in zip(buildings, homes, strict=True) if tile.tile_id in home],
        )
        for tile in done
    ]


def _homes(buildings: Sequence[ReviewedBuilding], boxes: dict[str, shapely.Polygon]) -> list[set[str]]:
    """The tiles that answer for each: all that show a proposal, the one that shows most of a new one."""
    polygons = np.array([building.polygon_px for building in buildings], dtype=object)
    names, tiles = list(boxes), np.array(list(boxes.values()), dtype=object)
    one, place = np.unique(shapely.STRtree(tiles).query(polygons, predicate="intersects"), axis=1)
    shown = shapely.area(shapely.intersection(polygons[one], tiles[place]))
    enough = shown > MIN_SHOWN * shapely.area(polygons[one])
    seen: list[dict[str, float]] = [{} for _ in polygons]
    for building, tile, area in zip(one[enough], place[enough], shown[enough], strict=True):
        seen[building][names[tile]] = area
    return [
        {max(areas, key=lambda name: areas[name])} if areas and building.proposal is None else set(areas)
        for areas, building in zip(seen, buildings, strict=True)
    ]
