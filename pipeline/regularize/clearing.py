"""Shapes that overlap a neighbour step back from it, or give way to the outline as it was found."""

from __future__ import annotations

import numpy as np
import shapely

from pipeline.regularize.acceptance import acceptable
from pipeline.regularize.rules import CIRCLE, CROWDED, IRREGULAR, RIGHT_ANGLES, RegularizeRules
from pipeline.regularize.sides import step_back

_OVERLAP_PX2 = 1e-3  # what shapes may share: rounding


def near_pairs(buildings: np.ndarray, start: int, gap_px: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of buildings, at least one from `start` on, whose bounds are no further apart than the gap.

    Args:
        buildings: BUILDING[n].
        start: first new row.
        gap_px: pixels.

    Returns:
        int64[p] each, every pair once.
    """
    raw, shape = (shapely.bounds(buildings[name]).reshape(-1, 4) for name in ("raw", "shape"))
    low, high = np.minimum(raw, shape)[:, :2], np.maximum(raw, shape)[:, 2:]
    boxes = shapely.box(*(low - gap_px / 2).T, *(high + gap_px / 2).T)
    fresh, other = shapely.STRtree(boxes).query(boxes[start:])
    fresh += start
    once = other < fresh
    return other[once], fresh[once]


def touching(buildings: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """bool[p]: pairs of which the shape of one touches the other, as found or in shape."""
    raw, shape = buildings["raw"], buildings["shape"]
    touch = shapely.intersects(shape[one], shape[other])
    touch |= shapely.intersects(shape[one], raw[other])
    return touch | shapely.intersects(raw[one], shape[other])


def clear(buildings: np.ndarray, pairs: np.ndarray, rules: RegularizeRules) -> None:
    """Changes shapes and statuses until no shape overlaps another building.

    Of two that overlap the one steps back that loses less area by it, and the cheapest steps come
    first. Outlines as found stay, and so do circles. Where no step helps, the weaker becomes what was
    found: circles are stronger than right angles, larger buildings than smaller ones.

    Args:
        buildings: BUILDING[n], in canonical order.
        pairs: int64[p, 2], those that may overlap.
        rules: the knobs.
    """
    raw, shapes, statuses = (buildings[name] for name in ("raw", "shape", "status"))
    area, index = shapely.area(raw), np.arange(len(raw))
    overlap, changed = np.zeros(len(pairs), bool), np.ones(len(pairs), bool)
    while True:
        overlap[changed] = _overlap(*shapes[pairs[changed]].T)
        found = (statuses == IRREGULAR) | (statuses == CROWDED)
        clash = pairs[overlap & ~found[pairs].all(axis=1)]
        if not len(clash):
            return
        stepped, loss = _steps(buildings, clash.ravel(), clash[:, ::-1].ravel(), rules)
        stepped, loss = stepped.reshape(-1, 2), loss.reshape(-1, 2)
        rank = np.argsort(np.lexsort((index, -area, statuses != CIRCLE, ~found)))
        helpless = np.isinf(loss).all(axis=1)
        loser = np.where(helpless, rank[clash].argmax(axis=1), loss.argmin(axis=1))
        each = np.arange(len(clash))
        turn = np.argsort(np.argsort(loss[each, loser], kind="stable"))
        # Pairs that come before all others of both their buildings do not depend on each other.
        first = np.full(len(raw), len(clash))
        np.minimum.at(first, clash, turn[:, None])
        now = np.flatnonzero((first[clash] == turn[:, None]).all(axis=1))
        rows = clash[now, loser[now]]
        shapes[rows] = np.where(helpless[now], raw[rows], stepped[now, loser[now]])
        statuses[rows[helpless[now]]] = CROWDED
        changed = np.asarray(np.isin(pairs, rows).any(axis=1))


def _steps(
    buildings: np.ndarray, rows: np.ndarray, obstacles: np.ndarray, rules: RegularizeRules
) -> tuple[np.ndarray, np.ndarray]:
    """What buildings become by stepping back from one obstacle each, and the area they lose.

    Args:
        buildings: BUILDING[n].
        rows: int64[p].
        obstacles: int64[p].
        rules: the knobs.

    Returns:
        object[p] of Polygon or None, and float64[p], infinite where no step helps.
    """
    shapes = buildings["shape"]
    stepped, loss = np.full(len(rows), None, dtype=object), np.full(len(rows), np.inf)
    able = np.flatnonzero(buildings["status"][rows] == RIGHT_ANGLES)
    before, obstacle = shapes[rows[able]], shapes[obstacles[able]]
    after = step_back(before, obstacle)
    fits = acceptable(after, buildings["raw"][rows[able]], rules)
    fits[fits] = ~_overlap(after[fits], obstacle[fits])
    stepped[able[fits]] = after[fits]
    loss[able[fits]] = shapely.area(before[fits]) - shapely.area(after[fits])
    return stepped, loss


def _overlap(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """bool[p]: pairs that share more than rounding explains."""
    return shapely.area(shapely.intersection(one, other)) > _OVERLAP_PX2
