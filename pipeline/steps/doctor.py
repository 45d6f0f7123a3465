"""What this machine and this workspace lack for a run, each finding with its remedy."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyproj
import rasterio
import rasterio.warp
import shapely

from models.errors import Mistake
from pipeline import settings
from pipeline.provenance import versions
from pipeline.raster import Imagery, image_size
from pipeline.stores import open_store
from pipeline.targets import Workspace

Level = Literal["ok", "note", "fault"]

PYTHONS = ((3, 11), (3, 13))
FOREIGN = ("PROJ_LIB", "PROJ_DATA", "GDAL_DATA", "GDAL_DRIVER_PATH")
"""Variables that send the wheels' GDAL and PROJ to another installation's files."""
ZANZIBAR = ((39.20, -6.16), (522_127.4, 9_319_104.5))
"""A point in longitude, latitude, and in EPSG:32737, rounded to half a metre."""
MEMORY_GIB = {
    "maskrcnn_resnet50_fpn_v2": 5.5,
    "maskrcnn_resnet18_fpn": 3.5,
    "maskrcnn_resnet50_light": 4.5,
    "maskrcnn_small": 2.0,
}
"""What learning takes in batches of four tiles of 1024 px on a CPU, as measured; inference takes less."""
BYTES_PER_PX = 5.5
"""Of disk for training pairs and results, per pixel of an image: 3 bytes, tiles overlapping by a quarter."""


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    subject: str
    level: Level
    """ok; note: something works less well than it could; fault: a run would fail."""
    found: str
    remedy: str = ""

    def __str__(self) -> str:
        text = f"{self.level:<6}{self.subject:<12}{self.found}"
        return f"{text}\n{'':18}{self.remedy}" if self.remedy else text


def examine(workspace: Workspace) -> Iterator[Finding]:
    """Findings about the machine, then about the workspace, as they are made."""
    yield from _python()
    yield from _geo(os.environ)
    yield from _gpu()
    faults = list(_settings())
    yield from faults
    unfit = list(_unfit(workspace))
    yield from unfit
    if not unfit:
        yield from _inputs(workspace)
        yield from _disk(workspace)
    if not any(finding.level == "fault" for finding in faults):
        yield from _memory()
        yield from _labels()


def _python() -> Iterator[Finding]:
    found = f"{sys.version.split()[0]}, jengo {versions()['jengo']}"
    if PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        yield Finding("Python", "ok", found)
    else:
        yield Finding("Python", "note", found, "It is tested with 3.11 to 3.13: make a venv of one of these.")


def _geo(environment: Mapping[str, str]) -> Iterator[Finding]:
    """GDAL, PROJ and GEOS: which there are, and whether they agree on where things lie."""
    found = (
        f"GDAL {rasterio.__gdal_version__} (rasterio {rasterio.__version__}), "
        f"PROJ {pyproj.proj_version_str} (pyproj {pyproj.__version__}), GEOS {shapely.geos_version_string}"
    )
    foreign = [name for name in FOREIGN if environment.get(name)]
    if foreign:
        remedy = f"They point to another installation: unset {' '.join(foreign)}."
        yield Finding("GDAL, PROJ", "note", f"{', '.join(foreign)} set; {found}", remedy)
    remedy = "Two PROJ installations meet: unset PROJ_LIB, PROJ_DATA, GDAL_DATA, or make a fresh venv."
    lonlat, expected = ZANZIBAR
    for name, transform in (("pyproj", _by_pyproj), ("rasterio", _by_rasterio)):
        try:
            place = transform(lonlat)
        except Exception as error:
            yield Finding("GDAL, PROJ", "fault", f"{name} knows no CRS: {_line(error)}", remedy)
            return
        if max(abs(one - other) for one, other in zip(place, expected, strict=True)) > 1:
            yield Finding("GDAL, PROJ", "fault", f"{name} puts {lonlat} at {place}, not {expected}", remedy)
            return
    if not foreign:
        yield Finding("GDAL, PROJ", "ok", found)
    if importlib.util.find_spec("osgeo"):
        remedy = "Make a venv without the system's packages: two GDALs in one process may crash."
        yield Finding("GDAL, PROJ", "note", "the system's GDAL bindings (osgeo) are here too", remedy)


def _by_pyproj(lonlat: tuple[float, float]) -> tuple[float, float]:
    return pyproj.Transformer.from_crs("EPSG:4326", "EPSG:32737", always_xy=True).transform(*lonlat)


def _by_rasterio(lonlat: tuple[float, float]) -> tuple[float, float]:
    ((x,), (y,)) = rasterio.warp.transform("EPSG:4326", "EPSG:32737", [lonlat[0]], [lonlat[1]])
    return x, y


def _gpu() -> Iterator[Finding]:
    import torch

    found = f"torch {torch.__version__}"
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name(0)
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        yield Finding("GPU", "ok", f"{name}, {memory:.0f} GiB, {found}")
    elif Path("/dev/nvidia0").exists():
        remedy = "The driver is older than torch's CUDA: update the driver, or install a torch built for it."
        yield Finding("GPU", "note", f"there is one, but torch cannot use it; {found}", remedy)
    else:
        cores = len(os.sched_getaffinity(0))
        remedy = (
            "Everything runs on the CPU, for which [Training] network = maskrcnn_resnet50_light (with "
            "ImageNet's weights) and maskrcnn_small (without any) are made."
        )
        yield Finding("GPU", "note", f"none; {cores} cores, {found}", remedy)


def _settings() -> Iterator[Finding]:
    try:
        settings.check_all()
    except Mistake as error:
        yield Finding("luigi.cfg", "fault", str(error))
    else:
        here = "read" if Path("luigi.cfg").is_file() else "none here: the defaults count"
        yield Finding("luigi.cfg", "ok", here)


def _unfit(workspace: Workspace) -> Iterator[Finding]:
    """Inputs that cannot be told apart, or whose files are gone."""
    for name in sorted({*workspace.images_everywhere(), *workspace.labels_everywhere()}):
        try:
            _ = workspace.find_image(name), workspace.find_labels(name), workspace.find_area(name)
        except Mistake as error:
            yield Finding("input", "fault", str(error))


def _inputs(workspace: Workspace) -> Iterator[Finding]:
    """Whether images and labels find each other."""
    training, test = (workspace.images_of(split) for split in ("training", "test"))
    if not training and not test:
        remedy = "Start one: jengo add IMAGE --labels FILE, then jengo add IMAGE for one to be mapped."
        yield Finding("workspace", "note", f"no images in {workspace.root / 'input'}", remedy)
        return
    yield Finding("workspace", "ok", f"{len(training)} images to learn from, {len(test)} to map")
    bare = [name for name in training if workspace.find_labels(name) is None]
    if bare:
        remedy = "Add labels with the same stem to input/training/labels, or move the image to input/test."
        yield Finding("labels", "fault", f"none for {_few(bare)} in input/training", remedy)
    stray = [name for name in workspace.labels_everywhere() if workspace.find_image(name) is None]
    if stray:
        remedy = "An image and its labels share their stem: rename one, or use jengo add IMAGE --labels FILE."
        yield Finding("labels", "note", f"{_few(stray)} belong to no image here", remedy)


def _disk(workspace: Workspace) -> Iterator[Finding]:
    folder = next(path for path in (workspace.root, *workspace.root.parents) if path.exists())
    free = shutil.disk_usage(folder).free
    pixels, unread = 0, []
    for image in filter(None, map(workspace.find_image, workspace.images_everywhere())):
        try:
            width, height = image_size(image)
            pixels += width * height
        except Mistake as error:
            unread.append(Finding("image", "fault", str(error)))
    yield from unread
    need = int(pixels * BYTES_PER_PX)
    found = f"{_gib(free)} free, about {_gib(need)} for {pixels / 1e6:,.0f} megapixels"
    if free > need:
        yield Finding("disk", "ok", found)
    else:
        yield Finding("disk", "fault", found, "Free some, or set [Storage] workspace to a larger disk.")


def _memory() -> Iterator[Finding]:
    """Memory: bounded whatever the images' sizes, so it is the network that counts."""
    network = settings.Training().network
    need, there = MEMORY_GIB[network], available_memory() / 2**30
    cache = settings.Imagery().rules(Imagery).cache_mb
    found = f"{there:.1f} GiB available; {network} learns in about {need:.0f} GiB, images in {cache} MiB each"
    fitting = [name for name, least in MEMORY_GIB.items() if least <= there]
    instead = f"[Training] network = {' or '.join(fitting)}, or " if fitting else ""
    remedy = f"Close other programs, or set {instead}a smaller batch_size."
    yield Finding("memory", "ok", found) if there >= need else Finding("memory", "note", found, remedy)


def _labels() -> Iterator[Finding]:
    url = settings.Labels().database
    if not url:
        yield Finding("label store", "ok", "GeoPackage files in work/")
        return
    try:
        open_store(url, Path()).is_current("doctor", "")
    except Mistake as error:
        yield Finding("label store", "fault", str(error))
    else:
        yield Finding("label store", "ok", url)


def available_memory() -> int:
    """Bytes of memory that this process may still take: the machine's, or its container's if less."""
    return min(_machine_memory(), _container_memory())


def _machine_memory() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _container_memory() -> int:
    folder = Path("/sys/fs/cgroup")
    try:
        limit, used = ((folder / name).read_text().strip() for name in ("memory.max", "memory.current"))
        return int(limit) - int(used)
    except (OSError, ValueError):
        return sys.maxsize


def _gib(size: float) -> str:
    return f"{size / 2**30:,.1f} GiB"


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
