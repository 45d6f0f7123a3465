"""A ResNet-50 that a CPU can afford: its first stages, to be used as they come, and a narrow pyramid."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import FeaturePyramidNetwork

WIDTHS = {"layer1": 256, "layer2": 512, "layer3": 1024}
"""Channels of the maps at strides of 4, 8 and 16 px; the last stage, at 32 px, is left out: it sees
no building of 20 px, and costs a fifth of the network."""

OUT_CHANNELS = 64
"""Channels of every map of the pyramid."""


class LightBackbone(nn.Module):
    """The first three stages of a ResNet-50 and their feature pyramid, at strides of 4, 8 and 16 px.

    The stages carry torchvision's names, so that they take any ResNet-50's weights. Group norms in the
    pyramid, because steps of a few tiles are too few for batch norms.
    """

    def __init__(self) -> None:
        super().__init__()
        self.levels, self.out_channels = list(WIDTHS), OUT_CHANNELS
        self.body = IntermediateLayerGetter(resnet50(weights=None), {level: level for level in WIDTHS})
        self.fpn = FeaturePyramidNetwork(list(WIDTHS.values()), OUT_CHANNELS, norm_layer=_norm)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return maps by level, float32[n,64,h/stride,w/stride], of images float32[n,3,h,w]."""
        return self.fpn(self.body(images))


def _norm(channels: int) -> nn.Module:
    return nn.GroupNorm(channels // 16, channels)
