"""Which tiles of an image become training pairs, and the items in each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import shapely

from models.ranges import Amount, Share
from pipeline.rules import Rules
from pipeline.schema import Item, Tile

_ROUNDING = 1e-9


@dataclass(frozen=True)
class PairRules(Rules):
    """Which tiles are used for training."""

    empty_share: Amount = 0.2
    """Number of tiles without labels to keep, as a share of the tiles with labels, spread evenly over the
    image. Tiles that were reviewed are all kept."""
    min_area_share: Share = 0.5
    """Share of a tile that must lie on labelled ground; the rest of it is blackened."""


def choose_tiles(
    tiles: Sequence[Tile],
    item_counts: Sequence[int],
    area_shares: Sequence[float] | np.ndarray,
    rules: PairRules,
    reviewed_shares: Sequence[float] | np.ndarray = (),
) -> list[Tile]:
    """The tiles to learn from, in their order: all with items, some without, and all that were looked at.

    Args:
        tiles: of one image.
        item_counts: items in each tile.
        area_shares: share of each tile on labelled ground, 0 to 1.
        rules: how many.
        reviewed_shares: share of each tile that people have looked at, 0 to 1; empty for none of any.
    """
    looked_at = np.flatnonzero(np.asarray(reviewed_shares, dtype=float) >= 1 - _ROUNDING)
    labelled = np.asarray(area_shares, dtype=float) >= rules.min_area_share
    counts = np.asarray(item_counts, dtype=int)
    full = np.flatnonzero(labelled & (counts > 0))
    empty = np.flatnonzero(labelled & (counts == 0))
    wanted = min(len(empty), int(np.ceil(rules.empty_share * len(full))))
    spread = empty[np.linspace(0, len(empty) - 1, wanted).round().astype(int)] if wanted else empty[:0]
    return [tiles[index] for index in np.unique(np.concatenate((full, spread, looked_at)))]


def items_in_tile(
    tile: Tile,
    polygons_px: Iterable[shapely.Geometry],
    label_ids: Iterable[int],
    categories: Iterable[str | None],
    visible_shares: Iterable[float],
) -> list[Item]:
    """Items of one tile, in tile pixels, by label id.

    Args:
        tile: the tile.
        polygons_px: labels clipped to the tile, Polygon or MultiPolygon in image pixels.
        label_ids: of the labels.
        categories: of the labels, None where unknown.
        visible_shares: area inside the tile over whole area, 0 to 1.
    """
    offset = np.array(tile.window[:2], dtype=np.float64)
    items = [
        Item(
            label_id=label_id,
            category=category,
            polygons=[_rings(part, offset) for part in shapely.get_parts(polygon)],
            visible_share=min(1.0, share),
        )
        for polygon, label_id, category, share in zip(
            polygons_px, label_ids, categories, visible_shares, strict=True
        )
    ]
    return sorted(items, key=lambda item: item.label_id)


def _rings(part: shapely.Polygon, offset: np.ndarray) -> list[list[tuple[float, float]]]:
    rings = [part.exterior, *part.interiors]
    return [
        [tuple(point) for point in (shapely.get_coordinates(ring) - offset).round(3).tolist()]
        for ring in rings
    ]
