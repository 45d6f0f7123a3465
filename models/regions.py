"""torchvision's transform, region proposals and region heads, altered where tiles of a map ask for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import box_area, box_iou, clip_boxes_to_image, nms, remove_small_boxes

from models.categories import BACKGROUND

IMAGE_MEAN, IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet, red, green, blue, 0 to 1: what torchvision's weights expect."""

IGNORED_SHARE = 0.5
"""Share of a box's area inside an ignore box from which it is ignored."""


class TileTransform(GeneralizedRCNNTransform):
    """Normalises uint8 images on their own device and pads them to a batch; resizes nothing."""

    def __init__(self) -> None:
        super().__init__(0, 0, list(IMAGE_MEAN), list(IMAGE_STD), size_divisible=32)

    def normalize(self, image: Tensor) -> Tensor:
        """Return float32[3,h,w] of uint8[3,h,w]."""
        return super().normalize(image.float() / 255)

    def resize(self, image: Tensor, target: dict | None = None) -> tuple[Tensor, dict | None]:
        """Return image and target as they are."""
        return image, target

    def postprocess(self, result: list[dict], image_shapes: list, original_image_sizes: list) -> list[dict]:
        """Return the detections as they are; torchvision would paste every mask into the whole tile."""
        return result


class TileRPN(RegionProposalNetwork):
    """Region proposals that leave ignore boxes alone."""

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return per anchor 1 for an item, 0 for background, -1 for neither, and the item's box."""
        labels, matched_gt_boxes = super().assign_targets_to_anchors(anchors, targets)
        for boxes, label, target in zip(anchors, labels, targets, strict=True):
            label[(label == BACKGROUND) & is_ignored(boxes, target)] = -1  # what the sampler passes over
        return labels, matched_gt_boxes

    def compute_loss(
        self,
        objectness: Tensor,
        pred_bbox_deltas: Tensor,
        labels: list[Tensor],
        regression_targets: list[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Return the losses of objectness and of boxes."""
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
        """Return detections per tile, with `probabilities` [d,k] beside torchvision's, and losses by name."""
        if self.training:
            proposals = self.learnt_proposals(proposals, targets)
            if not sum(len(boxes) for boxes in proposals) + sum(len(target["boxes"]) for target in targets):
                nothing = next(iter(features.values())).sum() * 0
                return [], {name: nothing for name in ("loss_classifier", "loss_box_reg", "loss_mask")}
        result, losses = super().forward(features, proposals, image_shapes, targets)
        for detections in result:
            detections["probabilities"] = detections["scores"]
            detections["scores"] = detections["probabilities"].amax(dim=1)
        return result, losses

    def learnt_proposals(self, proposals: list[Tensor], targets: list[dict[str, Tensor]]) -> list[Tensor]:
        """Return the proposals without those that would be background but lie in an ignore box."""
        kept = []
        for boxes, target in zip(proposals, targets, strict=True):
            ignored = is_ignored(boxes, target)
            if len(target["boxes"]):
                ious = box_iou(boxes, target["boxes"]).amax(dim=1)
                ignored &= ious < self.proposal_matcher.low_threshold
            kept.append(boxes[~ignored])
        return kept

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


def is_ignored(boxes: Tensor, target: dict[str, Tensor]) -> Tensor:
    """Return bool[n]: of which boxes at least `IGNORED_SHARE` lies in one ignore box."""
    ignored = target.get("ignore_boxes")
    if ignored is None or not len(ignored):
        return torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    left_top = torch.maximum(boxes[:, None, :2], ignored[None, :, :2])
    right_bottom = torch.minimum(boxes[:, None, 2:], ignored[None, :, 2:])
    shared = (right_bottom - left_top).clamp(min=0).prod(dim=2)
    return (shared >= IGNORED_SHARE * box_area(boxes)[:, None]).any(dim=1)
