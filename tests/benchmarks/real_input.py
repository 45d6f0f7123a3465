"""The main job on real imagery: makes a workspace per data set of a folder and runs the graph in it.

    python -m tests.benchmarks.real_input DATA FOLDER [SET ...] [--small WEIGHTS] [--epochs N]

Sets: unguja (three conditions, eastern third held out by area), banepa (three roof classes inside a
labelled area, eastern third held out), grid_001 (the challenge's crop and its label file), kampala,
nairobi, kitsap, santamaria (twelve images as one mosaic), odd (one band of uint16). The first two
learn and are scored; the others go through TileImage, LoadLabels and CutTiles.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import geopandas
import pyproj
import rasterio
import rasterio.shutil
import shapely
from rasterio.enums import Resampling
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT

LEARN = """
[Training]
initial_weights = {weights}
network = {network}
backbone_stride_in_1x1 = {caffe}
trainable_stages = {stages}
validation_share = 0.15
validate_every = {validate_every}
tiles_per_epoch = {tiles_per_epoch}
epochs = {epochs}
batch_size = {batch_size}
learning_rate = {learning_rate}
warmup_steps = 30
[Inference]
shards = 2
batch_size = 2
"""

IMAGENET = {
    "network": "maskrcnn_resnet50_fpn_v2",
    "caffe": "true",
    "stages": 2,
    "batch_size": 2,
    "learning_rate": 0.0003,
}
SMALL = {
    "network": "maskrcnn_small",
    "caffe": "false",
    "stages": 5,
    "batch_size": 4,
    "learning_rate": 0.001,
}

BUILDINGS = '[Labels]\ncondition_attribute =\ncategories = {"building": []}\n'


class DataSet(NamedTuple):
    """Where a set's files are and how they are read."""

    image: str
    labels: str
    settings: str
    task: str = "CutTiles"
    scale: int = 1
    """Source pixels per pixel and axis of the image that is worked on."""
    area: str = ""


SETS = {
    "unguja": DataSet(
        "zanzibar/unguja_block0.tif",
        "zanzibar/unguja_block0.geojson",
        LEARN + "[Tiling]\ntile_size = 512\noverlap = 128\n",
        "ReportImage",
        scale=2,
    ),
    "banepa": DataSet(
        "banepa/banepa.tif",
        "banepa/banepa.geojson",
        LEARN
        + "[Tiling]\ntile_size = 512\noverlap = 128\n[Labels]\ncondition_attribute = roof:material\n"
        + 'categories = {"concrete": ["concrete", "concerte"], "tin": ["tin", "metal"], '
        + '"clay_tiles": ["clay_tiles"]}\n',
        "ReportImage",
        area="banepa/banepa_labelled_area.geojson",
    ),
    "grid_001": DataSet("zanzibar/grid_001_crop.tif", "zanzibar/grid_001.geojson", ""),
    "kampala": DataSet("kampala/block0.tif", "kampala/block0.geojson", BUILDINGS),
    "nairobi": DataSet("nairobi/block1.tif", "nairobi/block1.geojson", BUILDINGS),
    "kitsap": DataSet(
        "kitsap/kitsap_west.tif",
        "kitsap/kitsap_west.geojson",
        '[Labels]\ncondition_attribute = class\ncategories = {"building": ["building"]}\n',
    ),
    "santamaria": DataSet("santamaria", "santamaria/buildings.geojson", BUILDINGS),
    "odd": DataSet(
        "odd/one_band_uint16.tif",
        "odd/one_band_uint16.geojson",
        BUILDINGS + "[Imagery]\nbands = [1]\nstretch = auto\n",
    ),
}


def make_workspace(data: Path, folder: Path, name: str, small: str | None, budget: dict[str, int]) -> None:
    """A workspace for one set; its inputs are links and virtual rasters, nothing is copied.

    Learning starts from the ImageNet ResNet-50 in `data`, or with the small network from the weights
    `small`, from nothing where they are empty.
    """
    chosen = SETS[name]
    settings = chosen.settings
    if chosen.task != "CutTiles":
        weights = (data / "weights" / "resnet50_imagenet.pth").absolute() if small is None else small
        kind = IMAGENET if small is None else SMALL
        settings = settings.replace(LEARN, LEARN.format(weights=weights, **kind, **budget))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "luigi.cfg").write_text(settings)
    for split in ("training", "test"):
        for kind in ("images", "labels", "areas"):
            (folder / "input" / split / kind).mkdir(parents=True, exist_ok=True)
    training, test = folder / "input" / "training", folder / "input" / "test"
    source = data / chosen.image
    image = training / "images" / f"{name}.vrt"
    if source.is_dir():
        mosaic(sorted(source.glob("*.tif")), image)
    else:
        view(source, image, chosen.scale)
    link(data / chosen.labels, training / "labels" / f"{name}.geojson")
    if chosen.task == "CutTiles":
        return
    with rasterio.open(image) as src:
        cut = src.bounds.left + (src.bounds.right - src.bounds.left) * 2 / 3
        sides = (src.bounds.left, cut), (cut, src.bounds.right)
        crs, bottom, top = src.crs, src.bounds.bottom, src.bounds.top
    ground = geopandas.read_file(data / chosen.area).to_crs(crs).union_all() if chosen.area else None
    if ground is not None:
        sides = third_of(ground)
    for place, (left, right), image_id in ((training, sides[0], name), (test, sides[1], f"{name}_east")):
        strip = shapely.box(left, bottom, right, top)
        strip = strip if ground is None else strip & ground
        area = geopandas.GeoDataFrame(geometry=[strip], crs=crs)
        area.to_file(place / "areas" / f"{image_id}.geojson", driver="GeoJSON", engine="pyogrio")
    view(source, test / "images" / f"{name}_east.vrt", chosen.scale, sides[1])
    link(data / chosen.labels, test / "labels" / f"{name}_east.geojson")


def third_of(ground: shapely.Geometry) -> tuple[tuple[float, float], tuple[float, float]]:
    """Eastings of the western two thirds and of the eastern third of an area."""
    left, _, right, _ = ground.bounds
    cut = left + (right - left) * 2 / 3
    return (left, cut), (cut, right)


def link(source: Path, target: Path) -> None:
    """A symbolic link, made once."""
    if not target.exists():
        target.symlink_to(source.absolute())


def view(source: Path, target: Path, scale: int, eastings: tuple[float, float] | None = None) -> None:
    """A virtual raster of a file: coarser by `scale`, and only what lies between two eastings."""
    if target.exists():
        return
    with rasterio.open(source.absolute()) as src:
        left, right = eastings or (src.bounds.left, src.bounds.right)
        first = max(0, round((left - src.bounds.left) / src.res[0] / scale))
        last = min(src.width // scale, round((right - src.bounds.left) / src.res[0] / scale))
        transform = src.transform @ Affine.scale(scale) @ Affine.translation(first, 0)
        with WarpedVRT(
            src,
            crs=src.crs,
            transform=transform,
            width=last - first,
            height=src.height // scale,
            resampling=Resampling.average if scale > 1 else Resampling.nearest,
        ) as vrt:
            rasterio.shutil.copy(vrt, target, driver="VRT")


def mosaic(sources: list[Path], target: Path) -> None:
    """A virtual raster of adjoining files."""
    if target.exists():
        return
    tiles = []
    for path in sources:
        with rasterio.open(path) as src:
            tiles.append((path.absolute(), src.bounds, src.width, src.height, src.res, src.crs))
    res = tiles[0][4][0]
    left, top = min(t[1].left for t in tiles), max(t[1].top for t in tiles)
    width = round((max(t[1].right for t in tiles) - left) / res)
    height = round((top - min(t[1].bottom for t in tiles)) / res)
    bands = []
    for band in (1, 2, 3):
        parts = "".join(
            f'<SimpleSource><SourceFilename relativeToVRT="0">{path}</SourceFilename>'
            f"<SourceBand>{band}</SourceBand>"
            f'<SrcRect xOff="0" yOff="0" xSize="{w}" ySize="{h}"/>'
            f'<DstRect xOff="{round((b.left - left) / res)}" yOff="{round((top - b.top) / res)}"'
            f' xSize="{w}" ySize="{h}"/></SimpleSource>'
            for path, b, w, h, _, _ in tiles
        )
        bands.append(f'<VRTRasterBand dataType="Byte" band="{band}">{parts}</VRTRasterBand>')
    crs = pyproj.CRS.from_user_input(tiles[0][5]).to_wkt().replace("&", "&amp;").replace("<", "&lt;")
    target.write_text(
        f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}"><SRS>{crs}</SRS>'
        f"<GeoTransform>{left}, {res}, 0, {top}, 0, {-res}</GeoTransform>{''.join(bands)}</VRTDataset>"
    )


def main() -> int:
    """Makes and runs the sets asked for; returns how many failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("sets", nargs="*", default=list(SETS), metavar="SET")
    parser.add_argument(
        "--small", metavar="WEIGHTS", help="small network, from these weights or from nothing ('')"
    )
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--tiles-per-epoch", type=int, default=0)
    parser.add_argument("--validate-every", type=int, default=4)
    given = parser.parse_args()
    budget = {name: getattr(given, name) for name in ("epochs", "tiles_per_epoch", "validate_every")}
    failed = 0
    for name in given.sets:
        workspace = given.folder / name
        make_workspace(given.data, workspace, name, given.small, budget)
        image_id = name if SETS[name].task == "CutTiles" else f"{name}_east"
        command = ["-m", "luigi", "--module", "pipeline", SETS[name].task]
        command += ["--image-id", image_id, "--local-scheduler"]
        started = time.monotonic()
        with (workspace / "log.txt").open("w") as log:
            done = subprocess.run([sys.executable, *command], cwd=workspace, stdout=log, stderr=log)
        seconds = time.monotonic() - started
        sys.stdout.write(f"{name:<12}exit {done.returncode}  {seconds:8.1f} s  {workspace}/log.txt\n")
        failed += done.returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main())
