"""Batches of training tiles on a device, read ahead by other processes where a GPU would wait for them.

Reading and showing a tile of 1024 px takes a core some 40 ms, a GPU learns from it in less. Masks come
to a GPU as bits: an eighth of the memory that processes share, which containers have little of, and of
what is copied; the GPU unpacks them.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from models.dataset import Target, TileDataset, collate_fn
from models.errors import ModelError
from models.interruption import leave_termination_to_parent
from models.learner import Batch

logger = logging.getLogger(__name__)

_MOST = 8
"""Processes, however many cores there are: so many show 200 tiles of 1024 px a second."""
_SHARED, _SHARED_MIB = Path("/dev/shm"), 1024
"""Where processes share memory, and how much of it eight of them may need."""


class TileLoader:
    """A dataset's batches on a device, epoch after epoch.

    Args:
        data: the tiles.
        device: where their batches go.
        read: yields what is read for batches of keys.
    """

    def __init__(self, data: TileDataset, device: torch.device, read: Callable[[list[list[Any]]], Iterator]):
        self.data = data
        self._device, self._read = device, read

    def load(self, batches: list[list[Any]]) -> Iterator[Batch]:
        """Yield the batches of tiles with these keys; what is left of those asked for before is dropped.

        Raises:
            DatasetError: a tile cannot be read.
        """
        device = self._device
        for batch in self._read(batches):
            if isinstance(batch, ModelError):
                raise batch
            images, targets = batch
            yield (
                [image.to(device, non_blocking=True) for image in images],
                [
                    _unpacked({name: _sent(value, device) for name, value in target.items()})
                    for target in targets
                ],
            )


@contextmanager
def tile_loaders(datasets: Sequence[TileDataset], device: torch.device) -> Iterator[list[TileLoader]]:
    """Yield a loader of each dataset; one of them reads at a time, and all share `Recipe.workers` processes.

    The processes stay until the block ends: eight take half a second to start and to end.
    """
    processes = reading_processes(datasets[0].recipe.workers, device)
    asked: list[list[tuple[int, Any]]] = []
    reader = DataLoader(
        _Datasets(datasets),
        batch_sampler=asked,
        num_workers=processes,
        persistent_workers=processes > 0,
        collate_fn=partial(_collate, packs=processes > 0 and device.type != "cpu"),
        worker_init_fn=leave_termination_to_parent,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # a loader draws a number from it even where it needs none
    )

    def read(place: int, batches: list[list[Any]]) -> Iterator:
        asked[:] = [[(place, key) for key in batch] for batch in batches]
        return iter(reader)

    try:
        yield [TileLoader(data, device, partial(read, place)) for place, data in enumerate(datasets)]
    finally:
        # What an error's traceback still holds would end at exit, by SIGTERM: for that they do not.
        if reader._iterator is not None:
            reader._iterator._shutdown_workers()  # type: ignore[attr-defined]


class _Datasets(Dataset):
    """Several datasets as one, by the place of one and the key there.

    A tile that cannot be read comes as its error: of one that is raised, only a traceback leaves a process.
    """

    def __init__(self, datasets: Sequence[TileDataset]):
        self._datasets = datasets

    def __getitem__(self, key: tuple[int, Any]) -> tuple[Tensor, Target] | ModelError:
        place, key_there = key
        try:
            return self._datasets[place][key_there]
        except ModelError as error:
            return error


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


def _collate(samples: list[Any], packs: bool) -> Any:
    """A batch, or a tile's error; packed, masks are `mask_bits` uint8[n,h,ceil(w/8)] and `mask_width`."""
    error = next((sample for sample in samples if isinstance(sample, ModelError)), None)
    if error is not None:
        return error
    return collate_fn([(image, _packed(target)) for image, target in samples] if packs else samples)


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
