"""Mask R-CNN on tiles, in pixel space: images, boxes and masks; no map, no task graph, no database.

In the order of a run:

1. `categories`  what is told apart, and which number stands for it
2. `recipe`      every knob of training, with its default
3. `tiles`       training tiles on disk; `sampling` which of them an epoch shows, and how often
4. `dataset`     tiles → images and targets, shown otherwise each time (`augment`, `copy_paste`)
5. `maskrcnn`    the networks, by name, from altered heads (`regions`), their `losses`, `anchors` and a
                 small backbone (`small`)
6. `pretrained`  the weights a training begins with, from torchvision, a file or a URL (`download`)
7. `train`       training tiles → `weights.h5`, in epochs (`engine`) of steps (`learner`) on batches
                 (`loading`), in one process or several (`distributed`); a `run` is what outlives the
                 process (`checkpoint`, `interruption`, `events`); `negatives` looks where it could do
                 better
8. `weights`     the HDF5 file of weights and what is known about them
9. `predict`     images → boxes, masks and the probability of every category

Where it computes is for `device` to say, and how many tiles fit there for `memory`; `allocation` keeps at
hand what a CPU's network frees, `compiling` makes its backbone faster where that is asked for.

Importing this package does not import torch: the modules do, each for itself, except `categories`,
`errors` and `recipe`, which settings may read at no cost.
"""
