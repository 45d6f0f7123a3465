"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import ArtifactError


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A hidden temporary folder in `parent`, on the same file system, gone when the block ends.

    Raises:
        ArtifactError: `parent` cannot be written.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".scratch-", dir=parent))
    except OSError as error:
        raise ArtifactError(
            f"cannot write here: {error.strerror}", where=parent, remedy="Check permissions and free space."
        ) from error
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path for a file or folder that becomes `path` when the block ends well.

    The temporary one lies in a hidden folder beside the target and keeps its file name, so
    drivers that look at endings work. On an error it goes and `path` stays as it was.
    A folder that another process finished meanwhile is kept: equal paths hold equal content.

    Raises:
        ArtifactError: the folder cannot be written.
    """
    with scratch_folder(path.parent) as folder:
        scratch = folder / path.name
        yield scratch
        for part in [scratch, *scratch.rglob("*")] if scratch.is_dir() else [scratch]:
            flush(part)
        if path.is_dir():
            return
        os.replace(scratch, path)
        flush(path.parent)


def write_atomic(path: Path, content: bytes | str, *, durable: bool = True) -> None:
    """Writes `content` to `path` whole or not at all.

    Args:
        path: the file.
        content: all of it.
        durable: whether it must outlive a power cut the moment this returns. Thousands of small
            files need not: a process that is killed loses nothing either way.
    """
    if durable:
        with atomic(path) as scratch:
            scratch.write_bytes(content.encode() if isinstance(content, str) else content)
        return
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(scratch, path)


def flush(path: Path) -> None:
    """Returns when a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
