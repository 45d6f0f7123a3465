"""What a benchmark says: ours beside a peer, how they compare, what was asked, and whether it was met."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Row:
    """A stage beside a peer on the same work, in one run."""

    stage: str
    peer: str
    """What ours is compared with, or what limits it where there is no peer."""
    ours: float = np.nan
    theirs: float = np.nan
    unit: str = "s"
    target: float = np.nan
    """What ours may be at most, as a share of theirs."""
    exponent: float = np.nan
    """Of the growth of ours with the size of the work."""
    exponent_target: float = np.nan
    skipped: str = ""
    """Why there is no figure."""

    @property
    def ratio(self) -> float:
        """Ours as a share of theirs."""
        return self.ours / self.theirs

    @property
    def verdict(self) -> str:
        """In a word."""
        if self.skipped:
            return f"skipped: {self.skipped}"
        missed = self.ratio > self.target or self.exponent > self.exponent_target
        return "**missed**" if missed else "met" if self.target == self.target else ""

    @property
    def cells(self) -> list[str]:
        """The row of the table."""
        growth = _number(self.exponent)
        if self.exponent_target == self.exponent_target:
            growth += f" (<= {self.exponent_target:g})"
        target = f"<= {_number(self.target)}" if self.target == self.target else ""
        values = [
            f"{_number(value)} {self.unit}" if value == value else "" for value in (self.ours, self.theirs)
        ]
        return [self.stage, self.peer, *values, _number(self.ratio), target, growth, self.verdict]


HEAD = ["stage", "peer or limit", "ours", "peer", "ratio", "asked", "growth", "verdict"]


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [HEAD, ["---"] * len(HEAD), *(row.cells for row in rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def _number(value: float) -> str:
    return "" if value != value else f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def interleaved(
    candidates: Mapping[str, Callable[[], Any]],
    rounds: int = 3,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, float]:
    """Median time of each candidate, run in turn, so that what else the machine does befalls all."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, candidate in candidates.items():
            started = clock()
            candidate()
            times[name].append(clock() - started)
    return {name: median(taken) for name, taken in times.items()}


def exponent(sizes: Sequence[float], times: Sequence[float]) -> float:
    """The power of the size that the time grows with."""
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])
