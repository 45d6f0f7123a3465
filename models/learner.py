"""A network and what makes it learn: its optimizer, the rate of every step, and the step itself."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Never, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from models.dataset import Target
from models.device import choose_dtype
from models.distributed import from_all, mean_over_processes, share_gradients
from models.errors import TrainingError
from models.maskrcnn import MaskRCNN
from models.recipe import Recipe

Batch = tuple[list[Tensor], list[Target]]
"""Images uint8[3,h,w] and their targets, on the learner's device."""


@dataclass
class Learner:
    """A network, and the state that changes as it learns."""

    model: MaskRCNN
    recipe: Recipe
    device: torch.device
    optimizer: torch.optim.Optimizer = field(init=False)
    scaler: torch.amp.GradScaler = field(init=False)
    average: AveragedModel | None = field(init=False)
    shared: nn.Module = field(init=False)
    """The network with gradients that are averaged over processes."""
    steps: int = 0

    def __post_init__(self) -> None:
        # float16 alone is narrow enough for gradients to vanish.
        scaled = self.dtype == torch.float16
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=scaled)
        self.optimizer = make_optimizer(self.model, self.recipe)
        self.average = AveragedModel(self.model, use_buffers=True) if self.recipe.ema_decay else None
        self.shared = share_gradients(self.model)

    @property
    def dtype(self) -> torch.dtype:
        """What its convolutions compute with."""
        return choose_dtype(self.recipe.precision, self.device)

    @property
    def kept(self) -> MaskRCNN:
        """The network that is judged and kept: of averaged weights, where they are averaged."""
        return self.model if self.average is None else cast(MaskRCNN, self.average.module)

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return the losses of a batch by name, of a network in training mode."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return model(*batch)

    def step(self, batches: Iterable[Batch], count: int, rate: float) -> dict[str, float]:
        """Take one step down the mean gradient of some batches, and return their mean losses by name.

        Args:
            batches: on the learner's device.
            count: how many they are.
            rate: the learning rate.

        Raises:
            TrainingError: a loss or, where gradients are not scaled, the gradient is not finite.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        means: dict[str, float] = defaultdict(float)
        tiles: list[str] = []
        for number, batch in enumerate(batches, 1):
            names_here = [target["tile"] for target in batch[1]]
            tiles += names_here
            with self._exchange_gradients(number == count):
                losses = self.losses(self.shared, batch)
                names, values = list(losses), torch.stack(list(losses.values()))
                measured = dict(zip(names, mean_over_processes(values.detach()).tolist(), strict=True))
                if odd := {name: value for name, value in measured.items() if not math.isfinite(value)}:
                    self._stop(odd, names_here)
                self.scaler.scale(values.sum() / count).backward()
            for name, value in measured.items():
                means[name] += value / count
        length = self._descend()
        # A scaler leaves such a step out, and tries a smaller scale.
        if not self.scaler.is_enabled() and not math.isfinite(length):
            self._stop({"gradient": length}, tiles)
        return dict(means)

    def _exchange_gradients(self, now: bool) -> Any:
        """A context in which gradients stay in this process, unless they are to be averaged now."""
        waits = isinstance(self.shared, DistributedDataParallel) and not now
        return cast(DistributedDataParallel, self.shared).no_sync() if waits else nullcontext()

    def _stop(self, values: dict[str, float], tiles: list[str]) -> Never:
        everywhere = dict.fromkeys(tile for part in from_all(tiles) for tile in part)
        raise TrainingError(
            f"not finite on tiles {', '.join(everywhere)}",
            where=", ".join(values),
            found=values,
            remedy=f"Lower the learning rate ({self.recipe.learning_rate:g}), or look at these tiles",
        )

    def _descend(self) -> float:
        """Take the step; return the gradient's length before it was clipped."""
        self.scaler.unscale_(self.optimizer)
        length = nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.gradient_clip or math.inf)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.steps += 1
        if self.average is not None:
            # The first steps would else be remembered too long.
            decay = min(self.recipe.ema_decay, (1 + self.steps) / (10 + self.steps))
            self.average.multi_avg_fn = get_ema_multi_avg_fn(decay)
            self.average.update_parameters(self.model)
        return length.item()

    def state_dict(self) -> dict[str, Any]:
        """Return all that changes as it learns."""
        return {name: part.state_dict() for name, part in self._parts.items()} | {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned, on this device or another one.

        Raises:
            LookupError, RuntimeError, TypeError, ValueError: it is of another network, or not whole.
        """
        for name, part in self._parts.items():
            if state[name] or name != "scaler":  # which has no state where nothing was scaled
                part.load_state_dict(state[name])
        self.steps = state["steps"]

    @property
    def _parts(self) -> dict[str, Any]:
        parts = {"model": self.model, "optimizer": self.optimizer, "scaler": self.scaler}
        return parts if self.average is None else parts | {"average": self.average}


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
