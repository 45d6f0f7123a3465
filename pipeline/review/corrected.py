"""Corrected labels: the rows that follow from verdicts, and the file that training reads them from.

The file is a label file like any other (layer `labels`, the condition in its own words), with two tables
beside: the windows that people have looked at, and those that no round ever learns from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import geopandas
import numpy as np
import pandas as pd
import pyogrio
import shapely

from pipeline.errors import LabelError
from pipeline.frames import px_to_crs, window_box
from pipeline.matching import overlapping_pairs
from pipeline.qml import GPKG_VERSION
from pipeline.review.deciding import Verdict
from pipeline.review.proposals import KNOWN_IOU
from pipeline.schema import Grid, Window
from pipeline.stores.versions import ROW_COLUMNS, row_frame

LABELS, REVIEWED, HELD_OUT = "labels", "reviewed", "held_out"


class Marks(NamedTuple):
    """Ground of an image that matters to training, as windows."""

    reviewed: list[Window]
    held_out: list[Window]


class Origin(NamedTuple):
    """Where the rows of a reviewed version come from."""

    proposals: str
    """Version that people were shown."""
    round: int
    imported_at: str
    """ISO 8601 in UTC."""


def correct(
    rows: geopandas.GeoDataFrame,
    base_name: str | None,
    verdicts: Sequence[Verdict],
    grid: Grid,
    origin: Origin,
) -> geopandas.GeoDataFrame:
    """The rows of the reviewed version.

    Args:
        rows: the proposals.
        base_name: version of the labels that were proposed; None for an image without labels.
        verdicts: on the proposals, and on what was added.
        grid: the image's frame.
        origin: of the version.
    """
    decided = {verdict.row_id: verdict for verdict in verdicts if verdict.row_id}
    kept: list[dict[str, Any]] = []
    for row in rows.to_dict("records"):
        verdict = decided.get(int(row["row_id"]))
        was_label = base_name is not None and str(row["parent"]).startswith(f"{base_name}:")
        told = row | {"parent": f"{origin.proposals}:{row['row_id']}"}
        if verdict is None or verdict.status == "kept":
            kept += [told] if was_label else []
        elif verdict.status != "rejected":
            kept.append(_decided(told, verdict, grid, origin))
    for verdict in verdicts:
        if verdict.status == "added":
            kept.append(_decided({}, verdict, grid, origin))
    names = ("category", "score", "scores", "parent", "model", "person", "file", "seconds", "status")
    columns: dict[str, list] = {name: [row.get(name) for row in kept] for name in names}
    columns["round"] = [row.get("round", origin.round) for row in kept]
    columns["made_at"] = [row.get("made_at", origin.imported_at) for row in kept]
    return row_frame([row["geometry"] for row in kept], rows.crs, **columns)


def with_late(
    corrected: geopandas.GeoDataFrame,
    base: geopandas.GeoDataFrame | None,
    late: geopandas.GeoDataFrame | None,
    looked_at: Sequence[Window],
    grid: Grid,
) -> geopandas.GeoDataFrame:
    """The rows of a reviewed version, and what an earlier round brought after this one had gone out.

    What was decided in this round stands: of what came late, a building on a tile that was looked at, or
    over a building of this round, is left out.

    Args:
        corrected: rows of the version.
        base: rows of the labels that the round went out with; None for none.
        late: rows of the labels as the earlier rounds have left them since; None for none.
        looked_at: tiles of this round, as windows.
        grid: the image's frame.
    """
    late = corrected.iloc[:0] if late is None else late
    before = set(_identities(base)) if base is not None else set()
    stays, theirs = _identities(corrected), _identities(late)
    boxes = px_to_crs(np.array([window_box(window) for window in looked_at], dtype=object), grid.transform)
    here, there = (
        shapely.intersects(shapely.union_all(boxes), shapely.centroid(rows.geometry.values))
        for rows in (corrected, late)
    )
    kept = corrected[here | ~np.isin(stays, list(before - set(theirs)))]
    news = late[~np.isin(theirs, [*before, *stays]) & ~there]
    pairs = overlapping_pairs(news.geometry.values, kept.geometry.values, KNOWN_IOU)
    news = news[~np.isin(np.arange(len(news)), pairs.proposals)]
    joined = pd.concat([kept, news], ignore_index=True)
    columns = {name: joined[name].tolist() for name in ROW_COLUMNS if name not in ("row_id", "geometry")}
    return row_frame(joined.geometry.values, corrected.crs, **columns)


def _identities(rows: geopandas.GeoDataFrame) -> list[str]:
    """Of each row what it is and where: equal for a building that nobody has changed."""
    outlines = shapely.to_wkb(rows.geometry.values, hex=True)
    return [f"{name} {wkb}" for name, wkb in zip(rows["category"], outlines, strict=True)]


def _decided(row: Mapping[str, Any], verdict: Verdict, grid: Grid, origin: Origin) -> dict[str, Any]:
    geometry = row.get("geometry")
    if verdict.status in ("edited", "added"):
        geometry = px_to_crs([verdict.polygon_px], grid.transform)[0]
    return dict(row) | {
        "geometry": geometry,
        "category": verdict.category,
        "person": verdict.review.person,
        "file": verdict.review.file,
        "round": origin.round,
        "made_at": origin.imported_at,
        "seconds": verdict.seconds,
        "status": verdict.status,
    }


def corrected_ground(
    base_ground: shapely.Geometry | None, has_base: bool, windows: Sequence[Window], grid: Grid
) -> shapely.Geometry | None:
    """Where corrected labels are complete, in the image's CRS; None for everywhere."""
    if has_base and base_ground is None:
        return None
    boxes = px_to_crs(np.array([window_box(window) for window in windows], dtype=object), grid.transform)
    return shapely.union_all([*boxes, *([base_ground] if has_base else [])])


def write_corrected(
    path: Path,
    rows: geopandas.GeoDataFrame,
    marks: Marks,
    attribute: str,
    spellings: Mapping[str, str],
) -> None:
    """Writes corrected labels as a label file.

    Args:
        path: where it goes, `.gpkg`.
        rows: of the reviewed version.
        marks: ground that matters to training.
        attribute: name of the attribute that holds the condition; empty for none.
        spellings: of a category in label files.
    """
    # In a GeoPackage columns differ in more than case: the condition's own stays.
    names = [name for name in rows if name != "row_id" and name.lower() != attribute.lower()]
    texts = ("category", "scores", "parent", "model", "person", "file", "status", "made_at")
    kinds = dict.fromkeys(texts, "string") | {"round": "int64"}
    frame = rows[names].astype({name: kinds[name] for name in names if name in kinds})
    if attribute:
        words = [spellings.get(name) if isinstance(name, str) else None for name in rows["category"]]
        frame[attribute] = pd.Series(words, index=frame.index, dtype="string")
    pyogrio.write_dataframe(
        frame,
        path,
        layer=LABELS,
        driver="GPKG",
        geometry_type="Polygon",
        dataset_options=GPKG_VERSION,
        layer_options={"FID": "row_number" if attribute.lower() == "fid" else "fid"},
    )
    for layer, windows in ((REVIEWED, marks.reviewed), (HELD_OUT, marks.held_out)):
        table = pd.DataFrame([window._asdict() for window in windows], columns=list(Window._fields))
        pyogrio.write_dataframe(table.astype("int64"), path, layer=layer, driver="GPKG", append=True)


def read_marks(path: Path) -> Marks:
    """The ground that matters to training, of a file that `write_corrected` wrote.

    Raises:
        LabelError: it is no such file.
    """
    try:
        tables = [pyogrio.read_dataframe(path, layer=layer) for layer in (REVIEWED, HELD_OUT)]
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
        raise LabelError(
            f"not corrected labels: {error}", where=path, remedy="Import the round again."
        ) from error
    reviewed, held_out = (
        [Window(*row) for row in table[list(Window._fields)].to_numpy(dtype=int).tolist()] for table in tables
    )
    return Marks(reviewed, held_out)
