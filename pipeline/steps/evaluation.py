"""EvaluateImage: the published CSV against the labels as they were given, and what the tiling did to it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import shapely

from pipeline.coverage import Coverage, untiled_windows
from pipeline.edge import EdgeCounts, cut_to_image
from pipeline.evaluate import ImageScore, score_image
from pipeline.frames import crs_to_px, grid_lonlat_outline, reproject
from pipeline.labels import category_indices, read_area, read_label_file
from pipeline.metrics import ImageMetrics, MetricRules, measure_image
from pipeline.outputs import LONLAT
from pipeline.polygons import stand_on
from pipeline.raster import TiledImage
from pipeline.schema import EVALUATION_VERSION, Grid, TileIndex, Versioned, Window
from pipeline.seam_score import SeamScore, find_seams, score_seams
from pipeline.settings import Labels
from pipeline.steps import Progress, silent
from pipeline.steps.buildings import tiles_of
from pipeline.submission import Rows, read_csv


class Evaluation(Versioned):
    """The metric of one image and what it was computed from (`<image_id>.report.json`)."""

    schema_version: int = EVALUATION_VERSION
    image_id: str
    proposals: int
    """Buildings of the CSV that count: all or those on labelled ground, but none on labels left out."""
    truths: int
    """Labels that count, invalid ones and those of unknown condition included."""
    edge: EdgeCounts
    """Labels that the image does not show whole, on labelled ground or not."""
    score: ImageScore
    seams: SeamScore | None = None
    """All buildings near the seams and away from them; None in reports older than this part."""
    coverage: Coverage | None = None
    """Valid ground that no tile covers; None in reports older than this part."""
    metrics: ImageMetrics | None = None
    """What the challenge's metric does not tell; None in reports older than this part."""

    def table(self) -> str:
        """The metric as text: a line per category and side of the seams, then what the tiling cost."""
        lines = [f"{'':<16}{'F1':>7}{'precision':>11}{'recall':>8}{'TP':>7}{'FP':>7}{'FN':>7}"]
        rows = self.score.categories | {"all buildings": self.score.all_buildings}
        if self.seams and self.seams.seam_km:
            rows |= {"near seams": self.seams.zone.counts, "away from seams": self.seams.interior.counts}
        for name, row in rows.items():
            counts = f"{row.true_positives:>7}{row.false_positives:>7}{row.false_negatives:>7}"
            lines.append(f"{name:<16}{row.f1:>7.3f}{row.precision:>11.3f}{row.recall:>8.3f}{counts}")
        lines.append(f"{'mean F1':<16}{self.score.mean_f1:>7.3f}")
        sentences = [part.sentence for part in (self.edge, self.seams, self.coverage) if part]
        return "\n".join([*lines, *filter(None, sentences)])


class Judged(NamedTuple):
    """The map of an image with labels, as files."""

    csv: Path
    """The published buildings."""
    labels: Path
    """The label file."""
    area: Path | None
    """The polygons within which the labels are complete; None for the whole image."""
    report: Path
    """Where `report.json` is, once `evaluate_image` has made it."""


class Comparison(NamedTuple):
    """What is judged and what it is judged by."""

    rows: Rows
    """All rows of the CSV."""
    judged: np.ndarray
    """bool[n], which of them count."""
    truths: np.ndarray
    """object[m], lon/lat: the labels that count, cut to the image."""
    known: np.ndarray
    """int64[m], their categories by index, -1 where unknown."""
    ground: shapely.Geometry | None
    """The labelled ground, lon/lat; None for the whole image."""
    edge: EdgeCounts
    """Labels that the image does not show whole."""


def read_comparison(files: Judged, settings: Labels, grid: Grid) -> Comparison:
    """The published buildings and the labels they are judged by.

    Labels are taken as they are drawn, neither repaired nor stripped of duplicates: an empty or
    crossed polygon is a truth that nobody can find, only rows without a geometry are none. What reaches
    beyond the image is cut to it, as the buildings are; of what hardly reaches into it, found or not, neither
    side counts anything. A file may hold the labels of other images: those are no truths. Where the
    labelled ground is given, what has no inner point on it counts on neither side.
    """
    rows = read_csv(files.csv, settings.names)
    frame = read_label_file(files.labels)
    truths = reproject(frame.geometry.values, frame.crs, LONLAT, where=files.labels)
    known = category_indices(frame, settings.label_rules(), where=files.labels)
    drawn = ~shapely.is_missing(truths)
    shown = cut_to_image(truths[drawn], grid_lonlat_outline(grid))
    truths, known = shown.polygons[shown.asked], known[drawn][shown.asked]
    judged = ~shown.excuses(rows.polygons_lonlat)
    ground = None if files.area is None else read_area(files.area, LONLAT)
    if ground is not None:
        counted = stand_on(truths, ground)
        truths, known = truths[counted], known[counted]
        judged &= stand_on(rows.polygons_lonlat, ground)
    return Comparison(rows, judged, truths, known, ground, shown.counts)


def evaluate_image(
    image: TiledImage,
    files: Judged,
    settings: Labels,
    metrics: MetricRules,
    progress: Progress = silent,
    table: Path | None = None,
) -> Evaluation:
    """The challenge's metric, in lon/lat like its scorer; how it fares at the seams; what no tile covers.

    Args:
        image: what was mapped.
        files: the published buildings and the labels.
        settings: the settings that name categories and conditions.
        metrics: what is measured beside the challenge's metric.
        progress: told before each part.
        table: folder of the published buildings, a table per batch, which tells their tiles; None where
            nobody knows them.
    """
    index = image.index
    progress(0.0, f"reading {files.csv.name} and {files.labels.name}")
    compared = read_comparison(files, settings, index.grid)
    progress(0.2, f"matching {int(compared.judged.sum()):,} buildings with {len(compared.truths):,} labels")
    score = score_image(
        compared.rows.polygons_lonlat[compared.judged],
        compared.rows.probabilities[compared.judged],
        compared.truths,
        compared.known,
        settings.names,
    )
    progress(0.4, "looking along the seams")
    seams = _seams(compared, score, index, None if table is None else tiles_of(table))
    progress(0.6, "looking for ground without a tile")
    coverage = check_coverage(image)
    progress(0.7, "measuring outlines")
    return Evaluation(
        image_id=index.image_id,
        proposals=int(compared.judged.sum()),
        truths=len(compared.truths),
        edge=compared.edge,
        score=score,
        seams=seams,
        coverage=coverage,
        metrics=_metrics(compared, score, index, settings, metrics),
    )


def check_coverage(image: TiledImage) -> Coverage:
    """Valid ground that no tile covers.

    Validity is told by `Raster.valid_shares`, as it was when the tiles were chosen: in overviews and
    blocks, never the whole image at once. Where tiles leave no ground out, nothing is read.
    """
    grid = image.grid
    gaps = untiled_windows([tile.window for tile in image.index.tiles], grid.width, grid.height)
    if not len(gaps):
        return Coverage(uncovered_px=0, uncovered_share=0.0)
    windows = np.concatenate([[Window(0, 0, grid.width, grid.height)], gaps])
    with image.open() as raster:
        valid_px = raster.valid_shares(windows) * windows[:, 2:].prod(axis=1)
    # Valid ground is taken generously along its edge, and more so in small windows.
    uncovered = min(valid_px[1:].sum(), valid_px[0])
    return Coverage(
        uncovered_px=round(uncovered), uncovered_share=uncovered / valid_px[0] if valid_px[0] else 0.0
    )


def lonlat_to_px(geometries, grid: Grid) -> np.ndarray:
    """Geometries in image pixels, object[n], from geometries in lon/lat."""
    return crs_to_px(reproject(geometries, LONLAT, grid.crs), grid.transform)


def _metrics(
    compared: Comparison, score: ImageScore, index: TileIndex, settings: Labels, rules: MetricRules
) -> ImageMetrics:
    def metres(xy: np.ndarray) -> np.ndarray:
        return xy * index.grid.ground_m_per_px

    return measure_image(
        shapely.transform(compared.rows.polygons_px[compared.judged], metres),
        compared.rows.probabilities[compared.judged],
        shapely.transform(lonlat_to_px(compared.truths, index.grid), metres),
        compared.known,
        settings.names,
        score.matches,
        rules,
    )


def _seams(compared: Comparison, score: ImageScore, index: TileIndex, tiles: np.ndarray | None) -> SeamScore:
    ground = None
    if compared.ground is not None:
        # A crossing that reprojecting left behind would stop the intersection with the seams.
        ground = shapely.make_valid(lonlat_to_px([compared.ground], index.grid)[0])
    return score_seams(
        compared.rows.polygons_px[compared.judged],
        lonlat_to_px(compared.truths, index.grid),
        score.matches,
        find_seams([tile.window for tile in index.tiles]),
        index.grid.ground_m_per_px,
        ground,
        None if tiles is None else tiles[compared.judged],
    )
