"""Which training pairs are learnt from and which are held out: no pixel and no building on both sides.

Held out are the images named, or where none is named a part of every image. What a held-out tile shows is
learnt from in no other tile: where tiles overlap, where a building reaches over the border, and where two
images show the same ground, the tiles concerned belong to neither side. Where people have corrected labels,
and so changed which tiles there are, the ground that was held out before stays held out.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import shapely

from pipeline.errors import LabelError, SettingsError
from pipeline.frames import LONLAT, px_to_crs, reproject, window_boxes
from pipeline.polygons import areas_on
from pipeline.schema import PairIndex, Window

_PIXEL_EDGE = 0.5
"""How far, in pixels, two tiles may reach into each other: by rounding, never by a whole pixel."""


class Sides(NamedTuple):
    """Pairs of one image by their place in its index, ascending."""

    learnt: np.ndarray
    """int64[a]."""
    held_out: np.ndarray
    """int64[b]."""


def split_pairs(images: Sequence[PairIndex], held_out: Collection[str], share: float) -> list[Sides]:
    """The two sides of each image.

    Args:
        images: the pairs of all training images.
        held_out: ids of the images held out whole; where none is named a part of each is.
        share: the part, of the tiles that are kept, 0 <= share < 1.

    Raises:
        SettingsError: an image to hold out is not among the training images, nothing is left to learn
            from, or `share` is outside its range.
        LabelError: no image has a tile to learn from.
    """
    if not any(image.pairs for image in images):
        raise LabelError(
            "no label lies on the ground of a training image",
            where=", ".join(image.image_id for image in images[:5]),
            remedy="See what `jengo labels check <image>` says: the labels may be another image's, or lie in "
            "another CRS than their file states.",
        )
    unknown = set(held_out) - {image.image_id for image in images}
    sides = [_split_image(image, held_out, share) for image in images]
    sides = _apart_on_ground(images, sides)
    if unknown or not any(len(side.learnt) for side in sides):
        raise SettingsError(
            "held out are images that are not learnt from" if unknown else "nothing is left to learn from",
            where="[Training] validation_images",
            found=sorted(unknown or held_out),
            remedy="Name some, but not all, of the training images.",
        )
    return sides


def _split_image(image: PairIndex, held_out: Collection[str], share: float) -> Sides:
    everything, nothing = np.arange(len(image.pairs)), np.arange(0)
    windows = np.array([pair.window for pair in image.pairs], dtype=np.int64).reshape(-1, 4)
    label_ids = [pair.label_ids for pair in image.pairs]
    if image.image_id in held_out:
        return Sides(nothing, everything)
    if image.held_out is not None:
        return split_by_ground(windows, label_ids, image.held_out)
    return Sides(everything, nothing) if held_out else split_by_area(windows, label_ids, share)


def split_by_ground(
    windows: np.ndarray, label_ids: Sequence[Collection[int]], ground: Sequence[Window]
) -> Sides:
    """Tiles wholly on ground that is held out, and those with no pixel and no building of it.

    Args:
        windows: int64[t, 4] of col_off, row_off, width, height in image pixels.
        label_ids: of the buildings in each of the t tiles.
        ground: the ground, as windows; none holds nothing out.
    """
    boxes = window_boxes(windows)
    shared = areas_on(boxes, window_boxes(ground))
    held_out = shared >= shapely.area(boxes)
    tiles, labels = _showings(label_ids)
    seen = np.isin(labels, labels[held_out[tiles]])
    apart = np.bincount(tiles[seen], minlength=len(windows)) == 0
    return Sides(np.flatnonzero((shared == 0) & apart), np.flatnonzero(held_out))


def split_by_area(windows: np.ndarray, label_ids: Sequence[Collection[int]], share: float) -> Sides:
    """Tiles of one image on the two sides of a cut, with no pixel and no building in common.

    A straight cut along a tile's edge parts the image: held out is what lies right of it or below it,
    learnt what lies wholly on the other side and shows no building that is held out too; the other tiles
    belong to neither. Of all such cuts, the one that comes nearest to `share` is taken; of equals, the
    one that keeps most tiles, then one between columns, then the first.

    Args:
        windows: int64[t, 4] of col_off, row_off, width, height in image pixels.
        label_ids: of the buildings in each of the t tiles.
        share: the part of the tiles kept that is wanted on the held-out side, 0 <= share < 1.

    Returns:
        Where no cut leaves tiles on both sides, or `share` is 0, everything is learnt.

    Raises:
        SettingsError: `share` is outside its range.
    """
    if not 0 <= share < 1:
        raise SettingsError("the validation share must be at least 0 and below 1", found=share)
    tiles, labels = _showings(label_ids)
    best, sides = None, Sides(np.arange(len(windows)), np.arange(0))
    for axis in (0, 1) if share else ():
        starts, stops = windows[:, axis], windows[:, axis] + windows[:, axis + 2]
        for cut in np.unique(starts):
            held_out = starts >= cut
            shared = np.isin(labels, labels[held_out[tiles]])
            learnt = (stops <= cut) & (np.bincount(tiles[shared], minlength=len(windows)) == 0)
            few, many = sorted((int(learnt.sum()), int(held_out.sum())))
            rank = (abs(held_out.sum() / max(1, few + many) - share), -(few + many), axis)
            if few and (best is None or rank < best):
                best, sides = rank, Sides(np.flatnonzero(learnt), np.flatnonzero(held_out))
    return sides


def _showings(label_ids: Sequence[Collection[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Tile and building of everything that is shown, int64[p] each."""
    tiles = np.repeat(np.arange(len(label_ids)), [len(ids) for ids in label_ids])
    return tiles, np.array([label for ids in label_ids for label in ids], dtype=np.int64)


def _apart_on_ground(images: Sequence[PairIndex], sides: Sequence[Sides]) -> list[Sides]:
    """The sides without learnt tiles that show ground held out in another image."""
    places = [_places(image) for image in images]
    held_out = [place[side.held_out] for place, side in zip(places, sides, strict=True)]
    tree = shapely.STRtree([box for boxes in held_out for box in boxes])
    owners = np.repeat(np.arange(len(images)), [len(boxes) for boxes in held_out])
    apart = []
    for number, (place, side) in enumerate(zip(places, sides, strict=True)):
        learnt, seen = tree.query(place[side.learnt], predicate="intersects")
        both = np.unique(learnt[owners[seen] != number])
        apart.append(side._replace(learnt=np.delete(side.learnt, both)))
    return apart


def _places(image: PairIndex) -> np.ndarray:
    """The ground of each tile in lon/lat but for its edge: object[t]."""
    windows = np.array([pair.window for pair in image.pairs], dtype=np.float64).reshape(-1, 4)
    left_top = windows[:, :2] + _PIXEL_EDGE
    right_bottom = windows[:, :2] + windows[:, 2:] - _PIXEL_EDGE
    boxes = shapely.box(*left_top.T, *right_bottom.T)
    return reproject(px_to_crs(boxes, image.transform), image.crs, LONLAT)
