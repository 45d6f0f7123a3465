"""How sure a score is: its spread when the validation ground is drawn anew, block by block.

Neighbouring buildings are alike, so that drawing them one by one makes intervals too narrow; whole
blocks of ground are drawn instead. The counts of a drawing are sums over its blocks: all drawings
together are one matrix product.

Source: B. Efron, R. Tibshirani, An Introduction to the Bootstrap (1993), percentile intervals;
H. Kuensch, Annals of Statistics 17 (1989), blocks for dependent data.
"""

from __future__ import annotations

from typing import Self

import numpy as np

from pipeline.schema import Artifact

SEED = 1
"""Where the chance of drawing begins: equal blocks give equal intervals."""


class Estimate(Artifact):
    """A number with its bootstrap confidence interval."""

    value: float
    low: float | None = None
    """None with fewer than two blocks to resample."""
    high: float | None = None

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    @classmethod
    def of(cls, value: float, drawn: np.ndarray, confidence: float) -> Self:
        """The value with the percentiles of `drawn`, float64[r], that hold `confidence` between them."""
        if not len(drawn):
            return cls(value=value)
        tail = (1 - confidence) / 2
        low, high = np.quantile(drawn, [tail, 1 - tail]).tolist()
        return cls(value=value, low=low, high=high)


def draw_blocks(blocks: int, resamples: int) -> np.ndarray:
    """How often each drawing holds each block, [resamples, blocks]; no drawing where there are not two.

    Whole numbers in float64, whose matrix products take a thirtieth of the time of integers.
    """
    if blocks < 2:
        return np.empty((0, blocks))
    shares = np.full(blocks, 1 / blocks)
    return np.random.default_rng(SEED).multinomial(blocks, shares, size=resamples).astype(float)


def f1_score(hits: np.ndarray, kept: np.ndarray, truths: np.ndarray) -> np.ndarray:
    """F1 of counts that broadcast, float64; 0 where it is undefined."""
    present = np.asarray(kept + truths, dtype=np.float64)
    return np.divide(2.0 * hits, present, out=np.zeros_like(present), where=present > 0)
