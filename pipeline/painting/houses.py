"""The houses of the sample scene: their sizes, shapes and how they stand together, in metres.

Sizes follow the challenge's label file of grid_001: the long side of the bounding box is 15 m in
the median, 22 m at the 90th and 38 m at the 99th percentile, 124 m at most.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from shapely.geometry.base import BaseGeometry

from pipeline.painting.canvas import Rect


@dataclass(frozen=True)
class House:
    """A building: overlapping rectangles that make up its outline, and how it is built."""

    rects: tuple[Rect, ...]
    category: str
    material: str
    outline: BaseGeometry


def sides(least: float, most: float, rng: np.random.Generator) -> tuple[float, float]:
    """Length and width of something not known to be long, the length first."""
    width, length = sorted(rng.uniform(least, most, 2).tolist())
    return length, width


def _house_size(rng: np.random.Generator) -> tuple[float, float]:
    draw = rng.random()
    if draw < 0.08:
        return sides(3.2, 6.5, rng)
    if draw < 0.95:
        length = float(np.clip(rng.lognormal(np.log(16.2), 0.22), 6, 28))
        return length, length * rng.uniform(0.62, 0.95)
    length = float(np.clip(rng.lognormal(np.log(28), 0.25), 20, 45))
    return length, float(rng.uniform(7, 12))


def _with_porch(rect: Rect, rng: np.random.Generator) -> tuple[Rect, ...]:
    if rect.length < 8 or rng.random() > 0.4:
        return (rect,)
    side, depth, length = rng.choice([-1, 1]), rng.uniform(1.5, 3), rect.length * rng.uniform(0.3, 0.6)
    shift = (rect.length - length) / 2 * rng.choice([-1, 0, 1])
    return rect, rect.part(shift, side * (rect.width / 2 + depth / 2 - 0.4), length, depth + 0.8)


def group(x: float, y: float, angle: float, rng: np.random.Generator) -> list[tuple[Rect, ...]]:
    """Houses, each a tuple of rectangles, that stand together by design."""
    length, width = _house_size(rng)
    rect = Rect(x, y, length, width, angle)
    draw = rng.random()
    if length < 7 or draw < 0.62:
        return [_with_porch(rect, rng)]
    if draw < 0.86:
        edge = 0.0
        houses: list[tuple[Rect, ...]] = []
        for _ in range(int(rng.choice([2, 3, 4], p=[0.6, 0.25, 0.15]))):
            unit, depth = length * rng.uniform(0.65, 0.95), width * rng.uniform(0.8, 1.1)
            houses.append((rect.part(edge + unit / 2, rng.normal(0, 0.5), unit, depth),))
            edge += unit + rng.uniform(0.06, 0.2)
        return houses
    wing = width * rng.uniform(0.55, 0.75)
    deep = length * rng.uniform(0.5, 0.9)
    main = rect._replace(width=wing)
    ends = (-1, 1) if draw > 0.96 else (int(rng.choice([-1, 1])),)
    return [
        (
            main,
            *(main.part(e * (length - wing) / 2, deep / 2 - 0.3, deep + wing, wing, np.pi / 2) for e in ends),
        )
    ]


def landmarks(side: float, angle: float, rng: np.random.Generator) -> Iterable[tuple[Rect, ...]]:
    """One long hall and one courtyard building, where a scene of `side` metres has room for them."""
    if side > 100:
        length = float(min(rng.uniform(60, 120), 0.4 * side))
        yield (Rect(0, 0, length, rng.uniform(14, 22), angle),)
    if side > 120:
        a, b, w = rng.uniform(24, 32), rng.uniform(20, 26), rng.uniform(5.5, 7)
        core = Rect(0, 0, a, b, angle)
        yield (
            core.part(0, (w - b) / 2, a, w),
            core.part(0, (b - w) / 2, a, w),
            core.part((w - a) / 2, 0, b, w, np.pi / 2),
            core.part((a - w) / 2, 0, b, w, np.pi / 2),
        )


def material(length: float, rng: np.random.Generator) -> str:
    """What a roof over so many metres is made of."""
    if length < 7 and rng.random() < 0.25:
        return "thatch"
    return str(rng.choice(["metal", "painted", "tile"], p=[0.74, 0.1, 0.16]))
