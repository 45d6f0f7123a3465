"""The shared label store: PostGIS, through the statements of the package `sql`."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
from geoalchemy2.shape import to_shape
from sqlalchemy import Connection, MetaData, Row, Table, create_engine, delete, func, inspect, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool
from tenacity import Retrying, before_sleep_log, retry_if_exception, stop_after_attempt, wait_exponential

from pipeline.errors import SettingsError, StoreError
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
from sql import read_sql

SCHEMA = "jengo"
SCHEMA_VERSION = 1

logger = logging.getLogger("luigi-interface")

_PATIENCE = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}
"""How long libpq waits for a server that does not answer, seconds; the last in milliseconds."""
_ATTEMPTS = 5
_PASSING_CODES = ("08", "57P01", "57P02", "57P03", "40001", "40P01", "53300")
_PASSING_WORDS = (
    "connection refused",
    "connection reset",
    "server closed the connection",
    "terminating connection",
    "could not receive data",
    "connection has been closed",
    "starting up",
    "shutting down",
    "too many clients",
)
"""What a server says that is about to be there, or that was there a moment ago."""

SCHEMA_LOCK = 0x6A656E676F
"""Key of the advisory lock under which tables are made: IF NOT EXISTS alone races."""

_REMEDIES = {
    "42501": "Ask the database's owner to grant it, or to run sql/schema.sql and sql/views.sql.",
    "42703": "The tables are of another version: drop schema jengo and load the labels again.",
    "42P01": "The tables are gone: load the labels again.",
    "57014": "The server cancelled the statement: raise its statement_timeout.",
    "53100": "The server's disk is full: make room on it.",
}
"""What to do, by the server's error code."""

_CONNECT = "Check that the server runs, and the host, port, user and database of database_url."
_PASSWORD = "Put the password into the file that PGPASSFILE names, or into PGPASSWORD."
_EXTENSION = (
    "Install PostGIS on the server, and run CREATE EXTENSION postgis in this database as a superuser."
)


def _patient(method: Callable[..., Any]) -> Callable[..., Any]:
    """The method, called again with growing pauses while the server restarts; each call is a whole."""

    @functools.wraps(method)
    def call(*arguments: Any, **named: Any) -> Any:
        trying = Retrying(
            stop=stop_after_attempt(_ATTEMPTS),
            wait=wait_exponential(multiplier=0.5, max=8),
            retry=retry_if_exception(lambda error: getattr(error, "passing", False)),
            before_sleep=before_sleep_log(logger, logging.WARNING),
            reraise=True,
        )
        return trying(method, *arguments, **named)

    return call


class PostGISStore:
    """Labels as rows of the schema `jengo`, which is made on first use.

    Connections are opened per call and not pooled: workers fork, and a pool must not be shared.

    Args:
        database_url: SQLAlchemy URL without a password.

    Raises:
        SettingsError: the URL is none of PostgreSQL, or holds a password.
    """

    def __init__(self, database_url: str):
        url = _checked(database_url)
        self.where = url.set(query={}).render_as_string(hide_password=True)
        """The database as errors and logs name it, without secrets."""
        self._engine = create_engine(
            url,
            poolclass=NullPool,
            hide_parameters=True,
            connect_args=_PATIENCE | {"application_name": SCHEMA},
        )

    @_patient
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
        with self._connected() as connection:
            make_schema(connection, self.where)
        with self._connected() as connection:
            sets, table = _tables(connection)
            upsert = insert(sets).values(image_id=image_id, loaded_at=func.now(), **marker)
            new = {column: upsert.excluded[column] for column in (*marker, "loaded_at")}
            # The marker first: loads of one image wait for each other on its row.
            connection.execute(upsert.on_conflict_do_update(index_elements=["image_id"], set_=new))
            connection.execute(delete(table).where(table.c.image_id == image_id))
            statement = text(read_sql("replace_labels.sql"))
            connection.execute(statement, {"image_id": image_id, "srid": marker["srid"], **rows})
        with self._connected() as connection:
            # The planner must know that the image is there before it is asked about it.
            connection.execute(text(f"ANALYZE {SCHEMA}.labels"))

    @_patient
    def is_current(self, image_id: str, digest: str) -> bool:
        """See `LabelStore`."""
        check_image_id(image_id)
        with self._connected() as connection:
            marker = _marker(connection, image_id)
        return marker is not None and (marker.digest, marker.schema_version) == (digest, SCHEMA_VERSION)

    @_patient
    def read_labels(self, image_id: str) -> gpd.GeoDataFrame:
        """See `LabelStore`."""
        with self._snapshot(image_id) as (connection, marker):
            _, table = _tables(connection)
            columns = [table.c[name] for name in ("label_id", "source_row", "category", "geom")]
            query = select(*columns).where(table.c.image_id == image_id).order_by(table.c.label_id)
            rows = connection.execute(query).all()
        label_id, source_row, category = ([row[i] for row in rows] for i in range(3))
        return label_frame(label_id, source_row, category, [to_shape(row.geom) for row in rows], marker.crs)

    @_patient
    def read_report(self, image_id: str) -> dict[str, Any]:
        """See `LabelStore`."""
        with self._snapshot(image_id) as (_, marker):
            return marker.report

    @_patient
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
    def _connected(self, isolation: str = "READ COMMITTED") -> Iterator[Connection]:
        """A connection in one transaction, committed when the block ends well."""
        engine = self._engine.execution_options(isolation_level=isolation)
        try:
            with engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise _store_error(error, self.where) from error

    @contextmanager
    def _snapshot(self, image_id: str) -> Iterator[tuple[Connection, Row]]:
        """A connection that sees one moment, and the marker of an image that is there."""
        check_image_id(image_id)
        with self._connected("REPEATABLE READ") as connection:
            marker = _marker(connection, image_id)
            if marker is None:
                raise absent(image_id, self.where)
            yield connection, marker


def _checked(database_url: str) -> URL:
    """The URL as SQLAlchemy's, for psycopg2."""
    try:
        url = make_url(database_url)
    except (ArgumentError, ValueError):
        # Neither the text nor the cause is shown: a password may be what made it unreadable.
        raise _refused("not a database URL") from None
    if url.password is not None or "password" in url.query:
        raise SettingsError(
            "holds a password",
            where="database_url",
            found=url.set(query={}).render_as_string(hide_password=True),
            remedy="Take it out, and " + _PASSWORD[0].lower() + _PASSWORD[1:],
        )
    if url.drivername not in ("postgresql", "postgresql+psycopg2", "postgres"):
        raise _refused("not a PostgreSQL URL", url.drivername)
    return url.set(drivername="postgresql+psycopg2")


def _refused(what: str, found: object = None) -> SettingsError:
    return SettingsError(
        what,
        where="database_url",
        found=found,
        remedy="Write it as postgresql://user@host:5432/database, or leave it empty for GeoPackage files.",
    )


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
            raise StoreError(f"no PostGIS: {_message(error)}", where=where, remedy=_EXTENSION) from error
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


def _message(error: SQLAlchemyError) -> str:
    """The database's own sentence, without the statement and its values."""
    cause = getattr(error, "orig", None)
    sentence = getattr(getattr(cause, "diag", None), "message_primary", None) or str(cause or error)
    return " ".join(sentence.split())


def _store_error(error: SQLAlchemyError, where: str) -> StoreError:
    message = _message(error)
    code = getattr(getattr(error, "orig", None), "pgcode", None)
    remedy = _REMEDIES.get(code or "")
    if remedy is None and code is None:
        remedy = _PASSWORD if "password" in message.lower() else _CONNECT
    told = StoreError(
        message, where=where, remedy=remedy or f"The server's log tells more; its code is {code}."
    )
    told.passing = (code or "").startswith(_PASSING_CODES) or any(
        words in message.lower() for words in _PASSING_WORDS
    )
    return told
