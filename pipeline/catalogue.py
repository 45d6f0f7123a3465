"""Images that lie on a web server, as a table of names and addresses: read in place, or fetched.

`challenge.csv` beside this module lists the 22 images of the Open AI Tanzania Challenge; `[Storage]
catalogue = challenge` uses it.
"""

from __future__ import annotations

import csv
import io
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import SettingsError
from pipeline.names import check_image_id

CHALLENGE = "challenge"
COLUMNS = ("image_id", "split", "url")
"""What every catalogue has. It may also have `held_out` (`yes` for training images to validate on), `width`
and `height` in pixels and `sha256` (checked when an image is fetched), `licence` and `attribution`."""

_SCHEMES = ("http://", "https://")
_MAX_CHARACTERS = 2**24


class Entry(NamedTuple):
    """One image of a catalogue."""

    image_id: str
    split: str
    url: str
    sha256: str = ""
    """Of the file, in hex; empty where it is not known."""
    size: tuple[int, int] | None = None
    """Width and height in pixels; None where they are not known."""
    held_out: bool = False
    """Whether a network is validated on it, where nobody says otherwise."""
    licence: str = ""
    attribution: str = ""
    """Whom the imagery is owed to."""

    @property
    def credit(self) -> str:
        """Whom the imagery is owed to and under which licence, as a page says it; empty where unknown."""
        known = ", ".join(part for part in (self.attribution, self.licence) if part)
        return f"Imagery: {known}." if known else ""

    @property
    def submission_name(self) -> str:
        """The name the challenge knows the image by: the last id of its address."""
        return Path(self.url).stem


def read_catalogue(catalogue: str) -> dict[str, Entry]:
    """The entries of a catalogue by image id.

    Args:
        catalogue: path of a CSV with at least the columns image_id, split and url; "challenge" for
            the packaged one; empty for none.

    Raises:
        SettingsError: the file cannot be read, lacks a column, names what is no image id or no address, or
            an image twice.
    """
    return _read(catalogue, _modified(catalogue)) if catalogue else {}


def _modified(catalogue: str) -> int:
    path = Path(catalogue)
    return path.stat().st_mtime_ns if catalogue != CHALLENGE and path.is_file() else 0


@lru_cache(maxsize=8)
def _read(catalogue: str, _modified: int) -> dict[str, Entry]:
    if catalogue == CHALLENGE:
        text = resources.files("pipeline").joinpath("challenge.csv").read_text()
    else:
        try:
            # Excel begins UTF-8 with a mark; a quoted cell may hold lines.
            with open(catalogue, encoding="utf-8-sig", newline="") as file:
                text = file.read(_MAX_CHARACTERS + 1)
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(
                f"cannot be read: {getattr(error, 'strerror', 'not UTF-8')}",
                where="[Storage] catalogue",
                found=catalogue,
                remedy="Name a CSV with the columns image_id, split, url, or leave it empty.",
            ) from error
    if len(text) > _MAX_CHARACTERS:
        raise SettingsError(f"larger than a catalogue of {_MAX_CHARACTERS:,} characters", where=catalogue)
    rows = csv.DictReader(io.StringIO(text, newline=""), restval="")
    try:
        return _entries(rows, catalogue)
    except csv.Error as error:
        raise SettingsError(f"not a CSV, {error}", where=catalogue, remedy="Save it again.") from error


def _entries(rows: csv.DictReader[str], catalogue: str) -> dict[str, Entry]:
    missing = set(COLUMNS) - set(rows.fieldnames or ())
    if missing:
        raise SettingsError(
            "lacks columns", where=catalogue, found=sorted(missing), remedy=f"It needs {', '.join(COLUMNS)}."
        )
    entries: dict[str, Entry] = {}
    for row in rows:
        entry = _entry(row, catalogue)
        if entry.image_id in entries:
            raise SettingsError(
                "image id stands there twice",
                where=catalogue,
                found=entry.image_id,
                remedy="Keep one of its rows or rename the other: an image id names one image.",
            )
        entries[entry.image_id] = entry
    return entries


def _entry(row: dict[str, str], catalogue: str) -> Entry:
    # Both become parts of paths.
    check_image_id(row["image_id"]), check_image_id(row["split"])
    if not row["url"].startswith(_SCHEMES):
        raise SettingsError(
            "url is no http or https address",
            where=f"{catalogue}, {row['image_id']}",
            found=row["url"],
            remedy="Put a file of this machine into input/ instead.",
        )

    def known(column: str) -> str:
        return (row.get(column) or "").strip()

    try:
        size = (int(known("width")), int(known("height"))) if known("width") or known("height") else None
    except ValueError as error:
        raise SettingsError(
            "width and height are pixels",
            where=f"{catalogue}, {row['image_id']}",
            found=(known("width"), known("height")),
            remedy="Write whole numbers, or leave both empty.",
        ) from error
    if known("held_out") not in ("", "yes"):
        raise SettingsError(
            "held_out is yes or empty",
            where=f"{catalogue}, {row['image_id']}",
            found=known("held_out"),
            remedy="Write yes for a training image to validate on.",
        )
    return Entry(
        row["image_id"],
        row["split"],
        row["url"],
        known("sha256"),
        size,
        known("held_out") == "yes",
        known("licence"),
        known("attribution"),
    )
