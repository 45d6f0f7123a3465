"""The sample scene put together: a settlement's plan painted onto a canvas, layer by layer.

From the ground up: soil and grass, roads, fields, what lies about, shadows, buildings, plants.
Plans are in metres, the canvas in px; `canvas.m` is px per metre.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import shapely
from PIL import Image, ImageDraw
from scipy import ndimage
from shapely.geometry.base import BaseGeometry

from pipeline.painting import brushes
from pipeline.painting.canvas import Canvas, Frame, Noise, Rect, mix, smoothstep
from pipeline.painting.houses import House
from pipeline.painting.settlement import Plan

SOILS = np.array(
    [
        [[168, 136, 108], [184, 158, 130], [152, 116, 90]],
        [[184, 162, 132], [202, 184, 152], [164, 140, 114]],
        [[164, 149, 128], [182, 169, 148], [146, 130, 112]],
        [[158, 130, 102], [178, 152, 122], [136, 110, 88]],
    ]
)
"""Palettes of earth: the usual colour, the trodden one, the darker one."""
GREENS = np.array([[100, 116, 62], [124, 130, 80], [90, 110, 58], [142, 138, 92]])
"""Grass from lush to dry."""
LEAVES = np.array([[74, 96, 46], [88, 110, 52], [66, 86, 48], [102, 122, 56]])
TARPS = np.array([[54, 92, 168], [58, 120, 92], [188, 120, 50], [170, 60, 60]])
POOLS = np.array([[96, 104, 92], [84, 92, 78], [128, 116, 92]])
CARS = np.array([[228, 228, 224], [190, 192, 196], [150, 44, 40], [50, 66, 100], [60, 60, 62]])


def paint_plan(canvas: Canvas, plan: Plan) -> None:
    """Paint all of a plan onto an empty canvas."""
    _paint_ground(canvas, plan)
    _paint_fields(canvas, plan)
    _paint_litter(canvas, plan)
    _paint_built(canvas, plan)
    _paint_plants(canvas, plan)


def _px(geometry: BaseGeometry, m: float) -> BaseGeometry:
    return shapely.transform(geometry, lambda coordinates: coordinates * m)


def _px_rect(rect: Rect, m: float) -> Rect:
    return Rect(rect.x * m, rect.y * m, rect.length * m, rect.width * m, rect.angle)


def _pick(colours: np.ndarray, rng: np.random.Generator, spread: float = 0.0) -> np.ndarray:
    return colours[rng.integers(len(colours))] * rng.uniform(1 - spread, 1 + spread)


def _wear(canvas: Canvas, plan: Plan) -> tuple[Callable, Callable]:
    """Two fields in 0..1, read by frame: ground worn around houses, and roads."""
    width, height = canvas.size
    cell = max(1, round(0.5 * canvas.m))
    scale = canvas.m / cell
    yards, roads = (Image.new("L", (width // cell + 2, height // cell + 2)) for _ in range(2))
    for house in plan.houses:
        corners = shapely.get_coordinates(house.outline.buffer(2.5).exterior) * scale
        ImageDraw.Draw(yards).polygon([tuple(corner) for corner in corners], fill=200)
    for line, road_width in plan.roads:
        points = [tuple(point) for point in shapely.get_coordinates(line) * scale]
        ImageDraw.Draw(roads).line(points, fill=255, width=max(1, round(road_width * scale)), joint="curve")

    def reader(image: Image.Image, sigma: float) -> Callable:
        field = Image.fromarray(ndimage.gaussian_filter(np.asarray(image, np.float32) / 255, sigma * scale))

        def read(frame: Frame) -> np.ndarray:
            x, y, width, height = frame
            box = (x / cell, y / cell, (x + width) / cell, (y + height) / cell)
            return np.asarray(field.resize((width, height), Image.Resampling.BILINEAR, box))

        return read

    return reader(yards, 2.5), reader(roads, 0.45)


def _paint_ground(canvas: Canvas, plan: Plan) -> None:
    """Soil and grass at several scales, worn bare around houses, and the roads."""
    rng, m = canvas.rng, canvas.m
    soil = _pick(SOILS, rng, 0.05)
    green = GREENS[rng.choice(len(GREENS), 2, replace=False)]
    greenness = rng.uniform(-0.1, 0.9)
    broad, patches, drift = (Noise(rng, np.array(scales) * m) for scales in ([60, 25], [14, 6, 2.5], [40, 9]))
    read_yards, read_roads = _wear(canvas, plan)
    for strip in canvas.strips():
        yards, roads = read_yards(strip), read_roads(strip)
        a, b, c = broad.read(*strip), patches.read(*strip), drift.read(*strip)
        clumps, grain = canvas.clumps.read(*strip), canvas.grain.read(*strip)
        ground = mix(mix(soil[0], soil[1], smoothstep(-1, 1.4, c)), soil[2], 0.8 * smoothstep(0.3, 2, b))
        ground *= (1 + 0.025 * clumps + 0.03 * grain)[..., None]
        grass = mix(green[0], green[1], smoothstep(-1.3, 1.3, c + 0.5 * b))
        grass *= (1 + 0.07 * clumps + 0.05 * grain)[..., None]
        growth = 0.7 * a + 0.5 * b + 0.35 * clumps + 0.15 * grain + greenness - 2.4 * yards
        picture = mix(ground, grass, smoothstep(-1.1, 1.3, growth) * 0.9)
        picture = mix(picture, soil[1] * (1 + 0.03 * grain)[..., None], smoothstep(0.35, 0.9, yards) * 0.5)
        trodden = soil[1] * (1.05 + 0.025 * clumps + 0.03 * grain + 0.03 * b)[..., None]
        picture = mix(picture, trodden, smoothstep(0.08, 0.6, roads + 0.08 * b + 0.06 * clumps) * 0.85)
        canvas.blend(strip, picture, np.ones(picture.shape[:2], np.float32))


def _paint_fields(canvas: Canvas, plan: Plan) -> None:
    """Furrows, with or without crops, that fade into the ground at their edges."""
    rng, m = canvas.rng, canvas.m
    for rect in (_px_rect(r, m) for r in plan.fields):
        frame = canvas.frame(rect.polygon().bounds)
        if frame is None:
            continue
        u, v = frame.local(rect)
        clumps = canvas.clumps.read(*frame)
        furrow = np.sin(2 * np.pi * (v + 0.06 * m * clumps) / (rng.uniform(0.9, 1.6) * m))
        picture = _pick(SOILS[:, 2], rng, 0.08) * (1 + 0.07 * furrow + 0.03 * clumps)[..., None]
        if rng.random() < 0.6:
            crops = smoothstep(0.1, 0.8, furrow + 0.5 * clumps + rng.uniform(-0.6, 0.3))
            picture = mix(picture, _pick(GREENS, rng) * 0.9, crops * 0.8)
        edge = np.minimum(rect.length / 2 - np.abs(u), rect.width / 2 - np.abs(v)) / m
        canvas.blend(frame, picture, smoothstep(0, 1.2, edge + 0.25 * clumps) * 0.75)


def _paint_litter(canvas: Canvas, plan: Plan) -> None:
    """Pools, rubble and tarps: what lies flat about and is no building."""
    rng, m = canvas.rng, canvas.m
    for pool in plan.pools:
        canvas.fill(_px(pool.buffer(0.5), m), (120, 104, 84), alpha=0.5)
        canvas.fill(_px(pool, m), _pick(POOLS, rng), grain=0.015)
    for x, y, radius in plan.rubble:
        canvas.fill(_px(shapely.Point(x, y).buffer(radius), m), (170, 152, 130), alpha=0.45)
        for stone_x, stone_y in rng.normal((x, y), radius * 0.5, (int(14 * radius), 2)):
            stone = Rect(stone_x, stone_y, rng.uniform(0.25, 0.7), rng.uniform(0.25, 0.7), rng.uniform(0, 3))
            canvas.fill(_px_rect(stone, m).polygon(), np.array((196, 190, 178)) * rng.uniform(0.7, 1.15))
    for rect in plan.tarps:
        canvas.fill(_px_rect(rect, m).polygon(), _pick(TARPS, rng), grain=0.08)


def _walls(house: House, thickness: float, broken: float, rng: np.random.Generator) -> BaseGeometry:
    """The walls' tops in metres: outline, a wall along each wing's middle, rooms on both sides of it.

    `broken` metres is the length of the gaps left in them, 0 for none.
    """
    inside = house.outline.buffer(-thickness, join_style="mitre")
    walls: list[BaseGeometry] = [house.outline.difference(inside)]
    built: BaseGeometry = shapely.Polygon()
    for rect in house.rects:
        if min(rect.length, rect.width) < 5:
            continue
        middle, half = rng.uniform(-0.15, 0.15) * rect.width, rect.width / 2
        parts = [rect.part(0, middle, rect.length, thickness * 0.8)]
        for side in (-1, 1):
            reach, start = half - side * middle, rng.uniform(3, 4.5) - rect.length / 2
            for u in np.arange(start, rect.length / 2 - 2, rng.uniform(3, 5)):
                parts.append(rect.part(u, side * half - side * reach / 2, thickness * 0.8, reach))
        walls.append(shapely.union_all([part.polygon() for part in parts]).difference(built))
        built = built.union(rect.polygon())
    tops = shapely.union_all(walls).intersection(house.outline)
    if broken:
        edge = house.outline.boundary
        spots = rng.uniform(0, edge.length, int(edge.length / 7))
        gaps = [edge.interpolate(at).buffer(broken / 2) for at in spots]
        tops = tops.difference(shapely.union_all(gaps))
    return tops


def _rafters(house: House, m: float) -> list[BaseGeometry]:
    """Timber laid across the first wing of a roof that is being built, px."""
    rect = house.rects[0]
    return [
        _px(rect.part(u, 0, 0.2, rect.width - 0.2).polygon(), m)
        for u in np.arange(-rect.length / 2 + 0.6, rect.length / 2, 1.5)
    ]


def _paint_built(canvas: Canvas, plan: Plan) -> None:
    """Houses of all three conditions, fences and vehicles, all shadows on the ground first."""
    rng, m = canvas.rng, canvas.m
    solids: list[tuple[BaseGeometry, float]] = []
    strokes: list[tuple] = []
    for house in plan.houses:
        outline = _px(house.outline, m)
        if house.category == "completed":
            solids.append((outline, rng.uniform(2.8, 3.6)))
            wings = [_px_rect(rect, m) for rect in house.rects]
            strokes.append((brushes.paint_roof, wings, outline, house.material))
        elif house.category == "unfinished":
            walls, height = _px(_walls(house, 0.36, 0, rng), m), rng.uniform(2.2, 3.0)
            solids.append((walls, height))
            grey = np.array((196, 193, 186)) * rng.uniform(0.92, 1.08)
            strokes.append((brushes.paint_walls, outline, walls, height, grey, 0.85, rng.beta(1, 2)))
            if rng.random() < 0.15:
                strokes += [(Canvas.fill, beam, (122, 98, 76)) for beam in _rafters(house, m)]
        elif rng.random() < 0.25:
            solids.append((outline, 0.3))
            strokes.append(
                (
                    brushes.paint_slab,
                    outline,
                    np.array((190, 186, 175)) * rng.uniform(0.94, 1.05),
                    _px(_walls(house, 0.3, 0, rng), m),
                )
            )
        else:
            walls = _px(_walls(house, 0.5, rng.choice([0, 0.9]), rng), m)
            solids.append((walls, 0.3))
            stone = np.array((204, 196, 180)) * rng.uniform(0.9, 1.06)
            strokes.append(
                (brushes.paint_walls, outline, walls, 0.3, stone, rng.choice([0.15, 0.7]), rng.beta(2, 1.5))
            )
    fences = [_px(line.buffer(0.12, cap_style="flat"), m) for line in plan.fences]
    cars = [_px_rect(r, m) for r in plan.vehicles]
    solids += [(fence, 1.3) for fence in fences] + [(car.polygon(), 1.4) for car in cars]
    brushes.cast_onto_ground(canvas, solids)
    for paint, *arguments in strokes:
        paint(canvas, *arguments)
    for fence in fences:
        canvas.fill(fence, (176, 168, 154))
    for car in cars:
        colour = _pick(CARS, rng)
        canvas.fill(car.polygon(), colour, grain=0.02)
        canvas.fill(car.part(-0.1 * m, 0, 2.4 * m, 1.5 * m).polygon(), colour * 0.55 + 10)
        canvas.fill(car.part(-0.15 * m, 0, 1.5 * m, 1.45 * m).polygon(), colour * 1.05)


def _paint_plants(canvas: Canvas, plan: Plan) -> None:
    """Bushes, trees and palms from a few sprites per scene, all lit from the same side."""
    rng, m = canvas.rng, canvas.m
    placed = []
    for spots, brush, greens, tallness, count in (
        (plan.bushes, brushes.crown, LEAVES[1:2] * 1.05, 0.5, 10),
        (plan.trees, brushes.crown, LEAVES, 1.3, 16),
        (plan.palms, brushes.palm, np.array([[106, 120, 60]]), 1.8, 12),
    ):
        if not spots:
            continue
        radii = np.array([radius for *_, radius in spots])
        steps = np.quantile(radii, np.linspace(0, 1, count))
        sprites = [brush(canvas, radius * m, _pick(greens, rng, 0.14)) for radius in steps]
        for x, y, radius in spots:
            k = int(np.clip(np.searchsorted(steps, radius) + rng.integers(-1, 2), 0, count - 1))
            placed.append((sprites[k], x * m, y * m, tallness * radius))
    brushes.paint_plants(canvas, placed)
