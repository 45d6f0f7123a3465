"""Ranges of knobs: part of a field's type where the knob is declared, checked and told from there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, get_type_hints

from annotated_types import Interval

from models.errors import Mistake

Share = Annotated[float, Interval(ge=0, le=1)]
PositiveShare = Annotated[float, Interval(gt=0, le=1)]
InnerShare = Annotated[float, Interval(gt=0, lt=1)]
Amount = Annotated[float, Interval(ge=0)]
Positive = Annotated[float, Interval(gt=0)]
Natural = Annotated[int, Interval(ge=0)]
Count = Annotated[int, Interval(ge=1)]

_WORDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}


@cache
def ranges_of(kind: type) -> Mapping[str, Interval]:
    """Range by the name of the field, of the fields of a class that have one."""
    hints = get_type_hints(kind, include_extras=True)
    found = {name: getattr(hint, "__metadata__", ()) for name, hint in hints.items()}
    return {name: one for name, many in found.items() for one in many if isinstance(one, Interval)}


def in_words(interval: Interval) -> str:
    """An interval as an error and the settings' page tell it.

    >>> [in_words(Interval(ge=0, le=1)), in_words(Interval(gt=0, lt=1)), in_words(Interval(ge=1))]
    ['0 to 1', 'above 0 and below 1', 'at least 1']
    """
    if interval.ge is not None and interval.le is not None:
        return f"{interval.ge:,} to {interval.le:,}"
    bounds = {words: getattr(interval, name) for name, words in _WORDS.items()}
    return " and ".join(f"{words} {bound:,}" for words, bound in bounds.items() if bound is not None)


def check_ranges(values: Any, error: type[Mistake]) -> None:
    """Raises `error` for the first value of a dataclass that is not finite or outside its field's range."""
    kind: type = type(values)
    for name, interval in ranges_of(kind).items():
        value = getattr(values, name)
        if not _is_inside(value, interval):
            remedy = f"The default is {getattr(kind, name)}."
            raise error(f"must be {in_words(interval)}", where=name, found=value, remedy=remedy)


def _is_inside(value: Any, interval: Interval) -> bool:
    return (
        math.isfinite(value)
        and (interval.gt is None or value > interval.gt)
        and (interval.ge is None or value >= interval.ge)
        and (interval.lt is None or value < interval.lt)
        and (interval.le is None or value <= interval.le)
    )
