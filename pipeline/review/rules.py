"""The knobs of a review round."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ReviewRules:
    """Which tiles are selected for review."""

    budget: int = 20
    """Number of tiles per round."""
    random_share: float = 0.2
    """Share of the budget sampled at random, 0 to 1, since confident predictions may be wrong too."""
    diversity: float = 4.0
    """Size of the candidate pool as a multiple of the budget: from that many of the most uncertain tiles, the
    most different from each other are chosen; 1 takes the most uncertain ones."""

    def __post_init__(self) -> None:
        if self.budget < 1:
            raise ValueError(f"budget must be at least 1, not {self.budget}")
        if not 0 <= self.random_share <= 1:
            raise ValueError(f"random_share must be in 0 to 1, not {self.random_share}")
        if self.diversity < 1:
            raise ValueError(f"diversity must be at least 1, not {self.diversity}")
