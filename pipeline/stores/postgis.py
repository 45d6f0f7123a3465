"""The shared label store: PostGIS, through the statements of the package `sql`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
from geoalchemy2.shape import to_shape
from sqlalchemy import Connection, MetaData, Row, Table, delete, func, inspect, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError

from pipeline.errors import StoreError
from pipeline.stores import (
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
from pipeline.stores.database import SCHEMA, Database, message_of, patient
from sql import read_sql

SCHEMA_VERSION = 1

SCHEMA_LOCK = 0x6A656E676F
"""Key of the advisory lock under which tables are made: IF NOT EXISTS alone races."""

_EXTENSION = (
    "Install PostGIS on the server, and run CREATE EXTENSION postgis in this database as a superuser."
)


class PostGISStore(Database):
    """Labels as rows of the schema `jengo`, which is made on first use."""

    @patient
    def replace_labels(
        self, image_id: str, digest: str, labels: gpd.GeoDataFrame, report: dict[str, Any]
    ) -> None:
        """See `LabelStore`. Loads of one image wait for each other on its marker row."""
        check_image_id(image_id)
        crs = crs_text(labels.crs)
        marker = {
            "digest": digest,
            "crs": crs,
            "srid": srid_of(crs),
            "report": json.loads(json.dumps(report, allow_nan=False)),
            "schema_version": SCHEMA_VERSION,
        }
        rows = {
            "label_ids": labels["label_id"].astype(int).tolist(),
            "source_rows": labels["source_row"].astype(int).tolist(),
            "categories": categories(labels["category"]).tolist(),
            "wkbs": shapely.to_wkb(labels.geometry.to_numpy()).tolist(),
        }
        with self.connected() as connection:
            make_schema(connection, self.where)
        with self.connected() as connection:
            sets, table = _tables(connection)
            upsert = insert(sets).values(image_id=image_id, loaded_at=func.now(), **marker)
            new = {column: upsert.excluded[column] for column in (*marker, "loaded_at")}
            # The marker first: loads of one image wait for each other on its row.
            connection.execute(upsert.on_conflict_do_update(index_elements=["image_id"], set_=new))
            connection.execute(delete(table).where(table.c.image_id == image_id))
            statement = text(read_sql("replace_labels.sql"))
            connection.execute(statement, {"image_id": image_id, "srid": marker["srid"], **rows})
        with self.connected() as connection:
            # The planner must know that the image is there before it is asked about it.
            connection.execute(text(f"ANALYZE {SCHEMA}.labels"))

    @patient
    def is_current(self, image_id: str, digest: str) -> bool:
        """See `LabelStore`."""
        check_image_id(image_id)
        with self.connected() as connection:
            marker = _marker(connection, image_id)
        return marker is not None and (marker.digest, marker.schema_version) == (digest, SCHEMA_VERSION)

    @patient
    def read_labels(self, image_id: str) -> gpd.GeoDataFrame:
        """See `LabelStore`."""
        with self._snapshot(image_id) as (connection, marker):
            _, table = _tables(connection)
            columns = [table.c[name] for name in ("label_id", "source_row", "category", "geom")]
            query = select(*columns).where(table.c.image_id == image_id).order_by(table.c.label_id)
            rows = connection.execute(query).all()
        label_id, source_row, category = ([row[i] for row in rows] for i in range(3))
        return label_frame(label_id, source_row, category, [to_shape(row.geom) for row in rows], marker.crs)

    @patient
    def read_report(self, image_id: str) -> dict[str, Any]:
        """See `LabelStore`."""
        with self._snapshot(image_id) as (_, marker):
            return marker.report

    @patient
    def items_in_tiles(
        self, image_id: str, tiles: gpd.GeoDataFrame, digest: str | None = None
    ) -> gpd.GeoDataFrame:
        """See `LabelStore`. One statement, however many tiles."""
        with self._snapshot(image_id) as (connection, marker):
            check_digest(image_id, self.where, marker.digest, digest)
            check_tiles(image_id, marker.crs, tiles)
            parameters = {
                "image_id": image_id,
                "srid": marker.srid,
                "wkbs": shapely.to_wkb(tiles.geometry.to_numpy()).tolist(),
                "min_visible_share": MIN_VISIBLE_SHARE,
            }
            rows = connection.execute(text(read_sql("items_in_tiles.sql")), parameters).all()
        position, label_id, category, wkb, visible_share = ([row[i] for row in rows] for i in range(5))
        tile_id = tiles["tile_id"].to_numpy(dtype=object)[np.asarray(position, dtype=np.int64) - 1]
        geometry = shapely.from_wkb([bytes(blob) for blob in wkb])
        return item_frame(tile_id, label_id, category, geometry, visible_share, marker.crs)

    @contextmanager
    def _snapshot(self, image_id: str) -> Iterator[tuple[Connection, Row]]:
        """A connection that sees one moment, and the marker of an image that is there."""
        check_image_id(image_id)
        with self.connected("REPEATABLE READ") as connection:
            marker = _marker(connection, image_id)
            if marker is None:
                raise absent(image_id, self.where)
            yield connection, marker


def srid_of(crs: str) -> int:
    """The EPSG code for SQL, 0 for a CRS without one."""
    return int(crs.removeprefix("EPSG:")) if crs.startswith("EPSG:") else 0


def make_schema(connection: Connection, where: str) -> None:
    """Makes extension, tables and views where they are missing."""
    if inspect(connection).has_table("labels", schema=SCHEMA):
        return
    connection.execute(select(func.pg_advisory_xact_lock(SCHEMA_LOCK)))
    if not connection.scalar(text("SELECT count(*) FROM pg_extension WHERE extname = 'postgis'")):
        try:
            connection.exec_driver_sql("CREATE EXTENSION postgis")
        except DBAPIError as error:
            raise StoreError(f"no PostGIS: {message_of(error)}", where=where, remedy=_EXTENSION) from error
    connection.exec_driver_sql(read_sql("schema.sql"))
    connection.exec_driver_sql(read_sql("views.sql"))


def _tables(connection: Connection) -> tuple[Table, Table]:
    """The tables label_sets and labels as the database has them; sql/schema.sql is their one definition."""
    metadata = MetaData(schema=SCHEMA)
    metadata.reflect(connection, only=["label_sets", "labels"])
    return metadata.tables[f"{SCHEMA}.label_sets"], metadata.tables[f"{SCHEMA}.labels"]


def _marker(connection: Connection, image_id: str) -> Row | None:
    """The image's row of label_sets; None where it, or the table, is not there."""
    if not inspect(connection).has_table("label_sets", schema=SCHEMA):
        return None
    columns = "digest, crs, srid, report, schema_version"
    query = text(f"SELECT {columns} FROM {SCHEMA}.label_sets WHERE image_id = :image_id")
    return connection.execute(query, {"image_id": image_id}).one_or_none()
