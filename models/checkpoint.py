"""What a training needs to go on exactly where it stopped.

No random state is part of it: nothing here draws from a global generator after the first weights. How
a tile is shown and which of its anchors and proposals are learnt from follow from seed, epoch and
position.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from models.atomic import atomic_file
from models.errors import TrainingError

_REMEDY = "Delete it to train from the beginning"


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a training's state, whole or not at all.

    Args:
        path: the file.
        state: tensors, numbers, words, and lists and dicts of them; `identity` among them.
    """
    with atomic_file(path) as part:
        torch.save(state, part)


def read_checkpoint(path: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """Return a training's state; None where there is no file.

    Args:
        path: the file.
        identity: what the state's `identity` must equal for it to be the same training.

    Raises:
        TrainingError: the file is damaged or of another training.
    """
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        found = state["identity"]
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError) as error:
        raise TrainingError("damaged checkpoint", where=path, remedy=_REMEDY) from error
    if other := [name for name in identity.keys() | found.keys() if identity.get(name) != found.get(name)]:
        raise TrainingError(
            f"checkpoint of a training with another {', '.join(sorted(other))}", where=path, remedy=_REMEDY
        )
    return state
