"""The page that shows all rounds beside each other; it needs no network."""

from __future__ import annotations

import jinja2

from pipeline.review.changes import RoundsReport


def render_rounds(report: RoundsReport, title: str) -> str:
    """The page as HTML.

    Args:
        report: all rounds so far.
        title: name of the workspace.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"share": _share, "number": _number}
    return environment.get_template("review.html.j2").render(report=report, title=title)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f} %"


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
