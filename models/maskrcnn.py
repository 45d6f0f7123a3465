"""The networks, by name: torchvision's Mask R-CNN, altered where tiles of a map ask for it.

- Input keeps its size: a pixel of the tile is a pixel of the network, at any tile size.
- Every detection keeps the probability of every category, not only of the best.
- Proposals in ignore boxes are neither items nor background.
- Masks stay 28 x 28 probabilities over their box; nothing is pasted into the tile.
- Boxes are computed in float32 whatever precision the convolutions have.

The first four are in `models.regions`, the last is here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torchvision.models.detection import maskrcnn_resnet50_fpn_v2
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign

from models.anchors import AnchorSizes
from models.categories import check_categories, num_classes
from models.errors import WeightsError
from models.frozen_norms import freeze_norms
from models.light import LightBackbone
from models.recipe import FrozenNorms, Network
from models.regions import TileRoIHeads, TileRPN, TileTransform
from models.small import SmallBackbone

ASPECT_RATIOS = (0.5, 1.0, 2.0)
"""Height over width of the boxes that proposals start from."""

_PYRAMID: AnchorSizes = ((32.0,), (64.0,), (128.0,), (256.0,), (512.0,))
ANCHOR_SIZES: dict[Network, AnchorSizes] = {
    "maskrcnn_resnet50_fpn_v2": _PYRAMID,
    "maskrcnn_resnet18_fpn": _PYRAMID,
    "maskrcnn_resnet50_light": ((16.0, 24.0), (36.0, 56.0), (88.0, 140.0)),
    "maskrcnn_small": ((24.0, 40.0), (64.0, 96.0), (144.0, 224.0)),
}
"""The anchors of a network that is not told others."""


class MaskRCNN(GeneralizedRCNN):
    """Mask R-CNN for tiles.

    `model(images, targets)` in training returns losses by name; `model(images)` else returns per
    image boxes float32[d,4] (tile px), labels int64[d], scores float32[d], probabilities float32[d,k]
    and masks float32[d,1,28,28] of the best category. Images are uint8[3,h,w].
    """

    def __init__(
        self, backbone: nn.Module, rpn: TileRPN, roi_heads: TileRoIHeads, categories: tuple[str, ...]
    ):
        super().__init__(backbone, rpn, roi_heads, TileTransform())
        self.categories = categories
        self.network = ""
        self.arguments: dict[str, Any] = {}
        # bfloat16 has 8 significant bits: under autocast a box at 1000 px would be rounded to 4 px,
        # so what geometry is computed from leaves the convolutions as float32.
        for module in (backbone, rpn.head, roi_heads.box_predictor, roi_heads.mask_predictor):
            module.register_forward_hook(lambda _module, _inputs, output: _to_float32(output))


def build(network: str, categories: tuple[str, ...], **arguments: Any) -> MaskRCNN:
    """Return a network with random weights.

    Args:
        network: one of `models.recipe.NETWORKS`.
        categories: in the order of their labels, background left out.
        arguments: `frozen_norms` ("none", "backbone" or "all": batch norms that keep their values,
            `models.frozen_norms`), `anchor_sizes` (as in `ANCHOR_SIZES`) and, for a ResNet-50,
            `backbone_stride_in_1x1`.

    Raises:
        WeightsError: the name or an argument is not known.
    """
    if network not in BUILDERS:
        raise WeightsError("unknown network", found=network, remedy=f"Known are {', '.join(BUILDERS)}")
    options = dict(arguments)
    frozen: FrozenNorms = options.pop("frozen_norms", "none")
    sizes = _anchor_sizes(network, options.pop("anchor_sizes", ANCHOR_SIZES[network]))
    try:
        model = BUILDERS[network](check_categories(categories), sizes, **options)
    except TypeError as error:
        raise WeightsError(f"unknown argument of {network}", found=arguments) from error
    if frozen != "none":
        freeze_norms(model if frozen == "all" else model.backbone.body)
    model.network, model.arguments = network, dict(arguments)
    return model


def _anchor_sizes(network: Network, sizes: Any) -> AnchorSizes:
    wanted = [len(level) for level in ANCHOR_SIZES[network]]
    try:
        given = tuple(tuple(float(size) for size in level) for level in sizes)
    except (TypeError, ValueError):
        given = ()
    if [len(level) for level in given] != wanted or not all(size > 0 for level in given for size in level):
        raise WeightsError(f"{network} has {wanted} anchor sizes per level", found=sizes)
    return given


def _resnet50_fpn_v2(
    categories: tuple[str, ...], anchor_sizes: AnchorSizes, backbone_stride_in_1x1: bool = False
) -> MaskRCNN:
    parts = maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=num_classes(categories))
    if backbone_stride_in_1x1:
        _halve_in_1x1(parts.backbone.body)
    heads = dict(parts.roi_heads.named_children())
    return _assemble(categories, parts.backbone, _anchors(anchor_sizes), parts.rpn.head, heads)


def _resnet18_fpn(categories: tuple[str, ...], anchor_sizes: AnchorSizes) -> MaskRCNN:
    backbone = resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5
    )
    heads = _heads(["0", "1", "2", "3"], backbone.out_channels, num_classes(categories), 1024)
    return _assemble(categories, backbone, _anchors(anchor_sizes), RPNHead(backbone.out_channels, 3), heads)


def _halve_in_1x1(body: nn.Module) -> None:
    for stage in ("layer2", "layer3", "layer4"):
        if hasattr(body, stage):
            block = getattr(body, stage)[0]
            block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)


def _resnet50_light(
    categories: tuple[str, ...], anchor_sizes: AnchorSizes, backbone_stride_in_1x1: bool = False
) -> MaskRCNN:
    backbone = LightBackbone()
    if backbone_stride_in_1x1:
        _halve_in_1x1(backbone.body)
    return _with_small_heads(categories, anchor_sizes, backbone)


def _small(categories: tuple[str, ...], anchor_sizes: AnchorSizes) -> MaskRCNN:
    return _with_small_heads(categories, anchor_sizes, SmallBackbone())


def _with_small_heads(
    categories: tuple[str, ...], anchor_sizes: AnchorSizes, backbone: LightBackbone | SmallBackbone
) -> MaskRCNN:
    # To be learnt on two cores: narrow heads, few proposals.
    anchors, channels = _anchors(anchor_sizes), backbone.out_channels
    heads = _heads(backbone.levels, channels, num_classes(categories), 256, canonical_scale=96)
    rpn_head = RPNHead(channels, 2 * len(ASPECT_RATIOS))
    return _assemble(
        categories, backbone, anchors, rpn_head, heads, proposals=256, anchors_learnt=128, proposals_learnt=64
    )


def _anchors(sizes: AnchorSizes) -> AnchorGenerator:
    return AnchorGenerator(sizes, (ASPECT_RATIOS,) * len(sizes))


def _heads(
    levels: list[str], channels: int, classes: int, box_width: int, canonical_scale: int = 224
) -> dict[str, nn.Module]:
    """Return the plain heads of Mask R-CNN: two layers for boxes, four convolutions for masks."""
    return {
        "box_roi_pool": MultiScaleRoIAlign(levels, 7, 2, canonical_scale=canonical_scale),
        "box_head": TwoMLPHead(channels * 7**2, box_width),
        "box_predictor": FastRCNNPredictor(box_width, classes),
        "mask_roi_pool": MultiScaleRoIAlign(levels, 14, 2, canonical_scale=canonical_scale),
        "mask_head": MaskRCNNHeads(channels, [channels] * 4, 1),
        "mask_predictor": MaskRCNNPredictor(channels, channels, classes),
    }


def _assemble(
    categories: tuple[str, ...],
    backbone: nn.Module,
    anchors: AnchorGenerator,
    rpn_head: RPNHead,
    heads: Mapping[str, Any],
    proposals: int = 1000,
    anchors_learnt: int = 256,
    proposals_learnt: int = 512,
) -> MaskRCNN:
    """Return the network of these parts; numbers are per tile, thresholds torchvision's defaults."""
    rpn = TileRPN(
        anchors,
        rpn_head,
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=anchors_learnt,
        positive_fraction=0.5,
        pre_nms_top_n={"training": 2 * proposals, "testing": proposals},
        post_nms_top_n={"training": proposals, "testing": proposals},
        nms_thresh=0.7,
    )
    roi_heads = TileRoIHeads(
        **heads,
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=proposals_learnt,
        positive_fraction=0.25,
        bbox_reg_weights=None,
        score_thresh=0.05,
        nms_thresh=0.5,
        detections_per_img=100,
    )
    return MaskRCNN(backbone, rpn, roi_heads, categories)


def _to_float32(output: Any) -> Any:
    if isinstance(output, Tensor):
        return output.float() if output.is_floating_point() else output
    if isinstance(output, dict):
        return type(output)((name, _to_float32(value)) for name, value in output.items())
    return type(output)(_to_float32(value) for value in output)


BUILDERS: dict[Network, Callable[..., MaskRCNN]] = {
    "maskrcnn_resnet50_fpn_v2": _resnet50_fpn_v2,
    "maskrcnn_resnet18_fpn": _resnet18_fpn,
    "maskrcnn_resnet50_light": _resnet50_light,
    "maskrcnn_small": _small,
}
