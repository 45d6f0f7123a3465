"""Backbones compiled for the shapes that they see: as CUDA graphs on a GPU, into C++ on a CPU."""

from __future__ import annotations

import os
import shutil

import torch
from torch import Tensor, nn

from models.errors import DeviceError


class ConstantBackbone(nn.Module):
    """A backbone that learns no more, compiled for a CPU with its weights as constants.

    Frozen batch norms go into convolutions, and activations with them.
    """

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self._compiled = torch.compile(backbone, dynamic=False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the backbone's maps by level; a shape seen for the first time takes up to a minute."""
        from torch._inductor import config

        # Also tracing asks for it, which an option of the compilation would not reach.
        with config.patch(freezing=True):
            return self._compiled(images)


def compile_learnt(backbone: nn.Module, device: torch.device) -> nn.Module:
    """Return a backbone that learns no more, to be compiled whenever it sees a new shape.

    Args:
        backbone: on the device.
        device: where it computes.

    Raises:
        DeviceError: there is no compiler.
    """
    check_compiler(device)
    if device.type == "cpu":
        return ConstantBackbone(backbone)
    backbone.compile(mode="reduce-overhead", dynamic=False)
    return backbone


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
