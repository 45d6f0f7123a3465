"""Files and folders of a workspace that appear whole or not at all.

`models.atomic` does it; here a folder that cannot be written is the user's to mend.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from models.atomic import flush, holding, sweep, wait_for
from models.atomic import scratch_folder as open_scratch_folder
from pipeline.errors import ArtifactError

__all__ = ["atomic", "flush", "holding", "scratch_folder", "sweep", "wait_for", "write_atomic", "write_many"]


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A hidden temporary folder in `parent`, on the same file system, gone when the block ends.

    Raises:
        ArtifactError: `parent` cannot be written.
    """
    with ExitStack() as stack:
        try:
            parent.mkdir(parents=True, exist_ok=True)
            folder = stack.enter_context(open_scratch_folder(parent))
        except OSError as error:
            raise ArtifactError(
                f"cannot write here: {error.strerror}",
                where=parent,
                remedy="Check permissions and free space.",
            ) from error
        yield folder


@contextmanager
def atomic(path: Path, whole: Callable[[], bool] = lambda: True) -> Iterator[Path]:
    """A temporary path for a file or folder that becomes `path` when the block ends well.

    The temporary one lies in a hidden folder beside the target and keeps its file name, so
    drivers that look at endings work. On an error it goes and `path` stays as it was.
    A folder that another process finished meanwhile is kept: equal paths hold equal content.

    Args:
        path: of the file or folder.
        whole: whether a folder that is at `path` when the block ends holds all that it should; else the new
            one takes its place.

    Raises:
        ArtifactError: the folder cannot be written.
    """
    with scratch_folder(path.parent) as folder:
        scratch = folder / path.name
        yield scratch
        for part in [scratch, *scratch.rglob("*")] if scratch.is_dir() else [scratch]:
            flush(part)
        if path.is_dir() and whole():
            return
        try:
            if path.is_dir():
                os.replace(path, folder / "damaged")
            os.replace(scratch, path)
        except OSError:
            # Another process was faster by less than the line above.
            if not (scratch.is_dir() and path.is_dir()):
                raise
        flush(path.parent)


def write_atomic(path: Path, content: bytes | str) -> None:
    """Writes `content` to `path` whole or not at all; it outlives a power cut once this returns."""
    with scratch_folder(path.parent) as folder:
        scratch = folder / path.name
        scratch.write_bytes(content.encode() if isinstance(content, str) else content)
        flush(scratch)
        os.replace(scratch, path)
        flush(path.parent)


def write_many(scratch: Path, contents: Iterable[tuple[str, bytes]]) -> None:
    """Writes small files by name into the folder that `scratch` lies in, each whole or not at all.

    A process that is killed loses nothing; a power cut may take what was written last.

    Args:
        scratch: of `scratch_folder`, whose making, locking and removing costs more than such a file.
        contents: names and bytes.
    """
    folder, part = str(scratch.parent), str(scratch)
    for name, content in contents:
        with open(f"{part}/{name}", "wb") as stream:
            stream.write(content)
        os.replace(f"{part}/{name}", f"{folder}/{name}")
