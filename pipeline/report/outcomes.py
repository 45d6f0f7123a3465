"""What the metric says of each building and of each label."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pipeline.evaluate import Matches

RIGHT, FALSE, MISSED, MISTAKEN = "right", "false", "missed", "mistaken"
WORDS = {
    RIGHT: "found",
    FALSE: "no such building labelled",
    MISSED: "missed",
    MISTAKEN: "wrong category",
}
"""What the page says of an outcome."""


def outcomes(
    n: int, m: int, matches: Matches | None, judged: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Outcome of each of n buildings and of each of m labels, object[n] and object[m]; '' for none.

    Args:
        n: buildings.
        m: labels.
        matches: of the judged buildings and the labels; None where nothing was scored.
        judged: bool[n], which buildings the matches count; None for all.
    """
    found, labelled = np.full(n, "", dtype=object), np.full(m, "", dtype=object)
    if matches is not None:
        rows = np.arange(n) if judged is None else np.flatnonzero(judged)
        found[rows[[pair.proposal for pair in matches.pairs]]] = RIGHT
        labelled[[pair.truth for pair in matches.pairs]] = RIGHT
        found[rows[matches.false_positives]] = FALSE
        labelled[matches.misses] = MISSED
        found[rows[[pair.proposal for pair in matches.class_mistakes]]] = MISTAKEN
        labelled[[pair.truth for pair in matches.class_mistakes]] = MISTAKEN
    return found, labelled
