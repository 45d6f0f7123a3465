"""Where the metric's hits and failures lie: between which conditions, and at which sizes.

Both count the walk over all buildings, whatever their category (`evaluate.Matches`), so that their sums
are the counts of `all_buildings`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.evaluate import Counts, Matches
from pipeline.schema import Artifact


class Confusion(Artifact):
    """Confusion matrix of categories."""

    categories: list[str]
    """Order of all lists."""
    matched: list[list[int]]
    """Matches by category of the truth (rows) and of the proposal (columns)."""
    unknown: list[int]
    """Proposals matched to a truth of unknown condition, by their category."""
    false: list[int]
    """Proposals without a truth, by their category."""
    missed: list[int]
    """Truths without a proposal, by their category."""
    missed_unknown: int
    """Truths of unknown condition without a proposal."""
    agreement: float
    """Accuracy of categories among matched truths of known condition; 0 without one."""


class SizeClass(Artifact):
    """The metric of all buildings of one size class: by the size of the truth, or of a false positive."""

    from_m2: float
    """Ground area from which a building belongs here."""
    to_m2: float | None
    """Area from which it no longer does; None for the largest."""
    counts: Counts


def confuse(
    matches: Matches, proposed: np.ndarray, truth_categories: np.ndarray, categories: Sequence[str]
) -> Confusion:
    """Who was taken for whom.

    Args:
        matches: of the walk over all buildings.
        proposed: int64[n], category of each proposal.
        truth_categories: int64[m], -1 where unknown.
        categories: the k names.
    """
    k = len(categories)
    pairs = match_indices(matches)
    rows, columns = truth_categories[pairs[:, 1]], proposed[pairs[:, 0]]
    table = np.bincount((rows + 1) * k + columns, minlength=(k + 1) * k).reshape(k + 1, k)
    missed = np.bincount(truth_categories[matches.misses] + 1, minlength=k + 1).tolist()
    known = int(table[1:].sum())
    return Confusion(
        categories=list(categories),
        matched=table[1:].tolist(),
        unknown=table[0].tolist(),
        false=np.bincount(proposed[matches.false_positives], minlength=k).tolist(),
        missed=missed[1:],
        missed_unknown=missed[0],
        agreement=float(np.trace(table[1:]) / known) if known else 0.0,
    )


def score_by_size(
    matches: Matches, areas_m2: np.ndarray, truth_areas_m2: np.ndarray, limits_m2: Sequence[float]
) -> list[SizeClass]:
    """F1 of each size class, from the smallest.

    Args:
        matches: of the walk over all buildings.
        areas_m2: float64[n], ground area of each proposal; NaN counts as 0.
        truth_areas_m2: float64[m], the same of each truth.
        limits_m2: rising areas that part the classes, one less than there are classes.
    """
    count = len(limits_m2) + 1

    def by_size(areas: np.ndarray, members: np.ndarray | list[int]) -> list[int]:
        return np.bincount(np.digitize(np.nan_to_num(areas[members]), limits_m2), minlength=count).tolist()

    hits = by_size(truth_areas_m2, match_indices(matches)[:, 1])
    false, missed = by_size(areas_m2, matches.false_positives), by_size(truth_areas_m2, matches.misses)
    edges = [0.0, *limits_m2, None]
    return [
        SizeClass(from_m2=edges[n], to_m2=edges[n + 1], counts=Counts.of(hits[n], false[n], missed[n]))
        for n in range(count)
    ]


def match_indices(matches: Matches) -> np.ndarray:
    """Proposal and truth of each match, int64[p, 2]."""
    pairs = [(pair.proposal, pair.truth) for pair in matches.pairs]
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)
