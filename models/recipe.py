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
    """The network: torchvision's; a lighter one; or for a CPU `maskrcnn_resnet50_light`, whose trunk begins
    with a ResNet-50's weights and needs not learn, and `maskrcnn_small`, which learns from nothing."""
    initial_weights: str = ""
    """What training begins with: empty for none, `imagenet` (backbone) or `coco` (whole network) to
    fetch torchvision's, a file (`.h5` of this package, or `.pth` with a state dict), or the URL of such
    a file with its digest, `https://...#sha256=<64 hexadecimal digits>`."""
    backbone_stride_in_1x1: bool = False
    """Whether a ResNet-50 halves its maps in the first, 1 x 1 convolution of a stage, as weights
    converted from Caffe expect, and not in its 3 x 3 convolution, as torchvision's own do."""
    trainable_stages: Annotated[int, Interval(ge=0, le=5)] = 3
    """Stages of a backbone with initial weights that go on learning, from the last."""
    frozen_norms: Literal["auto", FrozenNorms] = "auto"
    """Batch norms that keep the values they begin with: `auto` for those whose values came with initial
    weights, since a few tiles estimate them worse; `none`; `backbone`; `all`."""
    anchors: Anchors = "default"
    """Sizes of the boxes that proposals start from: the network's own, or `fitted` to the items."""

    epochs: Count = 24
    """Passes over the training tiles."""
    tiles_per_epoch: Natural = 0
    """Tiles shown in one pass, drawn anew each time: fewer than there are, or more; 0 for as many."""
    rare_share: Share = 0.3
    """Share of the tiles with items below which a category is rare: tiles with a category in a share f
    of them are shown sqrt(rare_share / f) times as often."""
    negative_share: Share = 0.2
    """Most of a pass that tiles without items may make up."""
    mine_every: Natural = 0
    """Epochs from one search for hard negatives to the next, 0 for none: of the tiles without items,
    those where the network finds something are shown more often, by as much as it finds."""
    patience: Natural = 0
    """Validations without a better score after which training ends early; 0 for never."""
    batch_size: Count = 4
    """Tiles computed at once, over all processes."""
    accumulate: Count = 1
    """Batches whose gradients make up one step."""
    optimizer: Optimizer = "adamw"
    """`adamw`, or `sgd` with momentum 0.9."""
    learning_rate: Positive = 2e-4
    """Step size at its highest; suits `adamw` (`sgd`: about 0.01)."""
    warmup_steps: Natural = 200
    """Steps over which the learning rate rises from 0 to its highest; at most a third of all steps.
    From there it falls along half a cosine to 0."""
    weight_decay: Amount = 0.05
    """Pull of weights towards 0, on all but biases and normalisation."""
    gradient_clip: Amount = 5.0
    """Largest norm of the gradient, longer ones are shortened to it; 0 for none."""
    ema_decay: Annotated[float, Interval(ge=0, lt=1)] = 0.999
    """How much of the running mean of weights a step leaves as it was (less in the first steps):
    the mean is what is validated and kept. 0 for the weights themselves."""

    min_visible_share: Share = 0.3
    """Share of a label inside the tile below which an item is ignored, neither learnt nor background."""
    min_item_px: Amount = 4.0
    """Smaller side of an item's box below which it is ignored, in tile pixels."""
    flips: bool = True
    """Whether tiles are shown in any of the eight flips and quarter turns of a square."""
    rotation: Annotated[float, Interval(ge=0, le=45)] = 0.0
    """Largest further turn of a tile, to either side, in degrees."""
    scale_min: Positive = 1.0
    """Smallest size a tile is shown at, as a factor: 0.5 is ground of twice the metres per pixel."""
    scale_max: Positive = 1.0
    """Largest size a tile is shown at, as a factor: 2 is ground of half the metres per pixel."""
    paste: Natural = 0
    """Most buildings copied from another tile into free places of a tile."""
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
    """Largest loss of sharpness: as if taken from so many times the height; 1 for none."""
    jpeg_quality: Annotated[int, Interval(ge=1, le=100)] = 100
    """Lowest quality a tile is compressed at and restored from; 100 for no compression."""

    seed: Natural = 1
    """Where all chance begins: first weights, order of tiles, how they are shown, sampling."""
    validate_every: Count = 1
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
