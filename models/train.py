"""Training tiles → `weights.h5`.

The folder of a training holds, from its first epoch on, `history.json` (what every epoch brought) and
`checkpoint.pth` (all it needs to go on), and when it is done `weights.h5`, which replaces the
checkpoint. A training that was broken off at any moment and is begun again with the same arguments
goes on after its last whole epoch, on a CPU to the very same weights.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from models.atomic import atomic_file
from models.categories import check_categories
from models.checkpoint import read_checkpoint, write_checkpoint
from models.dataset import TileDataset, TrainingTile
from models.device import choose_device
from models.engine import Learner, OnProgress, evaluate, fork_rng, train_one_epoch
from models.errors import DatasetError, TrainingError
from models.predict import Predictor
from models.pretrained import build_initial
from models.recipe import Recipe
from models.weights import WeightsMetadata, write_weights

logger = logging.getLogger(__name__)

SCORE = "score"
"""The metric of `validate` that chooses the epoch whose weights are kept; higher is better."""

_LEARNT = ("model", "optimizer", "scaler")
"""What of a learner changes as it learns."""

_INDIFFERENT = ("device", "workers")
"""Knobs that a training may change between its epochs."""

Validate = Callable[[Predictor], dict[str, float]]
"""Measures a predictor: metric by name, higher is better."""


def train(
    training: Sequence[TrainingTile],
    validation: Sequence[TrainingTile],
    categories: Sequence[str],
    recipe: Recipe,
    folder: Path,
    validate: Validate | None = None,
    on_progress: OnProgress | None = None,
) -> Path:
    """Return the weights file of a network trained on tiles, going on where a broken training stopped.

    Args:
        training: tiles to learn from.
        validation: tiles whose losses are measured; may be empty.
        categories: in the order of their labels.
        recipe: how.
        folder: existing folder for `weights.h5`, `history.json` and what a broken training leaves.
        validate: measures a predictor, higher is better; the epoch with the best `"score"` is kept,
            without one the last. Called every `Recipe.validate_every` epochs.
        on_progress: told the done share, 0 to 1, and a line of text, about once a second.

    Raises:
        TrainingError: there are no tiles, a loss is not finite, or the checkpoint does not fit.
        DatasetError, WeightsError, DeviceError: tiles, initial weights or device cannot be used.
    """
    if not training:
        raise TrainingError("no tiles to learn from", remedy="Give at least one training tile")
    device = choose_device(recipe.device)
    with fork_rng(device):
        run = _Run.begin(training, check_categories(categories), recipe, folder, device)
        while run.epoch < recipe.epochs:
            _run_epoch(run, training, validation, validate, on_progress or _log_progress)
    return run.finish()


def digest_tiles(tiles: Sequence[TrainingTile]) -> str:
    """Return the SHA-256 of what is learnt from: every item file, and every picture's size in bytes.

    Raises:
        DatasetError: a file is missing.
    """
    digest = hashlib.sha256()
    for tile in tiles:
        try:
            digest.update(f"{tile.image.name} {tile.image.stat().st_size}\n".encode())
            digest.update(tile.items.read_bytes())
        except FileNotFoundError as error:
            raise DatasetError(
                "no such file", where=error.filename, remedy="Cut the training tiles anew"
            ) from None
    return digest.hexdigest()


@dataclass
class _Run:
    """A training under way: what its checkpoint holds, and where it lies."""

    learner: Learner
    folder: Path
    identity: dict[str, Any]
    epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def begin(
        cls,
        training: Sequence[TrainingTile],
        categories: tuple[str, ...],
        recipe: Recipe,
        folder: Path,
        device: torch.device,
    ) -> _Run:
        torch.manual_seed(recipe.seed)
        model = build_initial(recipe, categories).to(device)
        if recipe.channels_last:
            model = model.to(memory_format=torch.channels_last)
        knobs = {name: value for name, value in asdict(recipe).items() if name not in _INDIFFERENT}
        identity = knobs | {"categories": list(categories), "data_digest": digest_tiles(training)}
        run = cls(Learner.of(model, recipe, device), folder, identity)
        state = read_checkpoint(run.checkpoint, identity, device)
        if state is None:
            run.best.unlink(missing_ok=True)  # of a training whose checkpoint somebody deleted
            return run
        for name in _LEARNT:
            getattr(run.learner, name).load_state_dict(state[name])
        run.epoch, run.history = state["epoch"], state["history"]
        logger.info("%s: going on after epoch %d", folder, run.epoch)
        return run

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pth"

    @property
    def best(self) -> Path:
        return self.folder / "best.h5"

    def end_epoch(self, record: dict[str, Any]) -> None:
        """Keep what the epoch brought; the checkpoint comes last and makes the epoch count."""
        scores = [past["metrics"][SCORE] for past in self.history if SCORE in past["metrics"]]
        self.epoch += 1
        self.history.append(record)
        score = record["metrics"].get(SCORE)
        if score is not None and score >= max(scores, default=-math.inf):
            write_weights(self.best, self.learner.model, self.metadata())
        with atomic_file(self.folder / "history.json") as part:
            part.write_text(json.dumps(self.history, indent=1))
        state = {name: getattr(self.learner, name).state_dict() for name in _LEARNT}
        state |= {"epoch": self.epoch, "history": self.history, "identity": self.identity}
        write_checkpoint(self.checkpoint, state, self.learner.device)

    def finish(self) -> Path:
        """Return the weights file: the best epoch's, or the last one's where none was scored."""
        path = self.folder / "weights.h5"
        if self.best.exists():
            # Copied, not moved: broken off before the checkpoint is gone, this is done over.
            with atomic_file(path) as part:
                shutil.copyfile(self.best, part)
        else:
            write_weights(path, self.learner.model, self.metadata())
        self.checkpoint.unlink(missing_ok=True)
        self.best.unlink(missing_ok=True)
        return path

    def metadata(self) -> WeightsMetadata:
        model = self.learner.model
        return WeightsMetadata(
            network=model.network,
            arguments=model.arguments,
            categories=model.categories,
            recipe=asdict(self.learner.recipe),
            data_digest=self.identity["data_digest"],
            epoch=self.epoch,
            metrics=self.history[-1]["metrics"],
        )


def _run_epoch(
    run: _Run,
    training: Sequence[TrainingTile],
    validation: Sequence[TrainingTile],
    validate: Validate | None,
    on_progress: OnProgress,
) -> None:
    start, learner, recipe = time.monotonic(), run.learner, run.learner.recipe
    categories = learner.model.categories
    losses = train_one_epoch(learner, TileDataset(training, categories, recipe), run.epoch, on_progress)
    record: dict[str, Any] = {"epoch": run.epoch + 1, "losses": losses}
    record |= {"learning_rate": learner.optimizer.param_groups[0]["lr"]}
    record |= {"validation_losses": {}, "metrics": {}}
    if record["epoch"] % recipe.validate_every == 0 or record["epoch"] == recipe.epochs:
        record["validation_losses"] = evaluate(learner, TileDataset(validation, categories, recipe))
        if validate is not None:
            predictor = Predictor(learner.model, str(learner.device), recipe.precision)
            record["metrics"] = {name: float(value) for name, value in validate(predictor).items()}
    record["seconds"] = round(time.monotonic() - start, 3)
    run.end_epoch(record)
    measured = "".join(f", {name} {value:.3f}" for name, value in record["metrics"].items())
    on_progress(run.epoch / recipe.epochs, f"epoch {run.epoch}/{recipe.epochs} done{measured}")


def _log_progress(fraction: float, message: str) -> None:
    logger.info("%3.0f %% %s", 100 * fraction, message)
