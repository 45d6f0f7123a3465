"""The checks as rules over frames of rows; sql/checks.sql says the same of the tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely

from pipeline.checks.rules import RULES, units_of
from pipeline.matching import overlapping_pairs

FINDING_COLUMNS = ["rule", "row_id", "other_id", "value", "geometry"]
"""`row_id` of the label, -1 for none; `other_id` of the other label or of the prediction, -1 for none;
`value` what the rule compares with its limit, 0 where it compares nothing."""

NORMAL = 1.4826
"""Standard deviation over median absolute deviation, of a normal distribution."""


class _Rows(NamedTuple):
    """The rows of one version that have an area and cross nothing."""

    ids: np.ndarray
    polygons: np.ndarray
    areas: np.ndarray
    categories: np.ndarray
    scores: np.ndarray


def find(
    labels: gpd.GeoDataFrame,
    predictions: gpd.GeoDataFrame | None,
    limits: Mapping[str, float],
    *,
    footprint: shapely.Geometry | None = None,
    valid_ground: shapely.Geometry | None = None,
    labelled: shapely.Geometry | None = None,
) -> gpd.GeoDataFrame:
    """What is wrong with labels, FINDING_COLUMNS in the order of `RULES` and then of the ids.

    Args:
        labels: rows of a version; invalid and missing geometries are among what is found.
        predictions: rows of another version in the same CRS, with scores; None for none.
        limits: as `CheckRules.limits` gives them.
        footprint: the image's outline; None leaves its rule out.
        valid_ground: where the image shows anything; None for all of the footprint.
        labelled: ground on which the labels are complete; None for everywhere.
    """
    geometries = np.asarray(labels.geometry.values, dtype=object)
    sound = _sound(labels)
    columns = [_unsound(labels, geometries)]
    columns += _pairs(sound, limits)
    columns += _outliers(sound, limits)
    columns += _off_ground(sound, limits, footprint, valid_ground)
    if predictions is not None:
        columns += _against(sound, _sound(predictions), limits, labelled)
    found = pd.concat([part for part in columns if len(part)] or [_table("missed", [], [], [], [])])
    found = found.assign(rank=found["rule"].map(list(RULES).index))
    found = found.sort_values(["rank", "row_id", "other_id", "value"], ignore_index=True)
    return gpd.GeoDataFrame(found[FINDING_COLUMNS], geometry="geometry", crs=labels.crs)


def _table(rule: Any, row_id: Any, other_id: Any, value: Any, geometry: Any) -> pd.DataFrame:
    geometry = np.asarray(geometry, dtype=object)
    count = len(geometry)
    return pd.DataFrame(
        {
            "rule": pd.Series(np.broadcast_to(np.asarray(rule, dtype=object), count), dtype=object),
            "row_id": np.broadcast_to(np.asarray(row_id, dtype=np.int64), count),
            "other_id": np.broadcast_to(np.asarray(other_id, dtype=np.int64), count),
            "value": np.broadcast_to(np.asarray(value, dtype=np.float64), count),
            "geometry": pd.Series(geometry, dtype=object),
        }
    )


def _sound(frame: gpd.GeoDataFrame) -> _Rows:
    polygons = np.asarray(frame.geometry.values, dtype=object)
    areas = shapely.area(polygons)
    kept = shapely.is_valid(polygons) & (np.nan_to_num(areas) > 0)
    return _Rows(
        frame["row_id"].to_numpy(dtype=np.int64)[kept],
        polygons[kept],
        areas[kept],
        frame["category"].to_numpy(dtype=object)[kept],
        frame["score"].to_numpy(dtype=np.float64)[kept],
    )


def _unsound(labels: gpd.GeoDataFrame, geometries: np.ndarray) -> pd.DataFrame:
    """Rows that hold no polygon anyone could find."""
    empty = ~(np.nan_to_num(shapely.area(geometries)) > 0)
    crossed = ~empty & ~shapely.is_valid(geometries)
    # The area of a ring that crosses itself may cancel out.
    twisted = empty & ~shapely.is_missing(geometries) & ~shapely.is_empty(geometries)
    twisted &= ~shapely.is_valid(geometries)
    rule = np.where(crossed | twisted, "invalid_geometry", "empty_geometry").astype(object)
    bad = empty | crossed
    return _table(rule[bad], labels["row_id"].to_numpy(dtype=np.int64)[bad], -1, 0.0, geometries[bad])


def _pairs(rows: _Rows, limits: Mapping[str, float]) -> Iterator[pd.DataFrame]:
    """Labels that lie on one another."""
    first, second = shapely.STRtree(rows.polygons).query(rows.polygons, predicate="intersects")
    ordered = rows.ids[first] < rows.ids[second]
    first, second = first[ordered], second[ordered]
    shared = shapely.area(shapely.intersection(rows.polygons[first], rows.polygons[second]))
    ious = shared / (rows.areas[first] + rows.areas[second] - shared)
    shares = shared / np.minimum(rows.areas[first], rows.areas[second])
    twice = ious > limits["duplicate_iou"]
    known = ~(pd.isna(rows.categories[first]) | pd.isna(rows.categories[second]))
    other = known & (rows.categories[first] != rows.categories[second])
    for rule, kept, value in (
        ("duplicate", twice, ious),
        ("conflicting_condition", twice & other, ious),
        ("overlap", ~twice & (shares > limits["overlap_share"]), shares),
    ):
        yield _table(
            rule, rows.ids[first[kept]], rows.ids[second[kept]], value[kept], rows.polygons[first[kept]]
        )


def _outliers(rows: _Rows, limits: Mapping[str, float]) -> Iterator[pd.DataFrame]:
    """Labels of a size or shape that buildings here do not have."""
    if not len(rows.ids):
        return
    logs = np.log(rows.areas)
    off = np.abs(logs - np.median(logs))
    spread = NORMAL * np.median(off)
    if spread > 0 and len(logs) >= limits["outlier_rows"]:
        far = off / spread > limits["area_deviations"]
        yield _table("area_outlier", rows.ids[far], -1, (off / spread)[far], rows.polygons[far])
    shapes = shapely.transform(rows.polygons, lambda xy: xy / units_of(limits))
    compactness = 4 * np.pi * shapely.area(shapes) / shapely.length(shapes) ** 2
    thin = compactness < limits["compactness"]
    yield _table("shape_outlier", rows.ids[thin], -1, compactness[thin], rows.polygons[thin])


def _off_ground(
    rows: _Rows,
    limits: Mapping[str, float],
    footprint: shapely.Geometry | None,
    valid_ground: shapely.Geometry | None,
) -> Iterator[pd.DataFrame]:
    """Labels outside the image, and on what it does not show."""
    if footprint is None:
        return
    inside = shapely.area(shapely.intersection(rows.polygons, footprint))
    outside = 1 - inside / rows.areas
    beyond = outside > limits["outside_share"]
    yield _table("outside_image", rows.ids[beyond], -1, outside[beyond], rows.polygons[beyond])
    if valid_ground is not None:
        shown = shapely.area(shapely.intersection(rows.polygons, valid_ground))
        hidden = (inside - shown) / rows.areas
        dark = ~beyond & (hidden > limits["outside_share"])
        yield _table("on_nodata", rows.ids[dark], -1, hidden[dark], rows.polygons[dark])


def _against(
    labels: _Rows, predictions: _Rows, limits: Mapping[str, float], labelled: shapely.Geometry | None
) -> Iterator[pd.DataFrame]:
    """What labels and predictions say of each other."""
    matches = overlapping_pairs(predictions.polygons, labels.polygons, limits["match_iou"])
    alone = ~np.isin(np.arange(len(labels.ids)), matches.truths)
    yield _table("missed", labels.ids[alone], -1, 0.0, labels.polygons[alone])

    confident = predictions.scores >= limits["confident_score"]
    new = confident & ~np.isin(np.arange(len(predictions.ids)), matches.proposals)
    if labelled is not None:
        new &= shapely.intersects(labelled, shapely.centroid(predictions.polygons))
    yield _table("unlabelled", -1, predictions.ids[new], predictions.scores[new], predictions.polygons[new])

    label, prediction = matches.truths, matches.proposals
    says, said = predictions.categories[prediction], labels.categories[label]
    doubtful = confident[prediction] & ~(pd.isna(says) | pd.isna(said)) & (says != said)
    yield _table(
        "doubtful_condition",
        labels.ids[label[doubtful]],
        predictions.ids[prediction[doubtful]],
        predictions.scores[prediction[doubtful]],
        labels.polygons[label[doubtful]],
    )
    yield _regions(labels, predictions.polygons[new], limits)


def _regions(labels: _Rows, unlabelled: np.ndarray, limits: Mapping[str, float]) -> pd.DataFrame:
    """Squares with several unlabelled predictions and no label."""
    sides = limits["region"] * units_of(limits)
    xy = shapely.get_coordinates(shapely.centroid(unlabelled))
    cells, counts = np.unique(np.floor(xy / sides).astype(np.int64), axis=0, return_counts=True)
    corners = cells.reshape(-1, 2) * sides
    squares = shapely.box(*corners.T, *(corners + sides).T)
    touched = np.unique(shapely.STRtree(labels.polygons).query(squares, predicate="intersects")[0])
    kept = (counts >= limits["region_predictions"]) & ~np.isin(np.arange(len(squares)), touched)
    return _table("unlabelled_region", -1, -1, counts[kept].astype(float), squares[kept])
