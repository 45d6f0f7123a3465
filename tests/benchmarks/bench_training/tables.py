"""What came of the trials, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from tests.benchmarks.bench_training.contenders import CONTENDERS, Contender, Sources

Results = Mapping[tuple[str, int, str], dict[str, Any]]
"""By set, third and contender."""


MIDDLE = 1
"""The third that every contender is scored on."""


def report(results: Results, places: Sequence[str]) -> str:
    """The table: a row per contender, mean F1 and F1 of all buildings per set, means over thirds.

    Ours stands there a second time with the middle third alone, which is what rows of one third are held
    against.
    """
    head = [f"{place} mean F1 | {place} all" for place in places]
    columns = ["learnt", *head, "thirds", "tiles shown", "s"]
    lines = [f"| {' | '.join(columns)} |", "|---" * (2 * len(places) + 4) + "|"]
    for name, contender in CONTENDERS.items():
        mine = {key: found for key, found in results.items() if key[2] == name}
        middle = {key: found for key, found in mine.items() if key[1] == MIDDLE}
        if mine:
            lines.append(_row(contender, contender.title, mine, places))
        if name == "ours" and middle and len(middle) < len(mine):
            lines.append(_row(contender, f"{contender.title}, the middle third", middle, places))
    return "\n".join(lines)


def _row(contender: Contender, title: str, mine: Results, places: Sequence[str]) -> str:
    cells: list[str] = []
    for place in places:
        here = [found for key, found in mine.items() if key[0] == place]
        named = contender.sources is Sources.ALONE
        cells += [
            _spread([found["mean_f1"] for found in here]) if named else "-",
            _spread([found["all_f1"] for found in here]),
        ]
    thirds = len({key[1] for key in mine})
    shown, seconds = (fmean(found[part] for found in mine.values()) for part in ("shown", "seconds"))
    return f"| {title} | {' | '.join(cells)} | {thirds} | {shown:.0f} | {seconds:.0f} |"


def _spread(values: Sequence[float]) -> str:
    """The mean and, of several, the standard deviation."""
    if not values:
        return ""
    mean = f"{fmean(values):.3f}".removeprefix("0")
    return mean if len(values) == 1 else f"{mean} ± {f'{stdev(values):.3f}'.removeprefix('0')}"
