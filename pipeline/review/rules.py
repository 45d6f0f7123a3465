"""The knobs of a review round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Interval

from models.ranges import Count, Share
from pipeline.rules import Rules


@dataclass(frozen=True)
class ReviewRules(Rules):
    """Which tiles people are asked to look at."""

    budget: Count = 20
    """Tiles of a round."""
    random_share: Share = 0.2
    """Share of the budget drawn by chance: what nobody is unsure of may be wrong as well."""
    diversity: Annotated[float, Interval(ge=1)] = 4.0
    """Tiles considered for every one chosen: of so many times the budget, the most uncertain, those are
    taken that differ most from each other; 1 takes the most uncertain as they come."""
