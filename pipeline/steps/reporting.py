"""ReportImage: everything published about an image on one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.frames import ground_areas
from pipeline.matching import overlapping_pairs
from pipeline.metrics import precision_recall
from pipeline.outputs import LONLAT
from pipeline.provenance import RunRecord
from pipeline.raster import Raster, TiledImage
from pipeline.report import Gallery, Picture, ReportContext, build_pyramid, choose_galleries, render_report
from pipeline.report.pyramid import MAP_SIDE, jpeg
from pipeline.schema import TileIndex
from pipeline.settings import Labels
from pipeline.steps import Progress, silent
from pipeline.steps.buildings import Selection
from pipeline.steps.evaluation import Comparison, Evaluation, Judged, lonlat_to_px, read_comparison
from pipeline.submission import Rows, read_csv
from pipeline.training_curves import read_training_curves
from pipeline.verdicts import Verdicts, judge

OVERVIEW_SIDE = 1600
"""Longer side of the picture on the page, in pixels."""
OVERVIEW_QUALITY, CROP_QUALITY = 82, 80


def report_image(
    image: TiledImage,
    csv: Path,
    labels: Labels,
    selection: Selection,
    history: Path,
    records: Sequence[RunRecord],
    judged: Judged | None,
    credit: str = "",
    progress: Progress = silent,
) -> str:
    """The page as HTML.

    The image is read once, shrunk to the sharpest level of the map, and in one window for each picture
    of a gallery.

    Args:
        image: what was mapped.
        csv: the published buildings.
        labels: the settings that name the categories.
        selection: what confidences mean, and which are published.
        history: how the network was learnt; need not be there.
        records: run records of what made the result.
        judged: the score and what it rests on; None for an image without labels.
        credit: whom the imagery is owed to.
        progress: told before each part.
    """
    index, grid = image.index, image.grid
    progress(0.0, f"reading {csv.name}")
    judgement: dict[str, Any] = {}
    if judged is None:
        rows = read_csv(csv, labels.names)
    else:
        compared = read_comparison(judged, labels, grid)
        rows = compared.rows
        evaluation = Evaluation.model_validate_json(judged.report.read_bytes())
        judgement = _judgement(evaluation, compared, index, labels)
    confidences = rows.probabilities.max(axis=1, initial=0.0)
    with image.open() as raster:
        progress(0.2, "shrinking the image")
        sharpest = raster.shrunk(MAP_SIDE)
        progress(0.6, "taking pictures of buildings")
        galleries = _galleries(raster, rows, confidences, judgement)
    progress(0.8, "laying out the page")
    return render_report(
        ReportContext(
            image_id=index.image_id,
            categories=labels.names,
            width=grid.width,
            height=grid.height,
            overview=_overview(sharpest),
            ground_m_per_px=grid.ground_m_per_px,
            polygons_px=rows.polygons_px,
            building_categories=_categories(rows),
            confidences=confidences,
            areas_m2=ground_areas(rows.polygons_lonlat, LONLAT),
            pyramid=build_pyramid(sharpest, grid.width / sharpest.shape[1]),
            galleries=galleries,
            thresholds=selection.thresholds,
            facts=_facts(index),
            training=read_training_curves(history),
            calibration=selection.calibration,
            records=records,
            attribution=credit,
            **judgement,
        )
    )


def _judgement(told: Evaluation, compared: Comparison, index: TileIndex, labels: Labels) -> dict[str, Any]:
    """What a page tells of an image with labels, by the fields of `ReportContext`."""
    pairs = overlapping_pairs(compared.rows.polygons_lonlat[compared.judged], compared.truths)
    truths_px = lonlat_to_px(compared.truths, index.grid)
    found, labelled = judge(
        compared.rows.polygons_lonlat, compared.truths, told.score.matches, compared.judged
    )
    return {
        "truth_polygons_px": truths_px,
        "truth_categories": compared.known,
        "found": found,
        "labelled": labelled,
        "score": told.score,
        "seams": told.seams,
        "coverage": told.coverage,
        "metrics": told.metrics,
        "curves": precision_recall(
            pairs, compared.rows.probabilities[compared.judged], compared.known, labels.names
        ),
    }


def _galleries(
    raster: Raster, rows: Rows, confidences: np.ndarray, judgement: Mapping[str, Any]
) -> list[Gallery]:
    """The galleries with their pictures, each read by its own window."""
    galleries = choose_galleries(
        rows.polygons_px,
        confidences,
        judgement.get("truth_polygons_px", np.empty(0, dtype=object)),
        judgement.get("found", Verdicts.of_nothing(len(rows.polygons_px))),
        judgement.get("labelled", Verdicts.of_nothing(0)),
        (raster.grid.width, raster.grid.height),
    )

    def read(crop):
        pixels = raster.read(crop.window, crop.factor)
        return crop._replace(picture=Picture(jpeg(pixels, CROP_QUALITY), pixels.shape[1], pixels.shape[0]))

    return [gallery._replace(crops=[read(crop) for crop in gallery.crops]) for gallery in galleries]


def _overview(sharpest: np.ndarray) -> Picture:
    image = Image.fromarray(sharpest)
    image.thumbnail((OVERVIEW_SIDE, OVERVIEW_SIDE))
    return Picture(jpeg(image, OVERVIEW_QUALITY), *image.size)


def _categories(rows: Rows) -> np.ndarray:
    return rows.probabilities.argmax(axis=1) if len(rows.probabilities) else np.empty(0, dtype=np.int64)


def _facts(index: TileIndex) -> dict[str, str]:
    grid = index.grid
    sides = " x ".join(dict.fromkeys(f"{100 * side:.1f}" for side in grid.ground_m_per_px))
    return {
        "Image": f"{grid.width:,} x {grid.height:,} px, {sides} cm per pixel",
        "CRS": grid.crs if grid.srid else "without an EPSG code",
        "Date": grid.date,
        "Tiles": f"{len(index.tiles)} of {index.tile_size} px, {index.overlap} px overlap"
        + (f", {index.empty_tiles} empty ones left out" if index.empty_tiles else ""),
    }
