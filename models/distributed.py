"""Several processes that learn as one, each on its own GPU, as `torchrun` starts them.

    torchrun --nproc-per-node 4 <program that calls models.train.train>
    torchrun --nproc-per-node 4 -m luigi --module pipeline TrainMaskRCNN --local-scheduler --no-lock

Every process calls `train` with the same arguments. Each batch is dealt out among them, and losses and
gradients are means over the batch, whoever holds which of its tiles: the number of processes changes
how fast a network learns, not what. The exception are batch norms that are not frozen, which take their
statistics from the tiles of their own process. Only the first process validates, and only it writes files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from models.errors import DeviceError, TrainingError

PATIENCE = timedelta(hours=6)
"""How long processes wait for each other: the others do while the first validates."""


def local_device(device: torch.device) -> torch.device:
    """Return the GPU of this process where there are several processes on this machine.

    Raises:
        DeviceError: there are fewer GPUs.
    """
    rank = os.environ.get("LOCAL_RANK")
    if not rank or device != torch.device("cuda"):
        return device
    if int(rank) >= (count := torch.cuda.device_count()):
        raise DeviceError("fewer GPUs than processes", found=count, remedy=f"Start {count} processes")
    return torch.device("cuda", int(rank))


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the processes that were started together, if there are several, until the block ends."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def processes() -> int:
    """Return how many processes learn together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def is_first() -> bool:
    """Return whether this process validates and writes."""
    return processes() == 1 or distributed.get_rank() == 0


def deal(batches: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """Return this process's part of every batch; a last batch too small for all is left out.

    Raises:
        TrainingError: every batch is.
    """
    count = processes()
    place = distributed.get_rank() if count > 1 else 0
    parts = [list(batch[place::count]) for batch in batches if len(batch) >= count]
    if not parts:
        raise TrainingError(
            "fewer tiles in a batch than processes",
            where="batch_size",
            found=max(map(len, batches), default=0),
            remedy=f"Give at least {count}, or start fewer processes",
        )
    return parts


def share_gradients(model: nn.Module) -> nn.Module:
    """Return a network that averages its gradients over the processes."""
    return DistributedDataParallel(model) if processes() > 1 else model


def mean_over_processes(value: Tensor) -> Tensor:
    """Return the mean of a tensor over the processes, without a gradient."""
    count = processes()
    if count == 1:
        return value
    total = value.detach().clone().float()
    distributed.all_reduce(total)
    return total / count


def any_process(flag: bool, device: torch.device) -> bool:
    """Return whether the flag is set in any process."""
    if processes() == 1:
        return flag
    return bool(mean_over_processes(torch.tensor(float(flag), device=device)) > 0)


def from_first(value: Any) -> Any:
    """Return the first process's value, whatever this one's is."""
    if processes() == 1:
        return value
    box = [value]
    distributed.broadcast_object_list(box, src=0)
    return box[0]


def from_all(value: Any) -> list[Any]:
    """Return the value of every process, in their order."""
    found: list[Any] = [value] * processes()
    if len(found) > 1:
        distributed.all_gather_object(found, value)
    return found


def wait_for_all() -> None:
    """Return when every process has come here."""
    if processes() > 1:
        distributed.barrier()
