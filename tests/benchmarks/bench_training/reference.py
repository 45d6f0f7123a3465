"""torchvision's reference training of Mask R-CNN, as its script does it with its defaults.

`maskrcnn_resnet50_fpn` on images resized to 800 px, on an ImageNet backbone of which three stages learn
and whose batch norms are frozen; images without annotations left out; two images a step; SGD at 0.02
for eight GPUs, so 0.0025 for one, momentum 0.9, weight decay 1e-4; a linear rise over the first of 26
epochs, a tenth from the 16th on and again from the 22nd; flips from left to right and nothing else.
It learns for a given time: the steps of its schedule stand at shares of that.

Source: pytorch/vision, references/detection/train.py and its README.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.models import resnet50
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.models.detection.transform import resize_boxes
from torchvision.ops import FrozenBatchNorm2d
from torchvision.transforms.v2 import functional

from models.categories import num_classes
from models.dataset import Target, TileDataset
from models.device import choose_device
from models.predict import Prediction
from models.recipe import Recipe
from models.tiles import TrainingTile

EPOCHS, WARM, FALLS = 26, 1, (16, 22)
RATE, MOMENTUM, DECAY, BATCH = 0.02 / 8, 0.9, 1e-4, 2


def build(categories: Sequence[str], weights: Path) -> MaskRCNN:
    """The network on a Caffe-style ResNet-50's state dict; without that file it begins at random."""
    if not weights.is_file():
        return MaskRCNN(_resnet_fpn_extractor(resnet50(weights=None), 5), num_classes(tuple(categories)))
    trunk = resnet50(weights=None, norm_layer=FrozenBatchNorm2d)
    for stage in (trunk.layer2, trunk.layer3, trunk.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    state = torch.load(weights, map_location="cpu", weights_only=True)
    trunk.load_state_dict({name: value.float() for name, value in state.items()}, strict=False)
    return MaskRCNN(_resnet_fpn_extractor(trunk, 3), num_classes(tuple(categories)))


def learning_rate(done: float) -> float:
    """The rate when a share of the time has passed.

    >>> [round(learning_rate(epoch / 26) * 8, 5) for epoch in (0.5, 2, 17, 23)]
    [0.01001, 0.02, 0.002, 0.0002]
    """
    epoch = done * EPOCHS
    return RATE * min(1, 1e-3 + (1 - 1e-3) * epoch / WARM) * 0.1 ** sum(epoch >= fall for fall in FALLS)


def learn(
    model: MaskRCNN, tiles: Sequence[TrainingTile], categories: tuple[str, ...], seconds: float, device: str
) -> int:
    """Teach a network for so many seconds, of the processor's time on a CPU; returns the tiles it saw.

    Raises:
        FloatingPointError: a loss is not finite.
    """
    where, chance = choose_device(device), np.random.default_rng(1)
    clock = time.process_time if where.type == "cpu" else time.monotonic
    samples = [_known(sample, categories) for sample in iter_tiles(tiles, categories)]
    samples = [(image, target) for image, target in samples if len(target["boxes"])]
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learnt, lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)
    model.to(where).train()
    start, order = clock(), np.empty(0, dtype=int)
    for step in count():
        done = (clock() - start) / seconds
        if done >= 1:
            return step * BATCH
        if len(order) < BATCH:
            order = chance.permutation(len(samples))
        rows, order = order[:BATCH], order[BATCH:]
        batch = [_flip(*samples[row]) if chance.random() < 0.5 else samples[row] for row in rows]
        images = [(image.float() / 255).to(where) for image, _ in batch]
        targets = [{name: target[name].to(where) for name in _TAUGHT} for _, target in batch]
        loss = torch.stack(list(model(images, targets).values())).sum()
        if not loss.isfinite():
            raise FloatingPointError(f"the reference's loss is {loss.item()} at step {step}")
        optimizer.param_groups[0]["lr"] = learning_rate(done)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    raise AssertionError("count() ends never")


_TAUGHT = ("boxes", "labels", "masks")


def iter_tiles(tiles: Sequence[TrainingTile], categories: tuple[str, ...]) -> list[tuple[Tensor, Target]]:
    """Every tile as it lies."""
    data = TileDataset(tiles, categories, Recipe())
    return [data[index] for index in range(len(data))]


def _known(sample: tuple[Tensor, Target], categories: tuple[str, ...]) -> tuple[Tensor, Target]:
    image, target = sample
    known = target["labels"] < num_classes(categories)
    return image, {name: target[name][known] for name in _TAUGHT}


def _flip(image: Tensor, target: Target) -> tuple[Tensor, Target]:
    boxes = target["boxes"].clone()
    boxes[:, [0, 2]] = image.shape[2] - boxes[:, [2, 0]]
    return functional.horizontal_flip(image), target | {"boxes": boxes, "masks": target["masks"].flip(2)}


class ReferencePredictor:
    """What `models.predict.Predictor` is to ours: torchvision's detections, masks left as small grids."""

    def __init__(self, model: MaskRCNN, categories: tuple[str, ...], device: str):
        self.device, self.categories = choose_device(device), categories
        self.name, self.digest = "maskrcnn_resnet50_fpn", "reference"
        self._model = model.to(self.device).eval()
        model.transform.postprocess = _postprocess

    @torch.inference_mode()
    def predict(self, images: np.ndarray) -> list[Prediction]:
        """What is found in each of uint8[n,3,h,w] images."""
        given = list(torch.from_numpy(np.ascontiguousarray(images)).to(self.device).float() / 255)
        return [self._prediction(found) for found in self._model(given)]

    def _prediction(self, found: dict[str, Tensor]) -> Prediction:
        boxes, scores, labels, masks = (
            found[name].float().cpu().numpy() for name in ("boxes", "scores", "labels", "masks")
        )
        probabilities = np.zeros((len(scores), len(self.categories)), dtype=np.float32)
        probabilities[np.arange(len(scores)), labels.astype(int) - 1] = scores
        return Prediction(boxes, scores, probabilities, masks[:, 0])


def _postprocess(result: list[dict], shapes: list, sizes: list) -> list[dict]:
    for found, shape, size in zip(result, shapes, sizes, strict=True):
        found["boxes"] = resize_boxes(found["boxes"], shape, size)
    return result
