"""The sets that are learnt from, and the thirds of their ground."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import geopandas
import rasterio
import rasterio.shutil
import shapely
from rasterio.vrt import WarpedVRT

from pipeline.labels import read_area
from pipeline.sample import SceneSpec, write_scene
from tests.benchmarks.real_input import link

FOLDS = 3
"""Thirds of a set's ground."""


class Ground(NamedTuple):
    """A labelled image."""

    image: str
    """File, from the folder of data; empty for a painted scene."""
    labels: str
    categories: dict[str, list[str]]
    """Category to its spellings."""
    attribute: str = "condition"
    area: str = ""
    """File with the polygons that labels are complete in."""
    northern: float = 1.0
    """Share of the image that is used, from the north, where the time to look at it must be bounded."""
    metres_per_pixel: float = 0.3
    """Resolution that a CPU works at."""
    finest: float = 0.1
    """Resolution of the image, about: what is magnified shows nothing more, and less ground at once."""
    seed: int = 0
    """Of the painted scene."""


CONDITIONS = {"foundation": ["Foundation"], "unfinished": ["Incomplete"], "completed": ["Complete"]}
ROOFS = {"concrete": ["concrete", "concerte"], "tin": ["tin", "metal"], "clay_tiles": ["clay_tiles"]}

REAL: dict[str, Ground] = {
    "unguja": Ground("zanzibar/unguja_block0.tif", "zanzibar/unguja_block0.geojson", CONDITIONS),
    "banepa": Ground(
        "banepa/banepa.tif",
        "banepa/banepa.geojson",
        ROOFS,
        "roof:material",
        area="banepa/banepa_labelled_area.geojson",
        metres_per_pixel=0.26,
        finest=0.13,
    ),
    "kitsap": Ground(
        "kitsap/kitsap_west.tif",
        "kitsap/kitsap_west.geojson",
        {"building": ["building"]},
        "class",
        northern=0.5,
        finest=0.3,
    ),
}
"""Zanzibar (7.4 cm), Nepal (13 cm) and Washington (30 cm)."""

PAINTED: dict[str, Ground] = {f"scene_{seed:03}": Ground("", "", CONDITIONS, seed=seed) for seed in (1, 42)}
"""What there is where no data are: painted scenes (15 cm)."""


class Fold(NamedTuple):
    """Files of one fold."""

    image: Path
    labels: Path
    training_area: Path
    test_image: Path
    test_area: Path


def lay_out(ground: Ground, data: Path, folder: Path, fold: int) -> Fold:
    """The files of a fold, made where they are not there yet; nothing of the data is copied.

    Args:
        ground: of which set.
        data: folder the set's files lie in.
        folder: of the set's own files.
        fold: which third is held out, from the west.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source, labels = data / ground.image, folder / "labels.geojson"
    if not ground.image:
        source = folder / "scene.tif"
        if not source.exists():
            write_scene(SceneSpec(seed=ground.seed), source, labels)
    else:
        link(data / ground.labels, labels)
    with rasterio.open(source) as src:
        whole, crs = shapely.box(*src.bounds), src.crs
    left, bottom, right, top = whole.bounds
    whole &= shapely.box(left, top - ground.northern * (top - bottom), right, top)
    if ground.area:
        whole &= read_area(data / ground.area, crs)
    left, bottom, right, top = whole.bounds
    edges = [left + (right - left) * part / FOLDS for part in range(FOLDS + 1)]
    strip = shapely.box(edges[fold], bottom, edges[fold + 1], top)
    made = Fold(
        source,
        labels,
        folder / f"training_{fold}.geojson",
        folder / f"test_{fold}.vrt",
        folder / f"test_{fold}.geojson",
    )
    if not made.test_image.exists():
        crop(source, made.test_image, (whole & strip).bounds)
    for path, part in ((made.training_area, whole - strip), (made.test_area, whole & strip)):
        if not path.exists():
            geopandas.GeoDataFrame(geometry=[part], crs=crs).to_file(path, driver="GeoJSON")
    return made


def crop(source: Path, target: Path, bounds: tuple[float, float, float, float]) -> None:
    """A virtual raster of a north-up image's pixels within some bounds in its CRS."""
    with rasterio.open(source.absolute()) as src:
        around = src.window(*bounds).round_offsets(op="floor").round_lengths(op="ceil")
        window = around.intersection(rasterio.windows.Window(0, 0, src.width, src.height))
        transform, width, height = src.window_transform(window), int(window.width), int(window.height)
        with WarpedVRT(src, crs=src.crs, transform=transform, width=width, height=height) as vrt:
            rasterio.shutil.copy(vrt, target, driver="VRT")
