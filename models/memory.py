"""How much memory a network needs for a batch, and how many tiles fit into what is free."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from models.allocation import give_back_freed_memory

if TYPE_CHECKING:
    import torch


class Need(NamedTuple):
    """Memory of inference in float32, MiB, as measured on a CPU (docs/benchmarks.md)."""

    network: float
    """For its weights, and what a batch of any size takes."""
    tile: float
    """For a tile's proposals in the heads."""
    megapixel: float
    """For the backbone's maps of a million pixels."""

    def of(self, tiles: int, tile_px: int) -> float:
        """MiB for a batch of tiles of `tile_px` pixels each."""
        return self.network + self.batch(tiles, tile_px)

    def batch(self, tiles: int, tile_px: int) -> float:
        """The same without the network."""
        return tiles * (self.tile + self.megapixel * tile_px / 1e6)


NEEDS: dict[str, Need] = {
    "maskrcnn_small": Need(67, 20, 50),
    "maskrcnn_resnet50_light": Need(120, 50, 76),
    "maskrcnn_resnet18_fpn": Need(238, 105, 200),
    "maskrcnn_resnet50_fpn_v2": Need(337, 200, 233),
}
"""By network."""

RESERVE = 0.1
"""Share of what is free that is left to others."""


def tiles_that_fit(network: str, tile_px: int, free_mib: float) -> int | None:
    """How many tiles of `tile_px` pixels fit into so much memory; at least 1, None for an unknown network."""
    need = NEEDS.get(network)
    return None if need is None else max(1, int(free_mib * (1 - RESERVE) / need.batch(1, tile_px)))


def free_mib(device: torch.device) -> float | None:
    """MiB that a batch may take on a device; None where the system does not say."""
    if device.type == "cuda":
        import torch

        # What PyTorch keeps for its next tensors counts as taken there.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return (torch.cuda.mem_get_info(device)[0] + kept) / 2**20
    give_back_freed_memory()
    return min((mib for mib in (_system_mib(), _group_mib()) if mib is not None), default=None)


def _system_mib() -> float | None:
    """What Linux could still give to a process."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        (line,) = (line for line in lines if line.startswith("MemAvailable:"))
        return int(line.split()[1]) / 1024
    except (OSError, ValueError):
        return None


def _group_mib(folder: Path = Path("/sys/fs/cgroup")) -> float | None:
    """What is left of a container's limit, where files that lie in memory can go; None without one."""
    try:
        limit = (folder / "memory.max").read_text().strip()
        if limit == "max":
            return None
        used = int((folder / "memory.current").read_text())
        held = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return (int(limit) - used + int(held["active_file"]) + int(held["inactive_file"])) / 2**20
    except (OSError, ValueError, KeyError):
        return None
