"""What became of each building and of each label: of the metric's failures, why they are some.

A false positive may lie where nothing is labelled, or on a label that it overlaps too little, that another
building took, or that is invalid; likewise a false negative where nothing was found, on a building that
overlaps it too little, or on one that took another label. A building and a label are held against each other
where their IoU is at least `BACKGROUND`, or more than half of either lies on the other.

Source: D. Bolya, S. Foley, J. Hays, J. Hoffman, TIDE, A General Toolbox for Identifying Object Detection
Errors (ECCV 2020): background, localisation, duplicate, missed and classification errors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import shapely

from pipeline.matching import overlapping_pairs, valid_polygons
from pipeline.polygons import polygonal

if TYPE_CHECKING:
    from pipeline.evaluate import Matches

BACKGROUND = 0.1
"""IoU below which two polygons have nothing to do with each other, as in the source."""

RIGHT, MISTAKEN, FALSE, MISSED = "right", "mistaken", "false", "missed"
INEXACT = "inexact"
"""A building and a label that overlap, but not enough for a match."""
REPEATED = "repeated"
"""A building on a label that another building took; a label on a building that took another label."""
INVALID = "invalid"
"""A label without area or that crosses itself, which nothing can match, and what lies on it."""


class Verdicts(NamedTuple):
    """What became of the buildings, or of the labels."""

    names: np.ndarray
    """object[k], of those above; '' where nothing was judged."""
    others: np.ndarray
    """int64[k], the label of a building, the building of a label: what it matched, else what it overlaps
    best; -1 for none."""
    ious: np.ndarray
    """float64[k], intersection over union of the two, an invalid label repaired; 0 for none."""

    @classmethod
    def of_nothing(cls, count: int) -> Verdicts:
        """Of so many that nobody judged."""
        return cls(np.full(count, "", dtype=object), np.full(count, -1), np.zeros(count))


def judge(polygons, truths, matches: Matches, judged: np.ndarray | None = None) -> tuple[Verdicts, Verdicts]:
    """What became of the buildings, then of the labels.

    Args:
        polygons: object[n], the buildings.
        truths: object[m], the labels, as drawn; same frame.
        matches: of the judged buildings and the labels.
        judged: bool[n], which buildings the matches count; None for all.
    """
    rows = np.arange(len(polygons)) if judged is None else np.flatnonzero(judged)
    proposals, drawn = valid_polygons(polygons)[rows], np.array(truths, dtype=object)
    invalid = ~shapely.is_valid(drawn) | ~(shapely.area(drawn) > 0)
    there = np.flatnonzero(invalid & ~shapely.is_missing(drawn))
    drawn[there] = polygonal(shapely.make_valid(drawn[there]))

    found, labelled = Verdicts.of_nothing(len(polygons)), Verdicts.of_nothing(len(drawn))
    building, label, ious = overlapping_pairs(proposals, drawn, min_iou=0.0)
    areas, label_areas = shapely.area(proposals)[building], shapely.area(drawn)[label]
    # The IoU is shared / (one + other - shared): solved for what is shared.
    shared = ious / (1 + ious) * (areas + label_areas)
    near = np.flatnonzero((ious >= BACKGROUND) | (shared > np.minimum(areas, label_areas) / 2))
    near = near[np.argsort(ious[near], kind="stable")]  # of several writes the last one stays
    _pair(found, labelled, rows[building[near]], label[near], ious[near])
    pairs = np.array([(one.proposal, one.truth) for one in matches.pairs], dtype=np.int64).reshape(-1, 2)
    matched, taken = rows[pairs[:, 0]], pairs[:, 1]
    _pair(found, labelled, matched, taken, np.array([one.iou for one in matches.pairs]))

    false, missed = rows[matches.false_positives], np.array(matches.misses, dtype=np.int64)
    of_false, of_missed = found.others[false], labelled.others[missed]
    on_invalid = np.append(invalid, False)[of_false]  # also of -1, where there is no label
    found.names[false] = np.select(
        [of_false < 0, on_invalid, np.isin(of_false, taken)], [FALSE, INVALID, REPEATED], INEXACT
    )
    labelled.names[missed] = np.select(
        [invalid[missed], of_missed < 0, np.isin(of_missed, matched)], [INVALID, MISSED, REPEATED], INEXACT
    )
    found.names[matched] = labelled.names[taken] = RIGHT
    found.names[rows[[pair.proposal for pair in matches.class_mistakes]]] = MISTAKEN
    labelled.names[[pair.truth for pair in matches.class_mistakes]] = MISTAKEN
    return found, labelled


def _pair(
    found: Verdicts, labelled: Verdicts, buildings: np.ndarray, labels: np.ndarray, ious: np.ndarray
) -> None:
    """Holds buildings and labels against each other."""
    found.others[buildings], labelled.others[labels] = labels, buildings
    found.ious[buildings], labelled.ious[labels] = ious, ious
