"""What a training needs to go on exactly where it stopped.

No random state is part of it: nothing here draws from a global generator after the first weights. How
a tile is shown and which of its anchors and proposals are learnt from follow from seed, epoch and
position.
"""

from __future__ import annotations

import logging
import os
import pickle
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from models.atomic import atomic_file
from models.errors import TrainingError

logger = logging.getLogger(__name__)

UNREADABLE = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    struct.error,
    OSError,
    RuntimeError,
    EOFError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    AssertionError,
)
"""What `torch.load`, and a look into what it returns, may raise of a file that is not what it should be."""

_REMEDY = "Delete it to train from the beginning"


class _DamagedError(TrainingError):
    """A checkpoint that is not whole."""


def before(path: Path) -> Path:
    """Return where the checkpoint before the newest lies."""
    return path.with_name(f"{path.stem}_before{path.suffix}")


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a training's state, whole or not at all; the one that lay there is kept as the one before.

    Args:
        path: the file.
        state: tensors, numbers, words, and lists and dicts of them; `identity` among them.
    """
    with atomic_file(path) as part:
        torch.save(state, part)
        before(path).unlink(missing_ok=True)
        with suppress(OSError):  # None lies there yet, or the disk knows no links.
            os.link(path, before(path))


def read_checkpoint(path: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """Return a training's state; None where there is no file.

    Where the newest is damaged, which takes a disk's fault or a hand, it is the one before.

    Args:
        path: the file.
        identity: what the state's `identity` must equal for it to be the same training.

    Raises:
        TrainingError: the file is damaged, and so is the one before or there is none; or it is of another
            training.
    """
    if not path.exists():
        return None
    try:
        return _read(path, identity)
    except _DamagedError as error:
        if not before(path).exists():
            raise
        logger.warning("%s: damaged checkpoint, the training goes on from the one before", error.where)
        return _read(before(path), identity)


@contextmanager
def going_on_from(path: Path) -> Iterator[None]:
    """A block that goes on from a checkpoint: what it trips over is told as damage, unless memory ran out."""
    try:
        yield
    except UNREADABLE as error:
        if isinstance(error, torch.OutOfMemoryError) or "Cannot allocate memory" in str(error):
            raise
        raise _damaged(path) from error


def _damaged(path: Path) -> _DamagedError:
    return _DamagedError("damaged checkpoint", where=path, remedy=_REMEDY)


def _read(path: Path, identity: dict[str, Any]) -> dict[str, Any]:
    with path.open("rb") as file, going_on_from(path):
        if zipfile.ZipFile(file).testzip() is not None:  # torch writes checksums, and reads none
            raise _damaged(path)
        file.seek(0)
        state = dict(torch.load(file, map_location="cpu", weights_only=True))
        found = dict(state["identity"])
    if other := [name for name in identity.keys() | found.keys() if identity.get(name) != found.get(name)]:
        raise TrainingError(
            f"checkpoint of a training with another {', '.join(sorted(other))}", where=path, remedy=_REMEDY
        )
    return state
