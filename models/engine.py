"""One pass over tiles: steps that learn, or losses that are only measured."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Never

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from models.dataset import Target, TileDataset, TrainingTile, collate_fn, draw_epoch, read_items
from models.device import choose_dtype
from models.errors import TrainingError
from models.maskrcnn import MaskRCNN
from models.recipe import Recipe

OnProgress = Callable[[float, str], None]
"""Told the done share, 0 to 1, and a line of text."""


@dataclass
class Learner:
    """A network and what makes it learn."""

    model: MaskRCNN
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    recipe: Recipe
    device: torch.device

    @classmethod
    def of(cls, model: MaskRCNN, recipe: Recipe, device: torch.device) -> Learner:
        """Return the learner of a network on its device, by a recipe."""
        # float16 alone is narrow enough for gradients to vanish.
        scaled = choose_dtype(recipe.precision, device) == torch.float16
        scaler = torch.amp.GradScaler(device.type, enabled=scaled)
        return cls(model, make_optimizer(model, recipe), scaler, recipe, device)

    def losses(self, images: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        """Return the losses of a batch by name."""
        dtype = choose_dtype(self.recipe.precision, self.device)
        with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            return self.model(images, targets)

    def step(self, loss: Tensor, rate: float) -> None:
        """Take one step down the gradient of a loss, at a learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        if self.recipe.gradient_clip:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.gradient_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()


def train_one_epoch(
    learner: Learner, data: TileDataset, epoch: int, on_progress: OnProgress
) -> dict[str, float]:
    """Return the mean losses of an epoch by name, after having learnt from it.

    Args:
        learner: what learns.
        data: from what.
        epoch: number of epochs before this one.
        on_progress: told about once a second.

    Raises:
        TrainingError: a loss is not finite.
    """
    recipe, start, told = learner.recipe, time.monotonic(), 0.0
    batches = _batches(draw_epoch(len(data), epoch, recipe), recipe.batch_size)
    steps = recipe.epochs * len(batches)
    sums: dict[str, float] = defaultdict(float)
    learner.model.train()
    for number, (images, targets) in enumerate(_load(learner, data, batches), 1):
        losses = learner.losses(images, targets)
        loss = torch.stack(list(losses.values())).sum()
        if not math.isfinite(loss.item()):
            _stop(losses, [data.tiles[draw.tile] for draw in batches[number - 1]], recipe)
        done = epoch * len(batches) + number
        learner.step(loss, learning_rate(done - 1, steps, recipe))
        for name, value in losses.items():
            sums[name] += value.item()
        now = time.monotonic()
        if now - told >= 1:
            told, speed = now, number * recipe.batch_size / (now - start)
            place = f"epoch {epoch + 1}/{recipe.epochs}, step {number}/{len(batches)}"
            on_progress(done / steps, f"{place}, loss {loss.item():.2f}, {speed:.1f} tiles/s")
    return {name: value / len(batches) for name, value in sums.items()}


def evaluate(learner: Learner, data: TileDataset) -> dict[str, float]:
    """Return the mean losses over tiles as they are, by name; leaves weights and random state alone."""
    if not len(data):
        return {}
    sums: dict[str, float] = defaultdict(float)
    batches = _batches(range(len(data)), learner.recipe.batch_size)
    learner.model.train()  # torchvision computes losses in no other mode
    for module in learner.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    with torch.no_grad(), fork_rng(learner.device):
        torch.manual_seed(learner.recipe.seed)
        for images, targets in _load(learner, data, batches):
            for name, value in learner.losses(images, targets).items():
                sums[name] += value.item()
    return {name: value / len(batches) for name, value in sums.items()}


def fork_rng(device: torch.device) -> Any:
    """Return a context that puts torch's random state back as it was, of the CPU and of this device."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def learning_rate(step: int, steps: int, recipe: Recipe) -> float:
    """Return the learning rate of a step, 0 to steps - 1: a linear rise, then half a cosine to 0."""
    warmup = min(recipe.warmup_steps, steps // 3)
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Return the optimizer of all weights that learn; biases and normalisation are not pulled to 0."""
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in learnt if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in learnt if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=0.9)
    return torch.optim.AdamW(groups, lr=recipe.learning_rate)


def _batches(keys: Any, size: int) -> list[list[Any]]:
    return [list(keys[start : start + size]) for start in range(0, len(keys), size)]


def _load(learner: Learner, data: TileDataset, batches: list[list[Any]]) -> Iterator[tuple[list, list]]:
    device = learner.device
    loader = DataLoader(
        data,
        batch_sampler=batches,
        num_workers=learner.recipe.workers,
        collate_fn=collate_fn,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # a loader draws a number from it even where it needs none
    )
    for images, targets in loader:
        yield (
            [image.to(device, non_blocking=True) for image in images],
            [
                {name: value.to(device, non_blocking=True) for name, value in target.items()}
                for target in targets
            ],
        )


def _stop(losses: dict[str, Tensor], tiles: list[TrainingTile], recipe: Recipe) -> Never:
    raise TrainingError(
        f"loss is not finite on tiles {', '.join(read_items(tile.items).tile for tile in tiles)}",
        where=", ".join(name for name, value in losses.items() if not math.isfinite(value.item())),
        found={name: value.item() for name, value in losses.items()},
        remedy=f"Lower the learning rate ({recipe.learning_rate:g}), or look at these tiles",
    )
