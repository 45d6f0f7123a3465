"""What a label's attribute says of its building."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd

from pipeline.errors import LabelError
from pipeline.labels.rules import LabelRules, fold

MOST_CATEGORIES = 12
"""Attributes of more different values are names or numbers of buildings, not their condition."""
MOST_ROWS_READ = 20_000


def read_conditions(
    frame: gpd.GeoDataFrame, rules: LabelRules, *, where: object = None
) -> tuple[list[str | None], list[str | None]]:
    """Spelling and category of every row, each None where there is none.

    Raises:
        LabelError: the condition attribute is missing.
    """
    attribute = rules.condition_attribute
    if attribute and attribute not in frame.columns and len(frame):
        raise LabelError(
            f"no attribute {attribute!r}",
            where=where,
            found=[name for name in frame.columns if name != frame.geometry.name],
            remedy=_remedy(frame),
        )
    if attribute and len(frame):
        spellings = [spelling(value) for value in frame[attribute]]
        return spellings, [rules.category_of.get(fold(text)) if text else None for text in spellings]
    only = rules.categories[0][0] if len(rules.categories) == 1 else None
    return [None] * len(frame), [only] * len(frame)


def condition_attributes(frame: gpd.GeoDataFrame) -> dict[str, Counter[str]]:
    """Attributes that may hold a condition, the likeliest first: their values and how often each occurs.

    An attribute qualifies with 2 to 12 different values, most of which are words, on most of the rows.
    """
    found: dict[str, Counter[str]] = {}
    head = frame.head(MOST_ROWS_READ)
    for name in head.columns:
        if name == frame.geometry.name:
            continue
        values = Counter(text for text in map(spelling, head[name]) if text)
        words = sum(count for text, count in values.items() if re.search(r"[^\W\d_]", text))
        if 2 <= len(values) <= MOST_CATEGORIES and 2 * words > len(head) and len(values) < len(head):
            found[str(name)] = values
    return dict(sorted(found.items(), key=lambda item: -item[1].total()))


def _remedy(frame: gpd.GeoDataFrame) -> str:
    """What to do where the condition attribute is missing, with the attribute that was probably meant."""
    found = next(iter(condition_attributes(frame).items()), None)
    if found is None:
        return "Name the attribute that holds the condition, or leave it empty for files without one."
    name, values = found
    shown = ", ".join(f"{text} {count}" for text, count in values.most_common(4))
    return f"Set [Labels] condition_attribute, to {name} perhaps ({shown}), and categories to its spellings."


def category_indices(frame: gpd.GeoDataFrame, rules: LabelRules, *, where: object = None) -> np.ndarray:
    """int64[n] place of every row's category in `rules.categories`, -1 where it has none.

    Raises:
        LabelError: the condition attribute is missing.
    """
    places = {name: place for place, (name, _) in enumerate(rules.categories)}
    _, categories = read_conditions(frame, rules, where=where)
    return np.array([places.get(name, -1) if name else -1 for name in categories], dtype=np.int64)


def spelling(value: Any) -> str | None:
    """An attribute's value as text; None for null and blank."""
    if value is None or (pd.api.types.is_scalar(value) and pd.isna(value)):
        return None
    # A column of whole numbers with a null in it is read as floats.
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    return text.strip() or None
