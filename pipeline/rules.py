"""What the knobs of every module are: a frozen dataclass whose values are in their fields' ranges."""

from __future__ import annotations

from dataclasses import dataclass

from models.ranges import check_ranges
from pipeline.errors import SettingsError


@dataclass(frozen=True)
class Rules:
    """Knobs of a module.

    Raises:
        SettingsError: a value is outside its range.
    """

    def __post_init__(self) -> None:
        check_ranges(self, SettingsError)
