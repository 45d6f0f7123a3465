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
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from models.atomic import atomic_file
from models.categories import check_categories
from models.checkpoint import read_checkpoint, write_checkpoint
from models.dataset import TileDataset, TrainingTile, collate_fn, draw_epoch, read_items
from models.device import choose_device, choose_dtype
from models.errors import TrainingError
from models.maskrcnn import MaskRCNN
from models.predict import Predictor
from models.pretrained import build_initial
from models.recipe import Recipe
from models.weights import WeightsMetadata, write_weights

logger = logging.getLogger(__name__)

SCORE = "score"
"""The metric of `validate` that chooses the epoch whose weights are kept; higher is better."""

_INDIFFERENT = ("device", "workers")
"""Knobs that a training may change between its epochs."""

Validate = Callable[[Predictor], dict[str, float]]
OnProgress = Callable[[float, str], None]


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
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        run = _Run.begin(training, check_categories(categories), recipe, folder, device)
        while run.epoch < recipe.epochs:
            _run_epoch(run, training, validation, validate, on_progress or _log_progress)
    return run.finish()


def learning_rate(step: int, steps: int, recipe: Recipe) -> float:
    """Return the learning rate of a step, 0 to steps - 1: a linear rise, then half a cosine to 0."""
    warmup = min(recipe.warmup_steps, steps // 3)
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def digest_tiles(tiles: Sequence[TrainingTile]) -> str:
    """Return the SHA-256 of what is learnt from: every item file, and every picture's size in bytes."""
    digest = hashlib.sha256()
    for tile in tiles:
        digest.update(f"{tile.image.name} {tile.image.stat().st_size}\n".encode())
        digest.update(tile.items.read_bytes())
    return digest.hexdigest()


@dataclass
class _Run:
    """A training under way: what its checkpoint holds, and where it lies."""

    model: MaskRCNN
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    recipe: Recipe
    folder: Path
    device: torch.device
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
        scaled = choose_dtype(recipe.precision, device) == torch.float16
        scaler = torch.amp.GradScaler(device.type, enabled=scaled)
        run = cls(model, _make_optimizer(model, recipe), scaler, recipe, folder, device, identity)
        if state := read_checkpoint(run.checkpoint, identity, device):
            for name in ("model", "optimizer", "scaler"):
                getattr(run, name).load_state_dict(state[name])
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
            write_weights(self.best, self.model, self.metadata())
        with atomic_file(self.folder / "history.json") as part:
            part.write_text(json.dumps(self.history, indent=1))
        state = {name: getattr(self, name).state_dict() for name in ("model", "optimizer", "scaler")}
        state |= {"epoch": self.epoch, "history": self.history, "identity": self.identity}
        write_checkpoint(self.checkpoint, state, self.device)

    def finish(self) -> Path:
        """Return the weights file: the best epoch's, or the last one's where none was scored."""
        path = self.folder / "weights.h5"
        if self.best.exists():
            self.best.replace(path)
        else:
            write_weights(path, self.model, self.metadata())
        self.checkpoint.unlink(missing_ok=True)
        return path

    def metadata(self) -> WeightsMetadata:
        return WeightsMetadata(
            network=self.model.network,
            arguments=self.model.arguments,
            categories=self.model.categories,
            recipe=asdict(self.recipe),
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
    start, recipe = time.monotonic(), run.recipe
    data = TileDataset(training, run.model.categories, recipe)
    record: dict[str, Any] = {"epoch": run.epoch + 1, "losses": _train_one_epoch(run, data, on_progress)}
    record |= {"learning_rate": run.optimizer.param_groups[0]["lr"], "validation_losses": {}, "metrics": {}}
    if record["epoch"] % recipe.validate_every == 0 or record["epoch"] == recipe.epochs:
        record["validation_losses"] = _evaluate(run, TileDataset(validation, run.model.categories, recipe))
        if validate is not None:
            predictor = Predictor(run.model, str(run.device), recipe.precision)
            record["metrics"] = {name: float(value) for name, value in validate(predictor).items()}
    record["seconds"] = round(time.monotonic() - start, 3)
    run.end_epoch(record)
    measured = "".join(f", {name} {value:.3f}" for name, value in record["metrics"].items())
    on_progress(run.epoch / recipe.epochs, f"epoch {run.epoch}/{recipe.epochs} done{measured}")


def _train_one_epoch(run: _Run, data: TileDataset, on_progress: OnProgress) -> dict[str, float]:
    """Return the epoch's mean losses by name."""
    recipe, start, told = run.recipe, time.monotonic(), 0.0
    draws = draw_epoch(len(data), run.epoch, recipe)
    batches = [draws[i : i + recipe.batch_size] for i in range(0, len(draws), recipe.batch_size)]
    sums: dict[str, float] = defaultdict(float)
    run.model.train()
    for step, (images, targets) in enumerate(_load(data, batches, run)):
        done = run.epoch * len(batches) + step
        for group in run.optimizer.param_groups:
            group["lr"] = learning_rate(done, recipe.epochs * len(batches), recipe)
        losses = _compute_losses(run, images, targets)
        loss = torch.stack(list(losses.values())).sum()
        if not math.isfinite(loss.item()):
            _stop(losses, [data.tiles[draw.index] for draw in batches[step]], recipe)
        _step(run, loss)
        for name, value in losses.items():
            sums[name] += value.item()
        now = time.monotonic()
        if now - told >= 1:
            told, seen = now, (step + 1) * recipe.batch_size
            on_progress(
                (done + 1) / (recipe.epochs * len(batches)),
                f"epoch {run.epoch + 1}/{recipe.epochs}, step {step + 1}/{len(batches)},"
                f" loss {loss.item():.2f}, {seen / (now - start):.1f} tiles/s",
            )
    return {name: value / len(batches) for name, value in sums.items()}


def _step(run: _Run, loss: Tensor) -> None:
    run.optimizer.zero_grad(set_to_none=True)
    run.scaler.scale(loss).backward()
    if run.recipe.gradient_clip:
        run.scaler.unscale_(run.optimizer)
        nn.utils.clip_grad_norm_(run.model.parameters(), run.recipe.gradient_clip)
    run.scaler.step(run.optimizer)
    run.scaler.update()


def _evaluate(run: _Run, data: TileDataset) -> dict[str, float]:
    """Return the mean losses over tiles as they are; leaves no trace in weights or random state."""
    if not len(data):
        return {}
    sums: dict[str, float] = defaultdict(float)
    size = run.recipe.batch_size
    batches = [list(range(i, min(i + size, len(data)))) for i in range(0, len(data), size)]
    run.model.train()  # torchvision computes losses in no other mode
    for module in run.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    with torch.no_grad(), torch.random.fork_rng(devices=[run.device] if run.device.type == "cuda" else []):
        torch.manual_seed(run.recipe.seed)
        for images, targets in _load(data, batches, run):
            for name, value in _compute_losses(run, images, targets).items():
                sums[name] += value.item()
    return {name: value / len(batches) for name, value in sums.items()}


def _compute_losses(run: _Run, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    dtype = choose_dtype(run.recipe.precision, run.device)
    with torch.autocast(run.device.type, dtype, enabled=dtype != torch.float32):
        return run.model(images, targets)


def _load(data: TileDataset, batches: list[list[Any]], run: _Run) -> Iterator[tuple[list, list]]:
    loader = DataLoader(
        data,
        batch_sampler=batches,
        num_workers=run.recipe.workers,
        collate_fn=collate_fn,
        pin_memory=run.device.type == "cuda",
        generator=torch.Generator(),  # the loader draws a number even where it needs none
    )
    for images, targets in loader:
        yield (
            [image.to(run.device, non_blocking=True) for image in images],
            [
                {name: value.to(run.device, non_blocking=True) for name, value in target.items()}
                for target in targets
            ],
        )


def _stop(losses: dict[str, Tensor], tiles: list[TrainingTile], recipe: Recipe) -> None:
    raise TrainingError(
        f"loss is not finite on tiles {', '.join(read_items(tile.items).tile for tile in tiles)}",
        where=", ".join(name for name, value in losses.items() if not math.isfinite(value.item())),
        found={name: value.item() for name, value in losses.items()},
        remedy=f"Lower the learning rate ({recipe.learning_rate:g}), or look at these tiles",
    )


def _make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in learnt if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in learnt if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=0.9)
    return torch.optim.AdamW(groups, lr=recipe.learning_rate)


def _log_progress(fraction: float, message: str) -> None:
    logger.info("%3.0f %% %s", 100 * fraction, message)
