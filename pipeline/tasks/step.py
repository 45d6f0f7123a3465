"""What all tasks of the graph share: workspace, digest, progress, and how an artifact comes to be."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import luigi
from luigi.task import task_id_str
from luigi.worker import Worker

from models.errors import Mistake
from pipeline import settings
from pipeline.atomic import atomic, scratch_folder, sweep, write_atomic
from pipeline.bars import Bar, in_terminal
from pipeline.errors import SourceError
from pipeline.mishaps import as_mishap
from pipeline.pace import Pace, in_words
from pipeline.provenance import RunRecord, Stopwatch, facts_of
from pipeline.settings import digest
from pipeline.targets import MadeTarget, PublishedTarget, Workspace
from pipeline.tasks.parameters import ImageId
from pipeline.untouched import stamp_of

logger = logging.getLogger("luigi-interface")

SECONDS_BETWEEN_MESSAGES = 0.5
"""How often luigid hears of a task's progress: each time is two requests."""
LONGEST_SILENCE = 300.0
"""Seconds after which a task tells its progress in the log again; before that, lines come at intervals
that grow by half, from ten seconds on."""
_SEEN: ContextVar[dict[str, str] | None] = ContextVar("_SEEN", default=None)
"""Digests that the `one_look` at hand has brought, by task; None outside of any."""


@contextmanager
def one_look() -> Iterator[dict[str, str]]:
    """Digests by task, each worked out once in this block: inputs count as they were when first looked at."""
    if (seen := _SEEN.get()) is not None:
        yield seen
        return
    seen = dict[str, str]()
    token = _SEEN.set(seen)
    try:
        yield seen
    finally:
        _SEEN.reset(token)


def schedule_at_one_look() -> None:
    """Makes Luigi add a task and all below it at one look: most of them are below many others."""
    Worker.add = one_look()(Worker.add)  # type: ignore[method-assign]


class Telling:
    """What was told of a run's progress, and when it is time to tell more."""

    def __init__(self) -> None:
        self.pace = Pace()
        self.bar: Bar | None = None
        self.interval = 10.0
        self.next_line = time.monotonic() + self.interval
        self.next_message = 0.0

    def close(self) -> None:
        """Takes the bar away, if there is one."""
        if self.bar is not None:
            self.bar.close()


class Step(luigi.Task):
    """A task of this graph: knows its workspace and its digest, and tells its progress."""

    sections: ClassVar[tuple[type[settings.Section], ...]] = ()
    """Settings that decide this step's own result; its inputs' settings come with their digests."""

    @classmethod
    @cache
    def get_params(cls):
        """Luigi's list of the parameters, looked up once."""
        return super().get_params()

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        # Two workspaces, or two settings of one, may share a luigid: their tasks are not the same.
        everything = [section().identity() for section in settings.ALL]
        parameters = self.to_str_params(only_significant=True)
        identity = {"workspace": digest(str(self.workspace.root), everything)}
        self.task_id = task_id_str(self.get_task_family(), parameters | identity)

    @property
    def workspace(self) -> Workspace:
        """The folder with inputs, artifacts and results."""
        return Workspace(settings.Storage().workspace)

    @property
    def inputs(self) -> Mapping[str, Any]:
        """What this step is made from, by name: digests of artifacts, fingerprints of files."""
        return digests(*self.deps())

    @property
    def digest(self) -> str:
        """Identity of the result: this step, its settings and its inputs."""
        with one_look() as seen:
            if self.task_id not in seen:
                seen[self.task_id] = digest(type(self).__name__, self._described(), self.inputs)
            return seen[self.task_id]

    @property
    def weights(self) -> Path | None:
        """The network that the result comes from, its own or that of its inputs; None where there is none."""
        return next((found for step in self.deps() if (found := step.weights)), None)

    def complete(self) -> bool:
        """Whether the result is there, and beside published ones what they were made from.

        A map made with other settings replaces the one that an earlier page shows.
        """
        with one_look():
            below = (step for step in self.deps() if _publishes(step)) if _publishes(self) else ()
            return super().complete() and all(step.complete() for step in below)

    def progress(self, fraction: float, message: str) -> None:
        """Shows how far the step is, what it does, and how long it will take.

        Luigid hears of it, and a bar at the foot of a terminal or else, now and then, the log.
        """
        now = time.monotonic()
        telling = self._telling
        left = telling.pace.left(fraction, now)
        told = message if left is None else f"{message}, {in_words(left)} left"
        if fraction >= 1 or now >= telling.next_message:
            telling.next_message = now + SECONDS_BETWEEN_MESSAGES
            self.set_progress_percentage(round(100 * fraction, 1))
            self.set_status_message(told)
        if in_terminal():
            telling.bar = telling.bar or Bar(self._short_name)
            telling.bar.show(fraction, told)
        elif now >= telling.next_line:
            telling.interval = min(1.5 * telling.interval, LONGEST_SILENCE)
            telling.next_line = now + telling.interval
            logger.info("%s: %s", self, told)

    @property
    def _telling(self) -> Telling:
        """What was told of the run at hand; a step that is run again begins anew."""
        if not hasattr(self, "_told"):
            self._told = Telling()
        return self._told

    @property
    def _short_name(self) -> str:
        """The step and its parameters, as short as a line at the foot of a terminal."""
        return " ".join([type(self).__name__, *self.to_str_params(only_significant=True).values()])

    def on_failure(self, exception: BaseException) -> str:
        """What luigid shows of a failure: one line for a user's mistake, else the traceback."""
        return str(exception) if isinstance(exception, Mistake) else super().on_failure(exception)

    @contextmanager
    def making(self, folder: Path) -> Iterator[Path]:
        """A temporary folder that becomes `folder` when the block ends well, with a run record in it.

        What lies there and is not whole any more is replaced in `work/`; elsewhere people may have put theirs
        beside it, and it stays.
        """

        def stays() -> bool:
            made_again = folder.is_relative_to(self.workspace.work)
            return not made_again or MadeTarget(folder, self.digest).exists()

        with self._watched(folder.parent) as (_, finished), atomic(folder, stays) as scratch:
            scratch.mkdir()
            yield scratch
            made = facts_of(scratch, (path for path in scratch.rglob("*") if path.is_file()))
            record = finished().model_copy(update=made)
            (scratch / "run.json").write_text(record.model_dump_json(indent=1))

    @contextmanager
    def finishing(
        self, record: Path, made: Callable[[], Iterable[Path]] = tuple
    ) -> Iterator[dict[str, int | float]]:
        """Work that resumes in place; the run record, written last, says that it is whole.

        The counts put into the mapping go into the record, as do sizes and SHA-256 of the files `made`.
        """
        with self._watched(record.parent) as (counts, finished):
            record.parent.mkdir(parents=True, exist_ok=True)
            yield counts
            whole = finished().model_copy(update=facts_of(record.parent, made()))
            write_atomic(record, whole.model_dump_json(indent=1))

    @contextmanager
    def publishing(self, target: PublishedTarget) -> Iterator[tuple[Path, dict[str, int]]]:
        """A temporary folder whose files become results under their friendly names, stamped.

        The counts put into the mapping go into the stamp.
        """
        output = self.workspace.output
        with self._watched(output) as (counts, finished), scratch_folder(output) as scratch:
            yield scratch, counts
            everything = {section.get_task_family(): section().described() for section in settings.ALL}
            target.publish(scratch, finished().model_copy(update={"settings": everything}))

    @contextmanager
    def _watched(self, folder: Path):
        """Counts to fill, and a function that closes the work: its record, if no input changed.

        What killed processes left in the folder goes first; what the machine refuses is told in one line.
        """
        self.workspace.check_inside(folder)
        _sweep_once(self.workspace.root, os.getpid())
        self._told = Telling()
        self._check_inputs(self.deps())
        before, counts = self.digest, dict[str, int | float]()
        watch = Stopwatch(type(self).__name__, getattr(self, "image_id", None), before)

        @one_look()
        def finished() -> RunRecord:
            if self.digest != before:
                raise SourceError(
                    "an input changed while it was being read",
                    where=self,
                    remedy="Run the same command again.",
                )
            self._check_inputs(step for step in self.deps() if _publishes(step))
            inputs = {name: str(made) for name, made in self.inputs.items()}
            record = watch.record(self._described(), inputs, counts)
            return record.model_copy(update={"weights": digest_of(self.weights)})

        try:
            yield counts, finished
            self.set_progress_percentage(100)
        except BaseException as error:
            # The list of tasks shows the message; the failure itself is a click away.
            self.set_status_message(f"failed: {(str(error).splitlines() or [type(error).__name__])[0]}")
            if not isinstance(error, Mistake) and (mishap := as_mishap(error, self)) is not None:
                raise mishap from error
            raise
        finally:
            self._told.close()

    @one_look()
    def _check_inputs(self, steps: Iterable[Step]) -> None:
        """Raises SourceError where the result of one of these steps is gone, or is not what was asked for."""
        gone = next((step for step in steps if not step.complete()), None)
        if gone is None:
            return
        if _publishes(gone):
            raise SourceError(
                f"another run published other results of {gone} meanwhile",
                where=self,
                remedy="Run it again, and let one setting write to a workspace at a time.",
            )
        raise SourceError(
            f"what {gone} made is gone meanwhile", where=self, remedy="Run the same command again."
        )

    def _described(self) -> dict[str, dict[str, str]]:
        return {section.get_task_family(): section().described() for section in self.sections}


class ImageStep(Step):
    """A step about one image."""

    image_id = ImageId(description="Stem of the image's file name.")

    def folder(self, kind: str) -> Path:
        """Where this step's artifact lies."""
        return self.workspace.artifact(self.image_id, kind, self.digest)


def _publishes(step: Step) -> bool:
    """Whether results of the step lie in `output/`, where every setting's have the same names."""
    return any(isinstance(target, PublishedTarget) for target in luigi.task.flatten(step.output()))


def digest_of(weights: Path | None) -> str | None:
    """Digest of a network; None where there is none, or none any more: results outlive it."""
    if weights is None or not weights.is_file():
        return None
    return _digest_of_state(weights, *stamp_of(weights))


@cache
def _digest_of_state(weights: Path, *stamp: int) -> str:
    """Computed once for each state of the file: all of it has to be read."""
    from models.weights import weights_digest

    return weights_digest(weights)


def digests(*steps: Step) -> dict[str, str]:
    """Digest of each step by its name."""
    return {type(step).__name__: step.digest for step in steps}


@cache
def _sweep_once(root: Path, pid: int) -> None:
    """Removes what killed processes left anywhere in the workspace; once in a process."""
    work, output = root / "work", root / "output"
    for folder in (output, output / "runs", *work.glob("*"), *work.glob("*/*")):
        sweep(folder)
