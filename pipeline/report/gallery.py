"""Which buildings are worth a look from near, and the windows that show them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import shapely

from pipeline.report.outcomes import FALSE, MISSED, MISTAKEN
from pipeline.schema import Window

SHOWN = 12
"""Pictures of a gallery at most."""
CROP_SIDE = 256
"""Longer side of a picture at most, in its own pixels."""
MIN_WINDOW_PX = 96
"""Least side of a window in image pixels: a hut alone would tell nothing."""
MARGIN = 0.6
"""Ground around a building on each side, as a share of its longer side."""


class Picture(NamedTuple):
    """A small picture of the image."""

    content: bytes
    """JPEG or PNG."""
    width: int
    """Pixels."""
    height: int
    """Pixels."""


class Crop(NamedTuple):
    """One building from near."""

    window: Window
    """What the picture shows, image pixels; its offsets are multiples of `factor`."""
    factor: int
    """Image pixels per pixel of the picture, and axis."""
    building: int | None
    """Index of the building, None for a missed label."""
    label: int | None
    """Index of the label, None where none belongs to the building."""
    picture: Picture | None = None
    """None until it is read."""


class Gallery(NamedTuple):
    """Pictures of one kind."""

    title: str
    text: str
    """What they have in common, and how they were chosen."""
    total: int
    """Buildings of this kind, shown or not."""
    crops: list[Crop]


def choose_galleries(
    polygons_px: np.ndarray,
    confidences: np.ndarray,
    truths_px: np.ndarray,
    found: np.ndarray,
    labelled: np.ndarray,
    mistaken: Sequence[tuple[int, int]],
    size: tuple[int, int],
) -> list[Gallery]:
    """The worst of each kind of mistake, and the buildings the network is least sure of; none without any.

    Args:
        polygons_px: object[n], the buildings.
        confidences: float64[n].
        truths_px: object[m], the labels.
        found: object[n], outcome of each building.
        labelled: object[m], outcome of each label.
        mistaken: building and label of each class mistake.
        size: of the image, width and height in pixels.
    """
    label_of = dict(mistaken)
    sure = np.argsort(-confidences, kind="stable")
    large = np.argsort(-np.nan_to_num(shapely.area(truths_px)), kind="stable")
    drawn = large[(shapely.area(truths_px) > 0)[large]]

    def crops(buildings: np.ndarray) -> list[Crop]:
        return [
            _crop(polygons_px[i], size, building=i, label=label_of.get(i)) for i in buildings[:SHOWN].tolist()
        ]

    false, wrong = sure[found[sure] == FALSE], sure[found[sure] == MISTAKEN]
    missed, unsure = drawn[labelled[drawn] == MISSED], sure[::-1]
    misses = [_crop(truths_px[i], size, building=None, label=i) for i in missed[:SHOWN].tolist()]
    galleries = [
        Gallery(
            "False alarms",
            "Found where no building is labelled; the surest first. Some may lack a label.",
            len(false),
            crops(false),
        ),
        Gallery("Misses", "Labelled, and not found; the largest first.", len(missed), misses),
        Gallery(
            "Wrong categories",
            "Found, but called something else; the surest first.",
            len(wrong),
            crops(wrong),
        ),
        Gallery(
            "Least sure", "The buildings with the lowest confidence published.", len(unsure), crops(unsure)
        ),
    ]
    return [gallery for gallery in galleries if gallery.crops]


def _crop(
    polygon: shapely.Geometry, size: tuple[int, int], *, building: int | None, label: int | None
) -> Crop:
    """The square around a polygon, moved to lie inside the image."""
    x1, y1, x2, y2 = shapely.bounds(polygon).tolist()
    side = max(MIN_WINDOW_PX, round((1 + 2 * MARGIN) * max(x2 - x1, y2 - y1)))
    factor = max(1, -(-side // CROP_SIDE))
    starts, sides = [], []
    for low, high, length in zip((x1, y1), (x2, y2), size, strict=True):
        start = min(max(0, round((low + high - side) / 2)), max(0, length - side)) // factor * factor
        starts.append(start)
        sides.append(min(side, length - start))
    return Crop(Window(*starts, *sides), factor, building, label)
