"""Anchors fitted to the sizes of buildings."""

from __future__ import annotations

import numpy as np
from scipy.cluster.vq import kmeans2

AnchorSizes = tuple[tuple[float, ...], ...]
"""Mean sides of the boxes that proposals start from, in px, per level of the pyramid from the finest."""


def fit_anchors(sides: np.ndarray, like: AnchorSizes) -> AnchorSizes:
    """Return anchor sizes fitted to items: the centres of clusters of their sides, on a scale of ratios.

    A box's overlap with an anchor depends on the ratio of their sides, so distances are those of
    logarithms. Few items give the sizes that there were.

    Args:
        sides: float64[n], mean side of every item's box in tile px.
        like: sizes whose number of levels and of sizes per level are kept.

    Source: Redmon and Farhadi, "YOLO9000", CVPR 2017, section 2 (dimension clusters).
    """
    counts = [len(level) for level in like]
    total = sum(counts)
    logarithms = np.log(sides[sides > 0])
    if len(np.unique(logarithms.round(2))) < 2 * total:
        return like
    spread = np.quantile(logarithms, (np.arange(total) + 0.5) / total)
    centres, _ = kmeans2(logarithms, spread, minit="matrix", iter=100)
    sizes = iter(np.exp(np.sort(centres)).round(1).tolist())
    return tuple(tuple(next(sizes) for _ in range(count)) for count in counts)
