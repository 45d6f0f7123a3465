"""A scene: what it is to show, and the picture painted from that, with its true buildings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import shapely
from affine import Affine
from annotated_types import Interval

from models.ranges import Amount, Natural
from pipeline.painting.canvas import Canvas, Light, rasterise
from pipeline.painting.scenery import paint_plan
from pipeline.painting.settlement import plan_settlement
from pipeline.rules import Rules


@dataclass(frozen=True)
class SceneSpec(Rules):
    """What a sample scene shows and where it lies; equal specifications paint equal bytes."""

    width: Annotated[int, Interval(ge=64)] = 2048
    """px."""
    height: Annotated[int, Interval(ge=64)] = 2048
    """px."""
    metres_per_pixel: Annotated[float, Interval(ge=0.01)] = 0.15
    """Ground metres."""
    seed: int = 42
    """Decides the plan, the palette, the light and the labels' dirt."""
    houses_per_hectare: Amount = 17.0
    """Buildings aimed at per 10,000 square metres of flown ground."""
    crs: str = "EPSG:32737"
    """A projected CRS in metres."""
    origin: tuple[float, float] = (532_800.0, 9_366_900.0)
    """Easting and northing of the top-left corner, metres."""
    collar: Natural = 60
    """px by which the flown area's corners may lie inside the image, at most a quarter of its side;
    black beyond."""
    observed: str = "2018:04:30 09:12:00"
    """The image's TIFFTAG_DATETIME."""

    @property
    def transform(self) -> Affine:
        """From image px to the CRS."""
        step = self.metres_per_pixel
        return Affine(step, 0, self.origin[0], 0, -step, self.origin[1])


@dataclass(frozen=True)
class Scene:
    """A painted scene and its true buildings, in image px."""

    image: np.ndarray
    """uint8[h, w, 3]."""
    buildings: np.ndarray
    """object[n], shapely polygons of the visible roofs, walls or slabs."""
    categories: list[str]
    """One of 'completed', 'unfinished', 'foundation' per building."""
    flown: shapely.Polygon
    """The area with imagery."""


def paint_scene(spec: SceneSpec) -> Scene:
    """The scene of a specification; the same one for the same specification."""
    plan_rng, paint_rng, mood_rng = np.random.default_rng(spec.seed).spawn(3)
    m = 1 / spec.metres_per_pixel
    flown = _flown(spec, mood_rng)
    hectares = flown.area * spec.metres_per_pixel**2 / 1e4
    plan = plan_settlement(
        spec.width / m,
        spec.height / m,
        shapely.transform(flown, lambda c: c / m),
        round(hectares * spec.houses_per_hectare),
        plan_rng,
    )
    light = Light(
        mood_rng.uniform(0, 2 * np.pi), np.radians(mood_rng.uniform(48, 66)), mood_rng.uniform(0.38, 0.56)
    )
    canvas = Canvas(spec.width, spec.height, spec.metres_per_pixel, light, paint_rng)
    paint_plan(canvas, plan)
    canvas.develop(
        blur=0.6, noise=2.4, tint=mood_rng.normal((1.0, 1.0, 0.98), 0.02), haze=mood_rng.uniform(0.04, 0.14)
    )
    canvas.image *= np.asarray(rasterise(flown, 0, 0, spec.width, spec.height))[..., None] > 0
    outlines = np.array([house.outline for house in plan.houses], dtype=object)
    return Scene(
        canvas.image,
        shapely.transform(outlines, lambda c: c * m),
        [house.category for house in plan.houses],
        flown,
    )


def _flown(spec: SceneSpec, rng: np.random.Generator) -> shapely.Polygon:
    corners = np.array([[0, 0], [spec.width, 0], [spec.width, spec.height], [0, spec.height]], float)
    inward = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
    deepest = min(spec.collar, spec.width / 4, spec.height / 4)
    return shapely.Polygon(corners + inward * rng.uniform(0, deepest, (4, 2)))
