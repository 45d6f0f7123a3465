"""What a training needs to go on exactly where it stopped.

The random state is torch's alone: nothing in this package draws from Python's or NumPy's global
generators, and how a tile is shown follows from seed, epoch and position.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from models.atomic import atomic_file
from models.errors import TrainingError

_REMEDY = "Delete it to train from the beginning"


def write_checkpoint(path: Path, state: dict[str, Any], device: torch.device) -> None:
    """Write a training's state, and torch's random state, whole or not at all.

    Args:
        path: the file.
        state: tensors, numbers, words, and lists and dicts of them.
        device: where the training runs.
    """
    random_state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        random_state["cuda"] = torch.cuda.get_rng_state(device)
    with atomic_file(path) as part:
        torch.save(state | {"random_state": random_state}, part)


def read_checkpoint(path: Path, identity: dict[str, Any], device: torch.device) -> dict[str, Any] | None:
    """Return a training's state and set torch's random state to its; None where there is no file.

    Args:
        path: the file.
        identity: what the state's `identity` must equal for it to be the same training.
        device: where the training runs.

    Raises:
        TrainingError: the file is damaged or of another training.
    """
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        random_state, found = state.pop("random_state"), state["identity"]
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError) as error:
        raise TrainingError("damaged checkpoint", where=path, remedy=_REMEDY) from error
    if other := [name for name in identity.keys() | found.keys() if identity.get(name) != found.get(name)]:
        raise TrainingError(
            f"checkpoint of a training with another {', '.join(sorted(other))}", where=path, remedy=_REMEDY
        )
    torch.set_rng_state(random_state["cpu"])
    if device.type == "cuda" and "cuda" in random_state:
        torch.cuda.set_rng_state(random_state["cuda"], device)
    return state
