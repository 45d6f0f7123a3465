"""The networks, by name: torchvision's Mask R-CNN, altered where tiles of a map ask for it.

- Input keeps its size: a pixel of the tile is a pixel of the network, at any tile size.
- Every detection keeps the probability of every category, not only of the best.
- Proposals in ignore boxes are neither items nor background.
- Masks stay 28 x 28 probabilities over their box; nothing is pasted into the tile.
- Boxes are computed in float32 whatever precision the convolutions have.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.models.detection import maskrcnn_resnet50_fpn_v2
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import (
    FeaturePyramidNetwork,
    FrozenBatchNorm2d,
    MultiScaleRoIAlign,
    box_area,
    box_iou,
    clip_boxes_to_image,
    nms,
    remove_small_boxes,
)

from models.categories import BACKGROUND, check_categories, num_classes
from models.errors import WeightsError

IMAGE_MEAN, IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet, red, green, blue, 0 to 1: what torchvision's weights expect."""

IGNORED_SHARE = 0.5
"""Share of a box's area inside an ignore box from which it is ignored."""

FrozenNorms = Literal["none", "backbone", "all"]


class TileTransform(GeneralizedRCNNTransform):
    """Normalises uint8 images on their own device and pads them to a batch; resizes nothing."""

    def __init__(self) -> None:
        super().__init__(0, 0, list(IMAGE_MEAN), list(IMAGE_STD), size_divisible=32)

    def normalize(self, image: Tensor) -> Tensor:
        return super().normalize(image.float() / 255)

    def resize(self, image: Tensor, target: dict | None = None) -> tuple[Tensor, dict | None]:
        return image, target

    def postprocess(self, result: list[dict], image_shapes: list, original_image_sizes: list) -> list[dict]:
        return result


class TileRPN(RegionProposalNetwork):
    """Region proposals that leave ignore boxes alone."""

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        labels, matched_gt_boxes = super().assign_targets_to_anchors(anchors, targets)
        for boxes, label, target in zip(anchors, labels, targets, strict=True):
            label[(label == BACKGROUND) & _is_ignored(boxes, target)] = -1  # what the sampler passes over
        return labels, matched_gt_boxes

    def compute_loss(
        self,
        objectness: Tensor,
        pred_bbox_deltas: Tensor,
        labels: list[Tensor],
        regression_targets: list[Tensor],
    ) -> tuple[Tensor, Tensor]:
        # A tile that one ignored item fills leaves nothing to learn from; a mean over nothing is NaN.
        if all((label < 0).all() for label in labels):
            return objectness.sum() * 0, pred_bbox_deltas.sum() * 0
        return super().compute_loss(objectness, pred_bbox_deltas, labels, regression_targets)


class TileRoIHeads(RoIHeads):
    """Box and mask heads that leave ignore boxes alone and keep every category's probability.

    A detection's box is the one of its best category; suppression runs across categories, ranked by
    the probability of being any of them; its score is the largest of its probabilities.
    """

    def forward(
        self, features: dict[str, Tensor], proposals: list[Tensor], image_shapes: list, targets: Any = None
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        if self.training:
            proposals = [
                boxes[~_is_ignored(boxes, target) | self._is_foreground(boxes, target)]
                for boxes, target in zip(proposals, targets, strict=True)
            ]
            if not sum(len(boxes) for boxes in proposals) + sum(len(target["boxes"]) for target in targets):
                nothing = next(iter(features.values())).sum() * 0
                return [], {name: nothing for name in ("loss_classifier", "loss_box_reg", "loss_mask")}
        result, losses = super().forward(features, proposals, image_shapes, targets)
        for detections in result:
            detections["probabilities"] = detections["scores"]
            detections["scores"] = detections["probabilities"].amax(dim=1)
        return result, losses

    def _is_foreground(self, boxes: Tensor, target: dict[str, Tensor]) -> Tensor:
        if not len(target["boxes"]):
            return torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
        return box_iou(boxes, target["boxes"]).amax(dim=1) >= self.proposal_matcher.high_threshold

    def postprocess_detections(
        self, class_logits: Tensor, box_regression: Tensor, proposals: list[Tensor], image_shapes: list
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Return boxes [d,4], probabilities [d,k] where torchvision returns scores [d], labels [d]."""
        tiles = [len(boxes) for boxes in proposals]
        all_boxes = self.box_coder.decode(box_regression, proposals).split(tiles)
        all_probabilities = class_logits.softmax(dim=-1).split(tiles)
        kept: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
        for boxes, probabilities, shape in zip(all_boxes, all_probabilities, image_shapes, strict=True):
            foreground = 1 - probabilities[:, BACKGROUND]
            probabilities = probabilities[:, BACKGROUND + 1 :]
            scores, best = probabilities.max(dim=1)
            boxes = boxes[torch.arange(len(boxes), device=boxes.device), best + 1]
            boxes = clip_boxes_to_image(boxes, shape)
            rows = torch.where(scores > self.score_thresh)[0]
            rows = rows[remove_small_boxes(boxes[rows], min_size=1.0)]
            rows = rows[nms(boxes[rows], foreground[rows], self.nms_thresh)][: self.detections_per_img]
            for values, value in zip(kept, (boxes, probabilities, best + 1), strict=True):
                values.append(value[rows])
        return kept


class MaskRCNN(GeneralizedRCNN):
    """Mask R-CNN for tiles.

    `model(images, targets)` in training returns losses by name; `model(images)` else returns per
    image boxes float32[d,4] (tile px), labels int64[d], scores float32[d], probabilities float32[d,k]
    and masks float32[d,1,28,28] of the best category. Images are uint8[3,h,w].
    """

    def __init__(
        self,
        backbone: nn.Module,
        rpn: RegionProposalNetwork,
        roi_heads: RoIHeads,
        categories: tuple[str, ...],
    ):
        super().__init__(backbone, rpn, roi_heads, TileTransform())
        self.categories = categories
        self.network, self.arguments = "", {}  # type: str, dict[str, Any]
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
            `FrozenBatchNorm2d`) and, for a ResNet-50, `backbone_stride_in_1x1`.

    Raises:
        WeightsError: the name or an argument is not known.
    """
    try:
        make = BUILDERS[network]
    except KeyError:
        raise WeightsError(
            "unknown network", found=network, remedy=f"Known are {', '.join(BUILDERS)}"
        ) from None
    categories = check_categories(categories)
    options = dict(arguments)
    frozen: FrozenNorms = options.pop("frozen_norms", "none")
    try:
        model = make(categories, **options)
    except TypeError as error:
        raise WeightsError(f"unknown argument of {network}", found=arguments) from error
    if frozen != "none":
        _freeze_norms(model if frozen == "all" else model.backbone.body)
    model.network, model.arguments = network, dict(arguments)
    return model


def _resnet50_fpn_v2(categories: tuple[str, ...], backbone_stride_in_1x1: bool = False) -> MaskRCNN:
    parts = maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=num_classes(categories))
    if backbone_stride_in_1x1:
        for stage in ("layer2", "layer3", "layer4"):
            block = getattr(parts.backbone.body, stage)[0]
            block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)
    return _assemble(
        categories,
        parts.backbone,
        parts.rpn.anchor_generator,
        parts.rpn.head,
        vars(parts.roi_heads)["_modules"],
    )


class SmallBackbone(nn.Module):
    def __init__(
        self, norm="group", widths=(32, 64, 128, 192), blocks=(2, 2, 2), stem=32, channels=64, act=nn.ReLU
    ):
        super().__init__()
        norm_layer = {"group": lambda c: nn.GroupNorm(max(1, c // 16), c), "batch": nn.BatchNorm2d}[norm]
        self.body = nn.ModuleDict()
        self.body["stem"] = nn.Sequential(
            nn.Conv2d(3, stem, 3, 2, 1, bias=False),
            norm_layer(stem),
            nn.ReLU(inplace=True),
            nn.Conv2d(stem, widths[0], 3, 2, 1, bias=False),
            norm_layer(widths[0]),
            nn.ReLU(inplace=True),
        )
        cin = widths[0]
        for i, (w, n) in enumerate(zip(widths[1:], blocks)):
            layers = []
            for j in range(n):
                stride = 2 if j == 0 else 1
                down = (
                    nn.Sequential(nn.Conv2d(cin, w, 1, stride, bias=False), norm_layer(w)) if j == 0 else None
                )
                layers.append(resnet.BasicBlock(cin, w, stride, down, norm_layer=norm_layer))
                cin = w
            self.body[f"layer{i + 1}"] = nn.Sequential(*layers)
        self.fpn = FeaturePyramidNetwork(list(widths[1:]), channels, norm_layer=norm_layer)
        self.out_channels = channels
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x):
        maps = OrderedDict()
        for name, stage in self.body.items():
            x = stage(x)
            if name != "stem":
                maps[name] = x
        return self.fpn(maps)


def _small(
    categories,
    norm="group",
    widths=(32, 64, 128, 192),
    blocks=(2, 2, 2),
    channels=64,
    mlp=256,
    mask_layers=4,
    rois=64,
    proposals=256,
    rpn_batch=128,
    mask_channels=64,
    pos=0.25,
    anchors=((24, 40), (64, 96), (144, 224)),
    stem=32,
) -> MaskRCNN:
    n = num_classes(categories)
    backbone = SmallBackbone(norm, widths, blocks, channels=channels, stem=stem)
    levels = ["layer1", "layer2", "layer3"]
    anchor = AnchorGenerator(anchors, ((0.5, 1.0, 2.0),) * 3)
    c = backbone.out_channels
    parts = {
        "box_roi_pool": MultiScaleRoIAlign(levels, 7, 2, canonical_scale=96, canonical_level=4),
        "box_head": TwoMLPHead(c * 49, mlp),
        "box_predictor": FastRCNNPredictor(mlp, n),
        "mask_roi_pool": MultiScaleRoIAlign(levels, 14, 2, canonical_scale=96, canonical_level=4),
        "mask_head": MaskRCNNHeads(c, [mask_channels] * mask_layers, 1),
        "mask_predictor": MaskRCNNPredictor(mask_channels, mask_channels, n),
    }
    return _assemble(
        categories,
        backbone,
        anchor,
        RPNHead(c, anchor.num_anchors_per_location()[0]),
        parts,
        rpn_batch=rpn_batch,
        proposals=proposals,
        rois=rois,
        pos=pos,
    )


def _assemble(
    categories, backbone, anchors, rpn_head, heads, rpn_batch=256, proposals=1000, rois=512, pos=0.25
) -> MaskRCNN:
    rpn = TileRPN(
        anchors,
        rpn_head,
        0.7,
        0.3,
        rpn_batch,
        0.5,
        {"training": 2 * proposals, "testing": proposals},
        {"training": proposals, "testing": proposals},
        0.7,
    )
    roi_heads = TileRoIHeads(
        heads["box_roi_pool"],
        heads["box_head"],
        heads["box_predictor"],
        0.5,
        0.5,
        rois,
        pos,
        None,
        0.05,
        0.5,
        100,
        heads["mask_roi_pool"],
        heads["mask_head"],
        heads["mask_predictor"],
    )
    return MaskRCNN(backbone, rpn, roi_heads, categories)


def _is_ignored(boxes: Tensor, target: dict[str, Tensor]) -> Tensor:
    """Return bool[n]: of which boxes at least `IGNORED_SHARE` lies in one ignore box."""
    ignored = target.get("ignore_boxes")
    if ignored is None or not len(ignored):
        return torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    left_top = torch.maximum(boxes[:, None, :2], ignored[None, :, :2])
    right_bottom = torch.minimum(boxes[:, None, 2:], ignored[None, :, 2:])
    shared = (right_bottom - left_top).clamp(min=0).prod(dim=2)
    return (shared >= IGNORED_SHARE * box_area(boxes)[:, None]).any(dim=1)


def _to_float32(output: Any) -> Any:
    if isinstance(output, Tensor):
        return output.float() if output.is_floating_point() else output
    if isinstance(output, dict):
        return type(output)((name, _to_float32(value)) for name, value in output.items())
    return type(output)(_to_float32(value) for value in output)


def _freeze_norms(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            frozen = FrozenBatchNorm2d(child.num_features, eps=child.eps)
            frozen.load_state_dict(child.state_dict())
            setattr(module, name, frozen)
        else:
            _freeze_norms(child)


BUILDERS: dict[str, Callable[..., MaskRCNN]] = {
    "maskrcnn_resnet50_fpn_v2": _resnet50_fpn_v2,
    "maskrcnn_small": _small,
}
