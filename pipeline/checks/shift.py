"""Labels that all lie beside their buildings, by the same way: a drifting base map under the digitiser.

Every pair of a label and a prediction of about its size votes for the way between their centres. Wrong
pairs vote for anything, right ones for one place: the cell with most votes, refined by the median of
what lies around it. A shift larger than the gap between neighbours is found as well, where pairing each
label with its nearest prediction would have paired neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import shapely

from pipeline.checks.rules import units_of

MIN_AREA_RATIO = 0.5
"""Area of the smaller over the larger of a pair, from which it votes."""
REACH = 1.5
"""Cells around the fullest one from which the offset is taken."""


class Shift(NamedTuple):
    """The way from labels to predictions that most pairs agree on, in metres along the axes of the CRS."""

    dx: float
    dy: float
    support: float
    """Share of the labels that have it, 0 to 1."""
    labels: int
    """Labels that have it."""

    def counts(self, limits: Mapping[str, float]) -> bool:
        """Whether it is long and frequent enough to be more than chance."""
        return (
            float(np.hypot(self.dx, self.dy)) >= limits["shift"]
            and self.support >= limits["shift_support"]
            and self.labels >= limits["shift_labels"]
        )


NO_SHIFT = Shift(0.0, 0.0, 0.0, 0)


def find_shift(labels: np.ndarray, predictions: np.ndarray, limits: Mapping[str, float]) -> Shift:
    """The offset of labels against predictions.

    Args:
        labels: object[n] of valid polygons.
        predictions: object[m] of valid polygons, same CRS.
        limits: as `CheckRules.limits` gives them.
    """
    label, vectors = _votes(labels, predictions, limits["shift_search"], units_of(limits))
    if not len(label):
        return NO_SHIFT
    cells = np.floor(vectors / limits["shift_cell"] + 0.5).astype(np.int64)
    bins, counts = np.unique(cells, axis=0, return_counts=True)
    # Of equally full cells the nearest to no shift at all, then the first.
    best = np.lexsort((bins[:, 1], bins[:, 0], (bins**2).sum(axis=1), -counts))[0]
    near = np.abs(vectors - bins[best] * limits["shift_cell"]) <= REACH * limits["shift_cell"]
    chosen = near.all(axis=1)
    dx, dy = np.median(vectors[chosen], axis=0).tolist()
    having = len(np.unique(label[chosen]))
    return Shift(dx, dy, having / len(labels), having)


def _votes(
    labels: np.ndarray, predictions: np.ndarray, search: float, units: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """int64[v], the label of every pair that votes; float64[v, 2], the way to its prediction in metres."""
    if not len(labels) or not len(predictions):
        return np.empty(0, dtype=np.int64), np.empty((0, 2))
    from_xy, to_xy = _centres(labels), _centres(predictions)
    boxes = shapely.box(*(from_xy - search * units).T, *(from_xy + search * units).T)
    label, prediction = shapely.STRtree(shapely.points(to_xy)).query(boxes)
    areas, other_areas = shapely.area(labels)[label], shapely.area(predictions)[prediction]
    alike = np.minimum(areas, other_areas) >= MIN_AREA_RATIO * np.maximum(areas, other_areas)
    vectors = (to_xy[prediction] - from_xy[label]) / units
    kept = alike & (np.abs(vectors) <= search).all(axis=1)
    return label[kept], vectors[kept]


def _centres(polygons: np.ndarray) -> np.ndarray:
    return shapely.get_coordinates(shapely.centroid(polygons))
