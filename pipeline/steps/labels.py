"""LoadLabels: from a label file to clean labels in the image's frame."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import shapely

from pipeline.errors import LabelError
from pipeline.frames import footprint
from pipeline.labels import (
    LabelReport,
    LabelRules,
    clean_labels,
    read_area,
    read_label_file,
    suggest_settings,
)
from pipeline.raster import Imagery, read_grid
from pipeline.schema import Grid
from pipeline.steps import Progress, silent


def load_labels(
    labels: Path, area: Path | None, grid: Grid, rules: LabelRules, progress: Progress = silent
) -> tuple[geopandas.GeoDataFrame, LabelReport]:
    """Clean labels in the image's CRS, and what became of every row of the file."""
    progress(0.0, f"reading {labels.name}")
    frame = read_label_file(labels)
    progress(0.2, f"cleaning {len(frame):,} rows")
    ground = read_area(area, grid.crs) if area else None
    cleaned, report = clean_labels(frame, grid.crs, footprint(grid), rules, ground, where=labels)
    progress(0.7, f"storing {len(cleaned):,} labels")
    return cleaned, report


def preview_labels(
    labels: Path, source: Path | str | None, area: Path | None, imagery: Imagery, rules: LabelRules
) -> tuple[LabelReport, str]:
    """What would become of every row of a label file, and the settings it asks for if not the present ones.

    Nothing is stored.

    Args:
        labels: the label file.
        source: the image it belongs to; None to look at the file alone, in the UTM zone it lies in.
        area: labelled ground; None for the whole image.
        imagery: how the image is read.
        rules: how the rows are read; where their attribute is missing they are read without one.

    Returns:
        The report, and a section `[Labels]` for luigi.cfg, empty where the present settings fit.

    Raises:
        SourceError, LabelError, RasterError: a file cannot be read.
    """
    frame = read_label_file(labels)
    if source is not None:
        grid = read_grid(source, imagery)
        crs, outline = grid.crs, footprint(grid)
    else:
        crs, outline = _own_place(frame, labels)
    wanted = suggest_settings(frame, rules)
    if rules.condition_attribute not in frame.columns:
        rules = dataclasses.replace(rules, condition_attribute="")
    ground = read_area(area, crs) if area else None
    _, report = clean_labels(frame, crs, outline, rules, ground, where=labels)
    return report, wanted


def _own_place(frame: geopandas.GeoDataFrame, labels: Path) -> tuple[Any, shapely.Polygon]:
    """The UTM zone that a file's rows lie in, and the box around them; its own CRS where none has a place."""
    placed = frame[np.isfinite(frame.bounds).all(axis=1)]
    if placed.empty:
        return frame.crs, shapely.Polygon()
    try:
        crs = frame.crs if frame.crs.is_projected else placed.estimate_utm_crs()
    except RuntimeError as error:
        raise LabelError(
            "its coordinates lie nowhere on the earth",
            where=labels,
            found=tuple(placed.total_bounds.tolist()),
            remedy="Give the file the CRS that its coordinates are in.",
        ) from error
    return crs, shapely.box(*placed.to_crs(crs).total_bounds)
