"""What a person is shown of an image: its labels, and what networks find beside them."""

from __future__ import annotations

import geopandas
import numpy as np
import shapely

from pipeline.frames import crs_to_px
from pipeline.matching import overlapping_pairs
from pipeline.polygons import clip_to_frame
from pipeline.review.records import Shown
from pipeline.schema import Grid, Window
from pipeline.stores.versions import row_frame

MIN_SHOWN = 0.02
"""Share of a building inside a tile up to which the tile does not show it."""
KNOWN_IOU = 0.3
"""Overlap with a label above which a network's building is no news."""


def propose(
    base: geopandas.GeoDataFrame | None,
    base_name: str,
    found: geopandas.GeoDataFrame,
    found_name: str,
    round_number: int,
    made_at: str,
) -> geopandas.GeoDataFrame:
    """Rows of a version: the labels there are, and what networks find beside them.

    Args:
        base: rows of the labels' version; None for an image without labels.
        base_name: its name.
        found: rows of a version of networks' buildings.
        found_name: its name.
        round_number: of the review.
        made_at: of the proposals.
    """
    parts = [] if base is None else [(base, base_name)]
    new = found
    if base is not None:
        pairs = overlapping_pairs(found.geometry.values, base.geometry.values, KNOWN_IOU)
        new = found[~np.isin(np.arange(len(found)), pairs.proposals)]
    parts.append((new, found_name))
    columns: dict[str, list] = {
        name: [value for rows, _ in parts for value in rows[name].tolist()]
        for name in ("category", "score", "scores", "model", "person", "file")
    }
    parents = [f"{name}:{row_id}" for rows, name in parts for row_id in rows["row_id"].tolist()]
    geometry = np.concatenate([np.asarray(rows.geometry.values, dtype=object) for rows, _ in parts])
    return row_frame(geometry, found.crs, **columns, parent=parents, round=round_number, made_at=made_at)


def source_of(row: dict) -> str:
    """Who made a row: network, person or file."""
    return next((row[name] for name in ("model", "person", "file") if isinstance(row[name], str)), "")


def pixels_of(rows: geopandas.GeoDataFrame, grid: Grid) -> np.ndarray:
    """The rows' polygons in image pixels, object[n]."""
    return crs_to_px(rows.geometry.values, grid.transform)


def shown_in(
    window: Window, rows: geopandas.GeoDataFrame, tree_px: shapely.STRtree, *, whole: bool = False
) -> list[Shown]:
    """What a tile shows of the proposals, by row id.

    Args:
        window: the tile's.
        rows: the proposals.
        tree_px: of their polygons in image pixels; one serves all tiles.
        whole: whether polygons are shown beyond the tile's edge, as on a map.
    """
    col_off, row_off, width, height = window
    frame = (col_off, row_off, col_off + width, row_off + height)
    near = np.sort(tree_px.query(shapely.box(*frame)))
    polygons = tree_px.geometries[near]
    clipped, _ = clip_to_frame(polygons, frame)
    records = rows.iloc[near].to_dict("records")
    shown = []
    for row, polygon, inside in zip(records, polygons, clipped, strict=True):
        share = 0.0 if inside is None else inside.area / polygon.area
        if share > MIN_SHOWN:
            category = row["category"] if isinstance(row["category"], str) else None
            outline = polygon if whole else inside
            shown.append(
                Shown(int(row["row_id"]), outline, category, row["score"], source_of(row), min(1.0, share))
            )
    return shown
