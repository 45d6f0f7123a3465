"""Batches of training tiles on a device, read ahead by other processes where a GPU would wait for them.

Reading and showing a tile of 1024 px takes a core some 40 ms, a GPU learns from it in less. Masks come
to a GPU as bits: an eighth of the memory that processes share, which containers have little of, and of
what is copied; the GPU unpacks them.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from models.dataset import Target, TileDataset, collate_fn
from models.interruption import leave_termination_to_parent
from models.learner import Batch

logger = logging.getLogger(__name__)

_MOST = 8
"""Processes, however many cores there are: so many show 200 tiles of 1024 px a second."""
_SHARED, _SHARED_MIB = Path("/dev/shm"), 1024
"""Where processes share memory, and how much of it eight of them may need."""


class TileLoader:
    """A dataset's batches on a device, epoch after epoch, read as `Recipe.workers` says.

    Processes stay from one epoch to the next: eight take half a second to start and to end.

    Args:
        data: the tiles.
        device: where their batches go.
    """

    def __init__(self, data: TileDataset, device: torch.device):
        self.data = data
        self._device = device
        self._asked: list[list[Any]] = []
        processes = reading_processes(data.recipe.workers, device) if len(data) else 0
        packs = processes > 0 and device.type != "cpu"
        self._loader = DataLoader(
            data,
            batch_sampler=self._asked,
            num_workers=processes,
            persistent_workers=processes > 0,
            collate_fn=_collate_packed if packs else collate_fn,
            worker_init_fn=leave_termination_to_parent,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # a loader draws a number from it even where it needs none
        )

    def load(self, batches: list[list[Any]]) -> Iterator[Batch]:
        """Yield the batches of tiles with these keys; what is left of those asked for before is dropped."""
        self._asked[:] = batches
        device = self._device
        for images, targets in self._loader:
            yield (
                [image.to(device, non_blocking=True) for image in images],
                [
                    _unpacked({name: _sent(value, device) for name, value in target.items()})
                    for target in targets
                ],
            )


def reading_processes(workers: int, device: torch.device) -> int:
    """Return how many processes read tiles ahead.

    Args:
        workers: `Recipe.workers`; below 0 for as many as suit the device: none for a CPU, whose cores
            have enough to do; for a GPU one a core that falls to it, where they have memory to share.
        device: that learns.
    """
    if workers >= 0:
        return workers
    if device.type == "cpu":
        return 0
    free = shutil.disk_usage(_SHARED).free / 2**20 if _SHARED.is_dir() else 0
    if free < _SHARED_MIB:
        logger.warning("%s has %.0f MiB: tiles are read one by one; see `workers`", _SHARED, free)
        return 0
    cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(_MOST, max(1, cores))


def _collate_packed(samples: list[tuple[Tensor, Target]]) -> tuple[list[Tensor], list[Target]]:
    """As `collate_fn`, with `mask_bits` uint8[n,h,ceil(w/8)] and `mask_width` in place of `masks`."""
    return collate_fn([(image, _packed(target)) for image, target in samples])


def _packed(target: Target) -> Target:
    masks = target["masks"].numpy()
    rest = {name: value for name, value in target.items() if name != "masks"}
    return rest | {"mask_bits": torch.from_numpy(np.packbits(masks, axis=2)), "mask_width": masks.shape[2]}


def _unpacked(target: Target) -> Target:
    """What was packed, as it was; other targets as they are."""
    if "mask_bits" not in target:
        return target
    bits = target["mask_bits"]
    place = torch.arange(7, -1, -1, dtype=torch.uint8, device=bits.device)
    masks = ((bits[..., None] >> place) & 1).flatten(2)[..., : target["mask_width"]]
    rest = {name: value for name, value in target.items() if not name.startswith("mask_")}
    return rest | {"masks": masks.contiguous()}


def _sent(value: Any, device: torch.device) -> Any:
    return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
