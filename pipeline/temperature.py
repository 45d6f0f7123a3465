"""Probabilities that come true as often as they say: temperature scaling and reliability.

A network is surer than it is right. Its probabilities, background included, are a softmax, so that one
number, the temperature, flattens or sharpens all of them without changing any row's best category:
p_i becomes p_i ** (1 / T) over the sum of all, which is the softmax of the logits over T and needs no
logits.

Source: C. Guo, G. Pleiss, Y. Sun, K. Weinberger, On Calibration of Modern Neural Networks (ICML 2017).
"""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp

from pipeline.schema import Artifact

BINS = 15
"""Of equal width over [0, 1], as in the source: expected calibration errors of others compare."""
BACKGROUND = -1
"""Label of a detection of nothing; its probability is what a row lacks to 1."""
_FLOOR = 1e-6  # a probability of 0 has no logarithm, and single precision tells none below from it
_TEMPERATURES = 0.1, 10.0


class ReliabilityBin(Artifact):
    """Detections whose confidence lies in (low, high]; those of confidence 0 are in the first."""

    low: float
    high: float
    count: int
    confidence: float
    """Their mean confidence."""
    accuracy: float
    """Share of them that is right."""


class Reliability(Artifact):
    """How often confidences come true: the points of a reliability diagram and their summary."""

    detections: int
    expected_error: float
    """Expected calibration error: mean of |confidence - accuracy| over the bins, by their counts."""
    log_loss: float
    """Mean negative logarithm of the probability of what was right, background included."""
    bins: list[ReliabilityBin]
    """Those that hold anything, by rising confidence."""


def temper(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities at a temperature, float64[n, k]; no row's best category changes.

    Rows may change their order: which of two is surer depends on what is left for the other categories.

    Args:
        probabilities: float[n, k] by category, in [0, 1]; what a row lacks to 1 is background.
        temperature: above 0; 1 changes nothing, more makes unsure.
    """
    if temperature == 1:
        return np.asarray(probabilities, dtype=np.float64)
    powers = _logarithms(probabilities) / temperature
    return np.exp(powers - logsumexp(powers, axis=1, keepdims=True))[:, :BACKGROUND]


def fit_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The temperature at which what was right is most probable, within 0.1 to 10.

    The log loss is convex in 1 / T, so that the minimum found is the only one.

    Args:
        probabilities: float[n, k] by category, n at least 1.
        labels: int64[n], what each row was: index of a category, or `BACKGROUND`.
    """
    from scipy.optimize import minimize_scalar  # 23 MiB that no other task needs

    logarithms = _logarithms(probabilities)
    bounds = 1 / _TEMPERATURES[1], 1 / _TEMPERATURES[0]
    found = minimize_scalar(
        lambda inverse: _log_loss(logarithms * inverse, labels), bounds=bounds, method="bounded"
    )
    return float(1 / found.x)


def reliability(probabilities: np.ndarray, labels: np.ndarray) -> Reliability:
    """How often the confidences, the best categories' probabilities, come true.

    Args:
        probabilities: float[n, k] by category.
        labels: int64[n], what each row was: index of a category, or `BACKGROUND`.
    """
    confidences, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    edges = np.linspace(0, 1, BINS + 1)
    numbers = np.clip(np.searchsorted(edges, confidences) - 1, 0, BINS - 1)
    bins = [
        ReliabilityBin(
            low=edges[number],
            high=edges[number + 1],
            count=np.count_nonzero(numbers == number),
            confidence=confidences[numbers == number].mean(),
            accuracy=right[numbers == number].mean(),
        )
        for number in np.unique(numbers).tolist()
    ]
    gaps = sum(one.count * abs(one.confidence - one.accuracy) for one in bins)
    return Reliability(
        detections=len(labels),
        expected_error=gaps / len(labels) if len(labels) else 0.0,
        log_loss=_log_loss(_logarithms(probabilities), labels) if len(labels) else 0.0,
        bins=bins,
    )


def _logarithms(probabilities: np.ndarray) -> np.ndarray:
    """float64[n, k + 1], logarithms of the probabilities, background last."""
    categories = np.asarray(probabilities, dtype=np.float64)
    whole = np.column_stack([categories, 1 - categories.sum(axis=1)])
    return np.log(np.maximum(whole, _FLOOR))


def _log_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(logsumexp(logits, axis=1) - logits[np.arange(len(labels)), labels]))
