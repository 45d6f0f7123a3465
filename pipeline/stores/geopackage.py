"""The embedded label store: one GeoPackage per image, which replaces the old one whole."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import shapely

from pipeline.atomic import atomic
from pipeline.clipping import clip_to_boxes
from pipeline.errors import ArtifactError, StoreError
from pipeline.stores import (
    LABEL_COLUMNS,
    MIN_VISIBLE_SHARE,
    absent,
    categories,
    check_digest,
    check_image_id,
    check_tiles,
    crs_text,
    item_frame,
    label_frame,
)
from pipeline.untouched import drop_journals

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1

_MARKER = "SELECT schema_version, digest, crs, report FROM label_sets"


class GeoPackageStore:
    """Labels as files `<folder>/<image_id>.gpkg`.

    Layer `labels` holds the rows under an R-tree; table `label_sets` the marker, one row.

    Args:
        folder: made when the first labels are stored.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    def path(self, image_id: str) -> Path:
        """The file of an image's labels."""
        return self.folder / f"{check_image_id(image_id)}.gpkg"

    def replace_labels(
        self, image_id: str, digest: str, labels: gpd.GeoDataFrame, report: dict[str, Any]
    ) -> None:
        """See `LabelStore`."""
        path = self.path(image_id)
        frame = labels[LABEL_COLUMNS].assign(category=categories(labels["category"]).astype("string"))
        marker = {
            "schema_version": SCHEMA_VERSION,
            "image_id": image_id,
            "digest": digest,
            "crs": crs_text(labels.crs),
            "report": json.dumps(report, allow_nan=False),
            "loaded_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        with _replaced(path) as scratch:
            options = {"driver": "GPKG", "SPATIAL_INDEX": "YES"}
            pyogrio.write_dataframe(frame, scratch, layer="labels", geometry_type="Polygon", **options)
            pyogrio.write_dataframe(
                pd.DataFrame([marker]), scratch, layer="label_sets", driver="GPKG", append=True
            )

    def is_current(self, image_id: str, digest: str) -> bool:
        """See `LabelStore`."""
        path = self.path(image_id)
        try:
            return path.is_file() and self._marker(path)["digest"] == digest
        except StoreError as error:
            # A damaged file is not current: loading replaces it.
            logger.warning("%s", error)
            return False

    def read_labels(self, image_id: str) -> gpd.GeoDataFrame:
        """See `LabelStore`."""
        path = self._existing(image_id)
        crs = self._marker(path)["crs"]
        try:
            rows = pyogrio.read_dataframe(path, layer="labels")
        except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
            raise _damaged(path, error) from error
        rows = rows.sort_values("label_id", ignore_index=True)
        return label_frame(rows["label_id"], rows["source_row"], rows["category"], rows.geometry, crs)

    def read_report(self, image_id: str) -> dict[str, Any]:
        """See `LabelStore`."""
        return json.loads(self._marker(self._existing(image_id))["report"])

    def items_in_tiles(
        self, image_id: str, tiles: gpd.GeoDataFrame, digest: str | None = None
    ) -> gpd.GeoDataFrame:
        """See `LabelStore`."""
        check_digest(image_id, self.folder, self._marker(self._existing(image_id))["digest"], digest)
        labels = self.read_labels(image_id)
        check_tiles(image_id, labels.crs, tiles)
        polygons = labels.geometry.to_numpy()
        tile, label, clipped = clip_to_boxes(polygons, tiles.geometry.to_numpy())
        shares = shapely.area(clipped) / shapely.area(polygons)[label]
        seen = shares > MIN_VISIBLE_SHARE
        tile, label = tile[seen], label[seen]
        return item_frame(
            tiles["tile_id"].to_numpy(dtype=object)[tile],
            labels["label_id"].to_numpy()[label],
            labels["category"].to_numpy()[label],
            clipped[seen],
            np.minimum(shares[seen], 1.0),
            labels.crs,
        )

    def _existing(self, image_id: str) -> Path:
        path = self.path(image_id)
        if not path.is_file():
            raise absent(image_id, self.folder)
        return path

    def _marker(self, path: Path) -> dict[str, Any]:
        # Read-only by URI: a reader never leaves a journal beside a file that others replace.
        try:
            with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
                connection.row_factory = sqlite3.Row
                row = connection.execute(_MARKER).fetchone()
        except sqlite3.Error as error:
            raise _damaged(path, error) from error
        if row is None or row["schema_version"] != SCHEMA_VERSION:
            raise _damaged(path, "its marker is missing or of another version")
        return dict(row)


def _damaged(path: Path, why: object) -> StoreError:
    return StoreError(
        f"not a readable label store: {why}",
        where=path,
        remedy="Delete the file; LoadLabels writes it again.",
    )


@contextmanager
def _replaced(path: Path) -> Iterator[Path]:
    """A temporary path of the same name that takes the place of `path` when the block ends well."""
    try:
        with atomic(path) as scratch:
            yield scratch
            drop_journals(path)
    except (OSError, ArtifactError, pyogrio.errors.DataSourceError) as error:
        raise StoreError(
            f"labels cannot be written: {error}",
            where=path.parent,
            remedy="Check permissions and free space.",
        ) from error
