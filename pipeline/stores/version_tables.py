"""Versions as rows of the database that keeps the labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from sqlalchemy import Connection, func, inspect, select, text

from pipeline.checks import FINDING_COLUMNS, RULES, Shift
from pipeline.checks.shift import NO_SHIFT
from pipeline.stores import check_image_id, crs_text
from pipeline.stores.database import SCHEMA, Database, patient
from pipeline.stores.postgis import SCHEMA_LOCK, make_schema, srid_of
from pipeline.stores.versions import (
    ROW_COLUMNS,
    Grounds,
    Version,
    absent_version,
    check_same,
    check_version_name,
    row_frame,
)
from sql import read_sql

_MARKER = f"""SELECT version, kind, digest, round, made_at, crs, ST_AsBinary(ground) AS ground
FROM {SCHEMA}.versions WHERE image_id = :image_id"""

_NEWEST = "in_metres"
"""The function that came last to sql/checks.sql: a database without it has older views, or none."""


class VersionTables(Database):
    """Versions in the tables of sql/versions.sql, which are made on first use; checks by its views."""

    @patient
    def add(self, image_id: str, version: Version, rows: gpd.GeoDataFrame) -> bool:
        """See `VersionStore`. Writers of one version wait for each other on its row."""
        check_image_id(image_id)
        check_version_name(version.name)
        crs = crs_text(rows.crs)
        marker = {
            "image_id": image_id,
            "version": version.name,
            "kind": version.kind,
            "digest": version.digest,
            "round": version.round,
            "made_at": version.made_at,
            "crs": crs,
            "srid": srid_of(crs),
            "ground": None if version.ground is None else shapely.to_wkb(version.ground),
        }
        columns = {name: _plain(rows[name]) for name in ROW_COLUMNS if name != "geometry"}
        columns["wkb"] = shapely.to_wkb(np.asarray(rows.geometry.values, dtype=object)).tolist()
        with self.connected() as connection:
            _make_tables(connection, self.where)
        with self.connected() as connection:
            statement = f"""INSERT INTO {SCHEMA}.versions VALUES (:image_id, :version, :kind, :digest, :round,
                :made_at, :crs, :srid, ST_GeomFromWKB(:ground, CAST(:srid AS integer)))
                ON CONFLICT DO NOTHING RETURNING version"""
            if connection.execute(text(statement), marker).one_or_none() is None:
                (found,) = [row for row in _markers(connection, image_id) if row.name == version.name]
                check_same(image_id, found.digest, version, self.where)
                return False
            parameters = {name: marker[name] for name in ("image_id", "version", "srid")}
            connection.execute(text(read_sql("add_version.sql")), parameters | columns)
        with self.connected() as connection:
            connection.execute(text(f"ANALYZE {SCHEMA}.version_rows"))
        return True

    @patient
    def versions(self, image_id: str) -> list[Version]:
        """See `VersionStore`."""
        check_image_id(image_id)
        with self.connected() as connection:
            return _markers(connection, image_id) if _has_tables(connection) else []

    @patient
    def read(self, image_id: str, name: str) -> gpd.GeoDataFrame:
        """See `VersionStore`."""
        check_image_id(image_id)
        check_version_name(name)
        listed = ", ".join(column for column in ROW_COLUMNS if column != "geometry")
        query = f"""SELECT {listed}, ST_AsBinary(geom) AS wkb FROM {SCHEMA}.version_rows
            WHERE image_id = :image_id AND version = :version ORDER BY row_id"""
        with self.connected("REPEATABLE READ") as connection:
            crs = self._crs(connection, image_id, name)
            rows = connection.execute(text(query), {"image_id": image_id, "version": name}).all()
        table = pd.DataFrame(rows, columns=[*ROW_COLUMNS[:-1], "wkb"], dtype=object)
        columns = {column: table[column].tolist() for column in ROW_COLUMNS[:-1]}
        return row_frame(_geometries(table["wkb"]), crs, **columns)

    @patient
    def check(
        self,
        image_id: str,
        name: str,
        against: str | None,
        limits: Mapping[str, float],
        grounds: Grounds = Grounds(),  # noqa: B008 (immutable)
    ) -> tuple[gpd.GeoDataFrame, Shift]:
        """See `VersionStore`. The limits hold for this transaction alone."""
        check_image_id(image_id)
        names = {"image_id": image_id, "version": check_version_name(name), "against": against}
        with self.connected("REPEATABLE READ") as connection:
            crs = self._crs(connection, image_id, name)
            if against:
                self._crs(connection, image_id, check_version_name(against))
            # Compiling these queries takes longer than running them.
            connection.execute(text("SET LOCAL jit = off"))
            for limit, value in limits.items():
                connection.execute(select(func.set_config(f"jengo.{limit}", repr(float(value)), True)))
            _keep_grounds(connection, image_id, srid_of(crs), grounds)
            query = f"""SELECT rule, row_id, other_id, value, ST_AsBinary(geom) AS geometry
                FROM {SCHEMA}.check_findings WHERE image_id = :image_id AND version = :version
                AND (against IS NULL OR against = :against)"""
            rows = connection.execute(text(query), names).all()
            query = f"""SELECT dx, dy, support, labels FROM {SCHEMA}.check_shifts
                WHERE image_id = :image_id AND version = :version AND against = :against"""
            shift = connection.execute(text(query), names).one_or_none() if against else None
        table = pd.DataFrame(rows, columns=FINDING_COLUMNS)
        table["rank"] = table["rule"].map(list(RULES).index)
        table = table.sort_values(["rank", "row_id", "other_id", "value"], ignore_index=True)
        found = gpd.GeoDataFrame(
            table[["rule", "row_id", "other_id", "value"]].astype({"row_id": "int64", "other_id": "int64"}),
            geometry=_geometries(table["geometry"]),
            crs=crs,
        )
        return found, Shift(*shift) if shift else NO_SHIFT

    def _crs(self, connection: Connection, image_id: str, name: str) -> str:
        query = text(f"SELECT crs FROM {SCHEMA}.versions WHERE image_id = :image_id AND version = :version")
        crs = None
        if _has_tables(connection):
            crs = connection.scalar(query, {"image_id": image_id, "version": name})
        if crs is None:
            raise absent_version(image_id, name, self.where)
        return crs


def _has_tables(connection: Connection) -> bool:
    return inspect(connection).has_table("versions", schema=SCHEMA)


def _make_tables(connection: Connection, where: str) -> None:
    """Makes the tables and views of versions, and those of labels, where they are missing or older."""
    if connection.scalar(text(f"SELECT to_regproc('{SCHEMA}.{_NEWEST}') IS NOT NULL")):
        return
    make_schema(connection, where)
    connection.execute(select(func.pg_advisory_xact_lock(SCHEMA_LOCK)))
    for name in ("versions.sql", "checks.sql"):
        connection.exec_driver_sql(read_sql(name))


def _markers(connection: Connection, image_id: str) -> list[Version]:
    query = _MARKER + " ORDER BY made_at, version"
    rows = connection.execute(text(query), {"image_id": image_id}).all()
    return [
        Version(
            row.version,
            row.kind,
            row.digest,
            row.round,
            row.made_at,
            None if row.ground is None else shapely.from_wkb(bytes(row.ground)),
        )
        for row in rows
    ]


def _keep_grounds(connection: Connection, image_id: str, srid: int, grounds: Grounds) -> None:
    """The image's outline and valid ground, where the views look for them."""
    connection.execute(
        text(f"DELETE FROM {SCHEMA}.grounds WHERE image_id = :image_id"), {"image_id": image_id}
    )
    if grounds.footprint is not None:
        statement = f"""INSERT INTO {SCHEMA}.grounds VALUES (:image_id,
            ST_GeomFromWKB(:footprint, CAST(:srid AS integer)),
            ST_GeomFromWKB(:valid, CAST(:srid AS integer)))"""
        valid = None if grounds.valid is None else shapely.to_wkb(grounds.valid)
        parameters = {"footprint": shapely.to_wkb(grounds.footprint), "valid": valid}
        connection.execute(text(statement), parameters | {"image_id": image_id, "srid": srid})


def _plain(values: pd.Series) -> list[Any]:
    return [None if pd.isna(value) else value for value in values.tolist()]


def _geometries(blobs: pd.Series) -> np.ndarray:
    return shapely.from_wkb([None if blob is None else bytes(blob) for blob in blobs])
