"""Knobs inside their intervals, which are written as their docstrings write them: (0, 1] or [0, inf)."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.errors import SettingsError

SHARE, AMOUNT = "[0, 1]", "[0, inf)"


def check_limits(rules: object, limits: Mapping[str, str]) -> None:
    """Nothing, where every value is inside its interval.

    Args:
        rules: has the values.
        limits: interval by the name of the value.

    Raises:
        SettingsError: the first value that is not.
    """
    for name, interval in limits.items():
        value = getattr(rules, name)
        if not _inside(value, interval):
            raise SettingsError(f"{name} must be in {interval}", found=value)


def _inside(value: float, interval: str) -> bool:
    """Whether a value lies in an interval.

    >>> [_inside(value, "(0, 1]") for value in (0, 1, float("nan"))]
    [False, True, False]
    """
    least, most = map(float, interval[1:-1].split(","))
    above = value >= least if interval[0] == "[" else value > least
    below = value <= most if interval[-1] == "]" else value < most
    return above and below
