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
from dataclasses import asdict
from pathlib import Path

import numpy as np
import rasterio
import shapely
import shapely.geometry

from pipeline.frames import LONLAT, px_to_crs, reproject
from pipeline.painting.digitising import Dirt, label_rows
from pipeline.painting.scene import Scene, SceneSpec, paint_scene

__all__ = ["Dirt", "Scene", "SceneSpec", "label_rows", "paint_scene", "write_demo", "write_scene"]

logger = logging.getLogger(__name__)

PAINTER = 1
"""Raised whenever the same specification would paint another picture, so that demos repaint."""


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
        "transform": spec.transform,
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
    drawn = px_to_crs([geometry for geometry, _ in rows], spec.transform[:6])
    lonlat = reproject(drawn, spec.crs, LONLAT)
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
