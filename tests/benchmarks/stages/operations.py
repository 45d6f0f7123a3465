"""What inference asks of a device, counted on one that needs no GPU: not how long it takes, but how often.

Every operation is launched by the CPU one by one, and every answer that the CPU waits for leaves a GPU
idle until the next operation comes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torchvision.models.detection import maskrcnn_resnet50_fpn_v2

from models.maskrcnn import build
from models.predict import Predictor
from tests.another_device import NAME, Device, another_device
from tests.benchmarks.rows import Row
from tests.benchmarks.stages.inference import CATEGORIES

TILES, SIDE = 4, 256
"""A batch; counts do not depend on how many pixels a tile has."""
NETWORK = "maskrcnn_resnet50_fpn_v2"


def rows() -> Iterator[Row]:
    """Ours beside torchvision's network as it comes, both keeping the 100 best of every tile."""
    images = np.random.default_rng(0).integers(0, 255, (TILES, 3, SIDE, SIDE), dtype=np.uint8)
    torch.manual_seed(0)
    with another_device() as device:
        predictor = Predictor(build(NETWORK, CATEGORIES), NAME, "float32", score_threshold=0.0)
        predictor.predict(images[:1])
        ours = _asked(device, lambda: predictor.predict(images))
        stock = maskrcnn_resnet50_fpn_v2(
            weights=None,
            weights_backbone=None,
            num_classes=1 + len(CATEGORIES),
            box_score_thresh=0.0,
            min_size=SIDE,
        )
        stock.to(NAME).eval()
        theirs = _asked(device, lambda: _look(stock, images))
    stage, peer = f"asked of a device, {NETWORK}", "torchvision with its own postprocessing"
    for what, mine, its in zip(("operations", "waits for an answer"), ours, theirs, strict=True):
        yield Row(f"{stage}: {what}", peer, mine, its, "per tile", 1 / 3)


@torch.no_grad()
def _look(network: torch.nn.Module, images: np.ndarray) -> None:
    given = [torch.from_numpy(image).to(NAME).float() / 255 for image in images]
    for found in network(given):
        for value in found.values():
            value.cpu()


def _asked(device: Device, look) -> tuple[float, float]:
    """Operations and waits of one look at a batch, per tile."""
    operations, waits = device.operations, device.waits
    look()
    return (device.operations - operations) / TILES, (device.waits - waits) / TILES
