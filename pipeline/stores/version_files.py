"""Versions as files: one GeoPackage each, written once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import shapely

from pipeline.atomic import atomic
from pipeline.checks import Shift, find, find_shift
from pipeline.checks.shift import NO_SHIFT
from pipeline.errors import ArtifactError, StoreError
from pipeline.stores import check_image_id, crs_text
from pipeline.stores.versions import (
    ROW_COLUMNS,
    TEXTS,
    Grounds,
    Version,
    absent_version,
    check_same,
    check_version_name,
    row_frame,
)


class VersionFiles:
    """Versions as `<folder>/<image_id>/<version>.gpkg`: layer `rows`, and table `version` of one row.

    Args:
        folder: made when the first version is kept.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    def path(self, image_id: str, name: str) -> Path:
        """The file of a version."""
        return self.folder / check_image_id(image_id) / f"{check_version_name(name)}.gpkg"

    def add(self, image_id: str, version: Version, rows: gpd.GeoDataFrame) -> bool:
        """See `VersionStore`."""
        path = self.path(image_id, version.name)
        if path.is_file():
            check_same(image_id, _read_marker(path)[0].digest, version, path)
            return False
        texts = {name: rows[name].astype("string") for name in (*TEXTS, "made_at")}
        marker = {
            "name": version.name,
            "kind": version.kind,
            "digest": version.digest,
            "round": version.round,
            "made_at": version.made_at,
            "crs": crs_text(rows.crs),
            "ground": None if version.ground is None else shapely.to_wkb(version.ground, hex=True),
        }
        marker_frame = pd.DataFrame([marker]).astype({"ground": "string"})
        try:
            with atomic(path) as scratch:
                pyogrio.write_dataframe(
                    rows.assign(**texts), scratch, layer="rows", driver="GPKG", geometry_type="Unknown"
                )
                pyogrio.write_dataframe(marker_frame, scratch, layer="version", driver="GPKG", append=True)
        except (OSError, ArtifactError, pyogrio.errors.DataSourceError) as error:
            raise StoreError(
                f"a version cannot be written: {error}",
                where=path.parent,
                remedy="Check permissions and free space.",
            ) from error
        return True

    def versions(self, image_id: str) -> list[Version]:
        """See `VersionStore`."""
        paths = (self.folder / check_image_id(image_id)).glob("*.gpkg")
        found = [_read_marker(path)[0] for path in paths]
        return sorted(found, key=lambda version: (version.made_at, version.name))

    def read(self, image_id: str, name: str) -> gpd.GeoDataFrame:
        """See `VersionStore`."""
        path = self.path(image_id, name)
        if not path.is_file():
            raise absent_version(image_id, name, self.folder)
        _, crs = _read_marker(path)
        rows = _layer(path, "rows").sort_values("row_id", ignore_index=True)
        columns = {column: rows[column].tolist() for column in ROW_COLUMNS if column != "geometry"}
        return row_frame(rows.geometry.values, crs, **columns)

    def check(
        self,
        image_id: str,
        name: str,
        against: str | None,
        limits: Mapping[str, float],
        grounds: Grounds = Grounds(),  # noqa: B008 (immutable)
    ) -> tuple[gpd.GeoDataFrame, Shift]:
        """See `VersionStore`."""
        labels = self.read(image_id, name)
        labelled = _read_marker(self.path(image_id, name))[0].ground
        predictions = self.read(image_id, against) if against else None
        found = find(
            labels,
            predictions,
            limits,
            footprint=grounds.footprint,
            valid_ground=grounds.valid,
            labelled=labelled,
        )
        if predictions is None:
            return found, NO_SHIFT
        return found, find_shift(_sound(labels), _sound(predictions), limits)


def _sound(rows: gpd.GeoDataFrame) -> np.ndarray:
    polygons = np.asarray(rows.geometry.values, dtype=object)
    return polygons[shapely.is_valid(polygons) & (np.nan_to_num(shapely.area(polygons)) > 0)]


def _read_marker(path: Path) -> tuple[Version, str]:
    """What is told of a version, and its CRS."""
    marker = _layer(path, "version").iloc[0]
    ground = marker["ground"]
    version = Version(
        marker["name"],
        marker["kind"],
        marker["digest"],
        int(marker["round"]),
        marker["made_at"],
        None if pd.isna(ground) else shapely.from_wkb(ground),
    )
    return version, marker["crs"]


def _layer(path: Path, layer: str) -> pd.DataFrame:
    try:
        # Texts that look like dates stay as they were written.
        return pyogrio.read_dataframe(path, layer=layer, datetime_as_string=True)
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
        raise StoreError(
            f"not a readable version: {error}",
            where=path,
            remedy="Bring it back from a backup, or remove the file: it may hold a person's work.",
        ) from error
