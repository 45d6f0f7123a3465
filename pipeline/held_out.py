"""Held-out ground as AggregateImage would map it: buildings merged across tiles, beside the truth.

Thresholds cut merged buildings, and those are not detections: agreement raises their probabilities,
pieces become wholes, duplicates go. Chosen on single tiles a threshold is that of another quantity, and
every building in an overlap counts as often as tiles see it. So the tiles held out are merged first,
and the items of a label, clipped to one tile each, are put together again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import shapely

from pipeline.evidence import TileSample
from pipeline.schema import Item, Window
from pipeline.seams import Detections, MergeRules, merge


class HeldOutTile(NamedTuple):
    """What is found in one tile and what is there, both in tile pixels."""

    window: Window
    polygons: np.ndarray
    """object[n] of valid, non-empty Polygons."""
    probabilities: np.ndarray
    """float[n, k] by category, as the network gave them."""
    items: Sequence[Item]


def merged_sample(
    tiles: Iterable[HeldOutTile],
    categories: Sequence[str],
    rules: MergeRules,
    *,
    min_visible_share: float,
    min_area_px2: float,
) -> TileSample:
    """Buildings and truth of one image's held-out tiles, in image pixels.

    Where no tile was held out nothing is seen: a label counts with what of it lies on the tiles given.

    Args:
        tiles: of one image, read once.
        categories: the k names.
        rules: how detections become buildings.
        min_visible_share: share of a label on the tiles below which nobody is asked to find it, 0 to 1.
        min_area_px2: area below which a building is not published, square pixels.
    """
    windows: list[Window] = []
    found = [_no_detections(len(categories))]
    items: list[Item] = []
    offsets: list[np.ndarray] = []
    for number, tile in enumerate(tiles):
        offset = np.array(tile.window[:2], dtype=np.float64)
        windows.append(tile.window)
        found.append(
            Detections(
                shapely.transform(tile.polygons, lambda xy, offset=offset: xy + offset),
                np.asarray(tile.probabilities, dtype=np.float64),
                np.full(len(tile.polygons), number, dtype=np.int64),
            )
        )
        items += tile.items
        offsets += [offset] * len(tile.items)
    buildings = merge(Detections.concatenate(found), np.array(windows, dtype=np.int64), rules)
    published = shapely.area(buildings.polygons) >= min_area_px2
    truths, known, shares = whole_labels(items, offsets, categories)
    asked = shares >= min_visible_share
    return TileSample(
        buildings.polygons[published],
        buildings.probabilities[published],
        truths[asked],
        known[asked],
        truths[~asked],
    )


def whole_labels(
    items: Sequence[Item], offsets: Sequence[np.ndarray], categories: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels put together from their items: one polygon, category and visible share each, by label id.

    Args:
        items: of any tiles of one image, in tile pixels.
        offsets: float64[2] of each item, what its tile's corner is in image pixels.
        categories: the k names.

    Returns:
        object[m], the union of each label's items in image pixels; int64[m], index of its category, -1
        where unknown; float64[m], share of the label's area that the items cover, 0 to 1.
    """
    if not items:
        return np.empty(0, dtype=object), np.empty(0, dtype=np.int64), np.empty(0)
    pieces = np.empty(len(items), dtype=object)
    pieces[:] = [
        shapely.transform(item_polygon(item), lambda xy, offset=offset: xy + offset)
        for item, offset in zip(items, offsets, strict=True)
    ]
    _, first, label = np.unique([item.label_id for item in items], return_index=True, return_inverse=True)
    order = np.argsort(label, kind="stable")
    whole = shapely.union_all(
        shapely.geometrycollections(pieces[order], indices=label[order])[:, None], axis=1
    )
    visible = np.array([item.visible_share for item in items])
    # What a piece is of its label tells the label's whole area, best where the piece is largest.
    largest = np.lexsort((visible, label))[np.cumsum(np.bincount(label)) - 1]
    areas = shapely.area(pieces[largest]) / visible[largest]
    known = [items[index].category for index in first.tolist()]
    indices = np.array([-1 if name is None else categories.index(name) for name in known], dtype=np.int64)
    shares = np.divide(shapely.area(whole), areas, out=np.zeros(len(whole)), where=areas > 0)
    return whole, indices, np.minimum(shares, 1.0)


def item_polygon(item: Item) -> shapely.Geometry:
    """The item in tile pixels, made valid: its coordinates are rounded."""
    return shapely.make_valid(shapely.MultiPolygon([(part[0], part[1:]) for part in item.polygons]))


def _no_detections(k: int) -> Detections:
    return Detections(np.empty(0, dtype=object), np.empty((0, k)), np.empty(0, dtype=np.int64))
