"""Every knob of training, declared once; settings elsewhere read their defaults from here."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args, get_type_hints

from models.errors import TrainingError

Network = Literal["maskrcnn_resnet50_fpn_v2", "maskrcnn_resnet18_fpn", "maskrcnn_small"]
"""Names of the networks in `models.maskrcnn`: torchvision's, a lighter one, and one for a CPU."""
NETWORKS: tuple[Network, ...] = get_args(Network)

Optimizer = Literal["adamw", "sgd"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Recipe:
    """How a network is made and trained. Equal recipes on equal tiles give equal weights on a CPU."""

    network: Network = "maskrcnn_resnet50_fpn_v2"
    """The network: torchvision's, a lighter one, or one small enough for a CPU."""
    initial_weights: str = ""
    """What training begins with: empty for none, `imagenet` (backbone) or `coco` (whole network) to
    fetch torchvision's, or a file: `.h5` of this package, or `.pth` with a state dict."""
    backbone_stride_in_1x1: bool = False
    """Whether a ResNet-50 halves its maps in the first, 1 x 1 convolution of a stage, as weights
    converted from Caffe expect, and not in its 3 x 3 convolution, as torchvision's own do."""
    trainable_stages: int = 3
    """Stages of a backbone with initial weights that go on learning, from the last, 0 to 5."""

    epochs: int = 24
    """Passes over the training tiles."""
    tiles_per_epoch: int = 0
    """Tiles in one pass, drawn anew each time: fewer than there are, or more; 0 for each tile once."""
    batch_size: int = 4
    """Tiles per step."""
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

    min_visible_share: float = 0.3
    """Share of a label inside the tile below which an item is ignored, neither learnt nor
    background, 0 to 1."""
    min_item_px: float = 4.0
    """Smaller side of an item's box below which it is ignored, in tile pixels."""
    flips: bool = True
    """Whether tiles are shown in any of the eight flips and quarter turns of a square."""
    brightness: float = 0.15
    """Largest change of a tile's brightness, as a share of it, 0 to 1."""
    contrast: float = 0.15
    """Largest change of a tile's contrast, as a share of it, 0 to 1."""
    tint: float = 0.1
    """Largest change of a tile's red, green and blue, each as a share of it, 0 to 1: other light."""

    seed: int = 1
    """Where all chance begins: first weights, order of tiles, how they are shown, sampling."""
    validate_every: int = 1
    """Epochs from one validation to the next; the last epoch is always validated."""
    precision: Precision = "auto"
    """Arithmetic of the convolutions; `auto` is bfloat16 (else float16) on a GPU and float32 on a CPU."""
    channels_last: bool = True
    """Whether images lie in memory pixel by pixel, which is faster on recent hardware."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:<n>`, or `auto`: a GPU where there is one."""
    workers: int = 0
    """Processes that read tiles ahead; the result does not depend on it. 0 reads in this one."""

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in fields(self):
            self._require(_is_of(getattr(self, field.name), hints[field.name]), field.name)
        for name in ("epochs", "batch_size", "validate_every"):
            self._require(getattr(self, name) >= 1, name)
        for name in ("tiles_per_epoch", "warmup_steps", "weight_decay", "gradient_clip", "min_item_px",
                     "workers", "seed"):  # fmt: skip
            self._require(getattr(self, name) >= 0, name)
        for name in ("min_visible_share", "brightness", "contrast", "tint"):
            self._require(0 <= getattr(self, name) <= 1, name)
        self._require(self.learning_rate > 0, "learning_rate")
        self._require(0 <= self.trainable_stages <= 5, "trainable_stages")

    def _require(self, holds: bool, name: str) -> None:
        if not holds:
            raise TrainingError(
                "value out of range",
                where=f"Recipe.{name}",
                found=getattr(self, name),
                remedy="See the docstring of models.recipe.Recipe",
            )


def _is_of(value: Any, hint: Any) -> bool:
    if choices := get_args(hint):
        return value in choices
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value
    return type(value) is hint
