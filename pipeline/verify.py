"""Whether a workspace holds what its run records say: every file whole, of this version, and counted.

Behind `jengo verify`. Inputs are never touched.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

import orjson
from pydantic import ValidationError

from models.errors import Mistake
from pipeline.calibration import Calibration
from pipeline.outputs.formats import FEATURE
from pipeline.provenance import RunRecord, read_record, sha256_of
from pipeline.schema import CoarseIndex
from pipeline.steps.detection_rows import read_detections
from pipeline.steps.evaluation import Evaluation
from pipeline.steps.training import read_tile_items
from pipeline.tiling import read_tile_index

_SHARED = {
    "networks": "TrainMaskRCNN",
    "calibrations": "CalibrateNetwork",
    "training_sets": "ExportTraining",
}
_TASKS = {
    "tiles": "TileImage",
    "labels": "LoadLabels",
    "pairs": "CutTiles",
    "detections": "InferShard",
    "large": "InferLarge",
    "buildings": "AggregateImage",
}
"""By the folders they fill, in the graph's order."""


class Damage(NamedTuple):
    """One thing that is wrong, and what has to go for the next run to make it again."""

    path: Path
    """Where it was found."""
    what: str
    """In words."""
    discard: tuple[Path, ...]
    """Files and folders."""

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"

    @property
    def remake(self) -> str:
        """The task that makes it again, as luigi takes it; told from where it lies."""
        return remake(self.discard[-1])


def remake(path: Path) -> str:
    """The task that makes an artifact, from the place of its folder, manifest or stamp.

    >>> remake(Path("work/scene_042/detections-1234/shard_1_of_4_by_8.manifest.json"))
    'InferShard --image-id scene_042 --shard 1'
    >>> remake(Path("output/runs/scene_042.AggregateImage.json"))
    'AggregateImage --image-id scene_042'
    >>> remake(Path("work/review/queue_001-1234"))
    'SelectTiles --round 1'
    """
    if path.parent.name == "runs":
        name, task = path.stem.rsplit(".", 1)
        return (
            f"Submission --split {name.removeprefix('submission_')}"
            if task == "Submission"
            else (f"{task} --image-id {name}")
        )
    if path.parent.name in _SHARED:
        return _SHARED[path.parent.name]
    folder = path.parent if "manifest" in path.name else path
    kind = folder.name.partition("-")[0]
    if kind.startswith("queue_"):
        return f"SelectTiles --round {int(kind.removeprefix('queue_'))}"
    task = _TASKS[kind]
    shard = f" --shard {path.name.split('_')[1]}" if task == "InferShard" else ""
    return f"{task} --image-id {folder.parent.name}{shard}"


class Verified(NamedTuple):
    """What was looked at."""

    records: int
    files: int
    damages: list[Damage]


def verify(workspace: Path) -> Verified:
    """Everything that is wrong with the artifacts and results of a workspace.

    Args:
        workspace: the folder that holds work/ and output/.
    """
    damages: list[Damage] = []
    records = files = 0
    for path in [*_records(workspace)]:
        records += 1
        record = _read(path)
        if isinstance(record, Damage):
            damages.append(record)
            continue
        files += len(record.files)
        damages += _check(workspace, path, record)
    return Verified(records, files, damages)


def discard(damages: Sequence[Damage]) -> None:
    """Removes what is damaged, so that the next run makes it again."""
    for path in {path for damage in damages for path in damage.discard}:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _records(workspace: Path) -> Iterator[Path]:
    """Every run record, published ones last."""
    yield from sorted((workspace / "work").rglob("run.json"))
    yield from sorted((workspace / "work").rglob("*manifest.json"))
    yield from sorted((workspace / "output" / "runs").glob("*.json"))


def _read(path: Path) -> RunRecord | Damage:
    try:
        return RunRecord.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error.strerror
        return Damage(path, f"not a run record: {reason}", _belongings(path))


def _belongings(record: Path) -> tuple[Path, ...]:
    """What goes with a record: its folder where it has one of its own, else the record alone."""
    return (record.parent,) if record.name == "run.json" else (record,)


def _check(workspace: Path, path: Path, record: RunRecord) -> Iterator[Damage]:
    published = path.parent == workspace / "output" / "runs"
    folder = workspace / "output" if published else path.parent
    whole = True
    if not published and not folder.name.endswith(record.digest):
        yield Damage(path, f"lies in a folder of another digest than {record.digest}", _belongings(path))
    for name, size in record.files.items():
        for what in _faults(folder / name, size, record.sha256.get(name)):
            whole = False
            # Shards share a folder, so that the file goes with its manifest and not the folder.
            alone = (folder / name, path)
            yield Damage(folder / name, what, alone if "manifest" in path.name else _belongings(path))
    if whole:
        for what in _miscounts(workspace, folder, record):
            yield Damage(path, what, _belongings(path))
    if published:
        for what in _replaced(path.parent, record):
            yield Damage(path, what, _belongings(path))


def _replaced(runs: Path, record: RunRecord) -> Iterator[str]:
    """Published results that a result was made from, and in whose place others lie now."""
    for name, digest in record.inputs.items():
        # A step about one image names its inputs by task, one about several names them by image.
        for stamp in (f"{record.image_id}.{name}.json", f"{name}.AggregateImage.json"):
            made_from = read_record(runs / stamp)
            if made_from is not None and made_from.digest != digest:
                yield f"was made from other results than {stamp} tells of"


def _faults(path: Path, size: int, sha256: str | None) -> Iterator[str]:
    if not path.is_file():
        yield "is missing"
    elif path.stat().st_size != size:
        yield f"has {path.stat().st_size:,} bytes instead of {size:,}"
    else:
        try:
            if sha256 is not None and sha256_of(path) != sha256:
                yield "is not what was written: its SHA-256 differs"
            elif sha256 is None or _reader(path) in (read_detections, _read_weights):
                # Everything else that is what was written is of its record's version.
                _reader(path)(path)
        except (Mistake, ValidationError, OSError, ValueError) as error:
            yield f"cannot be read: {str(error).splitlines()[0]}"


def _reader(path: Path) -> Callable[[Path], object]:
    """What reads a file strictly; one that only looks for JSON where there is nothing stricter."""
    if path.parent.name == "items":
        return lambda file: read_tile_items(file.parents[1], file.stem)
    if path.parent.name.startswith(("detections-", "large-")) and path.name != "index.json":
        return read_detections
    names: dict[str, Callable[[Path], object]] = {
        "tiles.geojson": read_tile_index,
        "thresholds.json": lambda file: Calibration.model_validate_json(file.read_bytes()),
        "weights.h5": _read_weights,
        "index.json": lambda file: CoarseIndex.model_validate_json(file.read_bytes()),
    }
    if path.name in names:
        return names[path.name]
    if path.name.endswith(".report.json") and path.parent.name == "output":
        return lambda file: Evaluation.model_validate_json(file.read_bytes())
    if path.suffix in (".json", ".geojson"):
        return lambda file: orjson.loads(file.read_bytes())
    return lambda file: None


def _read_weights(path: Path) -> object:
    from models.weights import read_metadata

    return read_metadata(path)


def _miscounts(workspace: Path, folder: Path, record: RunRecord) -> Iterator[str]:
    """What does not add up in artifacts that are whole."""
    counts = record.counts
    if record.task == "InferShard" and len(record.files) != counts.get("tiles"):
        yield f"{len(record.files)} per-tile JSON for {counts.get('tiles')} tiles"
    if record.task == "LoadLabels":
        yield from _label_faults(folder, record)
    told = {"tiles", "detections", "merged", "buildings"} <= counts.keys()
    if record.task != "AggregateImage" or record.image_id is None or not told:
        return
    name, work = record.image_id, workspace / "work" / record.image_id
    detections = work / f"detections-{record.inputs.get('InferShard', '')}"
    if detections.is_dir() and "InferLarge" not in record.inputs:
        yield from _tile_faults(detections, counts)
    buildings = counts["buildings"]
    if counts["detections"] < counts["merged"] or counts["merged"] < buildings:
        yield f"{buildings} buildings from {counts['merged']} merged of {counts['detections']} detections"
    csv, geojson = folder / f"{name}.csv", folder / f"{name}.geojson"
    if csv.is_file() and (rows := _lines(csv) - 1) != buildings:
        yield f"{rows} rows in {csv.name} for {buildings} buildings"
    if geojson.is_file() and (found := _lines(geojson, FEATURE)) != buildings:
        yield f"{found} features in {geojson.name} for {buildings} buildings"


def _tile_faults(folder: Path, counts: dict[str, int]) -> Iterator[str]:
    """What a map's counts do not say of its tiles; one that is damaged counts as none."""
    tiles = found = 0
    for path in folder.glob("r*.json"):
        with suppress(Mistake):
            found += len(read_detections(path).detections)
            tiles += 1
    if tiles != counts["tiles"]:
        yield f"{tiles} readable per-tile JSON for {counts['tiles']} tiles"
    elif found != counts["detections"]:
        yield f"{found} detections in per-tile JSON, {counts['detections']} were read"


def _label_faults(folder: Path, record: RunRecord) -> Iterator[str]:
    """What is wrong with the embedded store; a database looks after itself."""
    path = folder / f"{record.image_id}.gpkg"
    if not path.is_file():
        return
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            ((sound,),) = connection.execute("PRAGMA quick_check(1)").fetchall()
            ((digest,),) = connection.execute("SELECT digest FROM label_sets").fetchall()
            ((rows,),) = connection.execute("SELECT count(*) FROM labels").fetchall()
    except (sqlite3.Error, ValueError) as error:
        yield f"{path.name} is damaged: {error}"
        return
    if sound != "ok":
        yield f"{path.name} is damaged: {sound}"
    elif digest != record.digest:
        yield f"{path.name} is of digest {digest}"
    elif rows != record.counts["labels"]:
        yield f"{rows} rows in {path.name} for {record.counts['labels']} labels"


def _lines(path: Path, beginning: bytes = b"") -> int:
    with path.open("rb") as file:
        return sum(line.startswith(beginning) for line in file)
