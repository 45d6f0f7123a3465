"""Who takes part: our recipe, each of its pieces taken away, pieces that it leaves out, and the reference."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from models.recipe import Recipe
from pipeline.pairs import PairRules


class Means(NamedTuple):
    """What a machine can afford."""

    finer: int
    """Pixels to a pixel's side of the resolution that a CPU works at, where the image has them."""
    tile_size: int
    shown: int
    """Tiles shown to every network."""
    knobs: dict[str, Any]
    """Our recipe there."""
    start: str = ""
    """File of the weights that learning begins with, absolute or from the folder of data; empty for none."""
    whole: bool = True
    """Whether a set's whole image is used, also where it takes long to look at."""


IMAGENET = "weights/resnet50_imagenet.pth"
"""From the folder of data: a ResNet-50 that halves its maps in 1 x 1 convolutions."""

_SCALED, _TURNED, _PASTED = {"scale_min": 0.7, "scale_max": 1.4}, {"rotation": 15.0}, {"paste": 5}
CPU = Means(
    finer=1,
    tile_size=256,
    shown=1200,
    knobs={
        "network": "maskrcnn_small",
        "trainable_stages": 5,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "warmup_steps": 30,
    },
    whole=False,
)
"""It begins with what the demo learnt, where that is there."""

LIGHT = Means(
    finer=2,
    tile_size=512,
    shown=2000,
    knobs={
        "network": "maskrcnn_resnet50_light",
        "trainable_stages": 2,
        "anchors": "fitted",
        "batch_size": 2,
        "learning_rate": 5e-4,
        "warmup_steps": 50,
    },
    start=IMAGENET,
    whole=False,
)
"""What a CPU affords that learns for half an hour."""

GPU = Means(
    finer=2,
    tile_size=512,
    shown=6000,
    knobs={"network": "maskrcnn_resnet50_fpn_v2", "anchors": "fitted"},
    start=IMAGENET,
)
"""What is left out of `knobs` is as `models.recipe.Recipe` has it."""

MEANS = {"cpu": CPU, "light": LIGHT, "gpu": GPU}
"""By name."""


class Sources(StrEnum):
    """Whose ground is learnt from."""

    ALONE = "alone"
    POOLED = "pooled"
    """All sets, every label as a building."""
    ELSEWHERE = "elsewhere"
    """All sets but the one that is scored, every label as a building."""


@dataclass(frozen=True)
class Contender:
    """A row of the table."""

    title: str
    knobs: dict[str, Any] = field(default_factory=dict)
    """What of our recipe it changes."""
    pairs: PairRules = field(default_factory=PairRules)
    is_reference: bool = False
    sources: Sources = Sources.ALONE
    folds: tuple[int, ...] = (0, 1, 2)
    """Thirds that it is scored on."""
    for_trunk: bool = False
    """Whether it changes what becomes of a ResNet's weights, and nothing where ours has no ResNet."""
    start: str | None = None
    """What it begins with instead of what ours does."""


_ONE = (1,)
_UNLIT = {"brightness": 0.0, "contrast": 0.0, "tint": 0.0}
_FLIPPED = _UNLIT | {"scale_min": 1.0, "scale_max": 1.0, "rotation": 0.0, "paste": 0}
CONTENDERS: dict[str, Contender] = {
    "ours": Contender("**ours**"),
    "reference": Contender("torchvision's reference training, as long", is_reference=True),
    "still": Contender("no augmentation", _FLIPPED | {"flips": False}),
    "scratch": Contender("no pretrained weights", start=""),
    "plain": Contender(
        "torchvision's optimizer, nothing of ours around it",
        {
            "optimizer": "sgd",
            "learning_rate": 0.0025,
            "weight_decay": 1e-4,
            "ema_decay": 0.0,
            "gradient_clip": 0.0,
            "rare_share": 0.0,
            "anchors": "default",
        }
        | _FLIPPED,
    ),
    "imagenet": Contender(
        "the light network on a frozen ImageNet trunk, a third of the tiles",
        {"network": "maskrcnn_resnet50_light", "trainable_stages": 0, "tiles_per_epoch": 100},
        start=IMAGENET,
        folds=_ONE,
    ),
    "no_flips": Contender("no flips", {"flips": False}, folds=_ONE),
    "no_colour": Contender("no colour", _UNLIT, folds=_ONE),
    "scale": Contender("and scale .7 - 1.4", _SCALED, folds=_ONE),
    "rotation": Contender("and turns up to 15 degrees", _TURNED, folds=_ONE),
    "paste": Contender("and up to 5 buildings pasted", _PASTED, folds=_ONE),
    "camera": Contender(
        "and blur, JPEG, saturation, hue",
        {"blur": 1.5, "jpeg_quality": 50, "saturation": 0.2, "hue": 8.0},
        folds=_ONE,
    ),
    "varied": Contender("and scale, turns and pasting together", _SCALED | _TURNED | _PASTED, folds=_ONE),
    "pooled": Contender("all sets, as buildings", sources=Sources.POOLED, folds=_ONE),
    "elsewhere": Contender("the other sets, as buildings", sources=Sources.ELSEWHERE, folds=_ONE),
    "no_ema": Contender("no mean of weights", {"ema_decay": 0.0}, folds=_ONE),
    "no_rare": Contender("rare categories not shown more often", {"rare_share": 0.0}, folds=_ONE),
    "no_negatives": Contender("no tiles without buildings", pairs=PairRules(empty_share=0.0), folds=_ONE),
    "anchors": Contender("anchors not fitted", {"anchors": "default"}, folds=_ONE),
    "fitted": Contender("anchors fitted", {"anchors": "fitted"}, folds=_ONE),
    "sgd": Contender("SGD", {"optimizer": "sgd", "learning_rate": 0.01}, folds=_ONE),
    "thawed_norms": Contender("batch norms learn", {"frozen_norms": "none"}, folds=_ONE, for_trunk=True),
    "thawed": Contender("two stages of the trunk learn", {"trainable_stages": 2}, folds=_ONE, for_trunk=True),
    "mining": Contender(
        "and every tile without buildings, the hard ones mined",
        {"mine_every": 1},
        PairRules(empty_share=100.0),
        folds=_ONE,
    ),
}
"""By name, ours first: the reference learns for as long as ours did on the same ground."""


def takes_part(contender: Contender, means: Means, data: Path) -> bool:
    """Whether a contender differs from ours there, and has what it begins with."""
    if contender.start is not None and contender.start == means.start:
        return False
    if contender.knobs and (vars(Recipe()) | means.knobs).items() >= contender.knobs.items():
        return False
    if contender.for_trunk:
        return means.start == IMAGENET
    return not contender.start or (data / contender.start).is_file()


def knobs_of(contender: Contender, means: Means, data: Path) -> dict[str, Any]:
    """What a contender gives `[Training]`; one pass, so that the rate falls once, over all tiles shown."""
    start = means.start if contender.start is None else contender.start
    file, is_resnet = data / start, start == IMAGENET
    knobs = {"epochs": 4, "tiles_per_epoch": means.shown // 4, "validate_every": 4}
    knobs |= means.knobs | contender.knobs
    if start and file.is_file():
        return knobs | {"initial_weights": str(file), "backbone_stride_in_1x1": is_resnet}
    return knobs | {"trainable_stages": 5}
