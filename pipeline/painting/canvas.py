"""The canvas of the sample scene: noise, light, masks and blending.

Everything is painted in image px (x right, y down) onto one uint8 canvas through small float32
windows, so that time is linear in pixels and memory little more than the image itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import shapely
from PIL import Image, ImageDraw
from scipy import ndimage
from shapely.geometry.base import BaseGeometry

STRIP = 256
"""Rows painted at a time where a whole-image texture is composed."""

Colour = Sequence[float] | np.ndarray
"""RGB, 0..255."""


class Rect(NamedTuple):
    """A rectangle by its centre, full length along `angle` (radians, clockwise) and full width."""

    x: float
    y: float
    length: float
    width: float
    angle: float

    def polygon(self) -> shapely.Polygon:
        """The outline, clockwise on screen from the corner at (-length/2, -width/2)."""
        c, s = np.cos(self.angle), np.sin(self.angle)
        u, v = np.array([-1, 1, 1, -1]) * self.length / 2, np.array([-1, -1, 1, 1]) * self.width / 2
        return shapely.Polygon(np.column_stack((self.x + u * c - v * s, self.y + u * s + v * c)))

    def part(self, u: float, v: float, length: float, width: float, turn: float = 0.0) -> Rect:
        """Another rectangle placed in this one's frame: centre (u, v), turned by `turn`."""
        c, s = np.cos(self.angle), np.sin(self.angle)
        return Rect(self.x + u * c - v * s, self.y + u * s + v * c, length, width, self.angle + turn)


@dataclass(frozen=True)
class Light:
    """The sun: azimuth of the direction light travels on the image and its elevation, radians."""

    azimuth: float
    elevation: float
    strength: float = 0.5
    """Share of the light that a shadow takes away, 0..1."""

    @property
    def direction(self) -> np.ndarray:
        """float64[2], unit vector (x, y) along which shadows fall."""
        return np.array([np.cos(self.azimuth), np.sin(self.azimuth)])

    def shadow(self, height: float) -> np.ndarray:
        """float64[2], the shadow's offset on flat ground of a point at `height`, same unit."""
        return self.direction * height / np.tan(self.elevation)


class Noise:
    """Seamless value noise summed over scales, read strip by strip or window by window.

    Args:
        rng: source of the lattices.
        scales: lattice spacings in px.
        weights: one per scale; the sum has a standard deviation of about 1.
    """

    CELLS = 211
    """Cells of a lattice before it repeats."""

    def __init__(self, rng: np.random.Generator, scales: Iterable[float], weights: Iterable[float] = ()):
        self.scales = [max(1.0, s) for s in scales]
        shares = np.array(list(weights) or [1.0] * len(self.scales))
        # Bicubic interpolation between lattice points takes some variance away: 1.6 gives it back.
        self.weights = shares / np.sqrt((shares**2).sum()) * 1.6
        self.lattices = rng.standard_normal((len(self.scales), self.CELLS, self.CELLS), dtype=np.float32)

    def read(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        """float32[height, width], mean 0, standard deviation about 1."""
        total = np.zeros((height, width), np.float32)
        for scale, weight, lattice in zip(self.scales, self.weights, self.lattices, strict=True):
            c0, r0 = int(x // scale) - 2, int(y // scale) - 2
            columns = np.arange(c0, int((x + width) // scale) + 4) % self.CELLS
            rows = np.arange(r0, int((y + height) // scale) + 4) % self.CELLS
            cells = Image.fromarray(np.ascontiguousarray(lattice[np.ix_(rows, columns)]))
            box = (x / scale - c0, y / scale - r0, (x + width) / scale - c0, (y + height) / scale - r0)
            total += np.float32(weight) * np.asarray(
                cells.resize((width, height), Image.Resampling.BICUBIC, box)
            )
        return total


def smoothstep(low: float, high: float, values: np.ndarray) -> np.ndarray:
    """Values eased from 0 at `low` to 1 at `high`."""
    t = np.clip((values - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def mix(a, b, share: np.ndarray) -> np.ndarray:
    """float32[h, w, 3], colours or pictures `a` and `b` mixed by float[h, w] share of `b`."""
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    return a + (b - a) * share[..., None].astype(np.float32)


def rasterise(
    geometry: BaseGeometry, x: float, y: float, width: int, height: int, scale: float = 1.0
) -> Image.Image:
    """The polygons of a geometry in white on a black 8-bit picture whose top-left corner is (x, y).

    Args:
        geometry: any unit; holes stay black, lines that a difference of polygons left behind as well.
        x: the left edge, in the geometry's unit.
        y: the top edge, in the geometry's unit.
        width: px.
        height: px.
        scale: px per unit.
    """
    image = Image.new("L", (width, height))
    draw = ImageDraw.Draw(image)
    for part in shapely.get_parts(geometry):
        if part.is_empty or not isinstance(part, shapely.Polygon):
            continue
        for ring, ink in [(part.exterior, 255), *((hole, 0) for hole in part.interiors)]:
            points = (shapely.get_coordinates(ring) - (x, y)) * scale - 0.5
            draw.polygon([tuple(point) for point in points], fill=ink)
    return image


class Frame(NamedTuple):
    """A window of the canvas: its top-left corner and size in px, inside the image."""

    x: int
    y: int
    width: int
    height: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Row and column slices of the canvas."""
        return slice(self.y, self.y + self.height), slice(self.x, self.x + self.width)

    def local(self, rect: Rect) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates (u, v) float32[h, w] of the pixel centres in the rectangle's own axes, px."""
        dx = np.arange(self.width, dtype=np.float32)[None, :] + np.float32(self.x + 0.5 - rect.x)
        dy = np.arange(self.height, dtype=np.float32)[:, None] + np.float32(self.y + 0.5 - rect.y)
        c, s = np.float32(np.cos(rect.angle)), np.float32(np.sin(rect.angle))
        return dx * c + dy * s, dy * c - dx * s

    def mask(self, geometry: BaseGeometry, oversampling: int = 3) -> np.ndarray:
        """float32[h, w] in 0..1, the share of each pixel covered by polygonal geometry."""
        image = rasterise(
            geometry, self.x, self.y, self.width * oversampling, self.height * oversampling, oversampling
        )
        return np.asarray(image.reduce(oversampling), np.float32) / 255


class Canvas:
    """The picture being painted: `image` uint8[h, w, 3] and its ground resolution.

    Args:
        width: px.
        height: px.
        metres_per_pixel: ground metres.
        light: the sun.
        rng: source of every texture.
    """

    def __init__(
        self, width: int, height: int, metres_per_pixel: float, light: Light, rng: np.random.Generator
    ):
        self.image = np.zeros((height, width, 3), np.uint8)
        self.m = 1 / metres_per_pixel
        self.light, self.rng = light, rng
        self.grain = Noise(rng, [1, 2, 0.6 * self.m])
        self.clumps = Noise(rng, [0.5 * self.m, 1.2 * self.m, 3 * self.m])

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, px."""
        return self.image.shape[1], self.image.shape[0]

    def frame(self, bounds: Sequence[float], margin: float = 2) -> Frame | None:
        """The window around px bounds, grown by `margin` px and cut to the image; None outside."""
        width, height = self.size
        x0, y0 = max(0, int(bounds[0] - margin)), max(0, int(bounds[1] - margin))
        x1, y1 = min(width, int(bounds[2] + margin) + 1), min(height, int(bounds[3] + margin) + 1)
        return Frame(x0, y0, x1 - x0, y1 - y0) if x1 > x0 and y1 > y0 else None

    def strips(self) -> Iterable[Frame]:
        """Full-width windows that cover the image once."""
        width, height = self.size
        for y in range(0, height, STRIP):
            yield Frame(0, y, width, min(STRIP, height - y))

    def blend(self, frame: Frame, colour, alpha: np.ndarray) -> None:
        """Paint a colour or a picture float32[h, w, 3] over the window with opacity float[h, w]."""
        window = self.image[frame.slices]
        window[:] = np.clip(mix(window, colour, alpha) + 0.5, 0, 255)

    def shade(self, frame: Frame, depth: np.ndarray) -> None:
        """Darken the window as a shadow of depth float[h, w] in 0..1; skylight leaves it bluish."""
        window = self.image[frame.slices]
        loss = self.light.strength * np.array([1.05, 1.0, 0.88], np.float32)
        factor = 1 - depth[..., None].astype(np.float32) * loss
        window[:] = np.clip(window * factor + 0.5, 0, 255)

    def fill(self, polygon: BaseGeometry, colour: Colour, grain: float = 0.04, alpha: float = 1.0) -> None:
        """Paint polygonal px geometry in one colour with some grain."""
        frame = self.frame(polygon.bounds)
        if frame:
            texture = 1 + grain * self.grain.read(*frame)
            self.blend(
                frame, np.asarray(colour, np.float32) * texture[..., None], frame.mask(polygon) * alpha
            )

    def develop(self, blur: float, noise: float, tint: Colour, haze: float) -> None:
        """Finish as a camera would: blur (sigma, px), haze (0..1), tint (gains), noise (grey levels)."""
        drift = Noise(self.rng, [90 * self.m, 35 * self.m])
        width, height = self.size
        source = self.image.copy()
        for strip in self.strips():
            top, bottom = max(0, strip.y - 8), min(height, strip.y + strip.height + 8)
            rows = ndimage.gaussian_filter(source[top:bottom].astype(np.float32), (blur, blur, 0))
            rows = rows[strip.y - top : strip.y - top + strip.height]
            veil = np.clip(haze * (1 + 0.5 * drift.read(*strip)), 0, 1)
            rows = mix(rows, (178, 184, 170), veil) * np.asarray(tint, np.float32)
            rows += noise * self.rng.standard_normal((strip.height, width, 1), np.float32)
            rows += noise / 2 * self.rng.standard_normal(rows.shape, np.float32)
            self.image[strip.slices] = np.clip(rows + 0.5, 1, 255)
