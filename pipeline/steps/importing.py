"""ImportReview: what people hand back becomes corrected labels beside the old ones, and numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from pydantic import Field

from pipeline.errors import ArtifactError, SourceError
from pipeline.review.changes import Change, RoundNumbers, number_round
from pipeline.review.corrected import Marks, read_marks
from pipeline.review.deciding import last_reviews
from pipeline.review.records import Round, TileReview
from pipeline.review.returned import SUFFIXES, handed_back, read_returned, returned_files
from pipeline.schema import Artifact, Versioned, Window
from pipeline.settings import Labels
from pipeline.steps import Progress, silent
from pipeline.steps.correcting import Earlier, correct_labels, read_answers, write_labels
from pipeline.stores.versions import VersionStore
from pipeline.untouched import stamp_of, with_log


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
    """Size and modification time of everything that was handed back, by name."""
    earlier: dict[str, str] = Field(default_factory=dict)
    """By image, the version of its labels as earlier rounds had left them, which is joined to this one's."""
    imported_at: str
    tiles: list[ReviewedTile]
    versions: dict[str, str]
    """By image, the version of its corrected labels."""
    unread: dict[str, str] = Field(default_factory=dict)
    """By name, why something that was handed back counts for nothing."""


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
    folder: Path,
    earlier: Sequence[Path],
    store: VersionStore,
    labels: Labels,
    imported_at: str,
    progress: Progress = silent,
) -> tuple[Imported, RoundNumbers]:
    """Reads what people handed back: labels of every image in it, what was read, and numbers.

    Files of images of which nothing is there any more go. `imported.json` goes first: where it is, they hold
    the versions that it names.

    Args:
        folder: of the round.
        earlier: `imported.json` of the rounds before, as far as they came back, in their order.
        store: keeps the corrected labels as versions.
        labels: the settings that name categories and their spellings.
        imported_at: this moment.
        progress: told before each image.

    Raises:
        SourceError: nothing was handed back, or no tile in it is finished.
        LabelError: a file cannot be read, or is of another round.
    """
    round_, files = read_round(folder / "round.json"), returned_files(folder / "returned")
    there = what_there_is(folder, earlier)
    found = {path.name: read_returned(path, round_) for path in files}
    reviews = [review for mine in found.values() for review in mine]
    if not reviews:
        raise SourceError(
            "no finished tile has come back",
            where=folder / "returned",
            found=list(there["files"]),
            remedy="Put the edited GeoPackage (tiles set to done), Label Studio's JSON export or COCO there.",
        )
    deciding, agreements = last_reviews(reviews)
    held, name = _withdraw(folder / "imported.json"), f"round_{round_.round:03d}-{_digest(files)}"
    versions: dict[str, str] = {}
    changes: list[Change] = []
    images = {image_id: list(mine) for image_id, mine in groupby(deciding, lambda review: review.image_id)}
    for number, (image_id, mine) in enumerate(images.items()):
        progress(number / len(images), f"importing {image_id}, {number + 1}/{len(images)}")
        answers = read_answers(image_id, mine, round_, store)
        before = _earlier(image_id, earlier, round_, folder, store)
        corrected = correct_labels(image_id, answers, before, round_, name, imported_at, store)
        store.add(image_id, corrected.version, corrected.rows)
        write_labels(image_id, corrected, held.get(image_id), folder, labels, store)
        versions[image_id] = corrected.version.name
        changes += answers.changes()
    for path in [*folder.glob("labels/*.gpkg"), *folder.glob("areas/*.gpkg")]:
        if path.stem not in versions:
            path.unlink()
    tiles = _reviewed_tiles(deciding, round_)
    imported = Imported(
        round=round_.round,
        **there,
        imported_at=imported_at,
        tiles=tiles,
        versions=versions,
        unread={name: _why_unread(found.get(name)) for name in there["files"] if not found.get(name)},
    )
    seconds = [review.seconds for review in deciding]
    people = {review.person for review in reviews}
    return imported, number_round(round_.round, changes, seconds, people, agreements, round_.categories)


def what_there_is(folder: Path, earlier: Iterable[Path]) -> dict[str, Any]:
    """What there is to read, as `imported.json` tells it of what was read.

    Args:
        folder: of the round.
        earlier: `imported.json` of the rounds before, in their order.
    """
    files = {path.name: stamp_of(path) for path in handed_back(folder / "returned")}
    return {"files": files, "earlier": versions_of(earlier)}


def versions_of(imported: Iterable[Path]) -> dict[str, str]:
    """By image, the version of its labels as these rounds have left them, each after the one before."""
    return {image_id: name for path in imported for image_id, name in read_imported(path).versions.items()}


def _earlier(
    image_id: str, earlier: Sequence[Path], round_: Round, folder: Path, store: VersionStore
) -> Earlier:
    """What is known of an image without this round."""
    for path in reversed(earlier):
        if version := read_imported(path).versions.get(image_id):
            return Earlier(read_marks(path.with_name("labels") / f"{image_id}.gpkg"), version)
    versions = {version.name: version for version in store.versions(image_id)}
    base = round_.bases.get(image_id)
    while base and versions[base].kind == "reviewed":  # whose answers were taken back since
        number = versions[base].round
        base = read_round(folder.with_name(f"round_{number:03d}") / "round.json").bases.get(image_id)
    return Earlier(Marks([], round_.held_out.get(image_id, [])), base)


def _why_unread(reviews: list[TileReview] | None) -> str:
    return "no finished tile" if reviews is not None else f"no {' or '.join(SUFFIXES)} out of its archive"


def _reviewed_tiles(reviews: Iterable[TileReview], round_: Round) -> list[ReviewedTile]:
    windows = {(tile.image_id, tile.tile_id): tile.window for tile in round_.tiles}
    return [
        ReviewedTile(
            image_id=review.image_id,
            tile_id=review.tile_id,
            window=windows[review.image_id, review.tile_id],
            person=review.person,
        )
        for review in reviews
    ]


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
