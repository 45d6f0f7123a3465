"""What the machine did, told like a user's mistake: one line with what, where and what to do.

A full disk reaches Python in as many ways as there are libraries: as an error number, or as a sentence of
GDAL's, HDF5's or Arrow's. All of them mean the same to whoever reads the log.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator

from pipeline.errors import MachineError

_DISK = {
    errno.ENOSPC: ("the disk is full", "Make room, and run the same command again."),
    errno.EDQUOT: ("the disk quota is used up", "Make room, and run the same command again."),
    errno.EROFS: ("the disk is read-only", "Mount it for writing, or set [Storage] workspace."),
    errno.EACCES: ("no permission", "Let this user read and write there, and run the same command again."),
    errno.EPERM: ("no permission", "Let this user read and write there, and run the same command again."),
    errno.EIO: ("the disk does not answer", "Check it, and run the same command again."),
    errno.ESTALE: ("the network disk went away", "Mount it again, and run the same command again."),
    errno.EMFILE: ("too many open files", "Raise the limit (ulimit -n), and run the same command again."),
    errno.ENOMEM: ("memory ran out", "Lower --workers, batch_size or tile_size."),
}
_SENTENCES = {
    "No space left on device": errno.ENOSPC,
    "database or disk is full": errno.ENOSPC,
    "Disk quota exceeded": errno.EDQUOT,
    "Read-only file system": errno.EROFS,
    "readonly database": errno.EROFS,
    "Permission denied": errno.EACCES,
    "Input/output error": errno.EIO,
    "Cannot allocate memory": errno.ENOMEM,
}
_OUT_OF_MEMORY = ("memory ran out", "Lower --workers, [Training] or [Inference] batch_size, or tile_size.")
_READER_DIED = (
    "a process that read tiles ahead was killed",
    "Usually memory ran out: lower [Training] or [Inference] workers, and run the same command again.",
)


def as_mishap(error: BaseException, where: object) -> MachineError | None:
    """The error as the machine's, None where it is none of it.

    Args:
        error: what was raised; what it was raised from is looked at as well.
        where: the task.
    """
    for cause in _chain(error):
        found = _read(cause)
        if found is not None:
            (what, remedy), file = found
            return MachineError(what, where=f"{where}: {file}" if file else where, remedy=remedy)
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        following = following.__cause__ or following.__context__


def _read(error: BaseException) -> tuple[tuple[str, str], object] | None:
    if isinstance(error, OSError) and error.errno in _DISK:
        return _DISK[error.errno], error.filename2 or error.filename
    text = str(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return _OUT_OF_MEMORY, None
    if isinstance(error, RuntimeError) and "DataLoader worker" in text:
        return _READER_DIED, None
    for sentence, number in _SENTENCES.items():
        if sentence in text:
            return _DISK[number], None
    return None
