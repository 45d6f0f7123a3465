"""EvaluateImage: the published CSV against the labels as they were given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import shapely

from pipeline.evaluate import ImageScore, score_image
from pipeline.frames import reproject
from pipeline.labels import read_area, read_label_file
from pipeline.labels.conditions import category_indices
from pipeline.outputs import LONLAT
from pipeline.schema import SCHEMA_VERSION, Artifact
from pipeline.settings import Labels
from pipeline.submission import read_csv


class Evaluation(Artifact):
    """The metric of one image and what it was computed from (`<image_id>.report.json`)."""

    schema_version: int = SCHEMA_VERSION
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


def evaluate_image(image_id: str, csv: Path, labels: Path, area: Path | None, settings: Labels) -> Evaluation:
    """The challenge's metric, in lon/lat like its scorer.

    Labels are taken as they are drawn, neither repaired nor stripped of duplicates; rows without a
    geometry hold nothing that could be found. Where the labelled ground is given, what has its
    representative point outside counts on neither side.
    """
    categories = settings.names
    rows = read_csv(csv, categories)
    frame = read_label_file(labels)
    truths = reproject(frame.geometry.values, frame.crs, LONLAT, where=labels)
    known = category_indices(frame, settings.label_rules())
    drawn = ~(shapely.is_missing(truths) | shapely.is_empty(truths))
    truths, known = truths[drawn], known[drawn]
    proposals, probabilities = rows.polygons_lonlat, rows.probabilities
    if area is not None:
        ground = read_area(area, LONLAT)
        truths, known = _on(ground, truths, known)
        proposals, probabilities = _on(ground, proposals, probabilities)
    score = score_image(proposals, probabilities, truths, known, categories)
    return Evaluation(image_id=image_id, proposals=len(proposals), truths=len(truths), score=score)


def _on(ground: shapely.Geometry, polygons: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    shapely.prepare(ground)
    inside = shapely.intersects(ground, shapely.point_on_surface(polygons))
    return polygons[inside], values[inside]
