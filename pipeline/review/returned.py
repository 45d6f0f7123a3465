"""What people hand back, in whichever of the formats it went out."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from pipeline.errors import LabelError
from pipeline.review.coco import is_coco, read_coco
from pipeline.review.edited import read_qgis
from pipeline.review.label_studio import is_label_studio, read_label_studio
from pipeline.review.records import Round, TileReview
from pipeline.untouched import is_journal

SUFFIXES = (".gpkg", ".json")


def handed_back(folder: Path) -> list[Path]:
    """All that lies in a folder, by name; none where there is no folder.

    Hidden files are left out, and what SQLite keeps beside a file that is open.
    """
    there = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in there if not path.name.startswith(".") and not is_journal(path))


def returned_files(folder: Path) -> list[Path]:
    """The files among these that may hold reviews."""
    return [path for path in handed_back(folder) if path.suffix.lower() in SUFFIXES and path.is_file()]


def read_returned(path: Path, round_: Round) -> list[TileReview]:
    """The reviews in a file: a GeoPackage edited in QGIS, a JSON export of Label Studio, or COCO.

    Raises:
        LabelError: it is none of them, is of another round, or what it holds is not as it should be.
    """
    try:
        return read_qgis(path, round_) if path.suffix.lower() == ".gpkg" else _read_json(path, round_)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        told = first["msg"].removeprefix("Value error, ")
        raise LabelError(
            f"{place}: {told}" if place else told,
            where=path,
            found=first["input"] if isinstance(first["input"], str | int | float) else None,
            remedy="Correct it where it was drawn, and hand it back again.",
        ) from error


def _read_json(path: Path, round_: Round) -> list[TileReview]:
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise LabelError(f"not JSON: {error}", where=path, remedy="Export it again.") from error
    if is_label_studio(content):
        return read_label_studio(content, round_, path.name)
    if is_coco(content):
        return read_coco(content, round_, path.name)
    raise LabelError(
        "neither an export of Label Studio nor COCO",
        where=path,
        remedy="Export as JSON (not JSON-MIN), or as COCO.",
    )
