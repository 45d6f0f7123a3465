"""The statements of the PostGIS label store, as package data."""

from __future__ import annotations

from importlib.resources import files


def read_sql(name: str) -> str:
    """The text of a statement file of this package, such as "items_in_tiles.sql"."""
    return files(__name__).joinpath(name).read_text(encoding="utf-8")
