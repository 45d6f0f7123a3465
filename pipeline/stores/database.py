"""A PostGIS database: one connection for each call, patience with a server that restarts, and its errors."""

from __future__ import annotations

import functools
import logging
import re
import select
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
import psycopg2.extensions
from sqlalchemy import Connection, create_engine
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import NullPool
from tenacity import Retrying, before_sleep_log, retry_if_exception, stop_after_attempt, wait_exponential

from pipeline.errors import SettingsError, StoreError

SCHEMA = "jengo"

ANSWER_S = 900.0
"""How long a statement may take, seconds, where database_url does not say: 20,000 tiles of a million labels
take less than a tenth of it."""
_FROZEN_S = 10.0
"""Seconds beyond that after which a server that does not even say so has frozen."""

logger = logging.getLogger("luigi-interface")

_PATIENCE = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}
"""How long libpq waits for a server that does not answer, seconds; the last in milliseconds."""
_STATEMENT_TIMEOUT = re.compile(r"(?i:statement[_-]timeout)\s*=\s*([\d.]+)(us|ms|s|min|h|d)?")
_UNITS_S = {"us": 1e-6, "": 1e-3, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
"""PostgreSQL's units of time in seconds; a number alone is in milliseconds."""
_CONNECTED = 0
"""libpq's CONNECTION_OK."""
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

_REMEDIES = {
    "42501": "Ask the database's owner to grant it, or to run schema.sql, views.sql, versions.sql and "
    "checks.sql of sql/.",
    "42703": "The tables are of another version: drop schema jengo and load the labels again.",
    "42P01": "The tables are gone: load the labels again.",
    "57014": "The statement took too long, or somebody ended it: pg_stat_activity tells what it waited for. "
    "database_url?options=-c%20statement_timeout%3D<milliseconds> gives it longer.",
    "53100": "The server's disk is full: make room on it.",
}
"""What to do, by the server's error code."""

_CONNECT = "Check that the server runs, and the host, port, user and database of database_url."
_PASSWORD = "Put the password into the file that PGPASSFILE names, or into PGPASSWORD."
_SILENCE = "the server has not answered for"
_UNCONNECTED = "the server accepts no connection within"
_FROZEN = (
    "Another program may hold a lock, or the server be overloaded or frozen: look at its pg_stat_activity, "
    "restart it, and run again."
)


def patient(method: Callable[..., Any]) -> Callable[..., Any]:
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


class Database:
    """Where tables lie.

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
        options = f"-c statement_timeout={round(ANSWER_S * 1000)} {url.query.get('options', '')}"
        self._engine = create_engine(
            url,
            poolclass=NullPool,
            hide_parameters=True,
            connect_args=_PATIENCE | {"application_name": SCHEMA} | dict(url.query) | {"options": options},
        )
        psycopg2.extensions.set_wait_callback(_await_answer)

    @contextmanager
    def connected(self, isolation: str = "READ COMMITTED") -> Iterator[Connection]:
        """A connection in one transaction, committed when the block ends well."""
        engine = self._engine.execution_options(isolation_level=isolation)
        try:
            with engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise _store_error(error, self.where) from error


def _await_answer(connection: psycopg2.extensions.connection) -> None:
    """What psycopg2 does while it waits: libpq itself would wait for a frozen server for ever.

    The server itself ends a statement at its statement_timeout; this is for one that does nothing any more.

    Raises:
        psycopg2.OperationalError: nothing came in time.
    """
    told = connection.info.dsn_parameters
    if connection.info.status == _CONNECTED:
        what, limit = _SILENCE, _answer_s(told.get("options", ""))
    else:
        what, limit = _UNCONNECTED, float(told.get("connect_timeout", _PATIENCE["connect_timeout"]))
    while (state := connection.poll()) != psycopg2.extensions.POLL_OK:
        waiting = [connection.fileno()]
        read = waiting if state == psycopg2.extensions.POLL_READ else []
        write = waiting if state == psycopg2.extensions.POLL_WRITE else []
        if select.select(read, write, [], limit if limit > 0 else None) == ([], [], []):
            raise psycopg2.OperationalError(f"{what} {limit:.0f} s")


def _answer_s(options: str) -> float:
    """Seconds after which a connection's statement will not be answered any more; 0 where it may take any."""
    given = _STATEMENT_TIMEOUT.findall(options)
    limit = float(given[-1][0]) * _UNITS_S[given[-1][1]] if given else ANSWER_S
    return limit + _FROZEN_S if limit else 0.0


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


def message_of(error: SQLAlchemyError) -> str:
    """The database's own sentence, without the statement and its values."""
    cause = getattr(error, "orig", None)
    sentence = getattr(getattr(cause, "diag", None), "message_primary", None) or str(cause or error)
    return " ".join(sentence.split())


def _store_error(error: SQLAlchemyError, where: str) -> StoreError:
    message = message_of(error)
    code = getattr(getattr(error, "orig", None), "pgcode", None)
    remedy = _REMEDIES.get(code or "")
    if remedy is None and code is None:
        remedy = _FROZEN if _SILENCE in message else _CONNECT
        remedy = _PASSWORD if "password" in message.lower() else remedy
    told = StoreError(
        message, where=where, remedy=remedy or f"The server's log tells more; its code is {code}."
    )
    told.passing = (code or "").startswith(_PASSING_CODES) or any(
        words in message.lower() for words in _PASSING_WORDS
    )
    return told
