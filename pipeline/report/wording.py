"""Verdicts as the page words them."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.verdicts import FALSE, INEXACT, INVALID, MISSED, MISTAKEN, REPEATED, RIGHT, Verdicts

WORDS = {
    RIGHT: "found",
    MISTAKEN: "wrong category",
    FALSE: "nothing labelled here",
    MISSED: "missed",
    INEXACT: "overlap too small",
    REPEATED: "once more on what is matched",
    INVALID: "invalid label",
}
"""Of one building or label."""
FALSE_POSITIVES = {
    FALSE: "where nothing is labelled",
    INEXACT: "with too small an overlap",
    REPEATED: "on a label that another building took",
    INVALID: "on an invalid label",
}
FALSE_NEGATIVES = {
    MISSED: "where nothing was found",
    INEXACT: "with too small an overlap",
    REPEATED: "on a building that took another label",
    INVALID: "because the label is invalid",
}


def made_of(verdicts: Verdicts | None, kinds: Mapping[str, str]) -> str:
    """How many there are of each kind; '' where nothing was judged, or there is none.

    >>> import numpy as np
    >>> made_of(Verdicts.of_nothing(3)._replace(names=np.array(["false", "right", "false"])), FALSE_POSITIVES)
    '2 where nothing is labelled'
    """
    names = [] if verdicts is None else verdicts.names.tolist()
    return ", ".join(f"{names.count(kind):,} {words}" for kind, words in kinds.items() if kind in names)
