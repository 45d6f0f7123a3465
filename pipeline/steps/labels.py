"""LoadLabels: from a label file to clean labels in the image's frame."""

from __future__ import annotations

from pathlib import Path

import geopandas

from pipeline.frames import px_to_crs, window_box
from pipeline.labels import LabelReport, LabelRules, clean_labels, read_area, read_label_file
from pipeline.schema import Grid, Window


def load_labels(
    labels: Path, area: Path | None, grid: Grid, rules: LabelRules
) -> tuple[geopandas.GeoDataFrame, LabelReport]:
    """Clean labels in the image's CRS, and what became of every row of the file."""
    footprint = px_to_crs([window_box(Window(0, 0, grid.width, grid.height))], grid.transform)[0]
    ground = read_area(area, grid.crs) if area else None
    return clean_labels(read_label_file(labels), grid.crs, footprint, rules, ground, where=labels)
