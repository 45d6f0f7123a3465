"""The sample scene: a painted drone orthomosaic of a Zanzibar settlement and its labels.

`make demo` and the tests run on it. No pixel of it is real: the same specification paints the
same bytes, another seed another settlement, and its labels are as dirty as the real ones.

    python -m pipeline.sample WORKSPACE
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import rasterio
import shapely
import shapely.affinity
import shapely.geometry
from affine import Affine
from shapely.geometry.base import BaseGeometry

from pipeline.errors import SettingsError
from pipeline.frames import LONLAT, px_to_crs, reproject
from pipeline.painting.canvas import Canvas, Light, rasterise
from pipeline.painting.scenery import paint_plan
from pipeline.painting.settlement import plan_settlement

logger = logging.getLogger(__name__)

PAINTER = 1
"""Raised whenever the same specification would paint another picture, so that demos repaint."""
CONDITIONS = {"completed": "Complete", "unfinished": "Incomplete", "foundation": "Foundation"}


@dataclass(frozen=True)
class SceneSpec:
    """What a sample scene shows and where it lies; equal specifications paint equal bytes.

    Raises:
        SettingsError: a size below 64 px, a resolution that is not positive, a negative count or collar.
    """

    width: int = 2048
    """px."""
    height: int = 2048
    """px."""
    metres_per_pixel: float = 0.15
    """Ground metres."""
    seed: int = 42
    """Decides the plan, the palette, the light and the labels' dirt."""
    houses_per_hectare: float = 17.0
    """Buildings aimed at per 10,000 square metres of flown ground."""
    crs: str = "EPSG:32737"
    """A projected CRS in metres."""
    origin: tuple[float, float] = (532_800.0, 9_366_900.0)
    """Easting and northing of the top-left corner, metres."""
    collar: int = 60
    """px by which the flown area's corners may lie inside the image, at most a quarter of its side;
    black beyond."""
    observed: str = "2018:04:30 09:12:00"
    """The image's TIFFTAG_DATETIME."""

    def __post_init__(self) -> None:
        for name, least in (
            ("width", 64),
            ("height", 64),
            ("metres_per_pixel", 0.01),
            ("houses_per_hectare", 0),
            ("collar", 0),
        ):
            if not getattr(self, name) >= least:
                raise SettingsError(
                    "Too small a value for a sample scene",
                    where=f"SceneSpec.{name}",
                    found=getattr(self, name),
                    remedy=f"Give at least {least}.",
                )


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
    """The rows a person would have digitised: geometry in the scene's CRS or None, and condition.

    Args:
        scene: the painted scene.
        spec: its specification.
        dirty: with the faults of real label files, else one clean polygon per building in order.
    """
    rng = np.random.default_rng([spec.seed, 1])
    hand_px = 0.05 / spec.metres_per_pixel
    rows = [
        (_digitise(polygon, hand_px, rng), CONDITIONS[category])
        for polygon, category in zip(scene.buildings, scene.categories, strict=True)
    ]
    if dirty and (dirt := Dirt.among(len(rows))) != Dirt():
        rows = _soil(rows, dirt, scene, hand_px, rng)
    geometries = px_to_crs([geometry for geometry, _ in rows], _transform(spec)[:6])
    return [(geometry, condition) for geometry, (_, condition) in zip(geometries, rows, strict=True)]


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


def _transform(spec: SceneSpec) -> Affine:
    step = spec.metres_per_pixel
    return Affine(step, 0, spec.origin[0], 0, -step, spec.origin[1])


def write_scene(spec: SceneSpec, image_path: Path, labels_path: Path, dirty: bool = True) -> None:
    """Write a scene's image (JPEG in a cloud-optimised GeoTIFF) and its labels (GeoJSON in lon/lat).

    Args:
        spec: the scene.
        image_path: .tif; its folder exists.
        labels_path: .geojson; its folder exists.
        dirty: with the faults of real label files.
    """
    scene = paint_scene(spec)
    profile = {
        "driver": "COG",
        "width": spec.width,
        "height": spec.height,
        "count": 3,
        "dtype": "uint8",
        "crs": spec.crs,
        "transform": _transform(spec),
        "compress": "JPEG",
        "quality": 90,
        "overview_quality": 85,
        "overview_resampling": "average",
    }
    with rasterio.open(image_path, "w", **profile) as dst:
        dst.update_tags(
            TIFFTAG_DATETIME=spec.observed,
            SCENE_SPEC=_stamp(spec),
            TIFFTAG_IMAGEDESCRIPTION="Painted scene; no pixel of it is real.",
        )
        dst.write(np.moveaxis(scene.image, 2, 0))
    rows = label_rows(scene, spec, dirty)
    lonlat = reproject([geometry for geometry, _ in rows], spec.crs, LONLAT)
    lonlat = shapely.transform(lonlat, lambda c: c.round(9))
    features = []
    for number, (geometry, (_, condition)) in enumerate(zip(lonlat, rows, strict=True), start=1):
        properties = {
            "pk": number,
            "building": "yes" if number % 3 else None,
            "unfinished": None,
            "changeset": None,
            "area": None,
            "condition": condition,
        }
        place = None if geometry is None else shapely.geometry.mapping(geometry)
        features.append({"type": "Feature", "properties": properties, "geometry": place})
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:OGC:1.3:CRS84"}}
    lines = ",\n".join(json.dumps(feature) for feature in features)
    labels_path.write_text(
        f'{{"type": "FeatureCollection", "crs": {json.dumps(crs)}, "features": [\n{lines}\n]}}\n',
        encoding="utf-8",
    )


def _stamp(spec: SceneSpec) -> str:
    return json.dumps({"painter": PAINTER, **asdict(spec)})


DEMO_SCENES: dict[str, dict[str, SceneSpec]] = {
    "training": {
        "scene_001": SceneSpec(seed=1),
        "scene_002": SceneSpec(seed=2, origin=(533_400.0, 9_366_900.0)),
        "scene_003": SceneSpec(seed=3, origin=(534_000.0, 9_366_900.0)),
        "scene_004": SceneSpec(seed=4, origin=(532_800.0, 9_367_500.0)),
    },
    "test": {"scene_042": SceneSpec(seed=42, origin=(534_600.0, 9_366_900.0))},
}
"""The scenes of the demo's workspace by split and image id."""


def write_demo(workspace: Path) -> list[Path]:
    """The images painted into `workspace/input`, leaving alone those already there as specified."""
    painted = []
    for split, scenes in DEMO_SCENES.items():
        for image_id, spec in scenes.items():
            image = workspace / "input" / split / "images" / f"{image_id}.tif"
            labels = workspace / "input" / split / "labels" / f"{image_id}.geojson"
            if labels.exists() and _is_painted(image, spec):
                continue
            for path in (image, labels):
                path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=workspace / "input", prefix=".painting-") as folder:
                drafts = Path(folder) / image.name, Path(folder) / labels.name
                write_scene(spec, *drafts)
                # The image carries the stamp and goes last: labels without it are painted again.
                os.replace(drafts[1], labels)
                os.replace(drafts[0], image)
            painted.append(image)
            logger.info("painted %s", image)
    return painted


def _is_painted(image: Path, spec: SceneSpec) -> bool:
    """Whether the file is an image of exactly this specification; False for any other file."""
    try:
        with rasterio.open(image) as src:
            return src.tags().get("SCENE_SPEC") == _stamp(spec)
    except rasterio.errors.RasterioIOError:
        return False


DEMO_SETTINGS = """\
# The demo's settings: a small network that two cores teach in minutes.

[Tiling]
tile_size = 512
overlap = 128

[Training]
network = maskrcnn_small
validation_images = ["scene_004"]
epochs = 60
validate_every = 5
batch_size = 4
learning_rate = 0.001
warmup_steps = 60

[Inference]
shards = 2
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Paint the demo's workspace from the command line, and write its settings where it has none."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.sample",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "workspace", type=Path, help="folder that gets luigi.cfg, input/training and input/test"
    )
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    workspace = parser.parse_args(arguments).workspace
    write_demo(workspace)
    if not (workspace / "luigi.cfg").exists():
        (workspace / "luigi.cfg").write_text(DEMO_SETTINGS, encoding="utf-8")


if __name__ == "__main__":
    main()
