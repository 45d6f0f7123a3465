"""The challenge's CSV: one row per building, read back, checked and packed.

Header `building_id`, one `conf_<category>` each, `coords_geo`, `coords_pixel`. Both polygons are
WKT with closed rings; holes are kept as interior rings. `coords_geo` is longitude before latitude
with 8 decimals (about 1 mm), `coords_pixel` column before row of the whole image with 2 decimals.
Without buildings the header stands alone.
"""

from __future__ import annotations

import csv
import logging
import re
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import shapely

from pipeline.errors import ArtifactError
from pipeline.rounding import round_polygons

logger = logging.getLogger(__name__)

CATEGORIES = ("foundation", "unfinished", "completed")
"""The challenge's categories in the order of its columns."""
GEO_DECIMALS = 8
PIXEL_DECIMALS = 2
CONFIDENCE_DECIMALS = 6
MIN_GEO_DECIMALS = 7
"""What the challenge asks for."""
BOUNDS_TOLERANCE = 1e-6
"""Degrees (about 0.1 m: an image's straight edges are curves in degrees) or pixels."""
WORLD_LONLAT = (-180.0, -90.0, 180.0, 90.0)
SHOWN_PER_FAULT = 3

_FEW_DECIMALS = re.compile(rf"(?<![\d.])\d+(?:\.\d{{0,{MIN_GEO_DECIMALS - 1}}})?(?![\d.])")


class Rows(NamedTuple):
    """A batch of buildings in the order of their rows."""

    polygons_px: np.ndarray
    """object[n], full-image pixels."""
    polygons_lonlat: np.ndarray
    """object[n], degrees, longitude first."""
    probabilities: np.ndarray
    """float64[n, k], confidence per category in [0, 1]."""


def columns(categories: Sequence[str] = CATEGORIES) -> tuple[str, ...]:
    """Header of the CSV for these categories."""
    return ("building_id", *(f"conf_{name}" for name in categories), "coords_geo", "coords_pixel")


def write_csv(path: Path, batches: Iterable[Rows], categories: Sequence[str] = CATEGORIES) -> int:
    """Number of rows written to `path`; ids count from 1 through all batches.

    Polygons stay valid at the written decimals, see `round_polygons`.

    Args:
        path: the CSV.
        batches: buildings: polygons object[n] in pixels and in degrees, probabilities float64[n, k].
        categories: the k names in the order of the columns.

    Raises:
        ArtifactError: a polygon vanishes at the written decimals.
    """
    count = 0
    with open(path, "w", encoding="utf-8", newline="") as file:
        file.write(",".join(columns(categories)) + "\n")
        for batch in batches:
            geo = _wkt(batch.polygons_lonlat, GEO_DECIMALS, path)
            pixel = _wkt(batch.polygons_px, PIXEL_DECIMALS, path)
            for confidences, *texts in zip(np.asarray(batch.probabilities).tolist(), geo, pixel, strict=True):
                count += 1
                numbers = ",".join(f"{value:.{CONFIDENCE_DECIMALS}f}" for value in confidences)
                file.write(f'{count},{numbers},"{texts[0]}","{texts[1]}"\n')
    return count


def read_csv(path: Path, categories: Sequence[str] = CATEGORIES) -> Rows:
    """All rows of a CSV, invalid polygons included.

    Args:
        path: the CSV.
        categories: names in the order of the columns.

    Raises:
        ArtifactError: the file is not of these columns, or a row cannot be read.
    """
    probabilities: list[list[float]] = []
    geometries: list[list[shapely.Geometry]] = []
    names = columns(categories)
    for line, row in _records(path, names):
        if len(row) != len(names):
            raise ArtifactError("row of the wrong length", where=f"{path}, line {line}", found=len(row))
        try:
            probabilities.append([float(value) for value in row[1:-2]])
            geometries.append([shapely.from_wkt(value) for value in row[-2:]])
        except (ValueError, shapely.errors.GEOSException) as error:
            raise ArtifactError(f"row that cannot be read, {error}", where=f"{path}, line {line}") from error
    pairs = np.array(geometries, dtype=object).reshape(-1, 2)
    numbers = np.array(probabilities, dtype=np.float64).reshape(-1, len(categories))
    return Rows(polygons_px=pairs[:, 1], polygons_lonlat=pairs[:, 0], probabilities=numbers)


def validate_csv(
    path: Path,
    categories: Sequence[str] = CATEGORIES,
    *,
    bounds_lonlat: tuple[float, float, float, float] | None = None,
    width: int | None = None,
    height: int | None = None,
) -> list[str]:
    """Everything that is wrong with a CSV, one sentence per kind of fault; empty for a good one.

    Args:
        path: the CSV.
        categories: names in the order of the columns.
        bounds_lonlat: west, south, east, north of the image in degrees; where given, buildings must
            lie in it, and always within -180 to 180 and -90 to 90.
        width: of the image in pixels; where given with `height`, coords_pixel must lie in it.
        height: of the image in pixels.
    """
    faults: dict[str, list[int]] = {}
    names = columns(categories)
    frame = None if width is None or height is None else (0.0, 0.0, float(width), float(height))
    # An image that lies beyond the range of degrees excuses no building that does.
    bounds = bounds_lonlat if bounds_lonlat and _inside(bounds_lonlat, WORLD_LONLAT) else WORLD_LONLAT
    try:
        for expected, (line, row) in enumerate(_records(path, names), start=1):
            for fault in _row_faults(row, expected, names, bounds, frame):
                faults.setdefault(fault, []).append(line)
    except ArtifactError as error:
        return [str(error)]
    return [f"{path.name}, {_lines(where)}: {fault}" for fault, where in faults.items()]


def pack_submission(csvs: Mapping[str, Path], zip_path: Path) -> None:
    """A zip of `<name>.csv` files, which `validate_csv` has found good; the same bytes for the same files.

    Args:
        csvs: path of each CSV by the name the challenge knows its image by.
        zip_path: where the zip goes.
    """
    with zipfile.ZipFile(zip_path, "w") as archive:
        for name, path in sorted(csvs.items()):
            # Date, system and permissions are fixed: they would differ from run to run.
            info = zipfile.ZipInfo(f"{name}.csv", date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type, info.create_system, info.external_attr = zipfile.ZIP_DEFLATED, 3, 0o644 << 16
            info.file_size = path.stat().st_size
            with open(path, "rb") as source, archive.open(info, "w") as target:
                shutil.copyfileobj(source, target, 1 << 20)
    logger.info("packed %d files into %s", len(csvs), zip_path)


def _wkt(polygons, decimals: int, path: Path) -> list[str]:
    rounded = round_polygons(polygons, decimals, where=path)
    return shapely.to_wkt(rounded, rounding_precision=decimals, trim=False).tolist()


def _records(path: Path, names: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Rows after the header with the line they end on."""
    # The parser's default limit of 131,072 characters is a polygon of 5,000 vertices.
    csv.field_size_limit(2**31 - 1)
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            if tuple(header) != tuple(names):
                raise ArtifactError(
                    "not the header of a submission",
                    where=path,
                    found=",".join(header),
                    remedy=f"It should read {','.join(names)}.",
                )
            for row in reader:
                yield reader.line_num, row
    except OSError as error:
        raise ArtifactError(f"cannot be read, {error.strerror}", where=path) from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise ArtifactError(f"not a CSV in UTF-8, {error}", where=path) from error


def _row_faults(row, expected: int, names, bounds, frame) -> Iterator[str]:
    if len(row) != len(names):
        yield f"a row of {len(row)} instead of {len(names)} fields"
        return
    if row[0] != str(expected):
        yield "building_id does not count up from 1"
    for name, text in zip(names[1:-2], row[1:-2], strict=True):
        value = _number(text)
        if value is None:
            yield f"{name} is not a number"
        elif not 0 <= value <= 1:
            yield f"{name} lies outside 0 to 1"
    yield from _polygon_faults("coords_geo", row[-2], bounds, "lat lon swapped, lon is first")
    yield from _polygon_faults("coords_pixel", row[-1], frame, "x y swapped, the column is first")
    if _FEW_DECIMALS.search(row[-2]):
        yield f"coords_geo has numbers of less than {MIN_GEO_DECIMALS} decimals"


def _polygon_faults(name: str, text: str, bounds, swapped: str) -> Iterator[str]:
    try:
        with np.errstate(invalid="ignore"):
            polygon = shapely.from_wkt(text)
    except shapely.errors.GEOSException as error:
        unclosed = "closed linestring" in str(error)
        yield f"{name} has a ring that is not closed" if unclosed else f"{name} is not WKT"
        return
    if polygon.geom_type != "Polygon" or polygon.is_empty:
        yield f"{name} is not a POLYGON with coordinates"
    elif not np.isfinite(shapely.get_coordinates(polygon)).all():
        yield f"{name} has coordinates that are not finite"
    else:
        if not polygon.is_valid:
            yield f"{name} is not a valid polygon ({shapely.is_valid_reason(polygon).partition('[')[0]})"
        west, south, east, north = polygon.bounds
        if bounds is not None and not _inside((west, south, east, north), bounds):
            place = "the range of degrees" if bounds is WORLD_LONLAT else "the image"
            fits = _inside((south, west, north, east), bounds)
            yield f"{name} has {swapped}" if fits else f"{name} lies outside {place}"


def _inside(box, bounds) -> bool:
    west, south, east, north = np.subtract(box, bounds)
    room = BOUNDS_TOLERANCE
    return west >= -room and south >= -room and east <= room and north <= room


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def _lines(lines: list[int]) -> str:
    shown = ", ".join(str(line) for line in lines[:SHOWN_PER_FAULT])
    more = len(lines) - SHOWN_PER_FAULT
    return f"line{'s' if len(lines) > 1 else ''} {shown}" + (f" and {more} more" if more > 0 else "")
