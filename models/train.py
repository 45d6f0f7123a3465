"""Training tiles → `weights.h5`.

The folder of a training holds, from its first epoch on, `history.json` (what every epoch brought) and
`checkpoint.pth` (all it needs to go on; beside it the one before), and when it is done `weights.h5`, which
replaces the checkpoints. A training that was broken off at any moment and is begun again with the same
arguments goes on, on a CPU to the very same weights: after its last whole epoch, or where SIGTERM asked
it to stop, after the step it was at.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.allocation import keep_freed_memory
from models.categories import check_categories
from models.compiling import check_compiler
from models.dataset import TileDataset
from models.device import choose_device
from models.distributed import (
    any_process,
    from_first,
    is_first,
    local_device,
    process_group,
    wait_for_all,
)
from models.engine import OnProgress, evaluate, train_one_epoch
from models.errors import TrainingError
from models.interruption import termination_noticed
from models.learner import Learner
from models.loading import TileLoader, tile_loaders
from models.negatives import false_positives
from models.predict import Predictor
from models.pretrained import build_initial
from models.recipe import Recipe
from models.run import Run, forget
from models.sampling import Contents, draw_epoch, showing_weights, survey
from models.tiles import TrainingTile, digest_tiles

logger = logging.getLogger(__name__)

_INDIFFERENT = ("device", "workers", "compile")
"""Knobs that a training may change between its epochs."""

Validate = Callable[[Predictor], dict[str, float]]
"""Measures a predictor: metric by name, higher is better."""


@dataclass(frozen=True)
class _Lesson:
    """What every epoch is given."""

    training: TileLoader
    contents: Contents
    validation: TileLoader
    validate: Validate | None
    on_progress: OnProgress
    is_asked_to_stop: Callable[[], bool]


def train(
    training: Sequence[TrainingTile],
    validation: Sequence[TrainingTile],
    categories: Sequence[str],
    recipe: Recipe,
    folder: Path,
    validate: Validate | None = None,
    on_progress: OnProgress | None = None,
    *,
    keep_checkpoint: bool = False,
) -> Path:
    """Return the weights file of a network trained on tiles, going on where a broken training stopped.

    Args:
        training: tiles to learn from.
        validation: tiles whose losses are measured; may be empty.
        categories: in the order of their labels.
        recipe: how.
        folder: existing folder for `weights.h5`, `history.json` and what a broken training leaves.
        validate: measures a predictor, higher is better; the epoch with the best `"score"` is kept,
            without one the last. Called every `Recipe.validate_every` epochs, by the first process.
        on_progress: told the done share, 0 to 1, and a line of text, about once a second.
        keep_checkpoint: whether begun again after its end it ends once more, without learning, until
            `models.run.forget`: for a caller with something left to write.

    Raises:
        TrainingError: there are no tiles, a loss is not finite, the checkpoint does not fit, or SIGTERM
            came: then the checkpoint is written.
        DatasetError, WeightsError, DeviceError: tiles, initial weights or device cannot be used.
    """
    if not training:
        raise TrainingError("no tiles to learn from", remedy="Give at least one training tile")
    device, names = local_device(choose_device(recipe.device)), check_categories(categories)
    if device.type == "cpu":
        keep_freed_memory()
    contents = survey(training, names, recipe)
    data = [TileDataset(tiles, names, recipe) for tiles in (training, validation)]
    with (
        process_group(device),
        termination_noticed() as is_asked_to_stop,
        tile_loaders(data, device) as (learnt, held_out),
    ):
        lesson = _Lesson(
            learnt,
            contents,
            held_out,
            validate,
            (on_progress or _log_progress) if is_first() else _tell_nobody,
            is_asked_to_stop,
        )
        run = _begin(lesson, recipe, folder, device)
        while not run.is_over:
            _run_epoch(run, lesson)
        weights = run.finish()
        if not keep_checkpoint:
            forget(folder)
        return weights


def _begin(lesson: _Lesson, recipe: Recipe, folder: Path, device: torch.device) -> Run:
    data = lesson.training.data
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = build_initial(recipe, data.categories, lesson.contents.sides)
    model = model.to(
        device, memory_format=torch.channels_last if recipe.channels_last else torch.preserve_format
    )
    if recipe.compile:
        check_compiler(device)
        model.backbone.compile()
    knobs = {name: value for name, value in asdict(recipe).items() if name not in _INDIFFERENT}
    data_digest = from_first(digest_tiles(data.tiles) if is_first() else "")
    identity = knobs | {"categories": list(data.categories), "data_digest": data_digest}
    found = np.zeros(len(data), dtype=np.int64)
    run = Run(Learner(model, recipe, device), folder, identity, found)
    run.resume()
    return run


def _run_epoch(run: Run, lesson: _Lesson) -> None:
    learner, recipe, epoch, tell = run.learner, run.learner.recipe, run.epoch, lesson.on_progress
    draws = draw_epoch(showing_weights(lesson.contents, run.false_positives, recipe), epoch.number, recipe)
    train_one_epoch(learner, lesson.training, draws, epoch, tell, lesson.is_asked_to_stop)
    if any_process(lesson.is_asked_to_stop(), learner.device):
        run.keep()
        wait_for_all()  # Who ends now would have those ended that still write.
        raise TrainingError(
            f"asked to stop, and stopped after epoch {epoch.number}, step {epoch.steps} of the next",
            where=run.folder,
            remedy="Run the same again to go on from there",
        )
    start, done = time.monotonic(), epoch.number + 1
    record: dict[str, Any] = {"epoch": done, "losses": epoch.losses}
    record |= {"learning_rate": learner.optimizer.param_groups[0]["lr"]}
    record |= {"validation_losses": {}, "metrics": {}}
    if done % recipe.validate_every == 0 or done == recipe.epochs:
        record |= {"validation_losses": evaluate(learner, lesson.validation)}
        record |= {"metrics": from_first(_measure(run, lesson))}
    if recipe.mine_every and done % recipe.mine_every == 0:
        run.false_positives = from_first(_mine(run, lesson))
    record |= {"data_wait_share": round(epoch.waited / epoch.seconds, 3)}
    record |= {"seconds": round(epoch.seconds + time.monotonic() - start, 3)}
    run.end_epoch(record)
    measured = "".join(f", {name} {value:.3f}" for name, value in record["metrics"].items())
    waited = f", {record['data_wait_share']:.0%} of it waiting for tiles"
    tell(done / recipe.epochs, f"epoch {done}/{recipe.epochs} done{waited}{measured}")


def _measure(run: Run, lesson: _Lesson) -> dict[str, float]:
    if lesson.validate is None or not is_first():
        return {}
    return {name: float(value) for name, value in lesson.validate(_predictor(run.learner)).items()}


def _mine(run: Run, lesson: _Lesson) -> np.ndarray:
    if not is_first():
        return run.false_positives
    return false_positives(_predictor(run.learner), lesson.training.data.tiles, lesson.contents.empty)


def _predictor(learner: Learner) -> Predictor:
    recipe = learner.recipe
    return Predictor(learner.kept, str(learner.device), recipe.precision, channels_last=recipe.channels_last)


def _log_progress(fraction: float, message: str) -> None:
    logger.info("%3.0f %% %s", 100 * fraction, message)


def _tell_nobody(_fraction: float, _message: str) -> None:
    """Progress of any but the first process."""
