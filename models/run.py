"""A training under way: its state, and the files that outlive the process."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from models.atomic import atomic_file
from models.checkpoint import before, going_on_from, read_checkpoint, write_checkpoint
from models.distributed import is_first, wait_for_all
from models.engine import Epoch
from models.errors import WeightsError
from models.events import write_events
from models.learner import Learner
from models.weights import WeightsMetadata, read_weights, write_weights

logger = logging.getLogger(__name__)

SCORE = "score"
"""The metric of validation that chooses the epoch whose weights are kept; higher is better."""
_CHECKPOINT, _BEST = "checkpoint.pth", "best.h5"


@dataclass
class Run:
    """What a checkpoint holds, and where it lies. Only the first of several processes writes."""

    learner: Learner
    folder: Path
    identity: dict[str, Any]
    """What tells this training from another."""
    false_positives: np.ndarray
    """int64[n], by tile, as last searched for."""
    epoch: Epoch = field(default_factory=lambda: Epoch(0))
    """The one under way."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """A record of every whole epoch."""

    @property
    def checkpoint(self) -> Path:
        """All that is needed to go on."""
        return self.folder / _CHECKPOINT

    @property
    def best(self) -> Path:
        """The weights that scored best until now."""
        return self.folder / _BEST

    @property
    def is_over(self) -> bool:
        """Whether every epoch is done, or too many validations brought nothing better."""
        patience, scores = self.learner.recipe.patience, self._scores()
        since_best = len(scores) - 1 - scores.index(max(scores)) if scores else 0
        return self.epoch.number >= self.learner.recipe.epochs or 0 < patience <= since_best

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one.

        Raises:
            TrainingError: it is damaged, as is the one before, or of another training.
        """
        state = read_checkpoint(self.checkpoint, self.identity)
        if state is None:
            if is_first():
                forget(self.folder)  # what is left of a training whose checkpoint somebody deleted
            return
        with going_on_from(self.checkpoint):
            self.learner.load_state_dict(state["learner"])
            self.epoch, self.history = Epoch(**state["epoch"]), state["history"]
            self.false_positives = np.array(state["false_positives"], dtype=np.int64)
        place = f"epoch {self.epoch.number}, step {self.epoch.steps} of the next"
        logger.info("%s: going on after %s", self.folder, place)

    def keep(self) -> None:
        """Write the checkpoint."""
        if is_first():
            state: dict[str, Any] = {"identity": self.identity, "learner": self.learner.state_dict()}
            state |= {"epoch": asdict(self.epoch), "history": self.history}
            write_checkpoint(self.checkpoint, state | {"false_positives": self.false_positives.tolist()})

    def end_epoch(self, record: dict[str, Any]) -> None:
        """Keep what the epoch brought; the checkpoint comes last and makes the epoch count."""
        best = max(self._scores(), default=-math.inf)
        self.history.append(record)
        self.epoch = Epoch(self.epoch.number + 1)
        if not is_first():
            return
        score = record["metrics"].get(SCORE)
        if score is not None and score >= best:
            write_weights(self.best, self.learner.kept, self._metadata())
        with atomic_file(self.folder / "history.json") as part:
            part.write_text(json.dumps(self.history, indent=1))
        write_events(self.folder / "events", record)
        self.keep()

    def finish(self) -> Path:
        """Return the weights file: the best epoch's, or the last one's where none was scored.

        Raises:
            WeightsError: the best epoch's are damaged.
        """
        path = self.folder / "weights.h5"
        if is_first():
            metadata = self._take_best() if self.best.exists() else self._metadata()
            write_weights(path, self.learner.kept, metadata)
        wait_for_all()
        return path

    def _take_best(self) -> WeightsMetadata:
        # Read, not moved: until `forget` this may be done over.
        try:
            metadata, state = read_weights(self.best)
            self.learner.kept.load_state_dict(state)
        except (WeightsError, RuntimeError) as error:
            raise WeightsError(
                "the best epoch's weights are damaged",
                where=self.best,
                remedy="Delete the file to take the last epoch's, and run the same again",
            ) from error
        return metadata

    def _scores(self) -> list[float]:
        scores = [record["metrics"][SCORE] for record in self.history if SCORE in record["metrics"]]
        return [-math.inf if math.isnan(score) else score for score in scores]

    def _metadata(self) -> WeightsMetadata:
        model = self.learner.kept
        return WeightsMetadata(
            network=model.network,
            arguments=model.arguments,
            categories=model.categories,
            recipe=asdict(self.learner.recipe),
            data_digest=self.identity["data_digest"],
            epoch=self.epoch.number,
            metrics=self.history[-1]["metrics"],
        )


def forget(folder: Path) -> None:
    """Remove what a training goes on from: it is done, and so is whatever follows from it."""
    for path in (folder / _CHECKPOINT, before(folder / _CHECKPOINT), folder / _BEST):
        path.unlink(missing_ok=True)
