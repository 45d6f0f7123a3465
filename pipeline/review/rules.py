"""The knobs of a review round."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ReviewRules:
    """Which tiles people are asked to look at."""

    budget: int = 20
    """Tiles of a round."""
    random_share: float = 0.2
    """Share of the budget drawn by chance, 0 to 1: what nobody is unsure of may be wrong as well."""
    diversity: float = 4.0
    """Tiles considered for every one chosen: of so many times the budget, the most uncertain, those are
    taken that differ most from each other; 1 takes the most uncertain as they come."""

    def __post_init__(self) -> None:
        if self.budget < 1:
            raise ValueError(f"budget must be at least 1, not {self.budget}")
        if not 0 <= self.random_share <= 1:
            raise ValueError(f"random_share must be in 0 to 1, not {self.random_share}")
        if self.diversity < 1:
            raise ValueError(f"diversity must be at least 1, not {self.diversity}")
