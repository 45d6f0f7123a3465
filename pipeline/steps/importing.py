"""ImportReview: what people hand back becomes corrected labels beside the old ones, and numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import geopandas
import numpy as np
import pyogrio
from pydantic import Field

from pipeline.atomic import atomic
from pipeline.errors import ArtifactError, SourceError
from pipeline.review.changes import Change, RoundNumbers, changes_of, number_round
from pipeline.review.corrected import Marks, Origin, correct, corrected_ground, with_late, write_corrected
from pipeline.review.deciding import decide, last_reviews
from pipeline.review.proposals import pixels_of, source_of
from pipeline.review.records import Round, TileReview
from pipeline.review.returned import read_returned
from pipeline.schema import Artifact, Versioned, Window
from pipeline.settings import Labels
from pipeline.steps import Progress, silent
from pipeline.stores.versions import Version, VersionStore
from pipeline.untouched import drop_journals, stamp_of, with_log


class ReviewedTile(Artifact):
    """A tile that somebody has looked at."""

    image_id: str
    tile_id: str
    window: Window
    person: str


class Imported(Versioned):
    """What came back of a round (`review/round_<n>/imported.json`)."""

    round: int = Field(ge=1)
    files: dict[str, list[int]]
    """Size and modification time of every file that was read, by name."""
    imported_at: str
    tiles: list[ReviewedTile]
    versions: dict[str, str]
    """By image, the version of its corrected labels."""


class Earlier(NamedTuple):
    """What earlier rounds say of one image."""

    reviewed: list[Window]
    held_out: list[Window]
    version: str | None = None
    """Of its labels as the rounds before this one have left them; None where they have not touched them."""


def read_round(path: Path) -> Round:
    """A round as it went out.

    Raises:
        ArtifactError: it did not, or the file is damaged.
    """
    return _read(path, Round, "Export the round first: ReviewRound --round with its number.")


def read_imported(path: Path) -> Imported:
    """What came back of a round.

    Raises:
        ArtifactError: nothing did, or the file is damaged.
    """
    return _read(
        path, Imported, "Delete it if it is there, and run ImportReview: it reads what was returned."
    )


def read_numbers(path: Path) -> RoundNumbers:
    """What people did in a round.

    Raises:
        ArtifactError: nothing came back of it, or the file is damaged.
    """
    return _read(path, RoundNumbers, "Delete imported.json beside it, and run ImportReview of that round.")


def tiles_reviewed(rounds: Iterable[Path], weights: str, enough: int) -> dict[str, list[Window]]:
    """By image, the tiles on which people corrected what a network had proposed.

    Args:
        rounds: folders of rounds that have come back.
        weights: digest of the network.
        enough: buildings decided in rounds with its proposals, below which nothing is told.
    """
    tiles: dict[str, set[Window]] = {}
    buildings = 0
    for folder in rounds:
        numbers = read_numbers(folder / "numbers.json")
        if any(weights.startswith(_weights_of(tag)) for name in numbers.models for tag in name.split(" + ")):
            buildings += numbers.everything.proposals + numbers.added
            for tile in read_imported(folder / "imported.json").tiles:
                tiles.setdefault(tile.image_id, set()).add(tile.window)
    if buildings < enough:
        return {}
    return {image_id: sorted(windows) for image_id, windows in sorted(tiles.items())}


def _weights_of(tag: str) -> str:
    """Beginning of a network's digest, of `<name>/<beginning>`."""
    return tag.rpartition("/")[2]


def _read(path: Path, kind: Any, remedy: str) -> Any:
    try:
        return kind.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"not a {kind.__name__.lower()} of the review",
            where=path,
            found=str(error).splitlines()[0],
            remedy=remedy,
        ) from error


def import_round(
    round_: Round,
    files: Sequence[Path],
    store: VersionStore,
    labels: Labels,
    earlier: Mapping[str, Earlier],
    folder: Path,
    imported_at: str,
    progress: Progress = silent,
) -> tuple[Imported, RoundNumbers]:
    """Writes `labels/<image>.gpkg`, and `areas/<image>.gpkg` where labels are not complete everywhere.

    Those of images of which nothing is there any more go. `imported.json` goes first: where it is, they hold
    the versions that it names.

    Args:
        round_: as it went out.
        files: what people handed back.
        store: keeps the corrected labels as versions.
        labels: the settings that name categories and their spellings.
        earlier: by image.
        folder: of the round.
        imported_at: this moment.
        progress: told before each image.

    Raises:
        SourceError: nothing was handed back, or no tile in it is finished.
        LabelError: a file cannot be read, or is of another round.
    """
    reviews = [review for path in files for review in read_returned(path, round_)]
    if not reviews:
        raise SourceError(
            "no finished tile has come back",
            where=folder / "returned",
            found=[path.name for path in files],
            remedy="Put the edited GeoPackage (tiles set to done), Label Studio's JSON export or COCO there.",
        )
    deciding, agreements = last_reviews(reviews)
    name = f"round_{round_.round:03d}-{_digest(files)}"
    changes: list[Change] = []
    versions: dict[str, str] = {}
    held = _withdraw(folder / "imported.json")
    images = sorted({review.image_id for review in deciding})
    for number, image_id in enumerate(images):
        progress(number / len(images), f"importing {image_id}, {number + 1}/{len(images)}")
        mine = [review for review in deciding if review.image_id == image_id]
        versions[image_id], brought = _import_image(
            image_id, mine, round_, store, labels, earlier, folder, name, imported_at, held.get(image_id)
        )
        changes += brought
    for path in [*folder.glob("labels/*.gpkg"), *folder.glob("areas/*.gpkg")]:
        if path.stem not in versions:
            path.unlink()
    windows = {(tile.image_id, tile.tile_id): tile.window for tile in round_.tiles}
    imported = Imported(
        round=round_.round,
        files={path.name: stamp_of(path) for path in files},
        imported_at=imported_at,
        tiles=[
            ReviewedTile(
                image_id=review.image_id,
                tile_id=review.tile_id,
                window=windows[review.image_id, review.tile_id],
                person=review.person,
            )
            for review in deciding
        ],
        versions=versions,
    )
    seconds = [review.seconds for review in deciding]
    people = {review.person for review in reviews}
    return imported, number_round(round_.round, changes, seconds, people, agreements, round_.categories)


def _withdraw(imported: Path) -> dict[str, str]:
    """By image, the version its files hold; from here on nothing says so: a killed import is begun anew."""
    try:
        held = read_imported(imported).versions
    except ArtifactError:
        held = {}
    imported.unlink(missing_ok=True)
    return held


def _digest(files: Iterable[Path]) -> str:
    """Of what the files hold, whatever they are called: the same again is the same version."""
    contents = sorted(
        hashlib.sha256(b"".join(part.read_bytes() for part in with_log(path))).hexdigest() for path in files
    )
    return hashlib.sha256("".join(contents).encode()).hexdigest()[:12]


def _import_image(
    image_id: str,
    reviews: Sequence[TileReview],
    round_: Round,
    store: VersionStore,
    labels: Labels,
    earlier: Mapping[str, Earlier],
    folder: Path,
    name: str,
    imported_at: str,
    held: str | None,
) -> tuple[str, list[Change]]:
    """Keeps the corrected labels of one image; returns their version and what was changed.

    Files that hold this version already stay as they are: what was learnt from them is not learnt again.
    """
    grid, proposals, base = round_.grids[image_id], round_.proposals[image_id], round_.bases.get(image_id)
    rows = store.read(image_id, proposals)
    polygons = pixels_of(rows, grid)
    windows = {tile.tile_id: tile.window for tile in round_.tiles if tile.image_id == image_id}
    verdicts = decide(rows, polygons, reviews, windows)
    corrected = correct(rows, base, verdicts, grid, Origin(proposals, round_.round, imported_at))
    before = earlier.get(image_id, Earlier([], round_.held_out.get(image_id, [])))
    if before.version and before.version != base:
        # Somebody answered an earlier round after this one had gone out.
        name = f"{name}-{before.version.rpartition('-')[2]}"
        told = store.read(image_id, base) if base else None
        looked_at = [windows[review.tile_id] for review in reviews]
        corrected = with_late(corrected, told, store.read(image_id, before.version), looked_at, grid)
    marks = Marks([*before.reviewed, *(windows[review.tile_id] for review in reviews)], before.held_out)
    known = {version.name: version for version in store.versions(image_id)}
    base_ground = known[base].ground if base else None
    ground = corrected_ground(base_ground, base is not None, marks.reviewed, grid)
    version = Version(name, "reviewed", name, round_.round, imported_at, ground)
    store.add(image_id, version, corrected)
    files = {kind: folder / kind / f"{image_id}.gpkg" for kind in ("labels", "areas")}
    spellings = {category: texts[0] if texts else category for category, texts in labels.categories.items()}
    for path in files.values():
        path.parent.mkdir(exist_ok=True)
    if held != name or not files["labels"].is_file():
        with atomic(files["labels"]) as scratch:
            kept = store.read(image_id, name)
            write_corrected(scratch, kept, marks, labels.condition_attribute, spellings)
            drop_journals(files["labels"])
    if ground is None:
        files["areas"].unlink(missing_ok=True)
    elif held != name or not files["areas"].is_file():
        frame = geopandas.GeoDataFrame(geometry=[ground], crs=grid.crs)
        with atomic(files["areas"]) as scratch:
            pyogrio.write_dataframe(frame, scratch, layer="area", driver="GPKG")
            drop_journals(files["areas"])
    known_rows = {
        int(row["row_id"]): row | {"source": source_of(row), "polygon_px": polygon}
        for row, polygon in zip(rows.to_dict("records"), polygons, strict=True)
    }
    return name, changes_of(verdicts, known_rows, float(np.mean(grid.ground_m_per_px)))
