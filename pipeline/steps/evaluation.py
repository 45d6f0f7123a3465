"""EvaluateImage: the published CSV against the labels as they were given."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import shapely

from pipeline.evaluate import ImageScore, score_image
from pipeline.frames import reproject
from pipeline.labels import category_indices, read_area, read_label_file
from pipeline.outputs import LONLAT
from pipeline.schema import Versioned
from pipeline.settings import Labels
from pipeline.submission import Rows, read_csv


class Evaluation(Versioned):
    """The metric of one image and what it was computed from (`<image_id>.report.json`)."""

    image_id: str
    proposals: int
    """Buildings of the CSV that count: all, or those on labelled ground."""
    truths: int
    """Labels that count, invalid ones and those of unknown condition included."""
    score: ImageScore

    def table(self) -> str:
        """The metric as text, a line per category."""
        lines = [f"{'':<16}{'F1':>7}{'precision':>11}{'recall':>8}{'TP':>7}{'FP':>7}{'FN':>7}"]
        rows = self.score.categories | {"all buildings": self.score.all_buildings}
        for name, row in rows.items():
            counts = f"{row.true_positives:>7}{row.false_positives:>7}{row.false_negatives:>7}"
            lines.append(f"{name:<16}{row.f1:>7.3f}{row.precision:>11.3f}{row.recall:>8.3f}{counts}")
        return "\n".join([*lines, f"{'mean F1':<16}{self.score.mean_f1:>7.3f}"])


class Sides(NamedTuple):
    """What is judged and what it is judged by."""

    rows: Rows
    """All rows of the CSV."""
    judged: np.ndarray
    """bool[n], which of them count."""
    truths: np.ndarray
    """object[m], lon/lat: the labels that count."""
    known: np.ndarray
    """int64[m], their categories by index, -1 where unknown."""


def read_sides(csv: Path, labels: Path, area: Path | None, settings: Labels) -> Sides:
    """The published buildings and the labels they are judged by.

    Labels are taken as they are drawn, neither repaired nor stripped of duplicates: an empty or
    crossed polygon is a truth that nobody can find, only rows without a geometry are none. Where the
    labelled ground is given, what has no inner point on it counts on neither side.
    """
    rows = read_csv(csv, settings.names)
    frame = read_label_file(labels)
    truths = reproject(frame.geometry.values, frame.crs, LONLAT, where=labels)
    known = category_indices(frame, settings.label_rules(), where=labels)
    drawn = ~shapely.is_missing(truths)
    truths, known = truths[drawn], known[drawn]
    judged = np.ones(len(rows.polygons_lonlat), dtype=bool)
    if area is not None:
        ground = read_area(area, LONLAT)
        shapely.prepare(ground)
        counted = shapely.intersects(ground, shapely.point_on_surface(truths))
        truths, known = truths[counted], known[counted]
        judged = shapely.intersects(ground, shapely.point_on_surface(rows.polygons_lonlat))
    return Sides(rows, judged, truths, known)


def evaluate_image(image_id: str, csv: Path, labels: Path, area: Path | None, settings: Labels) -> Evaluation:
    """The challenge's metric, in lon/lat like its scorer."""
    sides = read_sides(csv, labels, area, settings)
    score = score_image(
        sides.rows.polygons_lonlat[sides.judged],
        sides.rows.probabilities[sides.judged],
        sides.truths,
        sides.known,
        settings.names,
    )
    return Evaluation(
        image_id=image_id, proposals=int(sides.judged.sum()), truths=len(sides.truths), score=score
    )
