"""CheckLabels: what is wrong with an image's labels, on a table and on a map, and what it costs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import geopandas
import numpy as np
import pyogrio
import shapely
from pydantic import Field

from pipeline.checks import RULES, CheckRules
from pipeline.edge import EdgeCounts, cut_to_image
from pipeline.errors import LabelError
from pipeline.frames import footprint, ground_m_per_px, px_to_crs, reproject
from pipeline.labels import category_indices, clean_labels, read_label_file
from pipeline.outputs import LONLAT
from pipeline.polygons import polygonal, stand_on
from pipeline.qml import GPKG_VERSION
from pipeline.raster import TiledImage
from pipeline.review.ceiling import Ceiling, find_ceiling
from pipeline.schema import Artifact, Grid, TileIndex, Versioned, Window
from pipeline.settings import Labels
from pipeline.steps import Progress, silent
from pipeline.stores.versions import Grounds, Version, VersionStore, row_frame
from pipeline.submission import read_csv

GROUND_SIDE = 2048
"""Longest side, in pixels, at which valid ground is looked up."""


class LabelShift(Artifact):
    """How labels lie beside the buildings that a network sees, on the ground."""

    east_m: float
    north_m: float
    support: float
    """Share of the labels that have this offset, 0 to 1."""
    labels: int
    """Labels that have it."""
    counts: bool
    """Whether it is long and frequent enough to be more than chance."""


class LabelCheck(Versioned):
    """What is wrong with the labels of one image (`<image_id>.checks.json`)."""

    image_id: str
    version: str
    """The labels, as the version store keeps them."""
    against: str
    """The buildings they were compared with, as the version store keeps them."""
    rows: int
    """Labels, but those wholly outside the image."""
    edge: EdgeCounts
    """Labels that the image does not show whole; the best metric is without those left out."""
    findings: dict[str, int] = Field(description="By rule")
    """Findings by rule, see `pipeline.checks.RULES`."""
    shift: LabelShift
    """The offset to move labels by."""
    ceiling: Ceiling

    def table(self) -> str:
        """The findings as lines of text."""
        lines = [f"{self.rows:>7}  labels of {self.image_id}, as drawn"]
        lines += [f"{count:>7}  {RULES[rule]} ({rule})" for rule, count in self.findings.items()]
        if self.shift.counts:
            lines.append(
                f"         shifted: move them {self.shift.east_m:+.2f} m east, {self.shift.north_m:+.2f} m "
                f"north ({self.shift.labels} labels agree, {self.shift.support:.0%})"
            )
        if self.edge.sentence:
            lines.append(f"         {self.edge.sentence}")
        best = self.ceiling.best
        lines.append(f"         a perfect network scores mean F1 {best.mean_f1:.3f}, all {best.all_f1:.3f}")
        return "\n".join(lines)


def check_labels(
    image: TiledImage,
    labels: Path,
    settings: Labels,
    rules: CheckRules,
    store: VersionStore,
    version: Version,
    against: str,
    progress: Progress = silent,
) -> tuple[LabelCheck, geopandas.GeoDataFrame]:
    """The check of an image's labels as drawn, and its findings on the map.

    Args:
        image: what is labelled.
        labels: the label file.
        settings: the settings that name categories and conditions.
        rules: what counts as wrong.
        store: keeps the labels as drawn, and `against`.
        version: what the labels are kept as; what stands outside its ground is neither missed nor scored.
        against: the version of buildings to compare with.
        progress: told before each part.
    """
    index, grid = image.index, image.grid
    progress(0.0, f"reading {labels.name}")
    drawn, known, edge = drawn_rows(labels, grid, settings, version)
    store.add(index.image_id, version, drawn)
    metre = units_per_m(grid)
    limits = rules.limits(metre)
    progress(0.2, "looking where the image shows nothing")
    grounds = find_grounds(image)
    progress(0.4, f"comparing {len(drawn):,} labels with buildings")
    findings, shift = store.check(index.image_id, version.name, against, limits, grounds)
    counts = findings["rule"].value_counts()
    shifted = shift.counts(limits)
    progress(0.8, "scoring a perfect network")
    frame, ground = read_label_file(labels), version.ground
    clean, _ = clean_labels(frame, grid.crs, footprint(grid), settings.label_rules(), ground, where=labels)
    places = {name: place for place, name in enumerate(settings.names)}
    polygons = np.asarray(drawn.geometry.values, dtype=object)
    if ground is not None:
        counted = stand_on(polygons, ground)
        polygons, known = polygons[counted], known[counted]
    ceiling = find_ceiling(
        polygons,
        known,
        np.asarray(clean.geometry.values, dtype=object),
        np.array([places.get(name, -1) for name in clean["category"]], dtype=np.int64),
        settings.names,
        (shift.dx * metre[0], shift.dy * metre[1]) if shifted else None,
        footprint(grid),
    )
    check = LabelCheck(
        image_id=index.image_id,
        version=version.name,
        against=against,
        rows=len(drawn),
        edge=edge,
        findings={rule: int(counts[rule]) for rule in RULES if rule in counts},
        shift=LabelShift(
            east_m=shift.dx,
            north_m=shift.dy,
            support=shift.support,
            labels=shift.labels,
            counts=shifted,
        ),
        ceiling=ceiling,
    )
    return check, findings


def write_findings(stem: Path, findings: geopandas.GeoDataFrame) -> None:
    """Writes `<stem>.csv`, a table, and `<stem>.gpkg`, a map layer of what has a place."""
    told = findings.assign(meaning=findings["rule"].map(RULES))
    centres = shapely.centroid(told.geometry.values)
    placed = ~(shapely.is_missing(centres) | shapely.is_empty(centres))
    lonlat = np.full((len(told), 2), np.nan)
    if placed.any():
        lonlat[placed] = shapely.get_coordinates(reproject(centres[placed], told.crs, LONLAT))
    table = told.drop(columns="geometry").assign(lon=lonlat[:, 0].round(8), lat=lonlat[:, 1].round(8))
    table.to_csv(stem.with_name(f"{stem.name}.csv"), index=False)
    layer = told[placed].astype({"rule": "str", "meaning": "str"})
    path = stem.with_name(f"{stem.name}.gpkg")
    options = {"driver": "GPKG", "geometry_type": "Unknown", "dataset_options": GPKG_VERSION}
    pyogrio.write_dataframe(layer, path, layer="findings", **options)


def drawn_rows(
    labels: Path, grid: Grid, settings: Labels, version: Version
) -> tuple[geopandas.GeoDataFrame, np.ndarray, EdgeCounts]:
    """The rows of a label file as drawn, in the image's CRS, and int64[n] places of their categories.

    Rows are numbered as in the file; those that lie wholly outside the image are another's, and counted with
    those that it does not show whole.
    """
    frame = read_label_file(labels)
    known = category_indices(frame, settings.label_rules(), where=labels)
    rows = row_frame(
        _placed(np.asarray(frame.geometry.values, dtype=object), frame.crs, grid.crs),
        grid.crs,
        category=[settings.names[place] if place >= 0 else None for place in known],
        file=labels.name,
        made_at=version.made_at,
    )
    shown = cut_to_image(rows.geometry.values, footprint(grid))
    mine = shown.shares > 0
    return rows[mine].reset_index(drop=True), known[mine], shown.counts


def model_rows(
    csv: Path, index: TileIndex, categories: Sequence[str], model: str, made_at: str, number: int
) -> geopandas.GeoDataFrame:
    """The published buildings of an image as rows of a version, by their number in the CSV."""
    rows = read_csv(csv, categories)
    best = rows.probabilities.argmax(axis=1) if len(rows.probabilities) else np.empty(0, dtype=np.int64)
    return row_frame(
        px_to_crs(rows.polygons_px, index.grid.transform),
        index.grid.crs,
        category=[categories[place] for place in best],
        score=rows.probabilities.max(axis=1, initial=0.0),
        scores=[json.dumps(dict(zip(categories, row, strict=True))) for row in rows.probabilities.tolist()],
        model=model,
        file=csv.name,
        round=number,
        made_at=made_at,
    )


def find_grounds(image: TiledImage) -> Grounds:
    """The image's outline and what of it shows anything, in its CRS."""
    grid = image.grid
    factor = max(1, -(-max(grid.width, grid.height) // GROUND_SIDE))
    with image.open() as raster:
        valid_px = raster.ground(Window(0, 0, grid.width, grid.height), factor)
    valid = None
    if valid_px is not None:
        valid = polygonal(shapely.make_valid(px_to_crs([valid_px], grid.transform)))[0]
    return Grounds(footprint(grid), valid)


def units_per_m(grid: Grid) -> tuple[float, float]:
    """Units of the image's CRS in a metre on the ground at its centre, along x and along y."""
    a, b, _, d, e, _ = grid.transform
    side = float(np.sqrt(abs(a * e - b * d)))
    (x, y), *_ = footprint(grid).centroid.coords
    # An image's rows and columns may lie askew in its CRS: a pixel that does not is measured in their place.
    across, along = ground_m_per_px((side, 0, x, 0, side, y), 0, 0, grid.crs)
    return side / across, side / along


def now() -> str:
    """This moment, ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _placed(geometries: np.ndarray, crs: object, grid_crs: str) -> np.ndarray:
    """The geometries in the image's CRS, None for those without a place in it."""
    geometries = shapely.force_2d(geometries)
    try:
        return reproject(geometries, crs, grid_crs)
    except LabelError:
        placed = np.full(len(geometries), None, dtype=object)
        for row, geometry in enumerate(geometries):
            try:
                placed[row] = reproject([geometry], crs, grid_crs)[0]
            except LabelError:
                continue
        return placed
