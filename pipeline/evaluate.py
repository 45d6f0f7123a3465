"""How good a result is: the challenge's metric.

A proposal belongs to the category of its highest confidence (of equals the first) and ranks by it;
proposals are walked in falling rank, equal ranks in the order they were submitted. Within each
category, and once for all buildings together, a proposal takes the truth it overlaps best among
those still free: an IoU above one half is a true positive, anything else a false positive, and a
truth that nobody took a false negative. A truth of unknown condition counts only among all
buildings; one with an invalid or empty polygon can never be found. There is no confidence cut.

Source: Open AI Tanzania Challenge (2018), building footprint classification, its scoring program.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any, Self

import numpy as np

from pipeline.matching import MIN_IOU, Pairs, overlapping_pairs, walk
from pipeline.schema import Artifact


class Counts(Artifact):
    """Outcomes of one walk and what follows from them; a ratio that is undefined is 0."""

    true_positives: int
    false_positives: int
    false_negatives: int
    precision: float
    recall: float
    f1: float

    @classmethod
    def of(cls, true_positives: int, false_positives: int, false_negatives: int) -> Self:
        """Counts with their ratios."""
        proposed, present = true_positives + false_positives, true_positives + false_negatives
        return cls(
            true_positives=true_positives,
            false_positives=false_positives,
            false_negatives=false_negatives,
            precision=true_positives / proposed if proposed else 0.0,
            recall=true_positives / present if present else 0.0,
            f1=2 * true_positives / (proposed + present) if proposed + present else 0.0,
        )


class Score(Artifact):
    """The metric: the headline is `mean_f1`, the unweighted mean over the categories."""

    mean_f1: float
    all_f1: float
    categories: dict[str, Counts]
    all_buildings: Counts

    @classmethod
    def of(cls, categories: dict[str, Counts], all_buildings: Counts, **more: object) -> Self:
        """Score with its two headline numbers."""
        return cls(
            mean_f1=fmean(counts.f1 for counts in categories.values()) if categories else 0.0,
            all_f1=all_buildings.f1,
            categories=categories,
            all_buildings=all_buildings,
            **more,
        )


class Match(Artifact):
    """A proposal and the truth it took, by index, and how well they overlap."""

    proposal: int
    truth: int
    iou: float


class Matches(Artifact):
    """Matches between proposals and truths regardless of category; indices from 0."""

    pairs: list[Match]
    false_positives: list[int]
    """Proposals without a truth."""
    misses: list[int]
    """Truths without a proposal."""
    class_mistakes: list[Match]
    """Those of `pairs` whose truth has another, known category."""


class ImageScore(Score):
    """The metric of one image, with the matches behind it."""

    matches: Matches


def score_image(
    polygons: Any,
    probabilities: np.ndarray,
    truth_polygons: Any,
    truth_categories: np.ndarray,
    categories: Sequence[str],
    iou: float = MIN_IOU,
) -> ImageScore:
    """Score of one image's proposals.

    Args:
        polygons: object[n], in the order of the submission, any planar frame; lon/lat as in the
            challenge.
        probabilities: float64[n, k], confidence per category in [0, 1].
        truth_polygons: object[m], same frame, as labelled: invalid ones included.
        truth_categories: int64[m], index into `categories`, -1 where unknown.
        categories: the k names.
        iou: overlap that a match must exceed.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64).reshape(len(polygons), len(categories))
    truth_categories = np.asarray(truth_categories, dtype=np.int64)
    proposed, ranks = probabilities.argmax(axis=1), probabilities.max(axis=1)
    pairs = overlapping_pairs(polygons, truth_polygons, iou)
    # Categories share no proposal and no truth, so that one walk over equals serves all of them.
    within = walk(pairs.where(proposed[pairs.proposals] == truth_categories[pairs.truths]), ranks)
    together = walk(pairs, ranks)
    by_category = {}
    for index, name in enumerate(categories):
        truths = int(np.count_nonzero(truth_categories == index))
        by_category[name] = _outcomes(within[proposed == index], truths)
    all_buildings = _outcomes(together, len(truth_categories))
    matches = _matches(together, pairs, proposed, truth_categories)
    return ImageScore.of(by_category, all_buildings, matches=matches)


def pool(scores: Sequence[Score]) -> Score:
    """Score of several images together, their counts added up.

    Args:
        scores: of the images, which share their categories.
    """
    names = list(scores[0].categories) if scores else []
    return Score.of(
        {name: _sum([score.categories[name] for score in scores]) for name in names},
        _sum([score.all_buildings for score in scores]),
    )


def _outcomes(chosen: np.ndarray, truths: int) -> Counts:
    hits = int(np.count_nonzero(chosen >= 0))
    return Counts.of(hits, len(chosen) - hits, truths - hits)


def _matches(together, candidates: Pairs, proposed, truth_categories) -> Matches:
    ious = {(p, t): iou for p, t, iou in zip(*(column.tolist() for column in candidates), strict=True)}
    pairs = [
        Match(proposal=proposal, truth=truth, iou=ious[proposal, truth])
        for proposal, truth in enumerate(together.tolist())
        if truth >= 0
    ]
    missed = np.setdiff1d(np.arange(len(truth_categories)), together)
    return Matches(
        pairs=pairs,
        false_positives=np.flatnonzero(together < 0).tolist(),
        misses=missed.tolist(),
        class_mistakes=[
            pair
            for pair in pairs
            if truth_categories[pair.truth] >= 0 and truth_categories[pair.truth] != proposed[pair.proposal]
        ],
    )


def _sum(counts: list[Counts]) -> Counts:
    return Counts.of(
        sum(one.true_positives for one in counts),
        sum(one.false_positives for one in counts),
        sum(one.false_negatives for one in counts),
    )
