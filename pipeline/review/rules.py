"""The knobs of a review round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Interval

from models.ranges import Count, Share
from pipeline.rules import Rules


@dataclass(frozen=True)
class ReviewRules(Rules):
    """Which tiles are selected for review."""

    budget: Count = 20
    """Number of tiles per round."""
    random_share: Share = 0.2
    """Share of the budget drawn by chance: what nobody is unsure of may be wrong as well."""
    diversity: Annotated[float, Interval(ge=1)] = 4.0
    """Size of the candidate pool as a multiple of the budget: from that many of the most uncertain tiles, the
    most different from each other are chosen; 1 takes the most uncertain ones."""
