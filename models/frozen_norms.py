"""Batch norms that keep the values they came with."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import FrozenBatchNorm2d


class FrozenNorm(FrozenBatchNorm2d):
    """torchvision's, in one pass over the maps, and in their own precision.

    Its own multiplies and adds float32 values, which makes float32 maps of bfloat16 ones: twice as large, and
    the next convolution turns them back. In float32 both give the same.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps of the same shape and dtype, float[n,c,h,w]."""
        return functional.batch_norm(
            maps, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )


def freeze_norms(module: nn.Module) -> None:
    """Make every batch norm inside a module one that keeps its values."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            frozen = FrozenNorm(child.num_features, eps=child.eps)
            frozen.load_state_dict(child.state_dict())
            setattr(module, name, frozen)
        else:
            freeze_norms(child)
