"""Which learning rate suits a network and its tiles: losses at rates that rise from step to step.

Source: Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017, section 3.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch

from models.categories import check_categories
from models.dataset import TileDataset
from models.device import choose_device
from models.engine import chunks
from models.errors import TrainingError
from models.learner import Learner
from models.loading import tile_loaders
from models.pretrained import build_initial
from models.recipe import Recipe
from models.sampling import draw_epoch, survey
from models.tiles import TrainingTile

SMOOTHING = 0.9
"""Share of the running mean of losses that a step leaves as it was."""

DIVERGED = 4.0
"""Multiple of the lowest loss at which the test ends."""


class RangeTest(NamedTuple):
    """What a range test found, step by step."""

    rates: np.ndarray
    """float64[s], rising."""
    losses: np.ndarray
    """float64[s], running mean."""

    @property
    def suggestion(self) -> float:
        """A tenth of the rate at which the loss was lowest: there it still falls, and safely."""
        return float(self.rates[self.losses.argmin()] / 10)


def run_range_test(
    training: Sequence[TrainingTile],
    categories: Sequence[str],
    recipe: Recipe,
    steps: int = 100,
    least: float = 1e-6,
    most: float = 1.0,
) -> RangeTest:
    """Return the losses of steps at rates from `least` to `most`, or to where they diverge.

    Args:
        training: tiles to learn from.
        categories: in the order of their labels.
        recipe: all but the learning rate.
        steps: at how many rates, evenly on a scale of ratios.
        least: the first rate.
        most: the last one.
    """
    device, names = choose_device(recipe.device), check_categories(categories)
    shown = steps * recipe.batch_size * recipe.accumulate
    recipe = replace(recipe, ema_decay=0.0, tiles_per_epoch=shown)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = build_initial(recipe, names, survey(training, names, recipe).sides)
    learner, mean, means = Learner(model.to(device).train(), recipe, device), 0.0, list[float]()
    batches = chunks(draw_epoch(np.ones(len(training)), 0, recipe), recipe.batch_size)
    rates = np.geomspace(least, most, steps)
    with tile_loaders([TileDataset(training, names, recipe)], device) as (loader,):
        read = loader.load(batches)
        for step, rate in enumerate(rates.tolist(), 1):
            try:
                losses = learner.step(islice(read, recipe.accumulate), recipe.accumulate, rate)
            except TrainingError:  # a loss that is not finite: the end of the range
                break
            mean = SMOOTHING * mean + (1 - SMOOTHING) * sum(losses.values())
            means.append(mean / (1 - SMOOTHING**step))
            if means[-1] > DIVERGED * min(means):
                break
    return RangeTest(rates[: len(means)], np.array(means))
