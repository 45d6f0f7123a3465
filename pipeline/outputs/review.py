"""Which buildings and labels are worth a person's look, as points to go through."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import shapely

UNSURE = 0.5
"""Confidence below which a building is worth a look."""
CLOSE = 0.15
"""Two categories closer than this are worth a look."""


class Reason(NamedTuple):
    """Why something is looked at."""

    name: str
    meaning: str


FALSE = Reason("false", "no building is labelled here")
MISSED = Reason("missed", "a labelled building that was not found")
MISTAKEN = Reason("category", "the label says another category")
UNSURE_BUILDING = Reason("unsure", f"confidence below {UNSURE}")
UNDECIDED = Reason("undecided", "two categories are almost equally likely")
EDGE = Reason("edge", "cut by the edge of a tile or of the image")
REASONS = (MISSED, FALSE, MISTAKEN, UNSURE_BUILDING, UNDECIDED, EDGE)
"""In the order of urgency: what fits several is looked at for the first."""


def building_reasons(
    probabilities: np.ndarray, outcomes: np.ndarray, fragments: np.ndarray, at_edge: np.ndarray
) -> np.ndarray:
    """Why each building is looked at, object[n] of a reason's name; '' for none.

    Args:
        probabilities: float64[n, k].
        outcomes: object[n] of `false`, `mistaken`, or anything else.
        fragments: bool[n], cut by a tile's edge without a counterpart beyond it.
        at_edge: bool[n], touching the image's edge.
    """
    best = np.sort(probabilities, axis=1)[:, ::-1]
    second = best[:, 1] if best.shape[1] > 1 else np.zeros(len(best))
    reasons = np.full(len(probabilities), "", dtype=object)
    for reason, applies in (
        (EDGE, fragments | at_edge),
        (UNDECIDED, best[:, 0] - second < CLOSE),
        (UNSURE_BUILDING, best[:, 0] < UNSURE),
        (MISTAKEN, outcomes == "mistaken"),
        (FALSE, outcomes == "false"),
    ):
        reasons[applies] = reason.name
    return reasons


def points_on(polygons: np.ndarray) -> np.ndarray:
    """A point inside of each polygon, object[n]."""
    return shapely.point_on_surface(np.array(polygons, dtype=object))
