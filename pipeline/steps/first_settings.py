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
# Settings of this folder; all there are: docs/settings.md. What is not here has its default.
"""
_FOR_GPU = """\

# Learning begins with torchvision's network, which has seen many things; it is fetched once.
[Training]
initial_weights = coco
"""
_FOR_GPU_ALONE = """\

# torchvision's weights are out of reach from here, and learning begins from nothing, which takes many more
# labels. Where you have a copy of them (.pth), or of a ResNet-50's, name it:
# [Training]
# initial_weights = maskrcnn_resnet50_fpn_v2_coco.pth
"""
_FOR_CPU = """\

# This machine has no GPU that torch can use: a light network on a trunk that has seen many pictures (it is
# fetched once), tiles to match, and 2,000 looks at tiles, however few there are. That is half an hour.
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

# The images are finer. Choose it so that most buildings fit into a tile three times over.
[Imagery]
metres_per_pixel = 0.15
"""
_FOR_CPU_ALONE = """\

# This machine has no GPU that torch can use, and torchvision's weights are out of reach from here: a small
# network, tiles to match, and 4,000 looks at tiles, however few there are. That is some minutes; twice the
# epochs find more, and far more finds a light network that begins with given weights (docs/tutorial.md).
[Training]
network = maskrcnn_small
epochs = 40
tiles_per_epoch = 100
learning_rate = 0.001
"""
