"""A review round: out to people, back from them, and what it brought."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import luigi

from pipeline import settings
from pipeline.atomic import write_atomic
from pipeline.errors import SettingsError
from pipeline.inputs import fingerprint
from pipeline.labels import read_area
from pipeline.raster import Imagery
from pipeline.review.changes import RoundsReport
from pipeline.review.page import render_rounds
from pipeline.review.proposals import propose
from pipeline.review.records import Queue, Round
from pipeline.review.returned import returned_files
from pipeline.seams import MergeRules
from pipeline.steps.checking import now
from pipeline.steps.importing import (
    import_round,
    read_imported,
    read_numbers,
    read_round,
    versions_of,
    what_there_is,
)
from pipeline.steps.judging import Truth, fuse_versions, score_versions
from pipeline.steps.labeling_server import annotated, download_reviews, upload_round
from pipeline.steps.outgoing import Proposed, export_round
from pipeline.stores.versions import Version, row_frame
from pipeline.targets import FetchedTarget, ReturnedTarget
from pipeline.tasks.checking import keep_buildings, open_workspace_versions
from pipeline.tasks.learning import LoadLabels
from pipeline.tasks.mapping import AggregateImage
from pipeline.tasks.selecting import RoundStep, SelectTiles, held_out_of, versions_to_fuse
from pipeline.tasks.sources import SourceLabels
from pipeline.tasks.step import Step, digests

logger = logging.getLogger("luigi-interface")


class ExportReview(RoundStep):
    """`review/round_<n>/`: what people look at, for QGIS, Label Studio and CVAT; never written twice."""

    @property
    def tiles(self) -> SelectTiles:
        """The tiles."""
        return SelectTiles(round=self.round)

    @property
    def evaluation(self) -> list[AggregateImage]:
        """The labelled images that no network learns from, on which rounds are compared."""
        images = [name for name in self.workspace.images_of("test") if SourceLabels(image_id=name).found]
        return [AggregateImage(image_id=image_id) for image_id in images]

    @property
    def labels(self) -> dict[str, LoadLabels]:
        """By image, the labels there are."""
        labelled = [name for name in self.images if SourceLabels(image_id=name).found]
        return {image_id: LoadLabels(image_id=image_id) for image_id in labelled}

    def requires(self) -> list[Step]:
        """The tiles, the labels there are, and what is compared between rounds."""
        self.check_out(*range(1, self.round))
        return [self.tiles, *self.evaluation, *self.labels.values()]

    @property
    def inputs(self) -> Mapping[str, Any]:
        """The tiles, and by image its buildings and its labels."""
        found = [(task.image_id, task.digest) for task in (*self.tiles.buildings, *self.evaluation)]
        labels = [(image_id, task.digest) for image_id, task in self.labels.items()]
        return digests(self.tiles) | {"buildings": dict(found), "labels": dict(labels)}

    def output(self) -> luigi.LocalTarget:
        """What went out."""
        return luigi.LocalTarget(str(self.place / "round.json"))

    def run(self) -> None:
        """Keeps the proposals as versions, and writes them for every tool."""
        with self.making(self.place) as folder:
            exported = {task.image_id: self._propose(task) for task in self.tiles.buildings}
            round_ = self._round({image_id: names for image_id, (_, names) in exported.items()})
            images = {image_id: proposed for image_id, (proposed, _) in exported.items()}
            export_round(round_, images, settings.Imagery().rules(Imagery), folder, self.progress)
            if url := settings.Review().label_studio_url:
                project = upload_round(folder, url, f"{self.workspace.root.name}, round {self.round}")
                (folder / "label_studio" / "project.json").write_text(json.dumps({"project": project}))
        logger.info(
            "%s: %d tiles are in %s; put what comes back into its folder returned",
            self,
            len(round_.tiles),
            self.place,
        )

    def _propose(self, buildings: AggregateImage) -> tuple[Proposed, Names]:
        """What people are shown of an image, and the versions that it is made from."""
        image_id, made_at, store = buildings.image_id, now(), open_workspace_versions(self.workspace)
        found = self._found(buildings)
        base = self._base(image_id, made_at)
        rows = propose(
            store.read(image_id, base) if base else None,
            base or "",
            store.read(image_id, found),
            found,
            self.round,
            made_at,
        )
        proposals = f"proposals_{self.round:03d}-{settings.digest(base, found, made_at)}"
        store.add(image_id, Version(proposals, "proposed", proposals, self.round, made_at), rows)
        source = buildings.tiles.image.source
        return Proposed(source, store.read(image_id, proposals)), Names(proposals, base, found)

    def _found(self, buildings: AggregateImage) -> str:
        """Name of the version that holds what the network finds in an image, or an ensemble with it."""
        image_id, store = buildings.image_id, open_workspace_versions(self.workspace)
        mine = keep_buildings(buildings, self.round)
        others = versions_to_fuse(store, image_id, mine)
        if not others:
            return mine
        names = [mine, *others]
        found = f"ensemble-{settings.digest(names)}"
        version = Version(found, "ensemble", settings.digest(names), self.round, now())
        rules, grid = settings.Aggregation().rules(MergeRules), buildings.tiles.read().grid
        fuse_versions(image_id, names, version, store, grid, settings.Labels().names, rules)
        return found

    def _base(self, image_id: str, made_at: str) -> str | None:
        """Name of the version that holds the image's labels; None where there are none."""
        if image_id not in self.labels:
            return None
        task, store = self.labels[image_id], open_workspace_versions(self.workspace)
        if task.labels.corrected:
            return read_imported(task.labels.corrected.parents[1] / "imported.json").versions[image_id]
        name = f"labels-{task.digest}"
        area, labels = task.labels.area, task.store.read_labels(image_id)
        rows = row_frame(
            labels.geometry.values,
            labels.crs,
            category=labels["category"].tolist(),
            file=task.labels.source.name,
            made_at=made_at,
        )
        ground = read_area(area, labels.crs) if area else None
        store.add(image_id, Version(name, "drawn", task.digest, 0, made_at, ground), rows)
        return name

    def _round(self, names: Mapping[str, Names]) -> Round:
        queue = Queue.model_validate_json(self.tiles.queue.read_bytes())
        held_out = held_out_of(self.images)
        evaluated = {task.image_id: self._found(task) for task in self.evaluation}
        evaluated |= {image_id: names[image_id].found for image_id, ground in held_out.items() if ground}
        grids = {task.image_id: task.tiles.read().grid for task in self.tiles.buildings}
        return Round(
            round=self.round,
            exported_at=now(),
            categories=list(settings.Labels().names),
            tiles=queue.tiles,
            grids=grids | {task.image_id: task.tiles.read().grid for task in self.evaluation},
            proposals={image_id: one.proposals for image_id, one in names.items()},
            bases={image_id: one.base for image_id, one in names.items() if one.base},
            evaluated=evaluated,
            held_out=held_out,
        )


class Names(NamedTuple):
    """The versions behind what people are shown of an image."""

    proposals: str
    base: str | None
    """Of its labels; None where there are none."""
    found: str
    """Of the buildings that networks find."""


class FetchReview(RoundStep):
    """`returned/label_studio_<project>.json`: what the server holds; fetched again when that changes."""

    def requires(self) -> ExportReview:
        """What went out."""
        self.check_out(self.round)
        return ExportReview(round=self.round)

    @property
    def inputs(self) -> Mapping[str, Any]:
        """What went out; what it was made from may have changed since."""
        return {"round.json": fingerprint(self.place / "round.json")}

    @property
    def project(self) -> int | None:
        """The project on the server; None where there is none, or no server is given."""
        found = self.place / "label_studio" / "project.json"
        if not settings.Review().label_studio_url or not found.is_file():
            return None
        return int(json.loads(found.read_bytes())["project"])

    @property
    def weights(self) -> None:
        """People made it."""
        return None

    def output(self) -> FetchedTarget:
        """The export."""
        return FetchedTarget(self.place / "returned" / f"label_studio_{self.project}.json", self._ask)

    def _ask(self) -> str:
        return annotated(*self._server)

    @property
    def _server(self) -> tuple[str, int]:
        """Address and project."""
        if self.project is None:
            raise SettingsError(
                "the round is on no Label Studio server",
                where="[Review] label_studio_url",
                found=settings.Review().label_studio_url or "nothing",
                remedy="Give the address that the round went out with, or put the export into returned.",
            )
        return settings.Review().label_studio_url, self.project

    def run(self) -> None:
        """Fetches the annotated tasks."""
        with self._watched(self.place / "returned"):
            told = self._ask()
            self.progress(0.5, "fetching what was submitted")
            tasks = download_reviews(*self._server)
            self.output().write(json.dumps(tasks), told)
        logger.info("%s: %d tasks", self, sum(bool(task["annotations"]) for task in tasks))


class ImportReview(RoundStep):
    """Corrected labels beside the old ones, from what lies in `review/round_<n>/returned/`, and numbers."""

    def requires(self) -> list[RoundStep]:
        """What went out, and what is on a Label Studio server."""
        self.check_out(self.round)
        return [ExportReview(round=self.round), *self._fetched]

    @property
    def _before(self) -> list[ImportReview]:
        """The last round before that was answered; its labels hold what the others before it brought."""
        earlier = (ImportReview(round=number) for number in range(self.round - 1, 0, -1))
        return list(islice((task for task in earlier if task.answered), 1))

    @property
    def answered(self) -> bool:
        """Whether something came back of the round."""
        return self.output().imported.is_file() or bool(returned_files(self.returned))

    @property
    def _fetched(self) -> list[FetchReview]:
        """Of this round, and of those since the last that was answered: by now they may be."""
        last = max((task.round for task in self._before), default=0)
        asked = [FetchReview(round=number) for number in range(last + 1, self.round + 1)]
        return [fetched for fetched in asked if fetched.project is not None]

    def complete(self) -> bool:
        """Whether all that came back up to this round has been read, and nothing new is on the server."""
        return all(task.complete() for task in (*self._before, *self._fetched)) and super().complete()

    @property
    def inputs(self) -> Mapping[str, Any]:
        """What went out and what came back, and nothing that the corrections themselves will change."""
        files = [self.place / "round.json", *returned_files(self.returned)]
        read = {path.name: fingerprint(path) for path in files if path.is_file()}
        return read | {"earlier": versions_of(self.earlier)}

    @property
    def weights(self) -> None:
        """People made it; the network of today need not be the one that they looked at."""
        return None

    @property
    def returned(self) -> Path:
        """Where people put what they made of it."""
        return self.place / "returned"

    def output(self) -> ReturnedTarget:
        """What was read."""
        return ReturnedTarget(self.place / "imported.json", lambda: what_there_is(self.place, self.earlier))

    def run(self) -> Iterator[list[ImportReview]]:
        """Reads what was returned, once what was returned of earlier rounds is read."""
        yield self._before
        with self._watched(self.place) as (counts, finished):
            imported, numbers = import_round(
                self.place,
                self.earlier,
                open_workspace_versions(self.workspace),
                settings.Labels(),
                now(),
                self.progress,
            )
            counts |= {"tiles": len(imported.tiles), "added": numbers.added}
            made = {"import.run.json": finished(), "numbers.json": numbers, "imported.json": imported}
            for name, content in made.items():  # the last says that all is there
                write_atomic(self.place / name, content.model_dump_json(indent=1))
        logger.info("%s\n%s", self, numbers.table())
        if imported.unread:
            told = ", ".join(f"{name} ({why})" for name, why in imported.unread.items())
            logger.warning("%s: nothing was taken from %s", self, told)
        if (newest := self.rounds_with("imported.json")[-1]) > self.round:
            told = "%s: ImportReview --round %d, or the next ReviewRound, joins this to the labels since"
            logger.warning(told, self, newest)


class ReviewRound(RoundStep):
    """A round in one command: takes back what is out, learns from it, reports, hands out the next."""

    def requires(self) -> list[Step]:
        """Nothing: what is imported decides what there is to learn from."""
        self.check_out(*range(1, self.round))
        return []

    def output(self) -> luigi.LocalTarget:
        """The numbers of all rounds so far."""
        return luigi.LocalTarget(str(self.place / "report.json"))

    def complete(self) -> bool:
        """Whether the round is out, and nothing came back of the one before since."""
        return super().complete() and (self.round == 1 or ImportReview(round=self.round - 1).complete())

    def run(self) -> Iterator[RoundStep]:
        """Imports the round before, exports this one, and compares the networks of all."""
        if self.round > 1:
            yield ImportReview(round=self.round - 1)
        # Asked for only now: what was imported decides what there is to learn from.
        yield ExportReview(round=self.round)
        output = self.workspace.output
        with self._watched(output):
            numbers = [read_numbers(path.with_name("numbers.json")) for path in self.earlier]
            report = RoundsReport(numbers=numbers, held_out=self._compare())
            write_atomic(output / "review.html", render_rounds(report, self.workspace.root.name))
            write_atomic(self.place / "report.json", report.model_dump_json(indent=1))
        logger.info("%s\n%s", self, report.table())

    def _compare(self) -> dict[str, dict[str, float]]:
        """By round, how its network does on the ground and labels of today."""
        folders = [self.workspace.round_folder(number) for number in range(1, self.round + 1)]
        rounds = [read_round(folder / "round.json") for folder in folders]
        last, truths = rounds[-1], {}
        for image_id in last.evaluated:
            labels = SourceLabels(image_id=image_id).found
            if labels and all(image_id in one.evaluated for one in rounds):
                ground = rounds[0].held_out.get(image_id, [])
                truths[image_id] = Truth(last.grids[image_id], labels, ground)
        store = open_workspace_versions(self.workspace)
        return {
            str(one.round): score_versions(one.evaluated, truths, store, settings.Labels())
            for one in rounds
            if truths
        }
