"""AggregateImage: from per-tile detections to the buildings of an image.

Tiles are read row by row, merged across their seams, filtered and set aside as a table per batch;
the published files are written from those tables, so that no step holds all buildings at once.
"""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import geopandas
import numpy as np
import pandas as pd
import shapely

from pipeline.calibration import Calibration
from pipeline.errors import ArtifactError, SettingsError
from pipeline.frames import crs_to_px, ground_areas, px_to_crs, reproject
from pipeline.outputs import LONLAT, WRITERS, building_frame
from pipeline.polygons import clip_to_frame
from pipeline.regularize import RegularizeRules, regularize_stream
from pipeline.schema import Grid, TileIndex
from pipeline.seams import Buildings, MergeRules, merge_stream
from pipeline.settings import Aggregation
from pipeline.steps import Progress
from pipeline.steps.detection_rows import DetectionRows
from pipeline.submission import Rows, write_csv
from pipeline.temperature import temper

_ABOUT_SQUARE = 0.01
"""How far the sides of a square pixel may be apart on the ground, as a share."""


def aggregate_image(
    index: TileIndex,
    detections: Path,
    categories: Sequence[str],
    selection: Selection,
    aggregation: Aggregation,
    folder: Path,
    progress: Progress,
    large: Path | None = None,
    table: Path | None = None,
) -> dict[str, int]:
    """Writes <image_id>.csv, .geojson and what else is asked for into `folder`; returns counts.

    Args:
        index: the image's tiles.
        detections: folder with one JSON per tile.
        categories: names in the order of the columns.
        selection: what confidences mean, and which are enough.
        aggregation: the settings.
        folder: an existing folder to write into.
        progress: told after every row of tiles.
        large: folder with the detections of coarser windows, None where there are none.
        table: an empty folder for the buildings as `read_parts` reads them; None to keep none.
    """
    merging = aggregation.rules(MergeRules)
    rows = DetectionRows(index, detections, large, categories, merging.gap_px, progress)
    index = index.model_copy(update={"tiles": rows.tiles})
    counts = {"merged": 0, "buildings": 0}
    limits = np.array([selection.thresholds[name] for name in categories])
    spool = table or folder / "spool"
    spool.mkdir(exist_ok=True)
    merged = _tempered(merge_stream(rows, rows.windows, merging), selection.temperature)
    kept = _kept(merged, index, limits, aggregation.min_area_m2, counts)
    for number, outlined in enumerate(_outlined(kept, index, aggregation.rules(RegularizeRules))):
        frame = _frame(outlined, index, categories, rows.model, counts["buildings"] + 1)
        counts["buildings"] += len(frame)
        if len(frame):
            frame.to_parquet(spool / f"{number:06d}.parquet")
    _publish(spool, folder / index.image_id, index, categories, aggregation.formats)
    if table is None:
        shutil.rmtree(spool)
    return {"tiles": len(index.tiles), **rows.counts, **counts}


def _tempered(batches: Iterable[Buildings], temperature: float) -> Iterator[Buildings]:
    """Buildings with calibrated probabilities."""
    for merged in batches:
        yield replace(merged, probabilities=temper(merged.probabilities, temperature))


def _kept(
    batches: Iterable[Buildings], index: TileIndex, limits: np.ndarray, min_area_m2: float, counts: dict
) -> Iterator[Buildings]:
    """The buildings confident and large enough to be published."""
    for merged in batches:
        counts["merged"] += len(merged)
        if not len(merged):
            continue
        confident = merged.probabilities.max(axis=1) >= limits[merged.probabilities.argmax(axis=1)]
        areas = ground_areas(px_to_crs(merged.polygons, index.grid.transform), index.grid.crs)
        yield merged.take(confident & (areas >= min_area_m2))


class _Outlined(NamedTuple):
    """Buildings with the outlines they are published with, in image pixels."""

    buildings: Buildings
    polygons: np.ndarray
    statuses: np.ndarray


def _outlined(batches: Iterable[Buildings], index: TileIndex, rules: RegularizeRules) -> Iterator[_Outlined]:
    """Buildings with regular outlines, which end at the image's edge like the ones found."""
    waiting: deque[Buildings] = deque()
    square = _square(index.grid)

    def polygons() -> Iterator[np.ndarray]:
        for buildings in batches:
            waiting.append(buildings)
            yield _scaled(buildings.polygons, square)

    for regular, statuses in regularize_stream(polygons(), rules):
        inside, _ = clip_to_frame(_scaled(regular, 1 / square), (0, 0, index.grid.width, index.grid.height))
        yield _Outlined(waiting.popleft(), inside, statuses)


def _square(grid: Grid) -> np.ndarray:
    """What a pixel's width and height are multiplied by to be equal on the ground, its area as it is."""
    wide, high = grid.ground_m_per_px
    return np.sqrt([wide / high, high / wide]) if abs(wide / high - 1) > _ABOUT_SQUARE else np.ones(2)


def _scaled(polygons: np.ndarray, factors: np.ndarray) -> np.ndarray:
    return polygons if (factors == 1).all() else shapely.transform(polygons, lambda xy: xy * factors)


def _frame(
    outlined: _Outlined, index: TileIndex, categories: Sequence[str], model: str, first_id: int
) -> geopandas.GeoDataFrame:
    """Buildings in the image's CRS."""
    buildings, polygons, statuses = outlined
    polygons_crs = px_to_crs(polygons, index.grid.transform)
    return building_frame(
        polygons_crs,
        buildings.probabilities,
        categories,
        crs=index.grid.crs,
        areas_m2=ground_areas(polygons_crs, index.grid.crs),
        tile_ids=[index.tiles[tile].tile_id for tile in buildings.tiles],
        tile_counts=buildings.tile_counts,
        merge_statuses=list(buildings.statuses),
        regularize_statuses=list(statuses),
        raw_crs=px_to_crs(buildings.polygons, index.grid.transform),
        model=model,
        timestamp=index.grid.observed,
        first_id=first_id,
    )


def _publish(
    spool: Path, stem: Path, index: TileIndex, categories: Sequence[str], formats: Sequence[str]
) -> None:
    def rows() -> Iterator[Rows]:
        for frame in read_parts(spool):
            polygons = frame.geometry.values
            yield Rows(
                polygons_px=crs_to_px(polygons, index.grid.transform),
                polygons_lonlat=reproject(polygons, index.grid.crs, LONLAT),
                probabilities=frame[[f"conf_{name}" for name in categories]].to_numpy(),
            )

    for name in formats:
        path = stem.with_name(f"{stem.name}.{name}")
        if name == "csv":
            write_csv(path, rows(), categories)
        else:
            WRITERS[name](path, read_parts(spool), categories, index.grid.crs)


def read_parts(table: Path) -> Iterator[geopandas.GeoDataFrame]:
    """The published buildings of an image, frames of `building_frame`, in the order of their ids."""
    for part in sorted(table.glob("*.parquet")):
        yield geopandas.read_parquet(part)


def tiles_of(table: Path) -> np.ndarray:
    """str[n], the tile that saw most of each published building, in the order of their ids."""
    parts = [
        pd.read_parquet(part, columns=["tile_id"])["tile_id"] for part in sorted(table.glob("*.parquet"))
    ]
    return np.concatenate(parts).astype(str) if parts else np.empty(0, dtype=str)


class Selection(NamedTuple):
    """What a network's confidences mean, and from which on a building is published."""

    temperature: float
    """Confidences are divided by it as logits; 1 leaves them as they are."""
    thresholds: dict[str, float]
    """Lowest confidence published by category."""
    calibration: Calibration | None = None
    """What the temperature, and thresholds that nobody set, rest on; None where nobody calibrated."""


def read_selection(path: Path, given: Mapping[str, float], categories: Sequence[str]) -> Selection:
    """Thresholds as set, else as calibrated, else one half; the temperature as calibrated.

    Raises:
        SettingsError: a threshold is set for a category that does not exist.
        ArtifactError: the calibration cannot be read.
    """
    if unknown := set(given) - set(categories):
        raise SettingsError(
            "thresholds of unknown categories",
            where="[Aggregation] score_thresholds",
            found=sorted(unknown),
            remedy=f"The categories are {', '.join(categories)}.",
        )
    if not path.is_file():
        return Selection(1.0, {name: float(given.get(name, 0.5)) for name in categories})
    try:
        calibration = Calibration.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ArtifactError(
            "not the calibration of a network",
            where=path,
            found=str(error).splitlines()[0],
            remedy="Delete it; CalibrateNetwork makes it anew.",
        ) from error
    chosen = {**calibration.thresholds, **given}
    thresholds = {name: float(chosen.get(name, 0.5)) for name in categories}
    return Selection(calibration.temperature, thresholds, calibration)
