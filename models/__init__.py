"""Mask R-CNN on tiles, in pixel space: images, boxes and masks; no map, no task graph, no database.

In the order of a run:

1. `categories`  what is told apart, and which number stands for it
2. `recipe`      every knob of training, with its default
3. `dataset`     training tiles → images and targets
4. `maskrcnn`    the networks, by name, from altered heads (`regions`) and a small backbone (`small`)
5. `pretrained`  the weights a training begins with
6. `train`       training tiles → `weights.h5`, in epochs (`engine`) that are kept (`checkpoint`)
7. `weights`     the HDF5 file of weights and what is known about them
8. `predict`     images → boxes, masks and the probability of every category

Importing this package does not import torch: the modules do, each for itself, except `categories`,
`errors` and `recipe`, which settings may read at no cost.
"""
