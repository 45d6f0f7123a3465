"""The GeoPackage of a review as it comes back from QGIS: the tiles that are done, and what lies in them."""

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
from pipeline.frames import crs_to_px, reproject, window_box
from pipeline.review.drawn import one_polygon_each
from pipeline.review.proposals import MIN_SHOWN
from pipeline.review.qgis import BUILDINGS, ROUND, TILES
from pipeline.review.records import UNKNOWN, Answer, Moment, ReviewedBuilding, Round, TileReview
from pipeline.review.styles import BUILDING_STATUSES, TILE_STATUSES
from pipeline.schema import Grid
from pipeline.untouched import untouched

_POLYGONAL = ("Polygon", "MultiPolygon", "GeometryCollection")
_AS_EXPORTED = "Return the file that was exported, with its layers and columns."


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
    category = round_.category(row.class_name or UNKNOWN, "a class that is no category", path)
    return ReviewedBuilding(polygon, category, row.building_id, math.nan)


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
