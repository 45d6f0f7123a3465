"""Several networks' buildings of one image as one: the merger that joins tiles joins networks.

Each network counts as a tile of its own that sees the whole image, so that what they agree on becomes one
building with raised probabilities, and what one alone saw stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import shapely

from pipeline.seams import Detections, MergeRules, merge

JOINED = " + "
"""Between the tags of networks that saw the same building."""
SEEN_SHARE = 0.5
"""Share of the smaller outline that a network's building must have in common with a fused one to have
seen it."""


class ModelBuildings(NamedTuple):
    """What one network found in an image."""

    tag: str
    """`<name>/<weights digest>`."""
    polygons: np.ndarray
    """object[n] of valid polygons, image pixels."""
    probabilities: np.ndarray
    """float64[n, k]."""


def fuse_models(
    models: Sequence[ModelBuildings], width: int, height: int, rules: MergeRules | None = None
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Buildings that any network saw, each once, ordered by top, then left edge.

    Args:
        models: one or more networks, of the same categories.
        width: columns of the image.
        height: rows of the image.
        rules: how tiles' detections, and so networks' buildings, are joined.

    Returns:
        object[m] of polygons in image pixels, float64[m, k] probabilities, and m tags that name every
        network that saw the building, in the order of `models`.
    """
    found = Detections(
        np.concatenate([model.polygons for model in models]),
        np.concatenate([model.probabilities for model in models]),
        np.repeat(np.arange(len(models)), [len(model.polygons) for model in models]),
    )
    fused = merge(found, np.array([[0, 0, width, height]] * len(models)), rules)
    building, seen = shapely.STRtree(found.polygons).query(fused.polygons, predicate="intersects")
    shared = shapely.area(shapely.intersection(fused.polygons[building], found.polygons[seen]))
    smaller = np.minimum(shapely.area(fused.polygons)[building], shapely.area(found.polygons)[seen])
    agreed = shared >= SEEN_SHARE * smaller
    witnesses = np.zeros((len(fused), len(models)), dtype=bool)
    witnesses[building[agreed], found.tiles[seen[agreed]]] = True
    tags = [JOINED.join(models[index].tag for index in np.flatnonzero(row).tolist()) for row in witnesses]
    return fused.polygons, fused.probabilities, tags
