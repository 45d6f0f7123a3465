"""Backbones compiled for the shapes that they see: as CUDA graphs on a GPU, into C++ on a CPU."""

from __future__ import annotations

import os
import shutil

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.errors import DeviceError


class CompiledBackbone(nn.Module):
    """A backbone that learns no more, compiled whenever it sees a new shape, which takes up to a minute.

    On a CPU its weights become constants: frozen batch norms go into convolutions, and activations with
    them. A batch smaller than one before of images of its size is filled up, since each number of images
    would be a shape of its own.

    Args:
        backbone: on the device.
        device: where it computes.

    Raises:
        DeviceError: there is no compiler.
    """

    def __init__(self, backbone: nn.Module, device: torch.device):
        super().__init__()
        check_compiler(device)
        self._is_constant = device.type == "cpu"
        self._batches: dict[torch.Size, int] = {}
        mode = None if self._is_constant else "reduce-overhead"
        self._compiled = torch.compile(backbone, mode=mode, dynamic=False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the backbone's maps by level of images, float32[n,3,h,w]."""
        from torch._inductor import config

        count, size = len(images), images.shape[1:]
        batch = max(count, self._batches.get(size, 0))
        filled = functional.pad(images, (0, 0, 0, 0, 0, 0, 0, batch - count)) if count < batch else images
        # Also tracing asks for it, which an option of the compilation would not reach.
        with config.patch(freezing=self._is_constant):
            maps = self._compiled(filled)
        self._batches[size] = batch  # only now: it fits into the memory
        return {level: map_[:count] for level, map_ in maps.items()}

    def forget_batches(self) -> None:
        """Fill none up to those before: there is no memory for so many any more."""
        self._batches.clear()


def check_compiler(device: torch.device) -> None:
    """Refuse to compile for a CPU without the C++ compiler that torch calls.

    Raises:
        DeviceError: there is none.
    """
    compiler = os.environ.get("CXX", "g++")
    if device.type == "cpu" and shutil.which(compiler) is None:
        raise DeviceError(
            "no C++ compiler, which `compile` needs on a CPU",
            found=compiler,
            remedy="Install one (Debian: apt install g++), or set compile = false",
        )
