"""Images that lie on a web server and are read in place, as a table of names and addresses.

`challenge.csv` beside this module lists the 22 images of the Open AI Tanzania Challenge (imagery:
Commission for Lands, Revolutionary Government of Zanzibar, CC-BY-4.0); `[Storage] catalogue =
challenge` uses it.
"""

from __future__ import annotations

import csv
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import SettingsError

CHALLENGE = "challenge"
COLUMNS = ("image_id", "split", "url")


class Entry(NamedTuple):
    """One image of a catalogue."""

    image_id: str
    split: str
    url: str

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
        SettingsError: the file is not there or lacks a column.
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
            text = Path(catalogue).read_text()
        except OSError as error:
            raise SettingsError(
                f"cannot be read: {error.strerror}",
                where="[Storage] catalogue",
                found=catalogue,
                remedy="Name a CSV with the columns image_id, split, url, or leave it empty.",
            ) from error
    rows = csv.DictReader(text.splitlines())
    missing = set(COLUMNS) - set(rows.fieldnames or ())
    if missing:
        raise SettingsError(
            "lacks columns", where=catalogue, found=sorted(missing), remedy=f"It needs {', '.join(COLUMNS)}."
        )
    return {row["image_id"]: Entry(*(row[column] for column in COLUMNS)) for row in rows}
