"""From the rows of a label file to clean labels, every row accounted for."""

from __future__ import annotations

from collections import Counter
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely

from pipeline.errors import LabelError
from pipeline.frames import ground_areas, reproject
from pipeline.labels.conditions import read_conditions
from pipeline.labels.rules import NOTED, SET_ASIDE, LabelReport, LabelRules
from pipeline.polygons import stand_on

_POLYGON, _COLLECTION = int(shapely.GeometryType.POLYGON), int(shapely.GeometryType.GEOMETRYCOLLECTION)


def clean_labels(
    frame: gpd.GeoDataFrame,
    grid_crs: Any,
    footprint: shapely.Polygon,
    rules: LabelRules | None = None,
    area: shapely.Geometry | None = None,
    *,
    where: object = None,
) -> tuple[gpd.GeoDataFrame, LabelReport]:
    """Clean labels in the image's CRS, and the report on every row they came from.

    Of two labels of one building the one kept has a known category before an unknown one, is larger,
    or comes first; if both categories are known and differ, it is kept without a category, since
    neither drawing is more credible and a building of unknown condition still is a building.

    Args:
        frame: rows of a label file, as `read_label_file` returns them.
        grid_crs: the image's CRS.
        footprint: the image's outline in `grid_crs`.
        rules: how to read the rows; the defaults where None.
        area: ground on which labels are complete, in `grid_crs`; labels whose inner point
            lies elsewhere are set aside. None: everywhere.
        where: what an error names, usually the label file.

    Returns:
        Frame with label_id (int64, 1 to n in file order), source_row (int64), category (str or None)
        and geometry (valid Polygon, two-dimensional), and its report.

    Raises:
        LabelError: the condition attribute is missing, or no row has a place in `grid_crs`.
    """
    rules = rules or LabelRules()
    ledger = _Ledger()
    conditions = _conditions(frame, rules, ledger, where)
    parts = conditions[["source_row", "category"]].assign(geometry=_objects(frame.geometry))
    parts = _readable(parts, ledger)
    parts, swapped = _placed(parts, frame.crs, grid_crs, footprint, ledger, where)
    parts = _polygons(parts, rules, ledger)
    if rules.min_area_m2 > 0:
        large = ground_areas(parts["geometry"], grid_crs) >= rules.min_area_m2
        parts = ledger.take("below_min_area", parts, parts[large])
    parts = _inside(parts, footprint, area, ledger)
    parts, pairs = _distinct(parts, rules, ledger)

    labels = gpd.GeoDataFrame(
        {
            "label_id": np.arange(1, len(parts) + 1, dtype=np.int64),
            "source_row": parts["source_row"].to_numpy(np.int64),
            "category": _objects(parts["category"]),
        },
        geometry=parts["geometry"].to_numpy(),
        crs=grid_crs,
    )
    report = LabelReport(
        source_rows=len(frame),
        kept_rows=labels["source_row"].nunique(),
        set_aside=ledger.counts(SET_ASIDE),
        noted=ledger.counts(NOTED),
        examples=ledger.examples(rules.examples),
        source_categories=_by_category(conditions["category"], rules),
        unknown_conditions=_unknown_spellings(conditions),
        duplicate_pairs=pairs,
        axes_swapped=swapped,
        labels=len(labels),
        categories=_by_category(labels["category"], rules),
        unknown_labels=int(labels["category"].isna().sum()),
    )
    return labels, report


class _Ledger:
    """The source rows that each rule took or noted. A row is taken once, with its last part."""

    def __init__(self) -> None:
        self.rows: dict[str, np.ndarray] = {}

    def take(self, rule: str, before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
        """`after`, having booked on `rule` the source rows of which nothing is left."""
        self.rows[rule] = np.setdiff1d(before["source_row"], after["source_row"])
        return after.reset_index(drop=True)

    def note(self, finding: str, source_rows: Any) -> None:
        self.rows[finding] = np.unique(np.asarray(source_rows, dtype=np.int64))

    def counts(self, words: dict[str, str]) -> dict[str, int]:
        return {rule: len(self.rows[rule]) for rule in words if len(self.rows.get(rule, ()))}

    def examples(self, limit: int) -> dict[str, list[int]]:
        return {rule: rows[:limit].tolist() for rule, rows in self.rows.items() if len(rows)}


def _objects(values: Any) -> pd.Series:
    """The values as they are: pandas would read text with None in it as text with NaN."""
    return pd.Series(np.asarray(values, dtype=object), dtype=object)


def _conditions(frame: gpd.GeoDataFrame, rules: LabelRules, ledger: _Ledger, where: object) -> pd.DataFrame:
    """Spelling and category of every source row, each None where there is none."""
    spellings, categories = read_conditions(frame, rules, where=where)
    conditions = pd.DataFrame({"source_row": np.arange(len(frame), dtype=np.int64)})
    conditions["spelling"], conditions["category"] = _objects(spellings), _objects(categories)
    unknown, blank = conditions["category"].isna(), conditions["spelling"].isna()
    ledger.note("null_condition", conditions["source_row"][unknown & blank])
    ledger.note("unknown_condition", conditions["source_row"][unknown & ~blank])
    return conditions


def _unknown_spellings(conditions: pd.DataFrame) -> dict[str, int]:
    """The most frequent spellings without a category, and their rows."""
    return dict(Counter(conditions["spelling"][conditions["category"].isna()].dropna()).most_common(20))


def _by_category(categories: pd.Series, rules: LabelRules) -> dict[str, int]:
    counts = Counter(categories)
    return {name: counts[name] for name, _ in rules.categories}


def _readable(parts: pd.DataFrame, ledger: _Ledger) -> pd.DataFrame:
    """The parts with polygons in them and finite coordinates."""
    geoms = parts["geometry"].to_numpy()
    parts = ledger.take("null_geometry", parts, parts[~shapely.is_missing(geoms)])
    parts = ledger.take("empty_geometry", parts, parts[~shapely.is_empty(parts["geometry"])])

    members, index = _members(parts["geometry"].to_numpy())
    polygonal = np.unique(index[shapely.get_type_id(members) == _POLYGON])
    parts = ledger.take("wrong_geometry_type", parts, parts[np.isin(parts.index, polygonal)])

    xy, index = shapely.get_coordinates(parts["geometry"], return_index=True)
    lost = np.unique(index[~np.isfinite(xy).all(axis=1)])
    parts = ledger.take("non_finite_coordinates", parts, parts[~np.isin(parts.index, lost)])
    ledger.note("z_dropped", parts["source_row"][shapely.has_z(parts["geometry"])])
    return parts


def _members(geoms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The simple geometries within `geoms`, and the position in `geoms` of each."""
    members, index = shapely.get_parts(geoms, return_index=True)
    while (shapely.get_type_id(members) > _POLYGON).any():
        members, inner = shapely.get_parts(members, return_index=True)
        index = index[inner]
    return members, index


def _placed(
    parts: pd.DataFrame, crs: Any, grid_crs: Any, footprint: shapely.Polygon, ledger: _Ledger, where: object
) -> tuple[pd.DataFrame, bool]:
    """The parts in the image's CRS, and whether their axes had to be swapped for it."""
    geoms = shapely.force_2d(parts["geometry"].to_numpy())
    swapped = _axes_swapped(geoms, crs, grid_crs, footprint)
    if swapped:
        geoms = shapely.transform(geoms, lambda xy: xy[:, ::-1])
    placed = parts.assign(geometry=_reprojected(geoms, crs, grid_crs, where))
    return ledger.take("unplaceable", parts, placed[~shapely.is_missing(placed["geometry"])]), swapped


def _reprojected(geoms: Any, crs: Any, grid_crs: Any, where: object = None) -> np.ndarray:
    """The geometries in the image's CRS, None for those without a place in it.

    Raises:
        LabelError: none has a place.
    """
    try:
        return reproject(geoms, crs, grid_crs, where=where)
    except LabelError:
        placed = np.full(len(geoms), None, dtype=object)
        for i, geom in enumerate(geoms):
            try:
                placed[i] = reproject([geom], crs, grid_crs, where=where)[0]
            except LabelError:
                continue
        if shapely.is_missing(placed).all():
            raise
        return placed


def _axes_swapped(geoms: np.ndarray, crs: Any, grid_crs: Any, footprint: shapely.Polygon) -> bool:
    """Whether most labels lie in the image once x and y are exchanged, and few or none as given."""
    west, south, east, north = shapely.bounds(geoms).T
    centres = np.column_stack([(west + east) / 2, (south + north) / 2])

    def share(xy: np.ndarray) -> float:
        try:
            return float(
                shapely.intersects(footprint, _reprojected(shapely.points(xy), crs, grid_crs)).mean()
            )
        except LabelError:
            return 0.0

    if not len(geoms) or (given := share(centres)) > 0.5:
        return False
    return share(centres[:, ::-1]) > max(0.5, 2 * given)


def _polygons(parts: pd.DataFrame, rules: LabelRules, ledger: _Ledger) -> pd.DataFrame:
    """One row per valid polygon with an area."""
    geoms = parts["geometry"].to_numpy().copy()
    invalid = ~shapely.is_valid(geoms)
    geoms[invalid] = shapely.make_valid(geoms[invalid], method="structure", keep_collapsed=False)
    members, index = _members(geoms)
    areas = np.where(shapely.get_type_id(members) == _POLYGON, shapely.area(members), 0.0)
    whole = np.bincount(index, weights=areas, minlength=len(geoms))
    kept = (areas > 0) & ~(invalid[index] & (areas < rules.sliver_share * whole[index]))

    polygons = parts.iloc[index[kept]].assign(geometry=members[kept])
    several = np.bincount(index[kept], minlength=len(geoms)) > 1
    left = whole > 0
    ledger.note("repaired", parts["source_row"][invalid & left])
    ledger.note("several_parts", parts["source_row"][several])
    ledger.note("collection", parts["source_row"][shapely.get_type_id(parts["geometry"]) == _COLLECTION])
    return ledger.take("no_area", parts, polygons)


def _inside(
    parts: pd.DataFrame, footprint: shapely.Polygon, area: shapely.Geometry | None, ledger: _Ledger
) -> pd.DataFrame:
    """The parts that the image shows and, if given, the labelled area holds."""
    shapely.prepare(footprint)
    parts = ledger.take("outside_image", parts, parts[shapely.intersects(footprint, parts["geometry"])])
    if area is not None:
        parts = ledger.take(
            "outside_labelled_area", parts, parts[stand_on(parts["geometry"].to_numpy(), area)]
        )
    ledger.note("partly_outside_image", parts["source_row"][~shapely.covers(footprint, parts["geometry"])])
    return parts


def _distinct(parts: pd.DataFrame, rules: LabelRules, ledger: _Ledger) -> tuple[pd.DataFrame, int]:
    """The parts without those drawn twice, and the number of pairs that stand for one building."""
    geoms, categories = parts["geometry"].to_numpy(), parts["category"].to_numpy().copy()
    areas = shapely.area(geoms)
    first, second = shapely.STRtree(geoms).query(geoms, predicate="intersects")
    first, second = first[first < second], second[first < second]
    shared = shapely.area(shapely.intersection(geoms[first], geoms[second]))
    same = shared / (areas[first] + areas[second] - shared) > rules.duplicate_iou
    twins: dict[int, list[int]] = {}
    for i, j in zip(first[same].tolist(), second[same].tolist(), strict=True):
        twins.setdefault(i, []).append(j)
        twins.setdefault(j, []).append(i)

    dropped = np.zeros(len(parts), dtype=bool)
    settled = np.zeros(len(parts), dtype=bool)
    conflicting = []
    unknown = np.array([category is None for category in categories], dtype=bool)
    for i in np.lexsort((-areas, unknown)).tolist():
        settled[i] = True
        losers = [] if dropped[i] else [j for j in twins.get(i, ()) if not (settled[j] or dropped[j])]
        dropped[losers] = True
        if any(not unknown[j] and parts["category"][j] != parts["category"][i] for j in losers):
            categories[i] = None
            conflicting.append(parts["source_row"][i])
    ledger.note("conflicting_condition", conflicting)
    parts = parts.assign(category=_objects(categories))
    return ledger.take("duplicate", parts, parts[~dropped]), int(same.sum())
