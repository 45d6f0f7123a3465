"""Files that people give: their endings, what lies beside them, and what tells one state from another."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from pipeline.confinement import vrt_sources
from pipeline.errors import SourceError
from pipeline.untouched import stamp_of

IMAGE_SUFFIXES = (".tif", ".tiff", ".vrt", ".jp2")
LABEL_SUFFIXES = (".geojson", ".json", ".gpkg", ".shp", ".fgb")
SIDECAR_SUFFIXES = (".wld", ".tab", ".prj", ".msk", ".ovr", ".dbf", ".shx", ".cpg")
"""Files beside an input that, like its world file, change what GDAL reads from it. `.aux.xml` is left out on
purpose: viewers write statistics there, and looking at an image must not retrain a network."""

URL_PREFIXES = ("http://", "https://")
_SETTLED_NS = 3 * 10**9
"""Nanoseconds since its last change from which a folder's listing is kept: of two changes in one tick of a
file system's clock, two seconds at most, the second does not show."""


def fingerprint(path: Path | str) -> dict[str, object]:
    """What identifies an input without reading it: name, sizes and modification times.

    Sidecar files and the sources of a VRT count as parts of the input. A URL is its own fingerprint.

    Raises:
        SourceError: the file is not there.
        RasterError: it is a VRT that cannot be read, or names one.
    """
    if str(path).startswith(URL_PREFIXES):
        return {"url": str(path)}
    path = Path(path)
    if not path.is_file():
        raise SourceError("file not found", where=path, remedy="Check the name and the workspace.")
    stamps, *sources = [_stamps(part) for part in _with_sources(path)]
    return {"name": path.name, "files": stamps} | ({"sources": sources} if sources else {})


def files_in(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Files of a folder with one of these endings in whatever case, by name; none where there is no folder.

    Hidden ones are left out: macOS keeps its own notes on `a.tif` as `._a.tif`.
    """
    there = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in there if path.suffix.lower() in suffixes and not path.name.startswith("."))


def named(folder: Path, stem: str, suffixes: Sequence[str]) -> list[Path]:
    """Files of a folder that are called so, with one of these endings in whatever case, by name.

    Raises:
        SourceError: one of them is a link to a file that is not there.
    """
    names = _listed(folder)
    found = [name for suffix in suffixes for name in names.get((stem + suffix).lower(), ())]
    return [folder / name for name in sorted(found) if Path(name).stem == stem and _is_there(folder / name)]


def _is_there(path: Path) -> bool:
    """Whether it is a file; SourceError where it is a link to none."""
    if path.is_symlink() and not path.exists():
        raise SourceError(
            f"is a link to {path.resolve()}, which is not there",
            where=path,
            remedy="Bring the file back, or remove the link and add the file from where it is now.",
        )
    return path.is_file()


def sidecars(path: Path) -> list[Path]:
    """Files beside an input that belong to it, whatever the case of their endings."""
    ending, names = path.suffix[1:], _listed(path.parent)
    endings = (f".{ending}w", f".{ending[:1]}{ending[-1:]}w", *SIDECAR_SUFFIXES)
    wanted = [(stem + ending).lower() for stem in (path.stem, path.name) for ending in endings]
    return [path.with_name(name) for sidecar in wanted for name in names.get(sidecar, ())]


def _listed(folder: Path) -> Mapping[str, Sequence[str]]:
    """Names of what lies in a folder by their lower case; listed once for each state of the folder."""
    changed = folder.stat().st_mtime_ns
    return _list_state(folder, changed) if time.time_ns() - changed > _SETTLED_NS else _list(folder)


@lru_cache(maxsize=64)
def _list_state(folder: Path, _changed: int) -> Mapping[str, Sequence[str]]:
    return _list(folder)


def _list(folder: Path) -> Mapping[str, Sequence[str]]:
    names: dict[str, list[str]] = defaultdict(list)
    for name in sorted(os.listdir(folder)):
        names[name.lower()].append(name)
    return dict(names)


def _stamps(path: Path) -> dict[str, list[int]]:
    """Sizes and times of an input and of what belongs to it, by name."""
    return {part.name: stamp_of(part) for part in (path, *sidecars(path)) if part.is_file()}


def _with_sources(path: Path) -> list[Path]:
    """An input, and every file of which it is made where it is a VRT, perhaps of other VRT."""
    found: dict[Path, None] = {}
    ahead = [path]
    while ahead:
        part = ahead.pop()
        if part in found or not os.path.isfile(part):
            continue
        found[part] = None
        if part.suffix.lower() == ".vrt":
            ahead += [Path(name) for name in vrt_sources(part)]
    return [*found]
