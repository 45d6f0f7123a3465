"""What a network's heads are asked to lower: torchvision's losses, for items of unknown category too.

An item of unknown category (the label after the last) is an item all the same. Its proposals are asked
to be of *any* category, -log of the sum of the probabilities, so that nothing is said about which; its
box and mask are taught to the category the network itself holds likeliest, whose box and mask it would
give. Without such items every loss is torchvision's.

Sums are divided by counts over all processes, so that a batch costs the same however it is dealt out.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.models.detection.roi_heads import project_masks_on_boxes

from models.categories import BACKGROUND
from models.distributed import mean_over_processes

_BETA = 1 / 9
"""Error of a box's offset from which its loss grows linearly, as in torchvision."""


def objectness_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the loss of proposing or not: logits float32[n], labels float32[n] of 0 and 1."""
    loss = functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum")
    return loss / _count(logits)


def classification_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the loss of naming: logits float32[n,k+1], labels int64[n], 0 to k, or k + 1 for unknown."""
    log_probabilities = logits.log_softmax(dim=1)
    unknown = labels == logits.shape[1]
    of_label = log_probabilities.gather(1, labels.masked_fill(unknown, BACKGROUND)[:, None])[:, 0]
    of_any = log_probabilities[:, BACKGROUND + 1 :].logsumexp(dim=1)
    return -torch.where(unknown, of_any, of_label).sum() / _count(labels)


def box_loss(offsets: Tensor, wanted: Tensor, looked_at: Tensor) -> Tensor:
    """Return the loss of boxes.

    Args:
        offsets: float32[p,4] of the p proposals or anchors of items.
        wanted: float32[p,4].
        looked_at: [n], one entry for every proposal or anchor that was looked at, of items or not.
    """
    return functional.smooth_l1_loss(offsets, wanted, beta=_BETA, reduction="sum") / _count(looked_at)


def mask_loss(
    logits: Tensor, labels: Tensor, proposals: list[Tensor], masks: list[Tensor], items: list[Tensor]
) -> Tensor:
    """Return the loss of masks.

    Args:
        logits: float32[p,k+1,m,m] of the p proposals of items.
        labels: int64[p], whose mask is taught.
        proposals: float32[p_i,4] per tile, p in all.
        masks: uint8[n_i,h,w] of the items of each tile.
        items: int64[p_i] per tile, which item a proposal is of.
    """
    side = logits.shape[-1]
    wanted = [project_masks_on_boxes(*of_tile, side) for of_tile in zip(masks, proposals, items, strict=True)]
    taught = logits[torch.arange(len(labels), device=labels.device), labels]
    loss = functional.binary_cross_entropy_with_logits(taught, torch.cat(wanted), reduction="sum")
    return loss / (_count(labels) * side**2)


def known_labels(labels: Tensor, logits: Tensor) -> Tensor:
    """Return int64[n] with the likeliest category in place of an unknown one; logits float32[n,k+1]."""
    likeliest = logits.detach()[:, BACKGROUND + 1 :].argmax(dim=1) + BACKGROUND + 1
    return torch.where(labels == logits.shape[1], likeliest, labels)


def _count(entries: Tensor) -> Tensor:
    """Return the mean number of entries over the processes, at least 1 in all."""
    count = mean_over_processes(torch.tensor(float(len(entries)), device=entries.device))
    return count.clamp(min=1e-6)
