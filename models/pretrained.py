"""The weights a training begins with: torchvision's, or a file's."""

from __future__ import annotations

import logging
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import numpy as np
import torch
from torch import Tensor
from torchvision.models import ResNet18_Weights, ResNet50_Weights, WeightsEnum
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_V2_Weights

from models.anchors import fit_anchors
from models.checkpoint import UNREADABLE
from models.download import cached, download
from models.errors import WeightsError
from models.maskrcnn import ANCHOR_SIZES, MaskRCNN, build
from models.recipe import Network, Recipe
from models.weights import read_weights

logger = logging.getLogger(__name__)

StateDict = dict[str, Tensor]

PUBLISHED: dict[tuple[str, str], WeightsEnum] = {
    ("maskrcnn_resnet50_fpn_v2", "coco"): MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1,
    ("maskrcnn_resnet50_fpn_v2", "imagenet"): ResNet50_Weights.IMAGENET1K_V2,
    ("maskrcnn_resnet50_light", "imagenet"): ResNet50_Weights.IMAGENET1K_V2,
    ("maskrcnn_resnet18_fpn", "imagenet"): ResNet18_Weights.IMAGENET1K_V1,
}
"""(network, initial_weights) → what torchvision offers for it."""

_STAGES = ("conv1", "layer1", "layer2", "layer3", "layer4")
"""Of a ResNet, in order."""

_PREDICTORS = ("roi_heads.box_predictor.", "roi_heads.mask_predictor.mask_fcn_logits.")


def build_initial(recipe: Recipe, categories: tuple[str, ...], sides: np.ndarray | None = None) -> MaskRCNN:
    """Return the network a training begins with, its initial weights loaded.

    Batch norms whose values came with the weights are frozen, unless the recipe says otherwise:
    estimated anew from a few tiles they would be worse. A backbone that came with weights learns in its
    last `Recipe.trainable_stages`. Without initial weights everything learns.

    Args:
        recipe: which network, weights and anchors.
        categories: in the order of their labels.
        sides: float64[m], mean sides of the items' boxes in px, to fit anchors to.

    Raises:
        WeightsError: the weights cannot be fetched or read, or do not fit the network.
    """
    state, arguments = _read_initial(recipe)
    whole = any(name.startswith("roi_heads.") for name in state)
    if not whole:
        state = {
            f"backbone.body.{name}": value for name, value in state.items() if not name.startswith("fc.")
        }
    if recipe.backbone_stride_in_1x1:
        arguments["backbone_stride_in_1x1"] = True
    if recipe.anchors == "fitted" and sides is not None:
        arguments["anchor_sizes"] = fit_anchors(sides, ANCHOR_SIZES[recipe.network])
    frozen = recipe.frozen_norms
    if frozen == "auto":
        frozen = "none" if not state else "all" if whole else "backbone"
    if frozen != "none":
        arguments["frozen_norms"] = frozen
    model = build(recipe.network, categories, **arguments)
    if state:
        _load(model, state, whole, recipe)
        _hold_stages(model, recipe.trainable_stages)
    return model


def is_within_reach(network: Network, name: str, patience_s: float = 3.0) -> bool:
    """Return whether torchvision's weights were fetched before, or their server answers in so many seconds.

    Args:
        network: of `models.recipe.NETWORKS`.
        name: `imagenet` or `coco`, whichever torchvision offers for it.
        patience_s: seconds.
    """
    url = PUBLISHED[network, name].url
    if cached(Path(urlsplit(url).path).name).is_file():
        return True
    try:
        with urlopen(Request(url, method="HEAD"), timeout=patience_s):
            return True
    except (OSError, HTTPException) as error:
        logger.info("%s: %s", url, error)
        return False


def _read_initial(recipe: Recipe) -> tuple[StateDict, dict[str, Any]]:
    """Return weights, none where training begins without, and what their network must be built with."""
    name = recipe.initial_weights
    if not name:
        return {}, {}
    if name in ("imagenet", "coco"):
        return _fetch(recipe), {}
    path = download(name) if "://" in name else Path(name)
    if path.suffix == ".h5":
        metadata, state = read_weights(path)
        same = metadata.arguments if metadata.network == recipe.network else {}
        return state, {key: value for key, value in same.items() if key != "frozen_norms"}
    return _read_state_dict(path), {}


def _read_state_dict(path: Path) -> StateDict:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise WeightsError(
            "no such initial weights", where=path, remedy="Name imagenet, coco, or a .h5 or .pth file"
        ) from None
    except UNREADABLE as error:
        reason = str(error).strip().partition("\n")[0]
        raise WeightsError(
            f"not a file of weights alone: {reason}",
            where=path,
            remedy="Save a plain state dict with torch.save",
        ) from error
    content = content.get("model", content) if isinstance(content, dict) else content
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError("not a state dict", where=path, remedy="Save a plain state dict with torch.save")
    return {key: value.float() if value.is_floating_point() else value for key, value in content.items()}


def _fetch(recipe: Recipe) -> StateDict:
    try:
        published = PUBLISHED[recipe.network, recipe.initial_weights]
    except KeyError:
        offered = ", ".join(name for network, name in PUBLISHED if network == recipe.network) or "none"
        raise WeightsError(
            f"torchvision has no such weights for {recipe.network}",
            found=recipe.initial_weights,
            remedy=f"Offered: {offered}; or name a .h5 or .pth file, or nothing",
        ) from None
    try:
        return dict(published.get_state_dict(progress=False, check_hash=True))
    except (URLError, OSError, RuntimeError) as error:
        raise WeightsError(
            f"cannot fetch {published.url}: {error}",
            remedy="Download it elsewhere and name the file as initial weights, or train without",
        ) from error


def _load(model: MaskRCNN, state: StateDict, whole: bool, recipe: Recipe) -> None:
    """Load what fits; only the last layers, which hang on the categories, may differ."""
    # Counted batches mean nothing to batch norms that are frozen.
    state = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    left_out = [f"backbone.body.{stage}." for stage in _STAGES if not hasattr(model.backbone.body, stage)]
    state = {name: value for name, value in state.items() if not name.startswith(tuple(left_out))}
    wanted = {name: value.shape for name, value in model.state_dict().items()}
    wanted = {name: shape for name, shape in wanted.items() if not name.endswith("num_batches_tracked")}
    if not whole:
        wanted = {name: shape for name, shape in wanted.items() if name.startswith("backbone.body.")}
    fitting = {name: value for name, value in state.items() if wanted.get(name) == value.shape}
    odd = [name for name in sorted(wanted.keys() | state.keys()) if name not in fitting]
    if unfit := [name for name in odd if not name.startswith(_PREDICTORS)]:
        raise WeightsError(
            f"does not fit {recipe.network} at {unfit[0]} and {len(unfit) - 1} more",
            where=recipe.initial_weights,
            remedy="Name the network the weights were made for",
        )
    if odd:
        logger.info("%s: other categories, the last layers begin at random", recipe.initial_weights)
    model.load_state_dict(fitting, strict=False)


def _hold_stages(model: MaskRCNN, trainable: int) -> None:
    stages = [stage for stage in _STAGES if hasattr(model.backbone.body, stage)]
    for stage in stages[: max(0, len(stages) - trainable)]:
        getattr(model.backbone.body, stage).requires_grad_(False)
