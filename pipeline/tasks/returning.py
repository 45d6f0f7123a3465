"""A review round comes back from people, and what it brought."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import luigi

from pipeline import settings
from pipeline.atomic import write_atomic
from pipeline.errors import SettingsError
from pipeline.inputs import fingerprint
from pipeline.review.changes import RoundsReport
from pipeline.review.page import render_rounds
from pipeline.review.returned import returned_files
from pipeline.steps.checking import now
from pipeline.steps.importing import import_round, read_numbers, read_round, versions_of, what_there_is
from pipeline.steps.judging import Truth, score_versions
from pipeline.steps.labeling_server import annotated, download_reviews
from pipeline.targets import FetchedTarget, ReturnedTarget
from pipeline.tasks.checking import open_workspace_versions
from pipeline.tasks.reviewing import ExportReview
from pipeline.tasks.selecting import RoundStep
from pipeline.tasks.sources import SourceLabels
from pipeline.tasks.step import Step

logger = logging.getLogger("luigi-interface")


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
