"""Which buildings are worth a look from near, and the windows that show them."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import shapely

from pipeline.schema import Window
from pipeline.verdicts import FALSE, INEXACT, INVALID, MISSED, MISTAKEN, REPEATED, Verdicts

SHOWN = 12
"""Pictures of a gallery at most."""
CROP_SIDE = 256
"""Longer side of a picture at most, in its own pixels."""
MIN_WINDOW_PX = 96
"""Least side of a window in image pixels: a hut alone would tell nothing."""
MARGIN = 0.6
"""Ground around a building on each side, as a share of its longer side."""
FURTHEST = 4
"""Sides of a building that a picture shows at most for the sake of its label."""


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
    building: int
    """Index of the building; -1 for a picture of a label."""
    label: int
    """Index of the label, that of the building where it has one; -1 for none."""
    picture: Picture | None = None
    """None until it is read."""


class Gallery(NamedTuple):
    """Pictures of one kind."""

    title: str
    text: str
    """What they have in common, and how they were chosen."""
    total: int
    """Buildings and labels of this kind, shown or not."""
    crops: list[Crop]


class Kind(NamedTuple):
    """What a gallery shows: buildings or labels of one verdict."""

    of: Literal["buildings", "labels"]
    verdict: str
    title: str
    text: str


KINDS = (
    Kind(
        "buildings",
        FALSE,
        "False alarms",
        "Found where nothing is labelled; the surest first. Some may lack a label.",
    ),
    Kind("labels", MISSED, "Misses", "Labelled, and nothing found there; the largest first."),
    Kind(
        "buildings",
        INEXACT,
        "Overlap too small",
        "Found and labelled, but the two overlap by one half or less (IoU): the building counts as a false "
        "positive, the label as a false negative. The surest first.",
    ),
    Kind(
        "buildings",
        REPEATED,
        "Found again",
        "On a label that another building took: a part of it, or the whole once more; the surest first.",
    ),
    Kind(
        "labels",
        REPEATED,
        "Labelled again",
        "On a building that took another label: one building was labelled twice, or two were found as one; "
        "the largest first.",
    ),
    Kind(
        "labels",
        INVALID,
        "Invalid labels",
        "They cross themselves or have no area: nothing can match them, and what is found there counts as a "
        "false positive. They are to be mended in the label file.",
    ),
    Kind("buildings", MISTAKEN, "Wrong categories", "Found, but called something else; the surest first."),
)


def choose_galleries(
    polygons_px: np.ndarray,
    confidences: np.ndarray,
    truths_px: np.ndarray,
    found: Verdicts,
    labelled: Verdicts,
    size: tuple[int, int],
) -> list[Gallery]:
    """The worst of each kind of mistake, and the buildings the network is least sure of; none without any.

    Args:
        polygons_px: object[n], the buildings.
        confidences: float64[n].
        truths_px: object[m], the labels.
        found: what became of the buildings.
        labelled: what became of the labels.
        size: of the image, width and height in pixels.
    """
    sure = np.argsort(-confidences, kind="stable")
    large = np.argsort(-np.nan_to_num(shapely.area(truths_px)), kind="stable")
    placed = ~(shapely.is_missing(truths_px) | shapely.is_empty(truths_px))

    def beside(polygons: np.ndarray, row: int) -> shapely.Geometry | None:
        return polygons[row] if row >= 0 else None

    def of_buildings(rows: np.ndarray, title: str, text: str) -> Gallery:
        crops = []
        for row in rows[:SHOWN].tolist():
            label = int(found.others[row])
            view = _view(polygons_px[row], beside(truths_px, label), size)
            crops.append(Crop(*view, row, label))
        return Gallery(title, text, len(rows), crops)

    def of_labels(rows: np.ndarray, title: str, text: str) -> Gallery:
        crops = []
        for row in rows[placed[rows]][:SHOWN].tolist():
            view = _view(truths_px[row], beside(polygons_px, int(labelled.others[row])), size)
            crops.append(Crop(*view, -1, row))
        return Gallery(title, text, len(rows), crops)

    galleries = [
        of_buildings(sure[found.names[sure] == verdict], title, text)
        if of == "buildings"
        else of_labels(large[labelled.names[large] == verdict], title, text)
        for of, verdict, title, text in KINDS
    ]
    galleries.append(
        of_buildings(sure[::-1], "Least sure", "The buildings with the lowest confidence published.")
    )
    return [gallery for gallery in galleries if gallery.total]


def _view(
    polygon: shapely.Geometry, beside: shapely.Geometry | None, size: tuple[int, int]
) -> tuple[Window, int]:
    """The square around a polygon and one beside it, unless that reaches far off, and its factor."""
    own, both = shapely.bounds(polygon), shapely.total_bounds([polygon, beside])
    x1, y1, x2, y2 = (both if _side(both) <= FURTHEST * _side(own) else own).tolist()
    side = max(MIN_WINDOW_PX, round((1 + 2 * MARGIN) * max(x2 - x1, y2 - y1)))
    factor = max(1, -(-side // CROP_SIDE))
    starts, sides = [], []
    for low, high, length in zip((x1, y1), (x2, y2), size, strict=True):
        start = min(max(0, round((low + high - side) / 2)), max(0, length - side)) // factor * factor
        starts.append(start)
        sides.append(min(side, length - start))
    return Window(*starts, *sides), factor


def _side(bounds: np.ndarray) -> float:
    """Longer side of x1, y1, x2, y2."""
    return float((bounds[2:] - bounds[:2]).max())
