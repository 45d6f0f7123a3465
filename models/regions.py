"""torchvision's transform, region proposals and region heads, altered where tiles of a map ask for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import box_area, clip_boxes_to_image, nms, remove_small_boxes

from models.categories import BACKGROUND
from models.losses import box_loss, classification_loss, known_labels, mask_loss, objectness_loss

IMAGE_MEAN, IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet, red, green, blue, 0 to 1: what torchvision's weights expect."""

NEITHER = -1
"""The label of anchors and proposals that nothing is learnt from."""

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
    """Region proposals that leave ignore boxes alone, and learn from anchors by each tile's own chance."""

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Any]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return per anchor 1 for an item, 0 for background, -1 for neither, and the item's box."""
        labels, matched_gt_boxes = super().assign_targets_to_anchors(anchors, targets)
        for boxes, label, target in zip(anchors, labels, targets, strict=True):
            label[(label == BACKGROUND) & is_ignored(boxes, target)] = NEITHER
            label.copy_(sample(label, self.fg_bg_sampler, target["seed"]))
        return labels, matched_gt_boxes

    def compute_loss(
        self,
        objectness: Tensor,
        pred_bbox_deltas: Tensor,
        labels: list[Tensor],
        regression_targets: list[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Return the losses of objectness and of boxes."""
        label, wanted = torch.cat(labels), torch.cat(regression_targets)
        sampled, items = torch.where(label != NEITHER)[0], torch.where(label > BACKGROUND)[0]
        return (
            objectness_loss(objectness.flatten()[sampled], label[sampled]),
            box_loss(pred_bbox_deltas[items], wanted[items], sampled),
        )


class TileRoIHeads(RoIHeads):
    """Box and mask heads that leave ignore boxes alone and keep every category's probability.

    They learn from items of unknown category what `models.losses` says, and from proposals by each
    tile's own chance. A detection's box is the one of its best category; suppression runs across
    categories, ranked by the probability of being any of them; its score is the largest of its
    probabilities.
    """

    def forward(
        self, features: dict[str, Tensor], proposals: list[Tensor], image_shapes: list, targets: Any = None
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Return detections per tile, with `probabilities` [d,k] beside torchvision's, and losses by name."""
        if self.training:
            return [], self.compute_losses(features, proposals, image_shapes, targets)
        result, _ = super().forward(features, proposals, image_shapes)
        for detections in result:
            detections["probabilities"] = detections["scores"]
            detections["scores"] = detections["probabilities"].amax(dim=1)
        return result, {}

    def compute_losses(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list,
        targets: list[dict[str, Any]],
    ) -> dict[str, Tensor]:
        """Return the losses of names, boxes and masks, as torchvision names them."""
        samples = [self.sample_proposals(*tile) for tile in zip(proposals, targets, strict=True)]
        pooled = self.box_roi_pool(features, [boxes for boxes, _, _ in samples], image_shapes)
        logits, offsets = self.box_predictor(self.box_head(pooled))
        labels = torch.cat([labels for _, labels, _ in samples])
        rows = torch.where(labels > BACKGROUND)[0]
        taught = known_labels(labels, logits)[rows]

        boxes = [boxes[labels > BACKGROUND] for boxes, labels, _ in samples]
        items = [items[labels > BACKGROUND] for _, labels, items in samples]
        item_boxes = [target["boxes"][chosen] for target, chosen in zip(targets, items, strict=True)]
        wanted = torch.cat(list(self.box_coder.encode(item_boxes, boxes)))
        pooled = self.mask_roi_pool(features, boxes, image_shapes)
        mask_logits = self.mask_predictor(self.mask_head(pooled))
        masks = [target["masks"] for target in targets]
        return {
            "loss_classifier": classification_loss(logits, labels),
            "loss_box_reg": box_loss(offsets.unflatten(1, (-1, 4))[rows, taught], wanted, labels),
            "loss_mask": mask_loss(mask_logits, taught, boxes, masks, items),
        }

    def sample_proposals(self, proposals: Tensor, target: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the boxes of a tile that are learnt from [n,4], their labels [n] and items' rows [n].

        They are a sample of its proposals and of its items' own boxes; the row of background is any.
        """
        boxes = torch.cat((proposals, target["boxes"]))
        (items,), (labels,) = self.assign_targets_to_proposals([boxes], [target["boxes"]], [target["labels"]])
        labels[(labels == BACKGROUND) & is_ignored(boxes, target)] = NEITHER
        rows = torch.where(sample(labels, self.fg_bg_sampler, target["seed"]) != NEITHER)[0]
        return boxes[rows], labels[rows], items[rows]

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


def sample(labels: Tensor, share: BalancedPositiveNegativeSampler, seed: int) -> Tensor:
    """Return the labels, [n], with -1 in place of all but a random sample of items and of background.

    Torchvision draws it from the global random state, by which tiles are in a batch; here a tile's
    sample is its own, so that batches can be dealt to processes and trainings resumed in mid-epoch.

    Args:
        labels: above 0 items, 0 background, -1 neither.
        share: how many, and which share of them may be items.
        seed: of the tile.
    """
    chance = torch.Generator(labels.device).manual_seed(seed)
    kept: list[Tensor] = []
    room = int(share.batch_size_per_image * share.positive_fraction)
    for rows in (torch.where(labels > BACKGROUND)[0], torch.where(labels == BACKGROUND)[0]):
        order = torch.randperm(len(rows), generator=chance, device=labels.device)
        kept.append(rows[order[:room]])
        room = share.batch_size_per_image - len(kept[0])
    chosen = torch.full_like(labels, NEITHER)
    rows = torch.cat(kept)
    chosen[rows] = labels[rows]
    return chosen
