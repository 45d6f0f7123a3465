"""Every knob of training, declared once; settings elsewhere read their defaults from here."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args, get_type_hints

from models.errors import TrainingError

Network = Literal[
    "maskrcnn_resnet50_fpn_v2", "maskrcnn_resnet18_fpn", "maskrcnn_resnet50_light", "maskrcnn_small"
]
"""Names of the networks in `models.maskrcnn`: torchvision's, a lighter one, and two for a CPU, on a
trunk that knows pictures already, and to be learnt from nothing."""
NETWORKS: tuple[Network, ...] = get_args(Network)

Optimizer = Literal["adamw", "sgd"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
Anchors = Literal["default", "fitted"]
FrozenNorms = Literal["none", "backbone", "all"]


@dataclass(frozen=True)
class Recipe:
    """How a network is made and trained. Equal recipes on equal tiles give equal weights on a CPU."""

    network: Network = "maskrcnn_resnet50_fpn_v2"
    """Architecture: torchvision's Mask R-CNN; one with a ResNet-18; or, for CPUs, `maskrcnn_resnet50_light`,
    with a pretrained ResNet-50 backbone that may stay frozen, and `maskrcnn_small`, trained from scratch."""
    initial_weights: str = ""
    """Pretrained weights: empty for none, `imagenet` (backbone) or `coco` (whole network) to download
    torchvision's, a file (`.h5` of this package, or `.pth` with a state dict), or the URL of such
    a file with its digest, `https://...#sha256=<64 hexadecimal digits>`."""
    backbone_stride_in_1x1: bool = False
    """Whether a ResNet-50 has its stride in the first, 1 x 1 convolution of a stage, as weights
    converted from Caffe expect, rather than in the 3 x 3 convolution, as torchvision's weights do."""
    trainable_stages: int = 3
    """Number of stages of a pretrained backbone to fine-tune, counted from the last, 0 to 5."""
    frozen_norms: Literal["auto", FrozenNorms] = "auto"
    """Batch norms that stay frozen: `auto` for those with pretrained statistics, which small batches estimate
    worse; `none`; `backbone`; `all`."""
    anchors: Anchors = "default"
    """Anchor sizes: the network's defaults, or `fitted` to the training labels."""

    epochs: int = 24
    """Passes over the training tiles."""
    tiles_per_epoch: int = 0
    """Tiles sampled per epoch, fewer or more than there are; 0 for as many as there are."""
    rare_share: float = 0.3
    """Repeat-factor sampling: a category is rare if it occurs in less than this share of the tiles with
    labels, 0 to 1; if it occurs in a share f, its tiles are sampled sqrt(rare_share / f) times as often."""
    negative_share: float = 0.2
    """Largest share of an epoch for tiles without labels, 0 to 1."""
    mine_every: int = 0
    """Epochs between rounds of hard negative mining, 0 for none: among tiles without labels, those with
    false positives are sampled more often, the more of them there are."""
    patience: int = 0
    """Validations without improvement after which training stops early; 0 for never."""
    batch_size: int = 4
    """Tiles per batch, over all processes."""
    accumulate: int = 1
    """Batches whose gradients are accumulated for one optimizer step."""
    optimizer: Optimizer = "adamw"
    """`adamw`, or `sgd` with momentum 0.9."""
    learning_rate: float = 2e-4
    """Peak learning rate; the default suits `adamw` (`sgd`: about 0.01)."""
    warmup_steps: int = 200
    """Steps of linear warm-up to the peak learning rate, at most a third of all steps; cosine decay to 0
    follows."""
    weight_decay: float = 0.05
    """Weight decay, on all parameters but biases and normalisation."""
    gradient_clip: float = 5.0
    """Norm to which longer gradients are clipped; 0 for no clipping."""
    ema_decay: float = 0.999
    """Decay of the exponential moving average of the weights, 0 to 1 (smaller in the first steps); the
    average is what is validated and saved. 0 for the weights themselves."""

    min_visible_share: float = 0.3
    """Share of a label's area inside the tile below which it is ignored there: neither a target nor
    background, 0 to 1."""
    min_item_px: float = 4.0
    """Shorter side of the bounding box below which a label is ignored, in tile pixels."""
    flips: bool = True
    """Whether tiles are augmented by the eight flips and quarter turns of a square."""
    rotation: float = 0.0
    """Largest additional random rotation of a tile in either direction, in degrees, 0 to 45."""
    scale_min: float = 1.0
    """Smallest random scale factor of a tile: 0.5 looks like twice the metres per pixel."""
    scale_max: float = 1.0
    """Largest random scale factor of a tile: 2 looks like half the metres per pixel."""
    paste: int = 0
    """Copy-paste augmentation: maximum number of buildings copied from another tile into free places."""
    brightness: float = 0.15
    """Largest random relative change of brightness, 0 to 1."""
    contrast: float = 0.15
    """Largest random relative change of contrast, 0 to 1."""
    tint: float = 0.1
    """Largest random relative change of red, green and blue, each by itself (white balance), 0 to 1."""
    saturation: float = 0.0
    """Largest random relative change of saturation, 0 to 1."""
    hue: float = 0.0
    """Largest random shift of hue, in degrees, 0 to 180."""
    blur: float = 1.0
    """Largest random loss of resolution, as a factor of the pixel size; 1 for none."""
    jpeg_quality: int = 100
    """Lowest random JPEG quality that tiles are compressed with, 1 to 100; 100 for no compression."""

    seed: int = 1
    """Random seed of weight initialisation, tile order, augmentation and sampling."""
    validate_every: int = 1
    """Epochs between validations; the last epoch is always validated."""
    precision: Precision = "auto"
    """Precision of the convolutions; `auto` is bfloat16 (else float16) on a GPU, and bfloat16 on a CPU
    that supports it (AVX512-BF16, AMX), else float32."""
    channels_last: bool = True
    """Whether to use the channels-last memory format, which is faster on recent hardware."""
    compile: bool = False
    """Whether the backbone is compiled (`torch.compile`): minutes at first, then faster steps on a GPU."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:<n>`, or `auto`: a GPU if there is one."""
    workers: int = -1
    """Data loading processes; the result does not depend on it. 0 loads in the main process; -1 chooses by
    device: for a GPU one per core, at most 8, for a CPU none, since training uses all of its cores."""

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in fields(self):
            self._require(_is_of(getattr(self, field.name), hints[field.name]), field.name)
        for name, (least, most) in _LIMITS.items():
            self._require(least <= getattr(self, name) <= most, name)
        self._require(self.learning_rate > 0, "learning_rate")
        self._require(self.ema_decay < 1, "ema_decay")
        self._require(0 < self.scale_min <= self.scale_max, "scale_min")

    def _require(self, holds: bool, name: str) -> None:
        if not holds:
            raise TrainingError(
                "value out of range",
                where=f"Recipe.{name}",
                found=getattr(self, name),
                remedy="See the docstring of models.recipe.Recipe",
            )


_SHARE, _COUNT, _AMOUNT = (0, 1), (1, math.inf), (0, math.inf)
_LIMITS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("epochs", "batch_size", "accumulate", "validate_every", "blur"), _COUNT),
    **dict.fromkeys(("tiles_per_epoch", "mine_every", "patience", "warmup_steps", "paste"), _AMOUNT),
    **dict.fromkeys(("weight_decay", "gradient_clip", "min_item_px", "seed"), _AMOUNT),
    **dict.fromkeys(("rare_share", "negative_share", "min_visible_share", "ema_decay"), _SHARE),
    **dict.fromkeys(("brightness", "contrast", "tint", "saturation"), _SHARE),
    "trainable_stages": (0, 5),
    "rotation": (0, 45),
    "hue": (0, 180),
    "jpeg_quality": (1, 100),
    "workers": (-1, math.inf),
}
"""Least and most of the knobs that are numbers."""


def _is_of(value: Any, hint: Any) -> bool:
    if choices := get_args(hint):
        return value in choices
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value
    return type(value) is hint
