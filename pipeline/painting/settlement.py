"""The plan of the sample scene: where houses, roads, fields and trees stand, in ground metres.

x runs right and y down from the image's top-left corner. Nothing here knows colours or pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from pipeline.painting.canvas import Rect, rasterise
from pipeline.painting.houses import House, group, landmarks, material, sides

SHARES = {"foundation": 0.18, "unfinished": 0.18, "completed": 0.64}
"""How many of the houses are in each condition."""


@dataclass
class Plan:
    """All that stands in a scene."""

    houses: list[House] = field(default_factory=list)
    roads: list[tuple[shapely.LineString, float]] = field(default_factory=list)
    fields: list[Rect] = field(default_factory=list)
    fences: list[shapely.LineString] = field(default_factory=list)
    vehicles: list[Rect] = field(default_factory=list)
    tarps: list[Rect] = field(default_factory=list)
    rubble: list[tuple[float, float, float]] = field(default_factory=list)
    pools: list[shapely.Polygon] = field(default_factory=list)
    trees: list[tuple[float, float, float]] = field(default_factory=list)
    palms: list[tuple[float, float, float]] = field(default_factory=list)
    bushes: list[tuple[float, float, float]] = field(default_factory=list)


class Land:
    """Which ground is taken, on a raster of half-metre cells."""

    CELL = 0.5

    def __init__(self, width: float, height: float, flown: shapely.Polygon):
        self.shape = int(np.ceil(height / self.CELL)), int(np.ceil(width / self.CELL))
        self.taken = np.ones(self.shape, bool)
        if not (inside := flown.buffer(-1.0)).is_empty:
            window, cover = self._cover(inside)
            self.taken[window] &= ~cover

    def _cover(self, polygon: BaseGeometry) -> tuple[tuple[slice, slice], np.ndarray]:
        """The raster's window around the polygon and bool[h, w], the cells it covers there."""
        bounds = np.array(polygon.bounds) / self.CELL
        x0, y0 = np.clip(np.floor(bounds[:2]).astype(int) - 1, 0, self.shape[::-1])
        x1, y1 = np.clip(np.ceil(bounds[2:]).astype(int) + 1, (x0, y0), self.shape[::-1])
        image = rasterise(polygon, x0 * self.CELL, y0 * self.CELL, x1 - x0, y1 - y0, 1 / self.CELL)
        return (slice(y0, y1), slice(x0, x1)), np.asarray(image) > 0

    def is_free(self, polygon: BaseGeometry) -> bool:
        """Whether the polygon lies wholly on free ground inside the flown area."""
        x0, y0, x1, y1 = polygon.bounds
        if x0 < 0 or y0 < 0 or x1 > self.shape[1] * self.CELL or y1 > self.shape[0] * self.CELL:
            return False
        window, cover = self._cover(polygon)
        return not (self.taken[window] & cover).any()

    def take(self, polygon: BaseGeometry) -> None:
        """Mark the polygon's ground as taken."""
        window, cover = self._cover(polygon)
        self.taken[window] |= cover


def plan_settlement(
    width: float, height: float, flown: shapely.Polygon, house_count: int, rng: np.random.Generator
) -> Plan:
    """A settlement of about `house_count` houses along tracks, none overlapping another.

    Args:
        width: metres.
        height: metres.
        flown: metres; houses stand wholly inside.
        house_count: houses aimed at; fewer where the ground is full.
        rng: source of the plan.
    """
    plan, land = Plan(), Land(width, height, flown)
    plan.roads = _roads(width, height, rng)
    for line, road_width in plan.roads:
        land.take(line.buffer(road_width / 2 + 1))
    blocks = _blocks(plan.roads[0][0], width, height, rng)
    _place_fields(plan, land, blocks, int(width * height / 12_000), (14, 40), rng)
    _place_houses(plan, land, blocks, house_count, rng)
    _place_fields(plan, land, blocks, int(width * height / 600), (5, 16), rng)
    _place_pools(plan, land, width, height, rng)
    _place_yard_things(plan, land, blocks, rng)
    _place_plants(plan, land, width, height, rng)
    return plan


def _wiggle(start, end, rng: np.random.Generator) -> shapely.LineString:
    start, end = np.asarray(start, float), np.asarray(end, float)
    length = float(np.hypot(*(end - start)))
    t = np.linspace(0, 1, max(8, int(length / 3)))
    across = np.array([-(end - start)[1], (end - start)[0]]) / max(length, 1e-9)
    waves = [
        rng.normal(0, length / 22 / k) * np.sin(np.pi * k * t + rng.uniform(0, 6.28) * (k > 1))
        for k in (1, 2, 3, 5)
    ]
    sway = np.sum(waves, axis=0)
    return shapely.LineString(start + t[:, None] * (end - start) + sway[:, None] * across)


def _roads(width: float, height: float, rng: np.random.Generator) -> list[tuple[shapely.LineString, float]]:
    (x0, y0), (x1, y1) = rng.uniform(0.2, 0.8, (2, 2)) * (width, height)
    if rng.random() < 0.5:
        main = _wiggle((-10, y0), (width + 10, y1), rng)
    else:
        main = _wiggle((x0, -10), (x1, height + 10), rng)
    roads = [(main, rng.uniform(5, 7.5))]
    for _ in range(max(2, int(width * height / 14_000))):
        first, second = (roads[int(k)][0] for k in rng.integers(len(roads), size=2))
        start = first.interpolate(rng.uniform(0.1, 0.9), normalized=True)
        turn, far = rng.uniform(0, 2 * np.pi), 1.5 * max(width, height)
        end = shapely.Point(start.x + far * np.cos(turn), start.y + far * np.sin(turn))
        if rng.random() < 0.4:
            end = second.interpolate(rng.uniform(0.1, 0.9), normalized=True)
        if start.distance(end) > 30:
            track = _wiggle((start.x, start.y), (end.x, end.y), rng)
            roads.append((track, float(rng.choice([1.0, 1.6, 3.0], p=[0.3, 0.3, 0.4]))))
    return roads


def _blocks(main: shapely.LineString, width: float, height: float, rng: np.random.Generator) -> np.ndarray:
    """float64[n, 4]: x, y, angle and relative density of each block's centre."""
    pitch = 52.0
    x, y = np.meshgrid(
        np.arange(pitch / 2, width + pitch / 2, pitch), np.arange(pitch / 2, height + pitch / 2, pitch)
    )
    x = x.ravel() + rng.normal(0, 8, x.size)
    y = y.ravel() + rng.normal(0, 8, y.size)
    at = shapely.line_locate_point(main, shapely.points(x, y))
    behind, ahead = (
        shapely.get_coordinates(shapely.line_interpolate_point(main, at + step)) for step in (-5, 5)
    )
    angle = np.arctan2(*(ahead - behind).T[::-1]) + rng.normal(0, 0.22, x.size)
    density = rng.lognormal(0, 0.9, x.size)
    return np.column_stack((x, y, angle, density))


def _place_houses(plan: Plan, land: Land, blocks: np.ndarray, count: int, rng: np.random.Generator) -> None:
    weights = blocks[:, 3] / blocks[:, 3].sum()
    special = list(landmarks(min(land.shape) * land.CELL, blocks[0, 2], rng))
    fifty = np.repeat(list(SHARES), np.round(np.array(list(SHARES.values())) * 50).astype(int))
    deck: list[str] = []
    for attempt in range(60 * count):
        if len(plan.houses) >= count:
            break
        block = blocks[rng.choice(len(blocks), p=weights)]
        x, y = block[:2] + rng.normal(0, 17, 2)
        landmark = bool(special) and attempt < 30 * count
        if landmark:
            houses = [tuple(r._replace(x=r.x + x, y=r.y + y) for r in special[0])]
        else:
            houses = group(x, y, block[2] + rng.normal(0, 0.05) + np.pi / 2 * rng.integers(2), rng)
        outlines = [shapely.union_all([r.polygon() for r in rects]) for rects in houses]
        with np.errstate(invalid="ignore"):  # GEOS tries mitres of needles as well
            site, yard = shapely.buffer(shapely.union_all(outlines), (1.3, 0.8), join_style="mitre")
        if not land.is_free(site.convex_hull):
            continue
        land.take(yard)
        if landmark:
            special.pop(0)
        for rects, outline in zip(houses, outlines, strict=True):
            if not deck:
                deck = list(rng.permutation(fifty))
            category = "completed" if landmark else str(deck.pop())
            roof = "metal" if landmark else material(rects[0].length, rng)
            plan.houses.append(House(rects, category, roof, outline))


def _try(land: Land, rect: Rect, margin: float) -> bool:
    site = rect.polygon().buffer(margin)
    if not land.is_free(site):
        return False
    land.take(site)
    return True


def _place_fields(
    plan: Plan,
    land: Land,
    blocks: np.ndarray,
    tries: int,
    spans: tuple[float, float],
    rng: np.random.Generator,
) -> None:
    """Ploughed plots and gardens, each aligned with the block around it."""
    for _ in range(tries):
        block = blocks[rng.integers(len(blocks))]
        x, y = block[:2] + rng.uniform(-30, 30, 2)
        rect = Rect(x, y, *sides(*spans, rng), block[2] + rng.normal(0, 0.06))
        if _try(land, rect, 1.0):
            plan.fields.append(rect)


def _place_pools(plan: Plan, land: Land, width: float, height: float, rng: np.random.Generator) -> None:
    for _ in range(max(1, int(width * height / 30_000))):
        x, y = rng.uniform((0, 0), (width, height))
        turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        dents = 1 + 0.2 * np.sin(2 * turn + rng.uniform(0, 6)) + 0.1 * np.sin(5 * turn)
        reach = rng.uniform(1.5, 5) * dents
        pool = shapely.Polygon(np.column_stack((x + 1.4 * reach * np.cos(turn), y + reach * np.sin(turn))))
        if land.is_free(pool.buffer(1)):
            land.take(pool)
            plan.pools.append(pool)


def _place_yard_things(plan: Plan, land: Land, blocks: np.ndarray, rng: np.random.Generator) -> None:
    """Fences, vehicles, tarps and rubble near the houses and along the roads."""
    for line, road_width in plan.roads:
        for at in rng.uniform(0, line.length, int(line.length / 90 * (road_width >= 3))):
            a, b = line.interpolate(at), line.interpolate(at + 3)
            angle = np.arctan2(b.y - a.y, b.x - a.x)
            plan.vehicles.append(Rect(a.x, a.y, 4.3, 1.8, angle).part(0, road_width / 4, 4.3, 1.8))
    for house in plan.houses:
        core = house.rects[0]
        x, y = np.array([core.x, core.y]) + rng.normal(0, 12, 2)
        draw = rng.random()
        turn = rng.uniform(0, np.pi)
        if draw < 0.08 and _try(land, car := Rect(x, y, rng.uniform(3.8, 5), 1.8, turn), 0.4):
            plan.vehicles.append(car)
        elif draw < 0.16 and _try(land, tarp := Rect(x, y, *sides(1.2, 3.5, rng), turn), 0.3):
            plan.tarps.append(tarp)
        elif draw < 0.34:
            plan.rubble.append((x, y, rng.uniform(0.8, 2.2)))
        elif draw < 0.46:
            yard = core._replace(length=core.length + rng.uniform(5, 9), width=core.width + rng.uniform(5, 9))
            corners = shapely.get_coordinates(yard.polygon())[: int(rng.integers(3, 5))]
            fence = shapely.LineString(corners)
            if land.is_free(fence.buffer(0.4)):
                plan.fences.append(fence)
                land.take(fence.buffer(0.4))


def _place_plants(plan: Plan, land: Land, width: float, height: float, rng: np.random.Generator) -> None:
    """Groves, palms and bushes; crowns keep off the roofs but for their rims."""
    hectares = width * height / 1e4
    groves = rng.uniform((0, 0), (width, height), (max(2, int(hectares * 1.2)), 2))
    spread = rng.uniform(5, 16, len(groves))
    for kind, per_hectare, sizes, clear in (
        (plan.trees, 60, (1.6, 5.2), 0.75),
        (plan.palms, 34, (2.4, 3.9), 0.55),
        (plan.bushes, 110, (0.5, 1.5), 0.9),
    ):
        for _ in range(int(hectares * per_hectare * rng.uniform(0.6, 1.3))):
            grove = int(rng.integers(len(groves)))
            spot = groves[grove] + rng.normal(0, spread[grove], 2)
            x, y = spot if rng.random() < 0.6 else rng.uniform((0, 0), (width, height))
            radius = float(np.clip(rng.lognormal(np.log(np.mean(sizes)), 0.3), *sizes))
            if land.is_free(shapely.Point(x, y).buffer(radius * clear, quad_segs=3)):
                kind.append((x, y, radius))
