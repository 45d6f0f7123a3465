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
    """The network: torchvision's; a lighter one; or for a CPU `maskrcnn_resnet50_light`, whose trunk begins
    with a ResNet-50's weights and needs not learn, and `maskrcnn_small`, which learns from nothing."""
    initial_weights: str = ""
    """What training begins with: empty for none, `imagenet` (backbone) or `coco` (whole network) to
    fetch torchvision's, a file (`.h5` of this package, or `.pth` with a state dict), or the URL of such
    a file with its digest, `https://...#sha256=<64 hexadecimal digits>`."""
    backbone_stride_in_1x1: bool = False
    """Whether a ResNet-50 halves its maps in the first, 1 x 1 convolution of a stage, as weights
    converted from Caffe expect, and not in its 3 x 3 convolution, as torchvision's own do."""
    trainable_stages: int = 3
    """Stages of a backbone with initial weights that go on learning, from the last, 0 to 5."""
    frozen_norms: Literal["auto", FrozenNorms] = "auto"
    """Batch norms that keep the values they begin with: `auto` for those whose values came with initial
    weights, since a few tiles estimate them worse; `none`; `backbone`; `all`."""
    anchors: Anchors = "default"
    """Sizes of the boxes that proposals start from: the network's own, or `fitted` to the items."""

    epochs: int = 24
    """Passes over the training tiles."""
    tiles_per_epoch: int = 0
    """Tiles shown in one pass, drawn anew each time: fewer than there are, or more; 0 for as many."""
    rare_share: float = 0.3
    """Share of the tiles with items below which a category is rare: tiles with a category in a share f
    of them are shown sqrt(rare_share / f) times as often, 0 to 1."""
    negative_share: float = 0.2
    """Most of a pass that tiles without items may make up, 0 to 1."""
    mine_every: int = 0
    """Epochs from one search for hard negatives to the next, 0 for none: of the tiles without items,
    those where the network finds something are shown more often, by as much as it finds."""
    patience: int = 0
    """Validations without a better score after which training ends early; 0 for never."""
    batch_size: int = 4
    """Tiles computed at once, over all processes."""
    accumulate: int = 1
    """Batches whose gradients make up one step."""
    optimizer: Optimizer = "adamw"
    """`adamw`, or `sgd` with momentum 0.9."""
    learning_rate: float = 2e-4
    """Step size at its highest; suits `adamw` (`sgd`: about 0.01)."""
    warmup_steps: int = 200
    """Steps over which the learning rate rises from 0 to its highest; at most a third of all steps.
    From there it falls along half a cosine to 0."""
    weight_decay: float = 0.05
    """Pull of weights towards 0, on all but biases and normalisation."""
    gradient_clip: float = 5.0
    """Largest norm of the gradient, longer ones are shortened to it; 0 for none."""
    ema_decay: float = 0.999
    """How much of the running mean of weights a step leaves as it was, 0 to 1 (less in the first steps):
    the mean is what is validated and kept. 0 for the weights themselves."""

    min_visible_share: float = 0.3
    """Share of a label inside the tile below which an item is ignored, neither learnt nor
    background, 0 to 1."""
    min_item_px: float = 4.0
    """Smaller side of an item's box below which it is ignored, in tile pixels."""
    flips: bool = True
    """Whether tiles are shown in any of the eight flips and quarter turns of a square."""
    rotation: float = 0.0
    """Largest further turn of a tile, to either side, in degrees, 0 to 45."""
    scale_min: float = 1.0
    """Smallest size a tile is shown at, as a factor: 0.5 is ground of twice the metres per pixel."""
    scale_max: float = 1.0
    """Largest size a tile is shown at, as a factor: 2 is ground of half the metres per pixel."""
    paste: int = 0
    """Most buildings copied from another tile into free places of a tile."""
    brightness: float = 0.15
    """Largest change of a tile's brightness, as a share of it, 0 to 1."""
    contrast: float = 0.15
    """Largest change of a tile's contrast, as a share of it, 0 to 1."""
    tint: float = 0.1
    """Largest change of a tile's red, green and blue, each as a share of it, 0 to 1: other light."""
    saturation: float = 0.0
    """Largest change of a tile's colours' distance to grey, as a share of it, 0 to 1."""
    hue: float = 0.0
    """Largest turn of a tile's hues, in degrees, 0 to 180."""
    blur: float = 1.0
    """Largest loss of sharpness: as if taken from so many times the height; 1 for none."""
    jpeg_quality: int = 100
    """Lowest quality a tile is compressed at and restored from, 1 to 100; 100 for no compression."""

    seed: int = 1
    """Where all chance begins: first weights, order of tiles, how they are shown, sampling."""
    validate_every: int = 1
    """Epochs from one validation to the next; the last epoch is always validated."""
    precision: Precision = "auto"
    """Arithmetic of the convolutions; `auto` is bfloat16 (else float16) on a GPU, and on a CPU bfloat16
    where it has instructions for it (AVX512-BF16, AMX), else float32."""
    channels_last: bool = True
    """Whether images lie in memory pixel by pixel, which is faster on recent hardware."""
    compile: bool = False
    """Whether the backbone is compiled: minutes at first, then faster steps on a GPU."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:<n>`, or `auto`: a GPU where there is one."""
    workers: int = -1
    """Processes that read tiles ahead; the result does not depend on it. 0 reads in this one, -1 takes as
    many as suit the device: for a GPU one a core, 8 at most; none for a CPU, whose cores learn."""

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
