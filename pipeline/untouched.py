"""Reading a GeoPackage without writing to it, and replacing one that somebody has open.

QGIS keeps what is edited in a log beside the file (`-wal`) until it closes it. Whoever opens the file, even
for reading, sees these edits, and writes them into the file when it closes it: an input would change by being
read.

Source: SQLite, Write-Ahead Logging, section 3.1 (checkpointing by the last connection).
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOG_SUFFIX = "-wal"
_JOURNAL_SUFFIXES = (LOG_SUFFIX, "-shm", "-journal")


@contextmanager
def untouched(path: Path | str) -> Iterator[Path]:
    """The file itself, or while it has a log a copy of both, which is deleted at the end of the block."""
    path = Path(path)
    parts = with_log(path)
    if parts == [path]:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        for part in parts:
            shutil.copyfile(part, Path(folder) / part.name)
        yield Path(folder) / path.name


def with_log(path: Path) -> list[Path]:
    """The file, and its log where there is anything in it: a program that only looks leaves an empty one."""
    log = path.with_name(path.name + LOG_SUFFIX)
    return [path, log] if log.is_file() and log.stat().st_size else [path]


def stamp_of(path: Path) -> list[int]:
    """Size and modification time in nanoseconds of a file, its log included."""
    stats = [part.stat() for part in with_log(path)]
    return [sum(stat.st_size for stat in stats), max(stat.st_mtime_ns for stat in stats)]


def is_journal(path: Path) -> bool:
    """Whether the file is what SQLite keeps beside another."""
    return path.name.endswith(_JOURNAL_SUFFIXES)


def drop_journals(path: Path) -> None:
    """Removes what SQLite keeps beside a file that is about to be replaced, and would replay on the next."""
    for suffix in _JOURNAL_SUFFIXES:
        path.with_name(path.name + suffix).unlink(missing_ok=True)
