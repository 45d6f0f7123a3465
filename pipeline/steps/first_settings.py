"""The luigi.cfg that a workspace gets with its first image: what suits the machine and can be had from there.

The recipes are the measured ones (docs/benchmarks.md).
"""

from __future__ import annotations

from pathlib import Path

from pipeline.raster import read_grid


def write_settings(folder: Path, image: Path, gpu: bool | None = None) -> bool:
    """Writes a luigi.cfg that suits a machine where a folder has none; returns whether it did.

    Learning begins with torchvision's weights, if they can be had from there.

    Args:
        folder: the workspace.
        image: one of its images.
        gpu: whether the machine has one; None looks.

    Raises:
        SourceError, RasterError: the image cannot be read.
    """
    path = folder / "luigi.cfg"
    if path.exists():
        return False
    path.write_text(_FOR_ALL + _for_machine(image, gpu), encoding="utf-8")
    return True


def _for_machine(image: Path, gpu: bool | None) -> str:
    import torch

    from models.pretrained import is_within_reach
    from models.recipe import Recipe

    if torch.cuda.is_available() if gpu is None else gpu:
        return _FOR_GPU if is_within_reach(Recipe.network, "coco") else _FOR_GPU_ALONE
    if not is_within_reach("maskrcnn_resnet50_light", "imagenet"):
        return _FOR_CPU_ALONE + _SMALL_TILES
    return _FOR_CPU + _SMALL_TILES + (_COARSER if max(read_grid(image).ground_m_per_px) < _FINE_M else "")


_FINE_M = 0.1
"""Metres on the ground: tiles of 512 pixels that are finer show too few buildings whole."""
_FOR_ALL = """\
# Settings of this workspace; docs/settings.md lists all of them, with the defaults of those not set here.
"""
_FOR_GPU = """\

# Training starts from torchvision's weights, pretrained on COCO, which are downloaded once.
[Training]
initial_weights = coco
"""
_FOR_GPU_ALONE = """\

# torchvision's weights cannot be downloaded from here, so the network is trained from scratch, which takes
# many more labels. If you have a copy of the weights (.pth), or of a ResNet-50's, name it here:
# [Training]
# initial_weights = maskrcnn_resnet50_fpn_v2_coco.pth
"""
_FOR_CPU = """\

# This machine has no GPU that torch can use: a light network with a backbone pretrained on ImageNet (which is
# downloaded once), smaller tiles, and training on 2,000 sampled tiles, which takes about half an hour.
[Training]
network = maskrcnn_resnet50_light
initial_weights = imagenet
trainable_stages = 2
anchors = fitted
tiles_per_epoch = 500
epochs = 4
batch_size = 2
learning_rate = 0.0005
warmup_steps = 50
"""
_SMALL_TILES = """\

[Tiling]
tile_size = 512
overlap = 128
"""
_COARSER = """\

# The images are finer than this. Choose the value so that a tile is at least three times as wide as most
# buildings.
[Imagery]
metres_per_pixel = 0.15
"""
_FOR_CPU_ALONE = """\

# This machine has no GPU that torch can use, and torchvision's weights cannot be downloaded from here: a
# small network, smaller tiles, and training on 4,000 sampled tiles, which takes some minutes. Twice the
# epochs find more buildings, and a light network with pretrained weights finds far more (docs/tutorial.md).
[Training]
network = maskrcnn_small
epochs = 40
tiles_per_epoch = 100
learning_rate = 0.001
"""
