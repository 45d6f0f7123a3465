"""How categories look: on the page, in its map, and in QGIS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

UNKNOWN = "unknown"
"""How a building without a known category is called."""

LINES = (
    ("#56b4e9", "none"),
    ("#f0e442", "7 5"),
    ("#d55e00", "0.1 5"),
    ("#cc79a7", "12 4 2 4"),
    ("#009e73", "3 3"),
    ("#e69f00", "12 6"),
)
"""Colour and dashes by category, from the last to the first: the further a building, the fuller its line.

Source: M. Okabe and K. Ito, Color Universal Design (2008), told apart by colour-blind people too."""
UNKNOWN_LINE = ("#f5f5f5", "4 4")


class Style(NamedTuple):
    """The line of one category."""

    name: str
    key: str
    """CSS class: `c<index>`, `cu` for unknown."""
    colour: str
    """#rrggbb."""
    dashes: str
    """Of SVG's stroke-dasharray."""


def category_styles(categories: Sequence[str], *, unknown: bool = False) -> list[Style]:
    """The lines of the categories in their order, then of unknown condition where it occurs."""
    last = len(categories) - 1
    styles = [
        Style(name, f"c{index}", *LINES[(last - index) % len(LINES)]) for index, name in enumerate(categories)
    ]
    return styles + ([Style(UNKNOWN, "cu", *UNKNOWN_LINE)] if unknown else [])
