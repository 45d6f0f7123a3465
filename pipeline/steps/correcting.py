"""ImportReview, one image: what people say of its tiles becomes a version of its labels, and a label file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import geopandas
import numpy as np
import pyogrio

from pipeline.atomic import atomic
from pipeline.qml import GPKG_VERSION
from pipeline.review.changes import Change, changes_of
from pipeline.review.corrected import Marks, Origin, correct, corrected_ground, with_late, write_corrected
from pipeline.review.deciding import Verdict, decide
from pipeline.review.proposals import pixels_of, source_of
from pipeline.review.records import Round, TileReview
from pipeline.schema import Grid, Window
from pipeline.settings import Labels, digest
from pipeline.stores.versions import Version, VersionStore
from pipeline.untouched import drop_journals


class Answers(NamedTuple):
    """What people say of one image."""

    proposals: geopandas.GeoDataFrame
    """Rows of the version that they were shown."""
    proposals_px: np.ndarray
    """object[n], their polygons in image pixels."""
    looked_at: list[Window]
    verdicts: list[Verdict]
    grid: Grid

    def changes(self) -> list[Change]:
        """What became of the proposals, and what was added."""
        rows = zip(self.proposals.to_dict("records"), self.proposals_px, strict=True)
        known = {
            int(row["row_id"]): row | {"source": source_of(row), "polygon_px": polygon}
            for row, polygon in rows
        }
        return changes_of(self.verdicts, known, float(np.mean(self.grid.ground_m_per_px)))


class Earlier(NamedTuple):
    """What is known of one image without a round."""

    marks: Marks
    version: str | None
    """Of its labels as earlier rounds have left them by now; None where there are none."""


class Corrected(NamedTuple):
    """Labels of an image as they follow from answers."""

    version: Version
    rows: geopandas.GeoDataFrame
    marks: Marks


def read_answers(image_id: str, reviews: Sequence[TileReview], round_: Round, store: VersionStore) -> Answers:
    """What people say of an image.

    Args:
        image_id: the image.
        reviews: of its tiles, one per tile.
        round_: as it went out.
        store: holds the proposals.
    """
    grid, proposals = round_.grids[image_id], store.read(image_id, round_.proposals[image_id])
    windows = {tile.tile_id: tile.window for tile in round_.tiles if tile.image_id == image_id}
    polygons = pixels_of(proposals, grid)
    looked_at = [windows[review.tile_id] for review in reviews]
    return Answers(proposals, polygons, looked_at, decide(proposals, polygons, reviews, windows), grid)


def correct_labels(
    image_id: str,
    answers: Answers,
    earlier: Earlier,
    round_: Round,
    name: str,
    imported_at: str,
    store: VersionStore,
) -> Corrected:
    """The labels that follow, and what earlier rounds brought after this one had gone out.

    Args:
        image_id: the image.
        answers: what people say of it.
        earlier: what is known without them.
        round_: as it went out.
        name: of the version, unless something came late.
        imported_at: this moment.
        store: holds the versions that the labels are made from.
    """
    grid, base = answers.grid, round_.bases.get(image_id)
    origin = Origin(round_.proposals[image_id], round_.round, imported_at)
    rows = correct(answers.proposals, base, answers.verdicts, grid, origin)
    if earlier.version != base:
        name = f"{name}-{digest(earlier.version)}"
        before, late = (store.read(image_id, one) if one else None for one in (base, earlier.version))
        rows = with_late(rows, before, late, answers.looked_at, grid)
    marks = Marks([*earlier.marks.reviewed, *answers.looked_at], earlier.marks.held_out)
    grounds = {version.name: version.ground for version in store.versions(image_id)}
    known, labelled = grounds.get(earlier.version or ""), earlier.version is not None
    ground = corrected_ground(known, labelled, marks.reviewed, grid)
    return Corrected(Version(name, "reviewed", name, round_.round, imported_at, ground), rows, marks)


def write_labels(
    image_id: str, corrected: Corrected, held: str | None, folder: Path, labels: Labels, store: VersionStore
) -> None:
    """Writes `labels/<image>.gpkg`, and `areas/<image>.gpkg` where labels are not complete everywhere.

    Files that hold this version stay as they are: what was learnt from them is not learnt again.

    Args:
        image_id: the image.
        corrected: its labels.
        held: version that the files hold; None where that is not known.
        folder: of the round.
        labels: the settings that name categories and their spellings.
        store: holds the version: rows that were kept before say when they were.
    """
    path, area = (folder / kind / f"{image_id}.gpkg" for kind in ("labels", "areas"))
    version, ground = corrected.version, corrected.version.ground
    if held == version.name and path.is_file() and area.is_file() == (ground is not None):
        return
    spellings = {category: texts[0] if texts else category for category, texts in labels.categories.items()}
    with atomic(path) as scratch:
        rows = store.read(image_id, version.name)
        write_corrected(scratch, rows, corrected.marks, labels.condition_attribute, spellings)
        drop_journals(path)
    if ground is None:
        area.unlink(missing_ok=True)
        return
    with atomic(area) as scratch:
        frame = geopandas.GeoDataFrame(geometry=[ground], crs=rows.crs)
        pyogrio.write_dataframe(frame, scratch, layer="area", driver="GPKG", dataset_options=GPKG_VERSION)
        drop_journals(area)
