"""How a network was learnt, as curves: losses, scores and learning rate of every epoch.

Read from `history.json`, drawn by `report`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import ArtifactError


class Curve(NamedTuple):
    """A number that was measured after some epochs."""

    name: str
    points: list[tuple[int, float]]
    """Epoch, from 1, and value; at least one point."""


class Chart(NamedTuple):
    """Curves over one axis that begins at 0."""

    title: str
    top: float
    """A round number that no value exceeds, above 0."""
    curves: list[Curve]


class TrainingCurves(NamedTuple):
    """What is told of a training."""

    epochs: int
    seconds: float
    best: tuple[int, float] | None
    """The epoch whose weights were kept and its score, 0 to 1; None where none was scored."""
    charts: list[Chart]


def read_training_curves(path: Path) -> TrainingCurves | None:
    """The curves of a training; None where there is no such file, as beside weights from elsewhere.

    Raises:
        ArtifactError: the file is not the history of a training.
    """
    if not path.exists():
        return None
    try:
        return training_curves(json.loads(path.read_bytes()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"not the history of a training: {error!r}", where=path, remedy="Delete it, or train again."
        ) from error


def training_curves(history: Sequence[Mapping[str, Any]]) -> TrainingCurves | None:
    """The curves of a training; None before its first epoch is done.

    Args:
        history: a record per epoch, as `models.train` writes them.
    """
    if not history:
        return None
    # As in models.run: of equal scores the last is kept.
    scored = [(record["metrics"]["score"], record["epoch"]) for record in history if record["metrics"]]
    score, epoch = max(scored, default=(0.0, 0))

    def curve(name: str, value: Callable[[Mapping[str, Any]], float | None]) -> list[Curve]:
        points = [(record["epoch"], value(record)) for record in history]
        known = [(epoch, number) for epoch, number in points if number is not None]
        return [Curve(name, known)] if known else []

    losses = curve("training tiles", lambda record: sum(record["losses"].values()))
    losses += curve("held-out tiles", lambda record: sum(record["validation_losses"].values()) or None)
    scores = curve("mean F1", lambda record: record["metrics"].get("mean_f1"))
    scores += curve("F1 of all buildings", lambda record: record["metrics"].get("all_f1"))
    rates = curve("learning rate", lambda record: record["learning_rate"])
    charts = [_chart("loss", losses), _chart("score on held-out tiles", scores, top=1.0)]
    return TrainingCurves(
        epochs=history[-1]["epoch"],
        seconds=sum(record["seconds"] for record in history),
        best=(epoch, score) if scored else None,
        charts=[chart for chart in (*charts, _chart("learning rate", rates)) if chart.curves],
    )


def _chart(title: str, curves: list[Curve], top: float = 0.0) -> Chart:
    highest = max((value for curve in curves for _, value in curve.points), default=0.0)
    return Chart(title, top or _round_up(highest), curves)


def _round_up(value: float) -> float:
    """The least of 1, 2, 5, 10, 20, ... (and their tenths) that is not below a value; 1 for none.

    >>> _round_up(0.0034), _round_up(2.0)
    (0.005, 2.0)
    """
    if not value > 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(float(f"{step * power:.0e}") for step in (1, 2, 5, 10) if step * power >= value * (1 - 1e-9))
