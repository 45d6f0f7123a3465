"""True footprints to see and to put together again: real ones, planned ones and two kinds of trouble.

A scene is nothing but polygons in image pixels; no pixel is painted for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import geopandas as gpd
import numpy as np
import shapely

from pipeline.painting.settlement import SHARES, plan_settlement
from pipeline.polygons import largest_parts
from pipeline.tiling import TilingRules, tile_windows
from tests.benchmarks.seams.network import CATEGORIES

LABELS = Path(__file__).parents[4] / "shared" / "data" / "zanzibar" / "grid_001.geojson"
LABELS_CRS = "EPSG:32737"
METRES_PER_PIXEL = 0.0775
CONDITIONS = {"Foundation": 0, "Incomplete": 1, "Complete": 2}
TOUCH_M = 0.25
"""Distance on the ground up to which two buildings are touching neighbours."""
BIG_TILE_PX = 1024.0  # what "big" is measured in
_HOUSES_PER_HECTARE = 17  # as in the sample scene
_MARGIN_PX = 200.0  # ground around the footprints


@dataclass(frozen=True, eq=False)
class Scene:
    """True buildings; their image begins at 0, 0.

    Attributes:
        name: what it is called in tables.
        footprints: object[n] of valid shapely Polygons in image pixels.
        categories: int64[n] in 0..2.
        metres_per_pixel: of the ground.
    """

    name: str
    footprints: np.ndarray
    categories: np.ndarray
    metres_per_pixel: float = METRES_PER_PIXEL

    def windows(self, tile_size: int, overlap: int) -> np.ndarray:
        """int64[t, 4]: col_off, row_off, width, height of each tile."""
        width, height = shapely.total_bounds(self.footprints)[2:] + _MARGIN_PX
        return windows_over(width, height, tile_size, overlap)

    @cached_property
    def neighbours(self) -> np.ndarray:
        """int64[p, 2]: pairs that touch; what was digitised twice is no neighbour of itself."""
        one, other = shapely.STRtree(self.footprints).query(
            self.footprints, "dwithin", TOUCH_M / self.metres_per_pixel
        )
        one, other = one[one < other], other[one < other]
        area = shapely.area(self.footprints)
        shared = shapely.area(shapely.intersection(self.footprints[one], self.footprints[other]))
        two = shared <= np.minimum(area[one], area[other]) / 2
        return np.column_stack([one[two], other[two]])

    def part(self, count: int) -> Scene:
        """The `count` buildings nearest to the middle of all."""
        middle = shapely.points(np.median(shapely.get_coordinates(shapely.centroid(self.footprints)), axis=0))
        near = np.sort(np.argsort(shapely.distance(self.footprints, middle), kind="stable")[:count])
        footprints = _cornered(self.footprints[near])
        return Scene(self.name, footprints, self.categories[near], self.metres_per_pixel)

    def spans_m(self) -> np.ndarray:
        """float64[n]: the long side of each footprint's bounding box in ground metres."""
        bounds = shapely.bounds(self.footprints)
        return (bounds[:, 2:] - bounds[:, :2]).max(axis=1) * self.metres_per_pixel


def windows_over(width: float, height: float, tile_size: int, overlap: int) -> np.ndarray:
    """int64[t, 4]: the tiles of an image of `width` by `height` pixels, cut as the project cuts images."""
    rules = TilingRules(tile_size=tile_size, overlap=overlap)
    tiles = tile_windows(math.ceil(width), math.ceil(height), rules)
    return np.array([window for _, _, window in tiles], dtype=np.int64)


def real(path: Path = LABELS, crs: str = LABELS_CRS, metres_per_pixel: float = METRES_PER_PIXEL) -> Scene:
    """The buildings of a label file as they were digitised; of a ring that crosses itself the largest part.

    Args:
        path: GeoJSON with a `condition` for each building; one without it counts as complete.
        crs: a projected CRS in metres.
        metres_per_pixel: of the image that the buildings are laid on.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: real footprints are not part of the project")
    labels = gpd.read_file(path).to_crs(crs)
    labels = labels[~(labels.geometry.is_empty | labels.geometry.isna())]
    polygons = largest_parts(shapely.make_valid(labels.geometry.to_numpy()))
    categories = labels["condition"].map(CONDITIONS).fillna(2).to_numpy(dtype=np.int64)
    upside_down = np.array([1, -1])
    footprints = shapely.transform(polygons, lambda xy: xy * upside_down / metres_per_pixel)
    return Scene(path.stem, _cornered(footprints), categories, metres_per_pixel)


def typical(side_m: float = 500.0, seed: int = 42) -> Scene:
    """A settlement as it is planned for the sample scene, at the real images' resolution.

    Args:
        side_m: of the square of ground, metres.
        seed: of the plan.
    """
    ground, count = shapely.box(0, 0, side_m, side_m), round(side_m**2 / 1e4 * _HOUSES_PER_HECTARE)
    plan = plan_settlement(side_m, side_m, ground, count, np.random.default_rng(seed))
    outlines = np.array([house.outline for house in plan.houses], dtype=object)
    names = list(SHARES)
    categories = np.array([names.index(house.category) for house in plan.houses], dtype=np.int64)
    return Scene(
        "typical", _cornered(shapely.transform(outlines, lambda xy: xy / METRES_PER_PIXEL)), categories
    )


def big(count: int = 120, seed: int = 0) -> Scene:
    """Halls, wings and courtyards, each 0.3 to 2.5 tiles of 1024 px long, turned any way.

    Args:
        count: of buildings.
        seed: of their sizes and turns.
    """
    rng = np.random.default_rng(seed)
    shapes = []
    for length in rng.uniform(0.3, 2.5, count) * BIG_TILE_PX:
        width, wing = length * rng.uniform(0.25, 0.7), length * rng.uniform(0.12, 0.2)
        hall = shapely.box(0, 0, length, width)
        yard = shapely.box(wing, wing, length - wing, width - wing)
        open_yard = shapely.box(wing, wing, length, width)
        kind = rng.choice(3, p=[0.6, 0.25, 0.15])
        roof = hall if kind == 0 or width < 3 * wing else hall - (open_yard if kind == 1 else yard)
        shapes.append(_turned(roof, rng.uniform(0, np.pi)))
    return Scene("big", _shelved(shapes, gap=150.0), rng.integers(0, CATEGORIES, count))


def rows(count: int = 400, seed: int = 0) -> Scene:
    """Streets of houses wall to wall, four to twelve in a row, each row turned a little.

    Args:
        count: of houses at least; the last row is finished.
        seed: of their sizes and turns.
    """
    rng = np.random.default_rng(seed)
    streets: list[shapely.MultiPolygon] = []
    houses = 0
    while houses < count:
        fronts = rng.uniform(70, 160, rng.integers(4, 13))
        walls = np.r_[0, np.cumsum(fronts)]
        depth, setback = rng.uniform(110, 200), rng.uniform(-8, 8, len(fronts))
        street = shapely.multipolygons(shapely.box(walls[:-1], setback, walls[1:], setback + depth))
        streets.append(_turned(street, rng.uniform(-0.3, 0.3)))
        houses += len(fronts)
    footprints = shapely.get_parts(_shelved(streets, gap=90.0))
    return Scene("rows", footprints, rng.integers(0, CATEGORIES, len(footprints)))


def _turned(geometry: shapely.Geometry, angle: float) -> shapely.Geometry:
    spin = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return shapely.transform(geometry, lambda xy: xy @ spin)


def _cornered(geometries: np.ndarray) -> np.ndarray:
    """The geometries moved together, so that `_MARGIN_PX` are left above and to the left of them."""
    corner = shapely.total_bounds(geometries)[:2] - _MARGIN_PX
    return shapely.transform(geometries, lambda xy: xy - corner)


def _shelved(geometries: list[shapely.Geometry], gap: float) -> np.ndarray:
    """The geometries set out in lines of about equal length, at least `gap` pixels apart."""
    bounds = shapely.bounds(geometries)
    size = bounds[:, 2:] - bounds[:, :2] + gap
    line_length = math.sqrt(size.prod(axis=1).sum())
    corner, line_height = np.zeros(2), 0.0
    placed = []
    for geometry, low, (width, height) in zip(geometries, bounds[:, :2], size, strict=True):
        if corner[0] > line_length:
            corner, line_height = np.array([0, corner[1] + line_height]), 0.0
        placed.append(shapely.transform(geometry, lambda xy, by=corner - low: xy + by))
        corner = corner + np.array([width, 0.0])
        line_height = max(line_height, height)
    return _cornered(np.array(placed, dtype=object))
