"""AggregateImage: from per-tile detections to the buildings of an image.

Tiles are read row by row, merged across their seams, filtered and set aside as a table per batch;
the published files are written from those tables, so that no step holds all buildings at once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import geopandas
import numpy as np
import shapely
from pydantic import ValidationError

from pipeline.errors import ArtifactError, SettingsError
from pipeline.frames import crs_to_px, ground_areas, px_to_crs, reproject
from pipeline.outputs import LONLAT, building_frame, write_geojson, write_gpkg, write_parquet
from pipeline.polygons import largest_parts
from pipeline.schema import Tile, TileDetections, TileIndex
from pipeline.seams import Buildings, Detections, MergeRules, merge_stream
from pipeline.settings import Aggregation
from pipeline.steps import Progress
from pipeline.submission import Rows, write_csv

REMEDY = "Delete it and the manifests beside it, and run again."


def read_detections(path: Path) -> TileDetections:
    """The detections of one tile.

    Raises:
        ArtifactError: the file is missing, damaged, or of another version.
    """
    try:
        return TileDetections.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ArtifactError(
            f"cannot be read: {error.strerror}",
            where=path,
            remedy="Delete the manifests beside it and run again: what is missing is inferred.",
        ) from error
    except ValidationError as error:
        raise ArtifactError(
            f"not the detections of a tile: {error.errors()[0]['msg']}",
            where=path,
            remedy=REMEDY,
        ) from error


def aggregate_image(
    index: TileIndex,
    detections: Path,
    categories: Sequence[str],
    thresholds: dict[str, float],
    aggregation: Aggregation,
    folder: Path,
    progress: Progress,
) -> dict[str, int]:
    """Writes <image_id>.csv, .geojson and what else is asked for into `folder`; returns counts.

    Args:
        index: the image's tiles.
        detections: folder with one JSON per tile.
        categories: names in the order of the columns.
        thresholds: lowest confidence published, by category.
        aggregation: the settings.
        folder: an existing folder to write into.
        progress: told after every row of tiles.
    """
    counts = {"tiles": len(index.tiles), "detections": 0, "without_area": 0, "merged": 0, "buildings": 0}
    source = _Source(index, detections, categories, counts, progress)
    spool = folder / "spool"
    spool.mkdir()
    windows = np.array([tile.window for tile in index.tiles], dtype=np.int64).reshape(-1, 4)
    for number, merged in enumerate(merge_stream(source.rows(), windows, aggregation.rules(MergeRules))):
        counts["merged"] += len(merged.polygons)
        frame = _publishable(merged, index, categories, thresholds, aggregation, source.model, counts)
        if len(frame):
            frame.to_parquet(spool / f"{number:06d}.parquet")
    _publish(spool, folder / index.image_id, index, categories, aggregation.formats)
    for part in spool.iterdir():
        part.unlink()
    spool.rmdir()
    return counts


class _Source:
    """Reads per-tile artifacts row by row and remembers which network made them."""

    def __init__(
        self, index: TileIndex, folder: Path, categories: Sequence[str], counts: dict, progress: Progress
    ):
        self.index, self.folder, self.categories = index, folder, tuple(categories)
        self.counts, self.progress = counts, progress
        self.model = ""

    def rows(self) -> Iterator[Detections]:
        """The detections of one row of tiles at a time, image px."""
        numbered = enumerate(self.index.tiles)
        total, started = len(self.index.tiles), time.monotonic()
        for _, members in groupby(numbered, key=lambda numbered_tile: numbered_tile[1].window.row_off):
            row = list(members)
            yield self._row(row)
            done = row[-1][0] + 1
            rate = done / (time.monotonic() - started)
            self.progress(done / total, f"tile {done}/{total}, {rate:.0f} tiles/s")

    def _row(self, members: list[tuple[int, Tile]]) -> Detections:
        polygons = [np.empty(0, dtype=object)]
        probabilities = [np.empty((0, len(self.categories)))]
        tiles = [np.empty(0, dtype=np.int64)]
        for position, tile in members:
            path = self.folder / f"{tile.tile_id}.json"
            content = read_detections(path)
            self.model = f"{content.model.name}/{content.model.weights}"
            outlines, scores = _outlines(content, path), _scores(content, self.categories, path)
            drawn = np.array([outline is not None for outline in outlines], dtype=bool)
            self.counts["detections"] += len(outlines)
            self.counts["without_area"] += int((~drawn).sum())
            polygons.append(outlines[drawn])
            probabilities.append(scores[drawn])
            tiles.append(np.full(drawn.sum(), position, dtype=np.int64))
        return Detections(np.concatenate(polygons), np.concatenate(probabilities), np.concatenate(tiles))


def _outlines(content: TileDetections, path: Path) -> np.ndarray:
    """object[n], valid Polygon or None: any predictor may have drawn them."""
    outlines = np.empty(len(content.detections), dtype=object)
    try:
        outlines[:] = [shapely.Polygon(found.polygon, found.holes) for found in content.detections]
    except ValueError as error:
        raise ArtifactError(f"not a polygon: {error}", where=path, remedy=REMEDY) from error
    crossed = ~shapely.is_valid(outlines) | shapely.is_empty(outlines)
    outlines[crossed] = largest_parts(shapely.buffer(outlines[crossed], 0))
    return outlines


def _scores(content: TileDetections, categories: tuple[str, ...], path: Path) -> np.ndarray:
    """float64[n, k] in the order of the categories."""
    for found in content.detections:
        if tuple(found.scores) != categories:
            raise ArtifactError(
                "scores are not of the categories in [Labels] categories",
                where=path,
                found=list(found.scores),
                remedy="Run the inference again, or change the setting.",
            )
    rows = [list(found.scores.values()) for found in content.detections]
    return np.array(rows, dtype=np.float64).reshape(-1, len(categories))


def _publishable(
    merged: Buildings,
    index: TileIndex,
    categories: Sequence[str],
    thresholds: dict[str, float],
    aggregation: Aggregation,
    model: str,
    counts: dict[str, int],
) -> geopandas.GeoDataFrame:
    """The buildings confident and large enough, in the image's CRS."""
    limits = np.array([thresholds[name] for name in categories])
    best = merged.probabilities.argmax(axis=1) if len(merged.polygons) else np.empty(0, dtype=int)
    confident = merged.probabilities.max(axis=1, initial=0.0) >= limits[best]
    polygons_crs = px_to_crs(merged.polygons, index.grid.transform)
    areas = ground_areas(polygons_crs, index.grid.crs)
    kept = np.flatnonzero(confident & (areas >= aggregation.min_area_m2))
    first_id = counts["buildings"] + 1
    counts["buildings"] += len(kept)
    return building_frame(
        polygons_crs[kept],
        merged.probabilities[kept],
        categories,
        crs=index.grid.crs,
        areas_m2=areas[kept],
        tile_ids=[index.tiles[tile].tile_id for tile in merged.tiles[kept]],
        tile_counts=merged.tile_counts[kept],
        statuses=list(merged.statuses[kept]),
        model=model,
        timestamp=index.grid.observed,
        first_id=first_id,
    )


def _publish(
    spool: Path, stem: Path, index: TileIndex, categories: Sequence[str], formats: Sequence[str]
) -> None:
    def batches() -> Iterator[geopandas.GeoDataFrame]:
        for part in sorted(spool.iterdir()):
            yield geopandas.read_parquet(part)

    def rows() -> Iterator[Rows]:
        for frame in batches():
            polygons = frame.geometry.values
            yield Rows(
                polygons_px=crs_to_px(polygons, index.grid.transform),
                polygons_lonlat=reproject(polygons, index.grid.crs, LONLAT),
                probabilities=frame[[f"conf_{name}" for name in categories]].to_numpy(),
            )

    writers = {
        "csv": lambda path: write_csv(path, rows(), categories),
        "geojson": lambda path: write_geojson(path, batches()),
        "gpkg": lambda path: write_gpkg(path, batches(), categories, index.grid.crs),
        "parquet": lambda path: write_parquet(path, batches(), categories, index.grid.crs),
    }
    for name in formats:
        writers[name](stem.with_name(f"{stem.name}.{name}"))


def read_thresholds(path: Path, given: dict[str, float], categories: Sequence[str]) -> dict[str, float]:
    """Lowest confidence published by category: as set, else as calibrated, else one half.

    Raises:
        SettingsError: a threshold is set for a category that does not exist.
        ArtifactError: the calibrated ones cannot be read.
    """
    if unknown := set(given) - set(categories):
        raise SettingsError(
            "thresholds of unknown categories",
            where="[Aggregation] score_thresholds",
            found=sorted(unknown),
            remedy=f"The categories are {', '.join(categories)}.",
        )
    calibrated: dict[str, float] = {}
    if path.is_file():
        try:
            calibrated = json.loads(path.read_bytes())["thresholds"]
        except (ValueError, KeyError, TypeError) as error:
            raise ArtifactError(
                "not a thresholds file", where=path, remedy="Train again, or set them."
            ) from error
    return {name: float(given.get(name, calibrated.get(name, 0.5))) for name in categories}
