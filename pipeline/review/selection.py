"""Which tiles to look at: the uncertain ones that differ from each other, and some by chance.

Tiles of a round share no pixel, so that nobody draws a building twice. The tiles drawn by chance come
first and show the network as it is everywhere; the rest is a greedy k-centre among the most uncertain:
each next tile is the one furthest from all chosen in what the network's backbone says of it.

Source: Sener, Savarese, Active Learning for Convolutional Neural Networks: A Core-Set Approach (2018).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from pipeline.review.rules import ReviewRules
from pipeline.schema import Window


class Candidate(NamedTuple):
    """A tile that may be chosen."""

    image_id: str
    window: Window
    uncertainty: float


class Chosen(NamedTuple):
    """A chosen tile, by its place among the candidates."""

    place: int
    by_chance: bool


def choose_for_review(
    candidates: Sequence[Candidate],
    rules: ReviewRules,
    seed: int,
    embed: Callable[[Sequence[int]], np.ndarray] | None,
) -> list[Chosen]:
    """The tiles of a round, the uncertain ones first, each group in the order it was chosen.

    Args:
        candidates: all tiles that may be looked at.
        rules: how many, and how.
        seed: of the tiles drawn by chance, such as the round's number.
        embed: float[n, d] of the candidates with these indices; None where no network says anything.
    """
    by_chance: list[int] = []
    order = np.random.default_rng(seed).permutation(len(candidates)).tolist()
    _fill(by_chance, order, candidates, round(rules.random_share * rules.budget))

    wanted = rules.budget - len(by_chance)
    ranked = np.argsort([-one.uncertainty for one in candidates], kind="stable").tolist()
    free = [index for index in ranked if not _touches(index, by_chance, candidates)]
    pool = free[: int(np.ceil(rules.diversity * wanted))]
    uncertain: list[int] = []
    if embed is not None and len(pool) > wanted > 0:
        _fill_far(uncertain, pool, candidates, wanted, embed(pool))
    # What is still missing, because tiles overlap or there is no network, comes by uncertainty.
    _fill(uncertain, free, candidates, wanted, by_chance)
    return [Chosen(index, False) for index in uncertain] + [Chosen(index, True) for index in by_chance]


def _fill(
    chosen: list[int],
    order: Sequence[int],
    candidates: Sequence[Candidate],
    wanted: int,
    others: Sequence[int] = (),
) -> None:
    """Takes tiles in this order that share no pixel with those taken."""
    for index in order:
        if len(chosen) >= wanted:
            return
        if not _touches(index, [*chosen, *others], candidates):
            chosen.append(index)


def _fill_far(
    chosen: list[int],
    pool: Sequence[int],
    candidates: Sequence[Candidate],
    wanted: int,
    embeddings: np.ndarray,
) -> None:
    """Takes the most uncertain tile, then always the one furthest from all taken."""
    spread = embeddings.std(axis=0)
    points = (embeddings - embeddings.mean(axis=0)) / np.where(spread > 0, spread, 1)
    open_ = np.ones(len(pool), dtype=bool)
    nearest = np.full(len(pool), np.inf)
    place = 0
    while len(chosen) < wanted and open_.any():
        open_[place] = False
        if not _touches(pool[place], chosen, candidates):
            chosen.append(pool[place])
            nearest = np.minimum(nearest, np.linalg.norm(points - points[place], axis=1))
        # Of equally far ones the most uncertain: they come first.
        place = int(np.where(open_, nearest, -1.0).argmax())


def _touches(index: int, others: Sequence[int], candidates: Sequence[Candidate]) -> bool:
    mine = candidates[index]
    return any(
        index == other
        or (mine.image_id == candidates[other].image_id and _share(mine.window, candidates[other].window))
        for other in others
    )


def _share(one: Window, other: Window) -> bool:
    """Whether two windows have a pixel in common."""
    return max(one.col_off, other.col_off) < min(
        one.col_off + one.width, other.col_off + other.width
    ) and max(one.row_off, other.row_off) < min(one.row_off + one.height, other.row_off + other.height)
