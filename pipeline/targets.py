"""Where each artifact lies, when it counts as there, and how it appears whole or not at all.

::

    <workspace>/
      input/<split>/{images,labels,areas}/<image_id>.*     what people give
      work/<image_id>/<kind>-<digest>/                     one folder per artifact and digest
      work/networks/<digest>/                              weights.h5, history.json
      work/calibrations/<digest>/                          thresholds.json
      work/training_sets/<digest>/                         images, labels, annotations for other networks
      output/<image_id>.csv, .geojson, .report.json, .html what people take
      output/runs/<image_id>.<task>.json                   the run record that stamps them
      review/round_<n>/                                    what went out, what came back, corrected labels
      review/versions/<image_id>/<version>.gpkg            labels and buildings side by side, for good

Artifacts in `work` carry the digest of what made them in their path, so two settings never meet.
Results in `output` keep friendly names; their run record says which digest they belong to.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import luigi

from pipeline.atomic import flush, holding, write_atomic
from pipeline.errors import SettingsError
from pipeline.inputs import IMAGE_SUFFIXES, LABEL_SUFFIXES, URL_PREFIXES, files_in, named
from pipeline.provenance import RunRecord, facts_of, read_record
from pipeline.untouched import drop_journals

_ROUND = re.compile(r"round_(0[0-9]{2}|[1-9][0-9]{2,})")


class Workspace:
    """The folder that holds one project's inputs, artifacts and results.

    Touches nothing on construction; its methods only build paths, or look inputs up by name.
    """

    def __init__(self, root: str | Path):
        self.root = Path(root).absolute()

    @property
    def rounds(self) -> list[Path]:
        """The folders of the review's rounds, from the first on; copies under other names are none."""
        named = [_ROUND.fullmatch(path.name) for path in self.review.glob("round_*")]
        return [self.round_folder(number) for number in sorted(int(name[1]) for name in named if name)]

    @property
    def work(self) -> Path:
        """The folder of artifacts, all of which can be made again."""
        return self.root / "work"

    @property
    def output(self) -> Path:
        """The folder of published results."""
        return self.root / "output"

    @property
    def review(self) -> Path:
        """The folder of the review loop: what goes out to people, and what they made of it."""
        return self.root / "review"

    def round_folder(self, number: int) -> Path:
        """The folder of a review round."""
        return self.review / f"round_{number:03d}"

    def find_corrected(self, image_id: str) -> Path | None:
        """The label file of an image as people corrected it last; None where nobody did."""
        files = (folder / "labels" / f"{image_id}.gpkg" for folder in reversed(self.rounds))
        return next((path for path in files if path.is_file()), None)

    def find_corrected_area(self, image_id: str) -> Path | None:
        """The ground on which corrected labels are complete; None for all of it."""
        corrected = self.find_corrected(image_id)
        area = corrected.parents[1] / "areas" / f"{image_id}.gpkg" if corrected else None
        return area if area and area.is_file() else None

    def artifact(self, image_id: str, kind: str, digest: str) -> Path:
        """Path of an artifact's folder: `work/<image_id>/<kind>-<digest>`."""
        return self.work / image_id / f"{kind}-{digest}"

    def network(self, digest: str) -> Path:
        """Path of a trained network's folder."""
        return self.work / "networks" / digest

    def calibration(self, digest: str) -> Path:
        """Path of the folder of a network's thresholds."""
        return self.work / "calibrations" / digest

    def training_set(self, digest: str) -> Path:
        """Path of the folder of the training tiles as datasets for other networks."""
        return self.work / "training_sets" / digest

    def record(self, name: str, task: str) -> Path:
        """Path of the run record that stamps a published result."""
        return self.output / "runs" / f"{name}.{task}.json"

    def check_inside(self, path: Path) -> Path:
        """The path itself.

        Raises:
            SettingsError: a link on the way leads out of the workspace.
        """
        real, root = path.resolve(), self.root.resolve()
        if not real.is_relative_to(root):
            raise SettingsError(
                "a link leads out of the workspace, and nothing is written there",
                where=path,
                found=str(real),
                remedy="Remove the link, or set [Storage] workspace to the folder that is meant.",
            )
        return path

    def find_image(self, image_id: str) -> Path | None:
        """The image called `image_id`, in whatever split it lies; None when there is none."""
        return self._find(image_id, "images", IMAGE_SUFFIXES)

    def find_labels(self, image_id: str) -> Path | None:
        """The label file of an image; None when there is none."""
        return self._find(image_id, "labels", LABEL_SUFFIXES)

    def find_area(self, image_id: str) -> Path | None:
        """The polygon file of the ground on which an image's labels are complete; None for all of it."""
        return self._find(image_id, "areas", LABEL_SUFFIXES)

    def images_of(self, split: str) -> list[str]:
        """Ids of the images in a split, sorted."""
        return sorted(
            {path.stem for path in files_in(self.root / "input" / split / "images", IMAGE_SUFFIXES)}
        )

    def images_everywhere(self) -> list[str]:
        """Ids of the images in all splits, sorted."""
        splits = (self.root / "input").glob("*")
        return sorted({name for split in splits for name in self.images_of(split.name)})

    def labels_everywhere(self) -> list[str]:
        """Stems of the label files in all splits, sorted."""
        folders = (self.root / "input").glob("*/labels")
        return sorted({path.stem for folder in folders for path in files_in(folder, LABEL_SUFFIXES)})

    def _find(self, image_id: str, kind: str, suffixes: tuple[str, ...]) -> Path | None:
        folders = sorted((self.root / "input").glob(f"*/{kind}"))
        found = [path for folder in folders for path in named(folder, image_id, suffixes)]
        if len(found) > 1:
            raise SettingsError(
                f"image id stands for {len(found)} files of input/*/{kind}",
                where=image_id,
                found=[str(path.relative_to(self.root)) for path in found],
                remedy="Keep one of them or rename the others: an image id names one image.",
            )
        return found[0] if found else None


class SourceTarget(luigi.Target):
    """An input that people give: a local file, or a URL taken at its word."""

    def __init__(self, path: Path | str | None):
        self.path = path

    def exists(self) -> bool:
        """Whether the file is there."""
        return self.path is not None and (
            str(self.path).startswith(URL_PREFIXES) or Path(self.path).is_file()
        )


class PublishedTarget(luigi.Target):
    """Results under friendly names, complete when their run record carries the digest asked for.

    Args:
        record: path of the run record.
        digest: of the settings and inputs the results must come from.
    """

    def __init__(self, record: Path, digest: str):
        self.record, self.digest = record, digest

    def exists(self) -> bool:
        """Whether all files are there as published, and of this digest."""
        return holds(self.record.parents[1], self.record, self.digest)

    def publish(self, scratch: Path, record: RunRecord) -> None:
        """Moves the files of `scratch` under their friendly names, then stamps them.

        What the old stamp names and is not made again goes first, a format that is no longer asked for, then
        the stamp itself: a kill in between leaves results that rerun. One process publishes at a time, so
        that results of two runs never lie under one stamp; what an equal run has published stays, for
        another step may be reading it.
        """
        folder = self.record.parents[1]
        files = sorted(path for path in scratch.iterdir() if path.is_file())
        stamped = record.model_copy(update=facts_of(scratch, files))
        for path in files:
            flush(path)
        self.record.parent.mkdir(parents=True, exist_ok=True)
        with holding(self.record.parent):
            if holds(folder, self.record, stamped.digest):
                return
            old = read_record(self.record)
            for name in set(old.files if old else ()) - {path.name for path in files}:
                drop_journals(folder / Path(name).name)
                (folder / Path(name).name).unlink(missing_ok=True)
            self.record.unlink(missing_ok=True)
            for path in files:
                drop_journals(folder / path.name)
                os.replace(path, folder / path.name)
            write_atomic(self.record, stamped.model_dump_json(indent=1))


class MadeTarget(luigi.Target):
    """A folder that one task made at once, complete when all files are there that its run record names.

    Args:
        folder: with `run.json` in it.
        digest: of the settings and inputs it must come from.
    """

    def __init__(self, folder: Path, digest: str):
        self.folder, self.digest = folder, digest

    def exists(self) -> bool:
        """Whether all files are there as they were made, and of this digest."""
        return holds(self.folder, self.folder / "run.json", self.digest)


def holds(folder: Path, record: Path, digest: str) -> bool:
    """Whether a folder holds all files of a run record, by their sizes, and the record is of this digest."""
    told = read_record(record)
    if told is None or told.digest != digest:
        return False
    return all(_size(folder / name) == size for name, size in told.files.items())


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


class ReturnedTarget(luigi.Target):
    """What people handed back, complete when all there is has been read as it is now.

    Args:
        imported: JSON that tells of what was read, and of the images whose label files lie beside it.
        there: what there is to read, in the words of that JSON.
    """

    def __init__(self, imported: Path, there: Callable[[], dict[str, Any]]):
        self.imported, self.there = imported, there

    def exists(self) -> bool:
        """Whether nothing was handed back since, and the labels that came of it are there."""
        try:
            read = json.loads(self.imported.read_bytes())
            labels = [self.imported.with_name("labels") / f"{name}.gpkg" for name in read["versions"]]
        except (OSError, ValueError, KeyError, TypeError):
            return False
        same = all(read.get(name) == now for name, now in self.there().items())
        return same and all(path.is_file() for path in labels)


class FetchedTarget(luigi.Target):
    """A file fetched from a server, complete while the server holds what it held then.

    Args:
        path: the file; none while the server holds nothing.
        ask: what the server holds now, in few words that change when it does; '' for nothing.
    """

    def __init__(self, path: Path, ask: Callable[[], str]):
        self.path, self.ask = path, ask
        self._told = path.with_name(f".{path.name}.fetched")

    def exists(self) -> bool:
        """Whether there is nothing new to fetch; asks the server."""
        told = self.ask()
        return self._told.is_file() and self._told.read_text() == told and self.path.is_file() == bool(told)

    def write(self, content: str, told: str) -> None:
        """Puts what was fetched in place.

        Args:
            content: the file's.
            told: by `ask`, before the content was fetched: what comes in between is then fetched next time.
        """
        self._told.unlink(missing_ok=True)
        if told:
            write_atomic(self.path, content)
        else:
            self.path.unlink(missing_ok=True)
        write_atomic(self._told, told)


class LabelStoreTarget(luigi.Target):
    """The label rows of one image, complete when the store's marker carries the digest asked for."""

    def __init__(self, store, image_id: str, digest: str):
        self.store, self.image_id, self.digest = store, image_id, digest

    def exists(self) -> bool:
        """Whether the store holds these very labels."""
        return self.store.is_current(self.image_id, self.digest)
