"""The brushes of the sample scene: shadows, roofs, walls, slabs and plants, in image px."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage
from shapely.geometry.base import BaseGeometry

from pipeline.painting.canvas import Canvas, Colour, Frame, Noise, Rect, mix, smoothstep


def cast(mask: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """float32[h, w], the ground covered by the mask and its shadow up to an offset (dx, dy) in px."""
    steps = max(1, int(np.ceil(np.abs(offset).max())))
    total = mask.copy()
    height, width = mask.shape
    for dx, dy in np.round(np.outer(np.arange(1, steps + 1) / steps, offset)).astype(int):
        if abs(dx) >= width or abs(dy) >= height:
            break
        to_y, from_y = slice(max(0, dy), height + min(0, dy)), slice(max(0, -dy), height - max(0, dy))
        to_x, from_x = slice(max(0, dx), width + min(0, dx)), slice(max(0, -dx), width - max(0, dx))
        np.maximum(total[to_y, to_x], mask[from_y, from_x], out=total[to_y, to_x])
    return total


def cast_onto_ground(canvas: Canvas, solids: Iterable[tuple[BaseGeometry, float]]) -> None:
    """Darken the ground by the shadows of px polygons of given heights in metres."""
    depth = np.zeros(canvas.image.shape[:2], np.float32)
    for polygon, height in solids:
        offset = canvas.light.shadow(height * canvas.m)
        frame = canvas.frame(polygon.bounds, np.abs(offset).max() + 3)
        if frame:
            np.maximum(depth[frame.slices], cast(frame.mask(polygon, 2), offset), out=depth[frame.slices])
    for strip in canvas.strips():
        canvas.shade(strip, ndimage.gaussian_filter(depth[strip.slices], 0.7))


def paint_roof(canvas: Canvas, rects: Sequence[Rect], polygon: BaseGeometry, material: str) -> None:
    """Paint a pitched roof over px rectangles, lit by slope; where wings meet the higher one shows.

    Args:
        canvas: what to paint on.
        rects: px; ridges run along their length.
        polygon: px outline that clips the roof.
        material: "metal", "painted", "tile" or "thatch".
    """
    frame = canvas.frame(polygon.bounds)
    if frame is None:
        return
    rng, m = canvas.rng, canvas.m
    hipped = rng.random() < {"metal": 0.35, "painted": 0.5, "tile": 0.85, "thatch": 0.6}[material]
    top = np.full((frame.height, frame.width), -np.inf, np.float32)
    light, along, down = (np.zeros_like(top) for _ in range(3))
    for rect in rects:
        u, v = frame.local(rect)
        du, dv = rect.length / 2 - np.abs(u), rect.width / 2 - np.abs(v)
        end = (du < dv) if hipped else np.zeros(top.shape, bool)
        height = np.where(end, du, dv)
        axis = np.array([np.cos(rect.angle), np.sin(rect.angle)]) @ canvas.light.direction
        cross = np.array([-np.sin(rect.angle), np.cos(rect.angle)]) @ canvas.light.direction
        lit = -np.where(end, np.sign(u) * axis, np.sign(v) * cross)
        seen = (height > top) & (du > -1.5) & (dv > -1.5)
        top[seen], light[seen] = height[seen], lit[seen]
        along[seen], down[seen] = np.where(end, v, u)[seen] + 500 * m, height[seen]
        ridge = seen & (np.abs(v) < 0.16 * m) & ~end
        light[ridge] += 0.5
    picture = _covering(canvas, frame, material, along / m, np.maximum(down, 0) / m)
    contrast = {"metal": 0.13, "painted": 0.16, "tile": 0.2, "thatch": 0.2}[material]
    picture *= (1 + contrast * light + 0.02 * canvas.grain.read(*frame))[..., None]
    canvas.blend(frame, picture, frame.mask(polygon, 4))


def _covering(canvas: Canvas, frame: Frame, material: str, along: np.ndarray, down: np.ndarray) -> np.ndarray:
    """float32[h, w, 3], unlit roofing by position along the eaves and up the slope, metres."""
    rng = canvas.rng
    if material == "tile":
        base = np.array([[156, 92, 68], [143, 82, 66], [165, 108, 84]][rng.integers(3)], np.float32)
        rows = 0.06 * np.sin(down * 2 * np.pi / 0.7) + 0.05 * canvas.clumps.read(*frame)
        return base * (1 + rows)[..., None]
    if material == "thatch":
        base = np.array([118, 104, 88], np.float32) * rng.uniform(0.8, 1.1)
        return base * (1 + 0.08 * canvas.clumps.read(*frame) + 0.06 * np.sin(down * 5))[..., None]
    if material == "painted":
        colours = [[96, 124, 150], [142, 70, 60], [98, 128, 108], [150, 78, 58]]
        base, rust, spread = np.array(colours[rng.integers(4)], np.float32), 0.01, 0.03
    else:
        colours = [[214, 218, 218], [190, 200, 206], [176, 190, 200], [168, 168, 162], [226, 228, 226]]
        base = np.array(colours[rng.integers(5)], np.float32)
        rust, spread = float(rng.choice([0, 0.02, 0.1, 0.3], p=[0.4, 0.3, 0.2, 0.1])), 0.045
    column, row = (along / 0.9).astype(int), (down / 2.6).astype(int)
    sheet = (column * 131 + row * 577) % 1009
    tone = rng.normal(1, spread, 1009).astype(np.float32)[sheet]
    tone += 0.03 * np.sin(along * 2 * np.pi / 0.45) - 0.07 * ((along / 0.9) % 1 < 0.13)
    old = (rng.random(1009) < rust)[sheet] * np.clip(0.75 + 0.2 * canvas.clumps.read(*frame), 0, 1)
    streaks = smoothstep(1.0, 2.2, canvas.clumps.read(*frame)) * (0.5 if rust >= 0.1 else 0)
    return mix(base, [150, 92, 70], np.maximum(old, streaks)) * tone[..., None]


def paint_walls(
    canvas: Canvas,
    polygon: BaseGeometry,
    walls: BaseGeometry,
    height: float,
    colour: Colour,
    floor: float,
    overgrown: float,
) -> None:
    """Paint a roofless building: its floor, the shadows inside, then the tops of its walls.

    Args:
        canvas: what to paint on.
        polygon: px outline, floor included.
        walls: px area of the walls' tops.
        height: metres.
        colour: RGB of the walls.
        floor: how much the floor hides the ground, 0..1.
        overgrown: 0 (bare earth) .. 1 (grass in most rooms).
    """
    frame = canvas.frame(polygon.bounds)
    if frame is None:
        return
    tops, inside = frame.mask(walls, 4), frame.mask(polygon)
    clumps = canvas.clumps.read(*frame)[..., None]
    earth = np.array([156, 134, 110], np.float32) * canvas.rng.uniform(0.88, 1.1)
    growth = smoothstep(0.6, -0.6, clumps[..., 0] * 0.7 + 1.2 - 2.4 * overgrown)
    canvas.blend(frame, mix(earth * (1 + 0.06 * clumps), [106, 120, 64] + 9 * clumps, growth), inside * floor)
    depth = cast(tops, canvas.light.shadow(height * canvas.m)) * inside
    canvas.shade(frame, ndimage.gaussian_filter(depth, 0.5))
    blocks = 1 + 0.05 * canvas.grain.read(*frame)[..., None] + 0.04 * clumps
    canvas.blend(frame, np.asarray(colour, np.float32) * blocks, tops)


def paint_slab(canvas: Canvas, polygon: BaseGeometry, colour: Colour, walls: BaseGeometry) -> None:
    """Paint a cast floor slab: blotched light concrete on which the walls to come are marked."""
    frame = canvas.frame(polygon.bounds)
    if frame is None:
        return
    texture = 1 + 0.045 * canvas.clumps.read(*frame) + 0.03 * canvas.grain.read(*frame)
    concrete = np.asarray(colour, np.float32) * texture[..., None]
    canvas.blend(frame, concrete, frame.mask(polygon))
    canvas.blend(frame, concrete * 1.1, frame.mask(walls, 4))


class Sprite(NamedTuple):
    """A plant seen from above: RGB float32[s, s, 3] and opacity float32[s, s] in 0..1."""

    colour: np.ndarray
    alpha: np.ndarray


def crown(canvas: Canvas, radius: float, green: Colour) -> Sprite:
    """A broadleaf crown of the given radius in px, lit from the sun's side."""
    size = int(2 * radius + 6)
    offset = int(canvas.rng.integers(0, 10_000))
    lumps = Noise(
        canvas.rng, [max(1.5, 0.35 * canvas.m), max(2, 0.8 * canvas.m), radius / 1.8], [0.9, 1, 0.8]
    ).read(offset, offset, size, size)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    r = np.hypot(x, y) / radius
    height = np.sqrt(np.clip(1.15 - r**2, 0, None)) + 0.13 * lumps
    alpha = smoothstep(0.40, 0.58, height) * (r < 1.12)
    gy, gx = np.gradient(ndimage.gaussian_filter(height, 0.7) * radius)
    lit = gx * canvas.light.direction[0] + gy * canvas.light.direction[1]
    tone = np.clip(0.92 + 0.17 * lit + 0.13 * lumps, 0.5, 1.5)
    return Sprite(
        (np.asarray(green, np.float32) * tone[..., None]).astype(np.float32), alpha.astype(np.float32)
    )


def palm(canvas: Canvas, radius: float, green: Colour, oversampling: int = 4) -> Sprite:
    """A palm of the given radius in px: drooping feathered fronds around a bright heart."""
    rng = canvas.rng
    size = int(2 * radius + 6)
    image = Image.new("RGBA", (size * oversampling, size * oversampling))
    draw = ImageDraw.Draw(image)
    middle, fronds = size * oversampling / 2, int(rng.integers(11, 17))
    for k in rng.permutation(fronds):
        angle = 2 * np.pi * k / fronds + rng.normal(0, 0.12)
        bend, reach = rng.normal(0, 0.35), radius * oversampling * rng.uniform(0.75, 1.0)
        t = np.linspace(0.05, 1, 12)
        direction = angle + bend * t
        spine = middle + reach * t[:, None] * np.column_stack((np.cos(direction), np.sin(direction)))
        facing = -np.cos(angle - canvas.light.azimuth)
        tone = 0.95 + 0.2 * facing + rng.normal(0, 0.14)
        ink = tuple(int(np.clip(c * tone, 0, 255)) for c in green)
        leaf = reach * 0.22 * np.sin(np.pi * np.clip(t * 0.9 + 0.12, 0, 1))
        for (x, y), heading, length in zip(spine, direction, leaf, strict=True):
            for side in (-0.95, 0.95):
                tip = (x + length * np.cos(heading + side), y + length * np.sin(heading + side))
                draw.line([(x, y), tip], fill=(*ink, 255), width=max(2, int(reach * 0.05)))
        draw.line(
            [tuple(p) for p in spine],
            fill=(*(min(255, int(c * 1.25)) for c in ink), 255),
            width=max(2, int(reach * 0.04)),
        )
    pixels = np.asarray(image.reduce(oversampling), np.float32)
    return Sprite(pixels[..., :3].copy(), pixels[..., 3] / 255)


def paint_plants(canvas: Canvas, plants: Iterable[tuple[Sprite, float, float, float]]) -> None:
    """Paint plants (sprite, x, y px of its centre, height in metres): all shadows, then the crowns."""
    placed = []
    depth = np.zeros(canvas.image.shape[:2], np.float32)
    for sprite, x, y, height in plants:
        size = len(sprite.alpha)
        dx, dy = canvas.light.shadow(height * canvas.m)
        placed.append((sprite, int(x - size / 2), int(y - size / 2)))
        _stamp(depth, sprite.alpha, int(x - size / 2 + dx), int(y - size / 2 + dy))
    for strip in canvas.strips():
        canvas.shade(strip, ndimage.gaussian_filter(depth[strip.slices], 0.8) * 0.85)
    for sprite, x, y in placed:
        size = len(sprite.alpha)
        frame = canvas.frame((x, y, x + size - 1, y + size - 1), 0)
        if frame:
            cut = (
                slice(frame.y - y, frame.y - y + frame.height),
                slice(frame.x - x, frame.x - x + frame.width),
            )
            canvas.blend(frame, sprite.colour[cut], sprite.alpha[cut])


def _stamp(field: np.ndarray, mask: np.ndarray, x: int, y: int) -> None:
    y0, y1 = max(0, y), min(field.shape[0], y + mask.shape[0])
    x0, x1 = max(0, x), min(field.shape[1], x + mask.shape[1])
    if y0 < y1 and x0 < x1:
        part = field[y0:y1, x0:x1]
        np.maximum(part, mask[y0 - y : y1 - y, x0 - x : x1 - x], out=part)
