"""The labels that a person would have drawn on a scene, with the faults of real label files."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
import shapely.affinity
from shapely.geometry.base import BaseGeometry

from pipeline.painting.scene import Scene, SceneSpec

CONDITIONS = {"completed": "Complete", "unfinished": "Incomplete", "foundation": "Foundation"}


@dataclass(frozen=True)
class Dirt:
    """How many faults of each kind a label file carries."""

    empty: int = 0
    """Polygons without coordinates."""
    null_geometry: int = 0
    outside: int = 0
    """Labels beyond the image's edge."""
    multipolygon: int = 0
    """Two buildings saved as one feature."""
    self_intersecting: int = 0
    null_condition: int = 0
    duplicates: int = 0
    """Buildings digitised twice."""
    conflicting: int = 0
    """Of the duplicates, those with another condition."""

    @classmethod
    def among(cls, buildings: int) -> Dirt:
        """The faults among so many buildings, in the real files' shares; none below twenty.

        Source: the label file of the challenge's grid_001: 8 crossed rings, 8 null conditions and
        25 duplicates among 4,440.
        """
        if buildings < 20:
            return cls()
        share = buildings / 4440
        few = max(2, round(8 * share))
        return cls(
            empty=1,
            null_geometry=1,
            outside=1,
            multipolygon=1,
            self_intersecting=few,
            null_condition=few,
            duplicates=max(2, round(25 * share)),
            conflicting=few - 1,
        )


def label_rows(
    scene: Scene, spec: SceneSpec, dirty: bool = True
) -> list[tuple[BaseGeometry | None, str | None]]:
    """The rows a person would have digitised: geometry in image px or None, and condition.

    Args:
        scene: the painted scene.
        spec: its specification.
        dirty: with the faults of real label files, else one clean polygon per building in order.
    """
    rng = np.random.default_rng([spec.seed, 1])
    hand_px = 0.05 / spec.metres_per_pixel
    rows: list[tuple[BaseGeometry | None, str | None]] = [
        (_digitise(polygon, hand_px, rng), CONDITIONS[category])
        for polygon, category in zip(scene.buildings, scene.categories, strict=True)
    ]
    if dirty and (dirt := Dirt.among(len(rows))) != Dirt():
        rows = _soil(rows, dirt, scene, hand_px, rng)
    return rows


def _soil(rows: list, dirt: Dirt, scene: Scene, hand_px: float, rng: np.random.Generator) -> list:
    """The rows in px with faults among the larger buildings, in another order."""
    rows = list(rows)
    larger = np.argsort(-shapely.area(scene.buildings), kind="stable")[: max(15, len(rows) * 3 // 4)]
    picks = [int(i) for i in rng.permutation(larger) if not scene.buildings[i].interiors]
    pair = [i for i in picks if scene.categories[i] == "completed"][:2]
    picks = [i for i in picks if i not in pair]
    for _ in range(dirt.self_intersecting):
        i = picks.pop()
        rows[i] = (_cross(rows[i][0]), rows[i][1])
    for _ in range(dirt.null_condition):
        i = picks.pop()
        rows[i] = (rows[i][0], None)
    for k in range(dirt.duplicates):
        i = picks.pop()
        others = [condition for condition in CONDITIONS.values() if condition != rows[i][1]]
        condition = others[rng.integers(2)] if k < dirt.conflicting else rows[i][1]
        rows.append((_digitise(scene.buildings[i], 3 * hand_px, rng), condition))
    beyond = shapely.affinity.translate(rows[picks.pop()][0], 1.5 * scene.image.shape[1])
    rows += [(beyond, "Complete"), (shapely.Polygon(), "Complete"), (None, "Incomplete")]
    rows[pair[0]] = (shapely.MultiPolygon([rows[i][0] for i in pair]), "Complete")
    del rows[pair[1]]
    return [rows[i] for i in rng.permutation(len(rows))]


def _digitise(polygon: shapely.Polygon, sigma: float, rng: np.random.Generator) -> shapely.Polygon:
    """The polygon with every corner off by a normal error."""
    rings = [shapely.get_coordinates(ring)[:-1] for ring in (polygon.exterior, *polygon.interiors)]
    shell, *holes = (corners + rng.normal(0, sigma, corners.shape) for corners in rings)
    return shapely.Polygon(shell, holes)


def _cross(polygon: shapely.Polygon) -> shapely.Polygon:
    """The polygon with one corner drawn as two points in the wrong order, so that its ring crosses."""
    before, corner, after, *rest = shapely.get_coordinates(polygon.exterior)[:-1]
    wrong = corner + 0.12 * (after - corner), corner + 0.12 * (before - corner)
    return shapely.Polygon([before, *wrong, after, *rest])
