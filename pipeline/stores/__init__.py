"""The label store: clean labels by image, and the one spatial question the pipeline asks of them.

Two backends keep one contract: `geopackage`, files that need no server and open in QGIS, and
`postgis`, a database that many machines share. Every image's labels lie in that image's own CRS,
beside a marker with the digest they were made from; rows and marker change together or not at all.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from pyproj import CRS

from pipeline.errors import StoreError
from pipeline.frames import exact_crs
from pipeline.names import check_image_id as check_image_id

LABEL_COLUMNS = ["label_id", "source_row", "category", "geometry"]
ITEM_COLUMNS = ["tile_id", "label_id", "category", "geometry", "visible_share"]

MIN_VISIBLE_SHARE = 1e-6
"""Share of a label's area up to which it only touches a tile; below it, area is rounding."""


class LabelStore(Protocol):
    """Where the clean labels of images are kept.

    Every method raises SettingsError for an image id that is not a safe name, and StoreError
    where the store cannot be reached or is damaged.
    """

    def replace_labels(
        self, image_id: str, digest: str, labels: gpd.GeoDataFrame, report: dict[str, Any]
    ) -> None:
        """Puts these labels in the place of the image's old ones, rows and marker in one transaction.

        Args:
            image_id: the image.
            digest: of the settings and inputs the labels were made from.
            labels: LABEL_COLUMNS, valid Polygons in the image's CRS.
            report: JSON-ready account of the cleaning.
        """

    def is_current(self, image_id: str, digest: str) -> bool:
        """Whether the image's labels are there and carry this digest."""

    def read_labels(self, image_id: str) -> gpd.GeoDataFrame:
        """The image's labels by label_id, LABEL_COLUMNS in the image's CRS; StoreError if never loaded."""

    def read_report(self, image_id: str) -> dict[str, Any]:
        """The report the labels were loaded with; StoreError if they never were."""

    def items_in_tiles(
        self, image_id: str, tiles: gpd.GeoDataFrame, digest: str | None = None
    ) -> gpd.GeoDataFrame:
        """The labels clipped to tiles, in the order of the tiles and then of label_id.

        Args:
            image_id: the image; StoreError if its labels were never loaded.
            tiles: columns tile_id and geometry, Polygons in the image's CRS.
            digest: the labels' own; StoreError if another run has replaced them meanwhile.

        Returns:
            ITEM_COLUMNS: geometry is the clipped Polygon or MultiPolygon in the image's CRS,
            visible_share its area over the label's, in (0, 1]. Labels that only touch a tile are no items.
        """


def open_store(database_url: str, folder: Path) -> LabelStore:
    """The PostGIS store at `database_url`, or for an empty URL GeoPackage files in `folder`.

    Opening touches neither server nor disk. Credentials come from PGPASSFILE or PGPASSWORD.

    Raises:
        SettingsError: the URL is none of PostgreSQL, or holds a password.
    """
    if not database_url:
        from pipeline.stores.geopackage import GeoPackageStore

        return GeoPackageStore(folder)
    from pipeline.stores.postgis import PostGISStore

    return PostGISStore(database_url)


def crs_text(crs: Any) -> str:
    """The CRS as `exact_crs` tells it.

    Raises:
        StoreError: there is no CRS.
    """
    if crs is None:
        raise StoreError("labels without a CRS cannot be stored", remedy="Give them the image's CRS.")
    return exact_crs(crs)


def check_tiles(image_id: str, labels_crs: Any, tiles: gpd.GeoDataFrame) -> None:
    """Raises StoreError where tiles and labels are of different CRSs: they belong to different images."""
    if tiles.crs is None or not CRS.from_user_input(labels_crs).equals(tiles.crs, ignore_axis_order=True):
        raise StoreError(
            "tiles are not in the CRS of the image's labels",
            where=image_id,
            found=None if tiles.crs is None else tiles.crs.name,
            remedy="Load the labels again after a change of the image.",
        )


def absent(image_id: str, where: object) -> StoreError:
    """The error for an image whose labels were never loaded."""
    return StoreError(f"no labels of {image_id}", where=where, remedy="Run LoadLabels for this image first.")


def check_digest(image_id: str, where: object, found: str, wanted: str | None) -> None:
    """Raises StoreError where the labels are not those asked for."""
    if wanted is not None and found != wanted:
        raise StoreError(
            f"the labels of {image_id} are of other settings or another file than this run's",
            where=where,
            found=found,
            remedy="Another run replaced them: let it end, then run again, or give each its own database.",
        )


def label_frame(label_id: Any, source_row: Any, category: Any, geometry: Any, crs: str) -> gpd.GeoDataFrame:
    """Labels as the contract's frame, LABEL_COLUMNS."""
    columns = {
        "label_id": np.asarray(label_id, dtype=np.int64),
        "source_row": np.asarray(source_row, dtype=np.int64),
        "category": categories(category),
    }
    return gpd.GeoDataFrame(columns, geometry=np.asarray(geometry, dtype=object), crs=crs)


def item_frame(
    tile_id: Any, label_id: Any, category: Any, geometry: Any, visible_share: Any, crs: Any
) -> gpd.GeoDataFrame:
    """Items as the contract's frame, ITEM_COLUMNS.

    Rings begin and run as `shapely.normalize` has them and shares end at twelve decimals, so that the
    frame does not tell which library clipped.
    """
    columns = {
        "tile_id": pd.Series(np.asarray(tile_id, dtype=object), dtype=object),
        "label_id": np.asarray(label_id, dtype=np.int64),
        "category": categories(category),
        "visible_share": np.round(np.asarray(visible_share, dtype=np.float64), 12),
    }
    parts = shapely.normalize(np.asarray(geometry, dtype=object))
    return gpd.GeoDataFrame(columns, geometry=parts, crs=crs)[ITEM_COLUMNS]


def categories(values: Any) -> pd.Series:
    """Categories as str or None; pandas would turn None into NaN."""
    return pd.Series([None if pd.isna(value) else value for value in values], dtype=object)
