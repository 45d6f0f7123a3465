"""Every knob of training, declared once; settings elsewhere read their defaults from here."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, get_args, get_type_hints

from annotated_types import Interval

from models.errors import TrainingError
from models.ranges import Amount, Count, Natural, Positive, Share, check_ranges

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
    trainable_stages: Annotated[int, Interval(ge=0, le=5)] = 3
    """Stages of a backbone with initial weights that go on learning, from the last."""
    frozen_norms: Literal["auto", FrozenNorms] = "auto"
    """Batch norms that stay frozen: `auto` those with pretrained statistics, which small batches would
    only degrade; `none`; `backbone`; `all`."""
    anchors: Anchors = "default"
    """Anchor sizes: the network's defaults, or `fitted` to the training labels."""

    epochs: Count = 24
    """Passes over the training tiles."""
    tiles_per_epoch: Natural = 0
    """Tiles sampled per epoch, fewer or more than there are; 0 for as many as there are."""
    rare_share: Share = 0.3
    """Share of the tiles with items below which a category is rare: tiles with a category in a share f
    of them are shown sqrt(rare_share / f) times as often."""
    negative_share: Share = 0.2
    """Most of a pass that tiles without items may make up."""
    mine_every: Natural = 0
    """Epochs between rounds of hard negative mining, 0 for none: among tiles without labels, those with
    false positives are sampled more often, the more of them there are."""
    patience: Natural = 0
    """Validations without improvement after which training stops early; 0 for never."""
    batch_size: Count = 4
    """Tiles per batch, over all processes."""
    accumulate: Count = 1
    """Batches whose gradients are accumulated for one optimizer step."""
    optimizer: Optimizer = "adamw"
    """`adamw`, or `sgd` with momentum 0.9."""
    learning_rate: Positive = 2e-4
    """Peak learning rate; the default suits `adamw` (`sgd`: about 0.01)."""
    warmup_steps: Natural = 200
    """Steps of linear warm-up to the peak learning rate, at most a third of all steps; cosine decay to 0
    follows."""
    weight_decay: Amount = 0.05
    """Weight decay, on all parameters but biases and normalisation."""
    gradient_clip: Amount = 5.0
    """Norm to which longer gradients are clipped; 0 for no clipping."""
    ema_decay: Annotated[float, Interval(ge=0, lt=1)] = 0.999
    """How much of the running mean of weights a step leaves as it was (less in the first steps):
    the mean is what is validated and kept. 0 for the weights themselves."""

    min_visible_share: Share = 0.3
    """Share of a label inside the tile below which an item is ignored, neither learnt nor background."""
    min_item_px: Amount = 4.0
    """Shorter side of the bounding box below which a label is ignored, in tile pixels."""
    flips: bool = True
    """Whether tiles are augmented by the eight flips and quarter turns of a square."""
    rotation: Annotated[float, Interval(ge=0, le=45)] = 0.0
    """Largest further turn of a tile, to either side, in degrees."""
    scale_min: Positive = 1.0
    """Smallest random scale factor of a tile: 0.5 looks like twice the metres per pixel."""
    scale_max: Positive = 1.0
    """Largest random scale factor of a tile: 2 looks like half the metres per pixel."""
    paste: Natural = 0
    """Copy-paste augmentation: maximum number of buildings copied from another tile into free places."""
    brightness: Share = 0.15
    """Largest change of a tile's brightness, as a share of it."""
    contrast: Share = 0.15
    """Largest change of a tile's contrast, as a share of it."""
    tint: Share = 0.1
    """Largest change of a tile's red, green and blue, each as a share of it: other light."""
    saturation: Share = 0.0
    """Largest change of a tile's colours' distance to grey, as a share of it."""
    hue: Annotated[float, Interval(ge=0, le=180)] = 0.0
    """Largest turn of a tile's hues, in degrees."""
    blur: Annotated[float, Interval(ge=1)] = 1.0
    """Largest random loss of resolution, as a factor of the pixel size; 1 for none."""
    jpeg_quality: Annotated[int, Interval(ge=1, le=100)] = 100
    """Lowest quality a tile is compressed at and restored from; 100 for no compression."""

    seed: Natural = 1
    """Random seed of weight initialisation, tile order, augmentation and sampling."""
    validate_every: Count = 1
    """Epochs between validations; the last epoch is always validated."""
    precision: Precision = "auto"
    """Precision of the convolutions; `auto` is bfloat16 (else float16) on a GPU, and bfloat16 on a CPU
    that supports it (AVX512-BF16, AMX), else float32."""
    channels_last: bool = True
    """Whether to use the channels-last memory format, which is faster on recent hardware."""
    compile: bool = False
    """Whether the backbone is compiled (`torch.compile`): takes minutes at the start, then speeds up GPUs."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:<n>`, or `auto`: a GPU where there is one."""
    workers: Annotated[int, Interval(ge=-1)] = -1
    """Processes that read tiles ahead; the result does not depend on it. 0 reads in this one, -1 takes as
    many as suit the device: for a GPU one a core, 8 at most; none for a CPU, whose cores learn."""

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in fields(self):
            self._require(_is_of(getattr(self, field.name), hints[field.name]), field.name)
        check_ranges(self, TrainingError)
        self._require(self.scale_min <= self.scale_max, "scale_min")

    def _require(self, holds: bool, name: str) -> None:
        if not holds:
            raise TrainingError(
                "value out of range",
                where=name,
                found=getattr(self, name),
                remedy="See the docstring of models.recipe.Recipe",
            )


def _is_of(value: Any, hint: Any) -> bool:
    if choices := get_args(hint):
        return value in choices
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value
    return type(value) is hint
