"""One self-contained page about an image: the map, the metric, the confidences, and what made them.

The page asks nothing of any network and is the same for the same context. Its layout lies beside
this module in `report.html.j2`; everything that comes from outside is escaped there.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
import shapely

if TYPE_CHECKING:
    from pipeline.coverage import Coverage
    from pipeline.evaluate import ImageScore
    from pipeline.provenance import RunRecord
    from pipeline.seam_score import SeamScore
    from pipeline.training_curves import Curve, TrainingCurves

UNKNOWN = "unknown"
"""How a building without a known category is called on the page."""

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

TITLED_OUTLINES = 6_000
"""Up to so many outlines each tells its name under the pointer; beyond, a layer is one path."""
SIMPLIFY_PX = 0.4
"""How far an outline may stray from its polygon, in overview pixels."""
BINS = 20
"""Of a confidence histogram."""


@dataclass(frozen=True)
class ReportContext:
    """What the page tells, and nothing it has to look up."""

    image_id: str
    categories: Sequence[str]
    overview: bytes
    """The image shrunk, JPEG or PNG."""
    overview_width: int
    """Overview px."""
    overview_height: int
    """Overview px."""
    ground_m_per_overview_px: float
    """Ground length of an overview pixel in metres; 0 where unknown."""
    polygons: Sequence[Any]
    """object[n], the buildings in overview px, in the order of their ids."""
    building_categories: np.ndarray
    """int64[n], index into `categories`."""
    confidences: np.ndarray
    """float64[n], the highest confidence of each building, in [0, 1]."""
    areas_m2: np.ndarray
    """float64[n], ground area."""
    truth_polygons: Sequence[Any] | None = None
    """object[m], the labels in overview px; None where the image has none."""
    truth_categories: np.ndarray | None = None
    """int64[m], index into `categories`, -1 where unknown."""
    score: ImageScore | None = None
    """The metric; its matches count the judged buildings and the truths given here."""
    judged: np.ndarray | None = None
    """bool[n], which buildings the score judged; None for all."""
    seams: SeamScore | None = None
    """The metric near the seams and away from them; None where nothing was scored."""
    coverage: Coverage | None = None
    """Valid ground that no tile covers; None where nobody looked."""
    thresholds: Mapping[str, float] = field(default_factory=dict)
    """Lowest confidence published, by category."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """What the page says about the image below its name."""
    training: TrainingCurves | None = None
    """How the network was learnt; None where nobody knows."""
    records: Sequence[RunRecord] = ()
    """What made the result, in the order of the graph."""
    attribution: str = ""
    """Whom imagery and labels are owed to."""


def render_report(context: ReportContext) -> str:
    """The page as HTML."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"thousands": _thousands, "area": _area, "duration": _duration, "memory": _memory}
    environment.filters["polyline"] = _polyline
    layout = resources.files(__package__).joinpath("report.html.j2").read_text(encoding="utf-8")
    predicted, labelled = _outcomes(context)
    return environment.from_string(layout).render(
        context=context,
        overview=_data_uri(context.overview),
        styles=_styles(context),
        predicted=list(_layers(context, predicted)),
        labelled=list(_layers(context, labelled, truth=True)),
        rows=list(_rows(context)),
        histograms=list(_histograms(context)),
        bar=_scale_bar(context),
        work=_work(context.records),
    )


def _data_uri(picture: bytes) -> str:
    kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def _styles(context: ReportContext) -> list[dict[str, str]]:
    """Name, CSS class, colour and dashes of each category, then of unknown condition where it occurs."""
    last = len(context.categories) - 1
    styles = []
    for index, name in enumerate(context.categories):
        colour, dashes = LINES[(last - index) % len(LINES)]
        styles.append({"name": name, "key": f"c{index}", "colour": colour, "dashes": dashes})
    truths = context.truth_categories
    if truths is not None and (np.asarray(truths) < 0).any():
        colour, dashes = UNKNOWN_LINE
        styles.append({"name": UNKNOWN, "key": "cu", "colour": colour, "dashes": dashes})
    return styles


def _outcomes(context: ReportContext) -> tuple[np.ndarray, np.ndarray]:
    """What the metric says of each building and of each truth; '' where it says nothing."""
    n, m = len(context.polygons), len(context.truth_polygons if context.truth_polygons is not None else ())
    predicted, labelled = np.full(n, "", dtype=object), np.full(m, "", dtype=object)
    if context.score is not None:
        matches = context.score.matches
        judged = np.arange(n) if context.judged is None else np.flatnonzero(context.judged)
        predicted[judged[[pair.proposal for pair in matches.pairs]]] = "right"
        labelled[[pair.truth for pair in matches.pairs]] = "right"
        predicted[judged[matches.false_positives]] = "false"
        labelled[matches.misses] = "missed"
        predicted[judged[[pair.proposal for pair in matches.class_mistakes]]] = "mistaken"
        labelled[[pair.truth for pair in matches.class_mistakes]] = "mistaken"
    return predicted, labelled


_OUTCOME_WORDS = {
    "right": "found",
    "false": "no such building labelled",
    "missed": "missed",
    "mistaken": "wrong category",
}


def _layers(context: ReportContext, outcomes: np.ndarray, *, truth: bool = False) -> Iterator[dict[str, Any]]:
    """Outlines of one category and outcome each, drawn in this order."""
    polygons = context.truth_polygons if truth else context.polygons
    categories = np.asarray(context.truth_categories if truth else context.building_categories)
    if polygons is None or not len(polygons):
        return
    paths = _paths(np.array(polygons, dtype=object))
    for category in np.unique(categories).tolist():
        name = context.categories[category] if category >= 0 else UNKNOWN
        for outcome in sorted(set(outcomes[categories == category])):
            members = np.flatnonzero((categories == category) & (outcomes == outcome)).tolist()
            drawn = [index for index in members if paths[index]]
            if len(paths) > TITLED_OUTLINES:
                outlines = [{"d": "".join(paths[index] for index in drawn), "title": ""}]
            else:
                told = f", {_OUTCOME_WORDS[outcome]}" if outcome else ""
                titles = (
                    f"Label {index + 1}: {name}{told}"
                    if truth
                    else f"Building {index + 1}: {name} {context.confidences[index]:.2f}{told}"
                    for index in drawn
                )
                outlines = [{"d": paths[i], "title": title} for i, title in zip(drawn, titles, strict=True)]
            yield {
                "key": f"c{category}" if category >= 0 else "cu",
                "outcome": outcome,
                "outlines": outlines,
            }


def _paths(polygons: np.ndarray) -> list[str]:
    """SVG path data of each polygon, one decimal; '' for what has no area to draw."""
    parts, owners = shapely.get_parts(
        shapely.simplify(polygons, SIMPLIFY_PX, preserve_topology=True), return_index=True
    )
    rings, inner = shapely.get_rings(parts, return_index=True)
    paths = [""] * len(polygons)
    for ring, owner in zip(rings, owners[inner].tolist(), strict=True):
        corners = shapely.get_coordinates(ring)[:-1].round(1) + 0.0  # no minus before a zero
        paths[owner] += "M" + " ".join(f"{x:.10g} {y:.10g}" for x, y in corners.tolist()) + "Z"
    return paths


def _rows(context: ReportContext) -> Iterator[dict[str, Any]]:
    """Count and areas of each category, then of all."""
    categories, areas = np.asarray(context.building_categories), np.asarray(context.areas_m2, dtype=float)
    groups = [(name, areas[categories == index]) for index, name in enumerate(context.categories)]
    for name, mine in [*groups, ("all buildings", areas)]:
        yield {
            "name": name,
            "count": len(mine),
            "share": len(mine) / len(areas) if len(areas) else 0.0,
            "area_m2": float(mine.sum()),
            "median_m2": float(np.median(mine)) if len(mine) else None,
        }


def _histograms(context: ReportContext) -> Iterator[dict[str, Any]]:
    categories, confidences = np.asarray(context.building_categories), np.asarray(context.confidences)
    for index, name in enumerate(context.categories):
        counts, _ = np.histogram(confidences[categories == index], bins=BINS, range=(0, 1))
        peak = int(counts.max())
        yield {
            "name": name,
            "key": f"c{index}",
            "total": int(counts.sum()),
            "peak": peak,
            "bars": [(i / BINS, count / peak, count) for i, count in enumerate(counts.tolist()) if count],
            "threshold": context.thresholds.get(name),
        }


def _polyline(curve: Curve, epochs: int, top: float) -> str:
    """Points of an SVG polyline in a box 200 wide and 72 high, its origin at the top left."""
    return " ".join(
        f"{200 * (epoch - 1) / max(1, epochs - 1):.1f},{72 * (1 - value / top):.1f}"
        for epoch, value in curve.points
    )


def _scale_bar(context: ReportContext) -> dict[str, float] | None:
    """Metres of the whole width, of a round bar of at most a quarter, and the bar's share of the width."""
    across = context.ground_m_per_overview_px * context.overview_width
    if not across > 0:
        return None
    power = 10.0 ** math.floor(math.log10(across / 4))
    length = next(step * power for step in (5, 2, 1) if step * power <= across / 4)
    return {"across": across, "length": length, "share": length / across}


def _work(records: Sequence[RunRecord]) -> dict[str, Any]:
    """What the records say together: one line per task, and the settings, inputs and versions behind them."""
    tasks: dict[str, dict[str, Any]] = {}
    settings: dict[str, dict[str, str]] = {}
    for record in records:
        task = tasks.setdefault(
            record.task,
            {"runs": 0, "seconds": 0.0, "peak": 0.0, "counts": {}, "digests": [], "started": record.started},
        )
        task["runs"] += 1
        task["seconds"] += record.seconds
        task["peak"] = max(task["peak"], record.peak_memory_mib)
        task["started"] = min(task["started"], record.started)
        if record.digest not in task["digests"]:
            task["digests"].append(record.digest)
        for name, count in record.counts.items():
            task["counts"][name] = task["counts"].get(name, 0) + count
        for section, values in record.settings.items():
            settings.setdefault(section, {}).update(values)
    last = records[-1] if records else None
    return {
        "tasks": tasks,
        "settings": {section: values for section, values in settings.items() if values},
        "inputs": {name: value for record in records for name, value in record.inputs.items()},
        "revision": last.revision if last else None,
        "versions": last.versions if last else {},
        "host": last.host if last else {},
    }


def _thousands(number: float) -> str:
    return f"{number:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def _area(m2: float | None) -> str:
    if m2 is None:
        return "\N{EN DASH}"
    return f"{m2 / 10_000:,.1f} ha" if m2 >= 100_000 else f"{_thousands(m2)} m²"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min {int(seconds % 60)} s"


def _memory(mib: float) -> str:
    return f"{mib / 1024:.1f} GiB" if mib >= 1024 else f"{mib:.0f} MiB"
