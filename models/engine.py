"""One pass over tiles: steps that learn, or losses that are only measured."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import nn

from models.distributed import any_process, deal
from models.learner import Batch, Learner, learning_rate
from models.loading import TileLoader
from models.sampling import Draw

OnProgress = Callable[[float, str], None]
"""Told the done share, 0 to 1, and a line of text."""


@dataclass
class Epoch:
    """How far an epoch has come."""

    number: int
    """Epochs before this one."""
    steps: int = 0
    """Steps done."""
    sums: dict[str, float] = field(default_factory=dict)
    """Losses by name, summed over the steps."""
    seconds: float = 0.0
    """Time spent."""
    waited: float = 0.0
    """Part of it spent waiting for tiles to be read."""

    @property
    def losses(self) -> dict[str, float]:
        """Mean losses by name."""
        return {name: value / self.steps for name, value in self.sums.items()}


def train_one_epoch(
    learner: Learner,
    tiles: TileLoader,
    draws: Sequence[Draw],
    epoch: Epoch,
    on_progress: OnProgress,
    is_asked_to_stop: Callable[[], bool],
) -> None:
    """Learn from an epoch's showings, on from where it stands, to its end or until asked to stop.

    Args:
        learner: what learns.
        tiles: from what.
        draws: the showings of the whole epoch.
        epoch: is kept up to date.
        on_progress: told about once a second.
        is_asked_to_stop: asked after every step whether to leave it at that.

    Raises:
        TrainingError: a loss is not finite.
    """
    recipe, begun, told = learner.recipe, time.monotonic() - epoch.seconds, 0.0
    groups = chunks(deal(chunks(draws, recipe.batch_size)), recipe.accumulate)
    total = recipe.epochs * len(groups)
    ahead = [batch for group in groups[epoch.steps :] for batch in group]
    batches = _watch(tiles.load(ahead), epoch)
    learner.model.train()
    for group in groups[epoch.steps :]:
        done = epoch.number * len(groups) + epoch.steps
        rate = learning_rate(done, total, recipe)
        losses = learner.step(islice(batches, len(group)), len(group), rate)
        epoch.steps, now = epoch.steps + 1, time.monotonic()
        epoch.seconds = now - begun
        epoch.sums = {name: epoch.sums.get(name, 0.0) + value for name, value in losses.items()}
        if now - told >= 1:
            told, seen = now, epoch.steps * recipe.accumulate * recipe.batch_size
            place = f"epoch {epoch.number + 1}/{recipe.epochs}, step {epoch.steps}/{len(groups)}"
            speed = f"{seen / epoch.seconds:.1f} tiles/s"
            on_progress((done + 1) / total, f"{place}, loss {sum(losses.values()):.2f}, {speed}")
        if any_process(is_asked_to_stop(), learner.device):
            break


def evaluate(learner: Learner, tiles: TileLoader) -> dict[str, float]:
    """Return the mean losses over tiles as they are, by name; leaves weights and random state alone."""
    if not len(tiles.data):
        return {}
    sums: dict[str, float] = defaultdict(float)
    batches, model = chunks(range(len(tiles.data)), learner.recipe.batch_size), learner.kept
    model.train()  # torchvision computes losses in no other mode
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    with torch.no_grad():
        for batch in tiles.load(batches):
            for name, value in learner.losses(model, batch).items():
                sums[name] += value.item()
    return {name: value / len(batches) for name, value in sums.items()}


def chunks(values: Sequence[Any], size: int) -> list[list[Any]]:
    """Return the values in lists of a size, the last one of what is left."""
    return [list(values[start : start + size]) for start in range(0, len(values), size)]


def _watch(batches: Iterator[Batch], epoch: Epoch) -> Iterator[Batch]:
    """The batches, the time until each one is there added to the epoch's."""
    while True:
        asked = time.monotonic()
        batch = next(batches, None)
        epoch.waited += time.monotonic() - asked
        if batch is None:
            return
        yield batch
