"""Files and folders that appear whole or not at all, and leave nothing behind when a process is killed.

What is being made lies in a hidden folder `.scratch-*` beside its target, which its process holds locked.
The lock goes with the process, however it ends: a folder that can be locked belongs to nobody any more, and
`sweep` removes it. That holds between containers and after process ids are used again. On a file system
without locks nothing is swept.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SCRATCH = ".scratch-"
"""How the names of temporary folders begin."""


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """Yield a hidden temporary folder in `parent`, on the same file system, gone when the block ends.

    Raises:
        OSError: `parent` cannot be written.
    """
    folder, lock = _locked_folder(parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a path of the same name to write to; on success it takes the place of `path`.

    The bytes reach the disk before the name does, so that a crash at any moment leaves the old file
    or the new one. On an error the new one is removed and the old one stays.
    """
    with scratch_folder(path.parent) as folder:
        part = folder / path.name
        yield part
        flush(part)
        os.replace(part, path)
        flush(path.parent)


def sweep(parent: Path) -> int:
    """Return how many temporary folders of killed processes there were in `parent`; they are gone now."""
    try:
        found = [entry.path for entry in os.scandir(parent) if entry.name.startswith(SCRATCH)]
    except (FileNotFoundError, NotADirectoryError):
        return 0
    return sum(_remove_if_left(Path(folder)) for folder in found)


@contextmanager
def holding(folder: Path) -> Iterator[None]:
    """Waits until no other process holds `folder`, and holds it; without locks it only goes on."""
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        wait_for(lock)
        yield
    finally:
        os.close(lock)


def wait_for(descriptor: int) -> None:
    """Return when no other process holds what is open there; it is held until it is closed."""
    _lock(descriptor, fcntl.LOCK_EX)


def flush(path: Path) -> None:
    """Return when a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _locked_folder(parent: Path) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=parent))
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue
        # Between making and locking it, somebody's sweep may have taken it for left.
        if _lock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB) is not False and folder.exists():
            return folder, lock
        os.close(lock)


def _remove_if_left(folder: Path) -> bool:
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        if _lock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB) is not True:
            return False
        shutil.rmtree(folder, ignore_errors=True)
        return not folder.exists()
    finally:
        os.close(lock)


def _lock(descriptor: int, how: int) -> bool | None:
    """Whether the lock is held; None where the file system knows no locks."""
    try:
        fcntl.flock(descriptor, how)
        return True
    except BlockingIOError:
        return False
    except OSError:
        return None
