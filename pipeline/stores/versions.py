"""Versions of an image's buildings beside each other: as drawn, as networks found them, as people left them.

A version is written once and never changed: what a person corrected becomes a version of its own beside
the one it was made from. Every row says where it comes from: network and weights, person, file, round,
time. Two backends keep one contract, like the label store's: GeoPackage files, one per version, and tables
of the database; both tell what is wrong with a version, by the same rules (`pipeline.checks`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely

from pipeline.checks import Shift
from pipeline.errors import SettingsError, StoreError

Kind = Literal["drawn", "model", "ensemble", "proposed", "reviewed"]
"""drawn: a label file's rows; model: a network's buildings; ensemble: several networks' buildings fused;
proposed: what people were shown; reviewed: what they made of it."""

TEXTS = ("category", "scores", "parent", "model", "person", "file", "status")
NUMBERS = ("score", "seconds")
ROW_COLUMNS = [
    "row_id",
    "category",
    "score",
    "scores",
    "parent",
    "model",
    "person",
    "file",
    "round",
    "made_at",
    "seconds",
    "status",
    "geometry",
]
"""row_id int64; category str or None; score float64, the highest probability, NaN for none; scores, JSON
object of category to probability; parent, `<version>:<row_id>` of the row this one was made from; model,
`<name>/<weights digest>`, several joined by ` + `; person; file it was imported from; round int64 from 1, 0
for none; made_at, ISO 8601 in UTC; seconds a person spent on it, NaN where nobody counted; status, what the
person did; geometry, anything in the image's CRS, invalid, empty and missing ones included."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_.+-]{0,127}")


@dataclass(frozen=True)
class Version:
    """What is told of all rows of a version together."""

    name: str
    kind: Kind
    digest: str
    """Of what the rows were made from: adding the same again changes nothing."""
    round: int
    """Of the review, from 1; 0 for none."""
    made_at: str
    """ISO 8601 in UTC."""
    ground: shapely.Geometry | None = None
    """Where the rows are complete, in the image's CRS; None for everywhere."""


class Grounds(NamedTuple):
    """An image's outline and what of it shows anything, in its CRS; None where nothing is told."""

    footprint: shapely.Geometry | None = None
    valid: shapely.Geometry | None = None


class VersionStore(Protocol):
    """Where versions are kept. Methods raise SettingsError for names that are not safe."""

    def add(self, image_id: str, version: Version, rows: gpd.GeoDataFrame) -> bool:
        """Keeps a version; False where it is there already, from the same digest.

        Args:
            image_id: the image.
            version: what is told of all rows; its name is new for this image.
            rows: a frame of `row_frame`.

        Raises:
            StoreError: a version of this name holds something else: versions are never overwritten.
        """

    def versions(self, image_id: str) -> list[Version]:
        """The image's versions by the time they were made, then by name."""

    def read(self, image_id: str, name: str) -> gpd.GeoDataFrame:
        """The rows of a version by row_id, ROW_COLUMNS in the image's CRS; StoreError if there is none."""

    def check(
        self,
        image_id: str,
        name: str,
        against: str | None,
        limits: Mapping[str, float],
        grounds: Grounds = Grounds(),  # noqa: B008 (immutable)
    ) -> tuple[gpd.GeoDataFrame, Shift]:
        """What is wrong with a version, `pipeline.checks.FINDING_COLUMNS`, and how it is shifted.

        Args:
            image_id: the image.
            name: a version of labels.
            against: a version of predictions to compare it with; None for none.
            limits: as `CheckRules.limits` gives them.
            grounds: the image's.
        """


def check_version_name(name: str) -> str:
    """The name itself.

    Raises:
        SettingsError: it is not a safe name.
    """
    if not _NAME.fullmatch(name):
        raise SettingsError(
            "not the name of a version",
            where="version",
            found=name,
            remedy="Use small letters, digits, . _ + -, as in round_001.",
        )
    return name


def row_frame(geometry: Any, crs: Any, **columns: Any) -> gpd.GeoDataFrame:
    """Rows as the contract's frame, ROW_COLUMNS; a column that is not given says nothing.

    Args:
        geometry: object[n] in `crs`.
        crs: of the image.
        columns: a value per row, or one for all; `row_id` counts from 1 where it is not given.
    """
    geometry = np.array(geometry, dtype=object).reshape(-1)
    n = len(geometry)
    filled: dict[str, Any] = {"row_id": np.asarray(columns.pop("row_id", np.arange(1, n + 1)), np.int64)}
    for name in TEXTS:
        filled[name] = _texts(columns.pop(name, None), n)
    for name in NUMBERS:
        filled[name] = _spread(columns.pop(name, np.nan), n, np.float64)
    filled["round"] = _spread(columns.pop("round", 0), n, np.int64)
    filled["made_at"] = _texts(columns.pop("made_at", ""), n)
    if columns:
        raise TypeError(f"no such columns: {sorted(columns)}")
    return gpd.GeoDataFrame(filled, geometry=geometry, crs=crs)[ROW_COLUMNS]


def _spread(values: Any, n: int, dtype: Any) -> np.ndarray:
    if np.ndim(values):
        values = [np.nan if value is None else value for value in values]
    return np.array(np.broadcast_to(np.asarray(values, dtype=dtype), n))


def _texts(values: Any, n: int) -> pd.Series:
    several = not (values is None or isinstance(values, str))
    listed = list(values) if several else [values] * n
    return pd.Series([None if pd.isna(text) else str(text) for text in listed], dtype=object)


def absent_version(image_id: str, name: str, where: object) -> StoreError:
    """The error for a version that is not there."""
    return StoreError(
        f"no version {name} of {image_id}",
        where=where,
        remedy="Check the name: it is one that CheckLabels, ExportReview or ImportReview has kept.",
    )


def check_same(image_id: str, found: str, version: Version, where: object) -> None:
    """Raises StoreError where a version of this name was made from something else."""
    if found != version.digest:
        raise StoreError(
            f"version {version.name} of {image_id} holds something else and is never overwritten",
            where=where,
            found=found,
            remedy="Give the new rows a name of their own.",
        )
