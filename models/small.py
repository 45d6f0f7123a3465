"""A backbone small enough to learn from nothing on a CPU."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock
from torchvision.ops import FeaturePyramidNetwork

STEM_WIDTH = 32
"""Channels of the map at a stride of 4 px."""

WIDTHS = (64, 128, 192)
"""Channels of the maps at strides of 8, 16 and 32 px."""

OUT_CHANNELS = 64
"""Channels of every map of the pyramid."""


class SmallBackbone(nn.Module):
    """A residual network of three stages and its feature pyramid, at strides of 8, 16 and 32 px.

    Group norms, because steps of a few tiles are too few for batch norms.
    """

    def __init__(self) -> None:
        super().__init__()
        self.levels = [f"stage{number}" for number, _ in enumerate(WIDTHS, 1)]
        self.out_channels = OUT_CHANNELS
        self.body = nn.ModuleDict({"stem": nn.Sequential(*_convolution(3), *_convolution(STEM_WIDTH))})
        for level, inputs, outputs in zip(self.levels, (STEM_WIDTH, *WIDTHS), WIDTHS, strict=False):
            shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, 2, bias=False), _norm(outputs))
            self.body[level] = nn.Sequential(
                BasicBlock(inputs, outputs, 2, shortcut, norm_layer=_norm),
                BasicBlock(outputs, outputs, norm_layer=_norm),
            )
        self.fpn = FeaturePyramidNetwork(list(WIDTHS), OUT_CHANNELS, norm_layer=_norm)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return maps by level, float32[n,64,h/stride,w/stride], of images float32[n,3,h,w]."""
        maps: OrderedDict[str, Tensor] = OrderedDict()
        map_ = self.body["stem"](images)
        for level in self.levels:
            maps[level] = map_ = self.body[level](map_)
        return self.fpn(maps)


def _convolution(inputs: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(inputs, STEM_WIDTH, 3, 2, 1, bias=False),
        _norm(STEM_WIDTH),
        nn.ReLU(inplace=True),
    )


def _norm(channels: int) -> nn.Module:
    return nn.GroupNorm(channels // 16, channels)
