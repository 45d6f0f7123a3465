"""What all tasks of the graph share: workspace, digest, progress, and how an artifact comes to be."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import luigi
from luigi.task import task_id_str

from models.errors import Mistake
from pipeline import settings
from pipeline.atomic import atomic, scratch_folder, write_atomic
from pipeline.errors import SourceError
from pipeline.provenance import RunRecord, Stopwatch
from pipeline.settings import digest
from pipeline.stores import check_image_id
from pipeline.targets import PublishedTarget, Workspace

logger = logging.getLogger("luigi-interface")

SECONDS_BETWEEN_LINES = 10
"""How often a task may tell its progress in the log; luigid hears of every change."""


class ImageId(luigi.Parameter):
    """A name, never a path: the stem of the image's file."""

    def normalize(self, value: str) -> str:
        """The id itself; SettingsError where it could leave the workspace or break a file name."""
        return check_image_id(value)

    parse = normalize


class Step(luigi.Task):
    """A task of this graph: knows its workspace and its digest, and tells its progress."""

    sections: ClassVar[tuple[type[settings.Section], ...]] = ()
    """Settings that decide this step's own result; its inputs' settings come with their digests."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        # Two workspaces, or two settings of one, may share a luigid: their tasks are not the same.
        everything = [section().described() for section in settings.ALL]
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
        return digest(type(self).__name__, self._described(), self.inputs)

    def progress(self, fraction: float, message: str) -> None:
        """Shows how far the step is in luigid and, now and then, in the log."""
        self.set_progress_percentage(round(100 * fraction, 1))
        self.set_status_message(message)
        now = time.monotonic()
        if now - getattr(self, "_told", 0.0) > SECONDS_BETWEEN_LINES:
            self._told = now
            logger.info("%s: %s", self, message)

    def on_failure(self, exception: BaseException) -> str:
        """What luigid shows of a failure: one line for a user's mistake, else the traceback."""
        return str(exception) if isinstance(exception, Mistake) else super().on_failure(exception)

    @contextmanager
    def making(self, folder: Path) -> Iterator[Path]:
        """A temporary folder that becomes `folder` when the block ends well, with a run record in it."""
        with self._watched() as (_, finished), atomic(folder) as scratch:
            scratch.mkdir()
            yield scratch
            (scratch / "run.json").write_text(finished().model_dump_json(indent=1))

    @contextmanager
    def finishing(self, record: Path) -> Iterator[dict[str, int]]:
        """Work that resumes in place; the run record, written last, says that it is whole.

        The counts put into the mapping go into the record.
        """
        record.parent.mkdir(parents=True, exist_ok=True)
        with self._watched() as (counts, finished):
            yield counts
            write_atomic(record, finished().model_dump_json(indent=1))

    @contextmanager
    def publishing(self, target: PublishedTarget) -> Iterator[tuple[Path, dict[str, int]]]:
        """A temporary folder whose files become results under their friendly names, stamped.

        The counts put into the mapping go into the stamp.
        """
        with self._watched() as (counts, finished), scratch_folder(self.workspace.output) as scratch:
            yield scratch, counts
            target.publish(scratch, finished())

    @contextmanager
    def _watched(self):
        """Counts to fill, and a function that closes the work: its record, if no input changed."""
        before, counts = self.digest, dict[str, int]()
        watch = Stopwatch(type(self).__name__, getattr(self, "image_id", None), before)

        def finished() -> RunRecord:
            if self.digest != before:
                raise SourceError(
                    "an input changed while it was being read",
                    where=self,
                    remedy="Run the same command again.",
                )
            return watch.record(
                self._described(), {name: str(made) for name, made in self.inputs.items()}, counts
            )

        yield counts, finished

    def _described(self) -> dict[str, dict[str, str]]:
        return {section.get_task_family(): section().described() for section in self.sections}


class ImageStep(Step):
    """A step about one image."""

    image_id = ImageId(description="Stem of the image's file name.")

    def folder(self, kind: str) -> Path:
        """Where this step's artifact lies."""
        return self.workspace.artifact(self.image_id, kind, self.digest)


def digests(*steps: Step) -> dict[str, str]:
    """Digest of each step by its name."""
    return {type(step).__name__: step.digest for step in steps}
