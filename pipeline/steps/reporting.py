"""ReportImage: everything published about an image on one page."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from PIL import Image

from pipeline.frames import ground_areas
from pipeline.outputs import LONLAT
from pipeline.provenance import RunRecord
from pipeline.raster import Imagery, Raster
from pipeline.report import ReportContext, render_report
from pipeline.schema import TileIndex
from pipeline.settings import Labels
from pipeline.steps.evaluation import Evaluation, lonlat_to_px, read_sides
from pipeline.submission import Rows, read_csv
from pipeline.training_curves import read_training_curves

OVERVIEW_SIDE = 1600
"""Longer side of the picture on the page, in pixels."""
JPEG_QUALITY = 82


def report_image(
    index: TileIndex,
    source: Path | str,
    imagery: Imagery,
    csv: Path,
    labels: Labels,
    thresholds: Mapping[str, float],
    history: Path,
    records: Sequence[RunRecord],
    evaluation: tuple[Path, Path, Path | None] | None,
) -> str:
    """The page as HTML.

    Args:
        index: the image's tiles.
        source: the image.
        imagery: how it is read.
        csv: the published buildings.
        labels: the settings that name the categories.
        thresholds: lowest confidence published, by category.
        history: how the network was learnt; need not be there.
        records: run records of what made the result.
        evaluation: report.json, label file and labelled area; None for an image without labels.
    """
    with Raster(source, index.grid, imagery) as raster:
        overview = raster.shrunk(OVERVIEW_SIDE)
    scale = overview.shape[1] / index.grid.width
    judgement: dict[str, Any] = {}
    if evaluation is None:
        rows = read_csv(csv, labels.names)
    else:
        report, label_file, area = evaluation
        sides = read_sides(csv, label_file, area, labels)
        rows = sides.rows
        judged = Evaluation.model_validate_json(report.read_bytes())
        judgement = {
            "truth_polygons": _shrink(lonlat_to_px(sides.truths, index.grid), scale),
            "truth_categories": sides.known,
            "judged": sides.judged,
            "score": judged.score,
            "seams": judged.seams,
            "coverage": judged.coverage,
        }
    return render_report(
        ReportContext(
            image_id=index.image_id,
            categories=labels.names,
            overview=_jpeg(overview),
            overview_width=overview.shape[1],
            overview_height=overview.shape[0],
            ground_m_per_overview_px=index.grid.ground_m_per_px[0] / scale,
            polygons=_shrink(rows.polygons_px, scale),
            building_categories=_categories(rows),
            confidences=rows.probabilities.max(axis=1, initial=0.0),
            areas_m2=ground_areas(rows.polygons_lonlat, LONLAT),
            thresholds=thresholds,
            facts=_facts(index),
            training=read_training_curves(history),
            records=records,
            **judgement,
        )
    )


def _shrink(polygons: np.ndarray, scale: float) -> Any:
    return shapely.transform(polygons, lambda xy: xy * scale)


def _categories(rows: Rows) -> np.ndarray:
    return rows.probabilities.argmax(axis=1) if len(rows.probabilities) else np.empty(0, dtype=np.int64)


def _jpeg(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _facts(index: TileIndex) -> dict[str, str]:
    grid = index.grid
    return {
        "Image": f"{grid.width:,} x {grid.height:,} px, {100 * grid.ground_m_per_px[0]:.1f} cm per pixel",
        "CRS": grid.crs if grid.srid else "without an EPSG code",
        "Taken": grid.observed,
        "Tiles": f"{len(index.tiles)} of {index.tile_size} px, {index.overlap} px overlap, "
        f"{index.empty_tiles} empty ones left out",
    }
