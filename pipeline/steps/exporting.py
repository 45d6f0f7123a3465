"""ExportImage: one GeoPackage with everything about an image, a project for QGIS, and a STAC Item."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import shapely

from pipeline.frames import (
    crs_to_px,
    footprint,
    grid_lonlat_outline,
    ground_m_per_px,
    px_to_crs,
    reproject,
    window_boxes,
)
from pipeline.inputs import URL_PREFIXES
from pipeline.outputs import LONLAT
from pipeline.outputs.geopackage import LABELS, REVIEW, TILES, write_gpkg
from pipeline.outputs.project import ProjectImage, project
from pipeline.outputs.qgis import layer_styles
from pipeline.outputs.review import FALSE_NEGATIVES, Reason, building_reasons, points_on
from pipeline.outputs.stac import stac_item
from pipeline.raster import read_header
from pipeline.schema import TileIndex
from pipeline.settings import Labels
from pipeline.steps import Progress, silent
from pipeline.steps.buildings import read_parts
from pipeline.steps.evaluation import Evaluation, Judged, read_comparison
from pipeline.styles import UNKNOWN
from pipeline.verdicts import MISTAKEN, RIGHT, judge

OUTCOMES = {RIGHT: "found", MISTAKEN: "wrong category"}
MISSED = "missed"
"""What the layer of labels calls their verdicts; the review points tell misses apart."""
EDGE_PX = 1.0
"""Buildings nearer to the image's edge than this are cut by it."""


def export_image(
    index: TileIndex,
    source: Path | str,
    table: Path,
    labels: Labels,
    judged: Judged | None,
    formats: Sequence[str],
    folder: Path,
    output: Path,
    progress: Progress = silent,
) -> dict[str, int]:
    """Writes `<image_id>.gpkg`, `.qgs` and `.stac.json` into `folder`; returns the rows of each layer.

    Args:
        index: the image's tiles.
        source: the image.
        table: folder of the published buildings, a table per batch.
        labels: the settings that name the categories.
        judged: the score and what it rests on; None for an image without labels.
        formats: endings of the files that the buildings are published as; those in `output` are told of.
        folder: an existing folder to write into.
        output: where the files will lie; their paths are relative to it.
        progress: told before each part.
    """
    grid, names = index.grid, labels.names
    progress(0.0, "collecting what to review")
    found, labelled, truths = _judgement(judged, labels, index)
    review, tiles, buildings = _walk(table, index, names, found)
    missed = truths[truths["outcome"] == MISSED]
    reasons = [FALSE_NEGATIVES[labelled[number - 1]] for number in missed["label_id"]]
    review = pd.concat([_missed_points(missed, reasons, grid.crs), review], ignore_index=True)
    layers = {TILES: tiles, LABELS: truths, REVIEW: review}
    stem = folder / index.image_id
    progress(0.3, f"writing {stem.name}.gpkg")
    write_gpkg(
        stem.with_name(f"{stem.name}.gpkg"), read_parts(table), names, grid.crs, layers, layer_styles(names)
    )
    west, south, east, north = shapely.bounds(footprint(grid)).tolist()
    image = ProjectImage(_project_source(source, output), grid.crs, (west, south, east, north))
    text = project(f"Buildings in {index.image_id}", f"{index.image_id}.gpkg", names, image)
    stem.with_name(f"{stem.name}.qgs").write_text(text, encoding="utf-8")
    counts = {"buildings": buildings, "labels": len(truths), "review": len(review)}
    item = _item(index, source, labels, judged, formats, output, counts)
    stem.with_name(f"{stem.name}.stac.json").write_text(json.dumps(item, indent=1), encoding="utf-8")
    return counts


def _judgement(
    judged: Judged | None, labels: Labels, index: TileIndex
) -> tuple[np.ndarray | None, np.ndarray, geopandas.GeoDataFrame]:
    """Verdicts on buildings, None where nobody judged, and on labels; the labels with their outcome."""
    if judged is None:
        nothing = np.empty(0, dtype=object)
        return None, nothing, _label_frame(nothing, [], [], index.grid.crs)
    compared = read_comparison(judged, labels, index.grid)
    score = Evaluation.model_validate_json(judged.report.read_bytes()).score
    found, labelled = judge(compared.rows.polygons_lonlat, compared.truths, score.matches, compared.judged)
    told = [OUTCOMES.get(name, MISSED) for name in labelled.names]
    names = [labels.names[category] if category >= 0 else UNKNOWN for category in compared.known.tolist()]
    truths = reproject(compared.truths, LONLAT, index.grid.crs)
    return found.names, labelled.names, _label_frame(truths, names, told, index.grid.crs)


def _label_frame(
    truths: np.ndarray, names: Sequence[str], told: Sequence[str], crs: str
) -> geopandas.GeoDataFrame:
    columns = {
        "label_id": np.arange(1, len(truths) + 1),
        "class_name": pd.Series(list(names), dtype="str"),
        "outcome": pd.Series(list(told), dtype="str"),
    }
    frame = geopandas.GeoDataFrame(columns, geometry=truths, crs=crs)
    polygonal = np.isin(shapely.get_type_id(truths), (3, 6)) & ~shapely.is_empty(truths)
    return frame[polygonal]


def _walk(
    table: Path, index: TileIndex, names: Sequence[str], found: np.ndarray | None
) -> tuple[geopandas.GeoDataFrame, geopandas.GeoDataFrame, int]:
    """Review points, the tiles with what is in them, and how many buildings; one batch in memory."""
    grid = index.grid
    tile_rows = {tile.tile_id: row for row, tile in enumerate(index.tiles)}
    counts, sums = np.zeros(len(index.tiles), dtype=np.int64), np.zeros(len(index.tiles))
    inside = shapely.box(EDGE_PX, EDGE_PX, grid.width - EDGE_PX, grid.height - EDGE_PX)
    points, buildings = [_point_frame(grid.crs)], 0
    for batch in read_parts(table):
        buildings += len(batch)
        rows = np.array([tile_rows.get(tile, -1) for tile in batch["tile_id"]], dtype=np.int64)
        known = rows >= 0  # coarser windows are no tiles
        np.add.at(counts, rows[known], 1)
        np.add.at(sums, rows[known], batch["confidence"].to_numpy()[known])
        polygons = batch.geometry.to_numpy()
        told = (
            np.full(len(batch), "", dtype=object)
            if found is None
            else found[batch["building_id"].to_numpy() - 1]
        )
        reasons = building_reasons(
            batch[[f"conf_{name}" for name in names]].to_numpy(),
            told,
            (batch["merge_status"] == "fragment").to_numpy(),
            ~shapely.contains_properly(inside, crs_to_px(polygons, grid.transform)),
        )
        asked = batch[[reason is not None for reason in reasons]]
        points.append(
            _point_frame(
                grid.crs,
                [reason for reason in reasons if reason],
                asked["building_id"].to_list(),
                asked["class_name"].to_list(),
                asked["confidence"].to_list(),
                points_on(asked.geometry.to_numpy()),
            )
        )
    return pd.concat(points, ignore_index=True), _tile_frame(index, counts, sums), buildings


def _point_frame(
    crs: str,
    reasons: Sequence[Reason] = (),
    building_ids: Sequence[int] = (),
    class_names: Sequence[str] = (),
    confidences: Sequence[float] = (),
    points: Sequence[shapely.Geometry] | np.ndarray = (),
    label_ids: Sequence[int] = (),
) -> geopandas.GeoDataFrame:
    """Review points of buildings, or of labels where these are given instead."""
    n = len(reasons)
    columns = {
        "reason": pd.Series([reason.name for reason in reasons], dtype="str"),
        "meaning": pd.Series([reason.meaning for reason in reasons], dtype="str"),
        "building_id": _numbers(building_ids, n),
        "label_id": _numbers(label_ids, n),
        "class_name": pd.Series(list(class_names), dtype="str"),
        "confidence": np.array(list(confidences) or [np.nan] * n, dtype=np.float64),
        "done": np.zeros(n, dtype=bool),
    }
    return geopandas.GeoDataFrame(columns, geometry=np.array(points, dtype=object), crs=crs)


def _numbers(given: Sequence[int], n: int) -> pd.arrays.IntegerArray:
    """N whole numbers, or n times nothing where none are given."""
    return pd.array(list(given) if given else [pd.NA] * n, dtype=pd.Int64Dtype())


def _missed_points(
    missed: geopandas.GeoDataFrame, reasons: Sequence[Reason], crs: str
) -> geopandas.GeoDataFrame:
    return _point_frame(
        crs,
        reasons,
        class_names=missed["class_name"].to_list(),
        points=points_on(missed.geometry.to_numpy()),
        label_ids=missed["label_id"].to_list(),
    )


def _tile_frame(index: TileIndex, counts: np.ndarray, sums: np.ndarray) -> geopandas.GeoDataFrame:
    boxes = window_boxes([tile.window for tile in index.tiles])
    columns = {
        "tile_id": pd.Series([tile.tile_id for tile in index.tiles], dtype="str"),
        "status": pd.Series(np.where(counts > 0, "buildings", "nothing found"), dtype="str"),
        "buildings": counts,
        "mean_confidence": np.divide(sums, counts, out=np.full(len(counts), np.nan), where=counts > 0),
        "valid_share": [tile.valid_share for tile in index.tiles],
    }
    return geopandas.GeoDataFrame(
        columns, geometry=px_to_crs(boxes, index.grid.transform), crs=index.grid.crs
    )


def _project_source(source: Path | str, output: Path) -> str:
    """How QGIS opens the image: a path relative to the project, or GDAL's name of a URL."""
    if str(source).startswith(URL_PREFIXES):
        return f"/vsicurl/{source}"
    return os.path.relpath(source, output)


def _item(
    index: TileIndex,
    source: Path | str,
    labels: Labels,
    judged: Judged | None,
    formats: Sequence[str],
    output: Path,
    counts: dict[str, int],
) -> dict:
    """The image's STAC Item."""

    def link(path: Path | str) -> str:
        return str(path) if str(path).startswith(URL_PREFIXES) else os.path.relpath(path, output)

    stem = index.image_id
    assets = {"image": link(source)}
    if judged is not None:
        assets |= {"labels": link(judged.labels), "report": f"{stem}.report.json"}
    assets |= {"buildings": f"{stem}.gpkg", "project": f"{stem}.qgs"}
    published = {f"buildings_{name}": f"{stem}.{name}" for name in formats}
    # Map tiles are no file where there is no building.
    assets |= {name: file for name, file in published.items() if (output / file).exists()}
    told = {name: count for name, count in counts.items() if name != "review"}
    grid, file = index.grid, read_header(source)
    return stac_item(
        stem,
        grid_lonlat_outline(grid),
        (grid.observed, grid.observed_by),
        float(np.mean(ground_m_per_px(file.transform, file.width, file.height, grid.crs, where=source))),
        grid.crs,
        (file.height, file.width),
        file.transform,
        assets,
        told,
        labels.names,
        is_cog=file.is_cog,
    )
