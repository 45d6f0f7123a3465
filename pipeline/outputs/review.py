"""Which buildings and labels are worth a person's look, as points to go through."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import shapely

from pipeline import verdicts

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
FALSE_POSITIVES = {
    verdicts.FALSE: FALSE,
    verdicts.INEXACT: Reason("false", "a building is labelled here, and overlaps by one half or less"),
    verdicts.REPEATED: Reason("false", "the label here has another building"),
    verdicts.INVALID: Reason("false", "the label here is invalid: nothing can match it"),
}
FALSE_NEGATIVES = {
    verdicts.MISSED: MISSED,
    verdicts.INEXACT: Reason("missed", "a labelled building; what was found overlaps by one half or less"),
    verdicts.REPEATED: Reason("missed", "a label whose building has another label"),
    verdicts.INVALID: Reason("missed", "an invalid label: nothing can match it"),
}
MISTAKEN = Reason("category", "the label says another category")
UNSURE_BUILDING = Reason("unsure", f"confidence below {UNSURE}")
UNDECIDED = Reason("undecided", "two categories are almost equally likely")
EDGE = Reason("edge", "cut by the edge of a tile or of the image")
REASONS = (MISSED, FALSE, MISTAKEN, UNSURE_BUILDING, UNDECIDED, EDGE)
"""In the order of urgency: what fits several is looked at for the first."""


def building_reasons(
    probabilities: np.ndarray, told: np.ndarray, fragments: np.ndarray, at_edge: np.ndarray
) -> list[Reason | None]:
    """Why each of n buildings is looked at; None for those that are not.

    Args:
        probabilities: float64[n, k].
        told: object[n], verdict on each, '' where nothing was judged.
        fragments: bool[n], cut by a tile's edge without a counterpart beyond it.
        at_edge: bool[n], touching the image's edge.
    """
    best = np.sort(probabilities, axis=1)[:, ::-1]
    second = best[:, 1] if best.shape[1] > 1 else np.zeros(len(best))
    reasons: list[Reason | None] = [None] * len(best)
    for reason, applies in (
        (EDGE, fragments | at_edge),
        (UNDECIDED, best[:, 0] - second < CLOSE),
        (UNSURE_BUILDING, best[:, 0] < UNSURE),
        (MISTAKEN, told == verdicts.MISTAKEN),
        *((reason, told == verdict) for verdict, reason in FALSE_POSITIVES.items()),
    ):
        for row in np.flatnonzero(applies):
            reasons[row] = reason
    return reasons


def points_on(polygons: np.ndarray) -> np.ndarray:
    """A point inside of each polygon, object[n]."""
    return shapely.point_on_surface(np.array(polygons, dtype=object))
