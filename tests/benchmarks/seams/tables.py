"""The figures as Markdown, for the terminal and for docs/benchmarks.md alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from tests.benchmarks.seams.comparison import Row
from tests.benchmarks.seams.growth import Growth
from tests.benchmarks.seams.results import DEFAULT_LAYOUT, Results
from tests.benchmarks.seams.scenes import TOUCH_M
from tests.benchmarks.seams.score import LARGE_M
from tests.benchmarks.seams.targets import Check, checks


def report(results: Results) -> str:
    """Everything that was found, in Markdown."""
    return "\n\n".join(_parts(results))


def _parts(results: Results) -> Iterator[str]:
    yield "**What is asked.** Of several seeds the worst counts."
    yield _verdicts(list(checks(results)))
    for scene, rows in results.layouts.items():
        yield f"**{scene}**, {_most_buildings(rows):,} buildings, ideal masks: F1 at IoU 0.5 by tile/overlap."
        yield _f1_by(rows, lambda row: "/".join(map(str, row.layout)))
        here = [row for row in rows if row.layout == DEFAULT_LAYOUT]
        yield f"The same at {'/'.join(map(str, DEFAULT_LAYOUT))} in detail:"
        yield _details(here)
    first = next(iter(results.layouts))
    yield f"**Worse networks**, {first}, {'/'.join(map(str, DEFAULT_LAYOUT))}, one seed: F1 at IoU 0.5."
    networks = {id(row): name for name, rows in results.networks.items() for row in rows}
    yield _f1_by([row for rows in results.networks.values() for row in rows], lambda row: networks[id(row)])
    yield "**Three scenes, one setting**, ideal masks: F1 at IoU 0.8."
    yield _f1_by(results.troubles, lambda row: row.scene)
    yield "**Time and memory**, a town of equal houses; one core."
    yield _growth(results.growth)
    yield _notes(results)
    yield "<details><summary>Every layout in detail</summary>"
    for scene, rows in results.layouts.items():
        for layout in dict.fromkeys(row.layout for row in rows):
            yield f"{scene}, {'/'.join(map(str, layout))}"
            yield _details([row for row in rows if row.layout == layout])
    yield "</details>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _verdicts(found: Sequence[Check]) -> str:
    rows = [
        (
            check.what,
            f"{'at least' if check.least else 'at most'} {_figure(check.target)}",
            _figure(check.found),
            "yes" if check.met else "**no**",
        )
        for check in found
    ]
    return _table(["what", "asked", "found", "met"], rows)


def _f1_by(rows: Sequence[Row], column: Callable[[Row], str]) -> str:
    """Rules by columns, the best of each column in bold."""
    columns = list(dict.fromkeys(map(column, rows)))
    best = {name: max(round(row.mean("f1"), 3) for row in rows if column(row) == name) for name in columns}
    lines: dict[str, dict[str, str]] = {}
    for row in rows:
        text = _share(row.mean("f1"))
        if round(row.mean("f1"), 3) == best[column(row)]:
            text = f"**{text}**"
        lines.setdefault(row.rule, {})[column(row)] = text + _star(row, rows)
    return _table(
        ["rule", *columns], [[rule, *(line[name] for name in columns)] for rule, line in lines.items()]
    )


def _details(rows: Sequence[Row]) -> str:
    head = ["rule", "seeds", "found", "F1", "duplicates", "split", "welded", f"recall > {LARGE_M:g} m"]
    lines = [
        (
            row.rule + _star(row, rows),
            str(len(row.scores)),
            f"{row.mean('found'):,.0f}",
            _share(row.mean("f1")),
            f"{row.mean('duplicates'):,.0f}",
            f"{row.mean('split'):,.0f}",
            f"{row.mean('welded'):.1%}",
            _share(row.mean("large_recall")),
            f"{row.seconds:.2f}",
            f"{row.peak_mib:,.0f}",
        )
        for row in rows
    ]
    return _table([*head, "s", "MiB"], lines)


def _growth(rows: Sequence[Growth]) -> str:
    lines = [
        (row.rule, f"{row.detections:,}", f"{row.seconds:.2f}", f"{row.us_each:.0f}", f"{row.peak_mib:,.0f}")
        for row in rows
    ]
    return _table(["rule", "detections", "s", "us each", "MiB above the start"], lines)


def _notes(results: Results) -> str:
    """How to read the columns and how each rule was run."""
    meanings = [
        "\\* on a part of the scene only: the rule takes minutes on more.",
        "*duplicates*: found buildings on a true one that others show already; *split*: true buildings"
        " of which two found ones show a part each; *welded*: of the pairs of true buildings within"
        f" {TOUCH_M:g} m of each other, those that one found building covers by more than half.",
        "*s*: of the rule alone, without making and reading a library's own form of the detections;"
        " *MiB*: memory above the start, that form included.",
    ]
    rules = [f"*{peer.name}*: {peer.how}." for peer in results.peers]
    missing = [f"*{name}*: not run, {reason}." for name, reason in results.absent.items()]
    return "\n".join(f"- {line}" for line in [*meanings, *rules, *missing])


def _most_buildings(rows: Sequence[Row]) -> int:
    return max(row.buildings for row in rows)


def _star(row: Row, rows: Sequence[Row]) -> str:
    """A mark for rows of a part of a scene only."""
    whole = max(other.buildings for other in rows if other.scene == row.scene)
    return " \\*" if row.buildings < whole else ""


def _share(value: float) -> str:
    """A share with three decimals, without the leading zero, as all tables here have it."""
    return "-" if math.isnan(value) else f"{value:.3f}".removeprefix("0")


def _figure(value: float) -> str:
    """A share as above, anything else with two decimals at most."""
    if 0 < value <= 1:
        return _share(value)
    return f"{value:,.0f}" if value >= 100 or value == 0 else f"{value:.2f}"
