"""What is told apart, and which number stands for it.

A category is a word; its *index* is its place in the ordered categories (0 to k - 1, the columns of
a probability array); its *label* is index + 1, because torchvision's networks keep 0 for background.
The label after the last is of items whose category nobody knows: networks learn from it, and never give it.

>>> label_of(("foundation", "unfinished", "completed"), "unfinished")
2
>>> num_classes(("foundation", "unfinished", "completed"))
4
"""

from __future__ import annotations

from collections.abc import Iterable

from models.errors import ModelError

BACKGROUND = 0
"""The label of everything that is no item."""


def check_categories(categories: Iterable[str]) -> tuple[str, ...]:
    """Return the categories as a tuple, in their order.

    Raises:
        ModelError: none is given, one is empty, or one is given twice.
    """
    names = tuple(categories)
    if not names or not all(names) or len(set(names)) < len(names):
        raise ModelError(
            "categories must be one or more different words",
            found=names,
            remedy="Name every category once",
        )
    return names


def label_of(categories: tuple[str, ...], category: str) -> int:
    """Return the label of a category, 1 to k.

    Raises:
        ModelError: the category is none of them.
    """
    if category not in categories:
        raise ModelError(
            "unknown category", found=category, remedy=f"Known categories are {', '.join(categories)}"
        )
    return categories.index(category) + 1


def num_classes(categories: tuple[str, ...]) -> int:
    """Return how many classes a network tells apart, background counted."""
    return len(categories) + 1


def unknown_label(categories: tuple[str, ...]) -> int:
    """Return the label of an item that may be of any category, k + 1."""
    return num_classes(categories)
