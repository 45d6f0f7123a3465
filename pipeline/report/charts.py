"""Numbers as lines and bars: places in an SVG of `WIDTH` by `HEIGHT`, its plot inside of `FRAME`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from pipeline.metrics import PrecisionRecall
    from pipeline.styles import Style
    from pipeline.temperature import Reliability
    from pipeline.training_curves import Curve

WIDTH, HEIGHT = 330, 220
LEFT, TOP, RIGHT, BOTTOM = 34, 24, 306, 190
"""Edges of the plot."""
BINS = 20
"""Of a confidence histogram."""
LEVELS = (0.3, 0.5, 0.7, 0.9)
"""F1 of the lines behind precision over recall."""


class Place(NamedTuple):
    """A value's place in the drawing."""

    x: float
    y: float


def place(x: float, y: float) -> Place:
    """Where the values x and y, both in [0, 1], lie."""
    return Place(round(LEFT + (RIGHT - LEFT) * x, 1), round(BOTTOM - (BOTTOM - TOP) * y, 1))


def polyline(points: Sequence[tuple[float, float]]) -> str:
    """Points in [0, 1] as those of an SVG polyline."""
    return " ".join(f"{x:g},{y:g}" for x, y in (place(*point) for point in points))


def recall_lines(curves: Sequence[PrecisionRecall], styles: Sequence[Style]) -> Iterator[dict[str, Any]]:
    """Line and end of each curve that has a point; the last curve is that of all buildings."""
    for number, curve in enumerate(curves):
        if curve.confidences and curve.truths:
            points = list(zip(curve.recalls, curve.precisions, strict=True))
            yield {
                "name": curve.name,
                "key": styles[number].key if number < len(curves) - 1 else "all",
                "points": polyline(points),
                "end": place(*points[-1]),
                "recall": points[-1][0],
                "precision": points[-1][1],
            }


def f1_lines() -> Iterator[dict[str, Any]]:
    """Where F1 is the same, for the eye."""
    for f1 in LEVELS:
        recalls = np.linspace(f1 / (2 - f1), 1, 25)
        points = [(recall, f1 * recall / (2 * recall - f1)) for recall in recalls.tolist()]
        yield {"f1": f1, "points": polyline(points), "end": place(*points[-1])}


def histograms(
    categories: np.ndarray, confidences: np.ndarray, styles: Sequence[Style], thresholds: Mapping[str, float]
) -> Iterator[dict[str, Any]]:
    """Bars of each category's confidences, in shares of the highest."""
    for index, style in enumerate(styles):
        counts, _ = np.histogram(confidences[categories == index], bins=BINS, range=(0, 1))
        peak = int(counts.max())
        bars = [
            {"at": place(i / BINS, count / peak), "height": (BOTTOM - TOP) * count / peak, "count": count}
            for i, count in enumerate(counts.tolist())
            if count
        ]
        threshold = thresholds.get(style.name)
        yield {
            "style": style,
            "total": int(counts.sum()),
            "peak": peak,
            "bars": bars,
            "threshold": threshold,
            "cut": None if threshold is None else place(threshold, 0).x,
            "width": round((RIGHT - LEFT) / BINS - 1, 1),
        }


def reliability_points(reliability: Reliability) -> list[dict[str, Any]]:
    """Confidence against how often it came true; the area of a dot grows with its detections.

    Bins are pooled with their neighbours until accuracy rises with confidence: of the few detections that
    fill a bin where most are sure, accuracy alone is chance.

    Source: T. Dimitriadis, T. Gneiting, A. I. Jordan, Stable reliability diagrams for probabilistic
    classifiers (PNAS 2021).
    """
    from scipy.optimize import isotonic_regression  # 23 MiB that no other part of the page needs

    if not reliability.bins:
        return []
    count, confidence, accuracy = np.array(
        [(one.count, one.confidence, one.accuracy) for one in reliability.bins], dtype=np.float64
    ).T
    fitted = isotonic_regression(accuracy, weights=count)
    starts = fitted.blocks[:-1]
    counts = np.add.reduceat(count, starts)
    confidences = np.add.reduceat(count * confidence, starts) / counts
    return [
        {
            "at": place(x, y),
            "radius": round(2.5 + 6.5 * (n / counts.max()) ** 0.5, 1),
            "count": int(n),
            "confidence": x,
            "accuracy": y,
        }
        for n, x, y in zip(counts.tolist(), confidences.tolist(), fitted.x[starts].tolist(), strict=True)
    ]


def training_points(curve: Curve, epochs: int, top: float) -> list[tuple[float, float]]:
    """A training curve from the first epoch to the last and from 0 to `top`, in [0, 1]."""
    return [((epoch - 1) / max(1, epochs - 1), value / top) for epoch, value in curve.points]
