"""Precision over recall: what every lower confidence would bring and cost.

A walk in falling confidence does not change above a cut, so one walk tells the counts at every cut. The
rules are the challenge's: an overlap above one half, each category by itself, then all buildings whatever
their category.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.matching import Pairs, walk
from pipeline.schema import Artifact

POINTS = 200
"""Of a curve at most; the first and the last are always among them."""


class PrecisionRecall(Artifact):
    """The curve of one category, or of all buildings."""

    name: str
    truths: int
    confidences: list[float]
    """Cuts in falling order: what lies at or above one is kept."""
    precisions: list[float]
    """At each cut."""
    recalls: list[float]
    """At each cut; 0 where there is no truth."""


def precision_recall(
    pairs: Pairs,
    probabilities: np.ndarray,
    truth_categories: np.ndarray,
    categories: Sequence[str],
    all_name: str = "all buildings",
) -> list[PrecisionRecall]:
    """The curve of each category, then of all buildings; without a proposal it has no point.

    Args:
        pairs: proposals and truths that overlap enough for a match.
        probabilities: float64[n, k] by category; the best one ranks a proposal.
        truth_categories: int64[m], index into `categories`, -1 where unknown.
        categories: the k names.
        all_name: what the last curve is called.
    """
    proposed, ranks = probabilities.argmax(axis=1), probabilities.max(axis=1, initial=0.0)
    alike = proposed[pairs.proposals] == truth_categories[pairs.truths]
    within, together = walk(pairs.where(alike), ranks) >= 0, walk(pairs, ranks) >= 0
    curves = [
        _curve(
            name, ranks[proposed == index], within[proposed == index], int((truth_categories == index).sum())
        )
        for index, name in enumerate(categories)
    ]
    return [*curves, _curve(all_name, ranks, together, len(truth_categories))]


def _curve(name: str, ranks: np.ndarray, hits: np.ndarray, truths: int) -> PrecisionRecall:
    order = np.argsort(-ranks, kind="stable")
    ranks, found = ranks[order], np.cumsum(hits[order])
    # Equal confidences are kept or dropped together.
    ends = np.flatnonzero(np.diff(ranks, append=-1.0) != 0)
    if len(ends) > POINTS:
        ends = ends[np.linspace(0, len(ends) - 1, POINTS).round().astype(int)]
    return PrecisionRecall(
        name=name,
        truths=truths,
        confidences=ranks[ends].tolist(),
        precisions=(found[ends] / (ends + 1)).tolist(),
        recalls=(found[ends] / truths if truths else np.zeros(len(ends))).tolist(),
    )
