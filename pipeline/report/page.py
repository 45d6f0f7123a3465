"""All that a page tells, as HTML."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import resources
from typing import Any

import jinja2
import numpy as np
import orjson
from markupsafe import Markup

from pipeline.report import charts, numbers
from pipeline.report.advice import advise
from pipeline.report.cards import Cards
from pipeline.report.context import ReportContext
from pipeline.report.gallery import Picture
from pipeline.report.vectors import Layer, map_layer, svg_path
from pipeline.report.wording import FALSE_NEGATIVES, FALSE_POSITIVES, WORDS, made_of
from pipeline.report.work import work_of
from pipeline.styles import Style, category_styles

PACKAGE = resources.files(__package__)


def render_report(context: ReportContext) -> str:
    """The page as HTML, at most `MAX_PAGE_MIB` of it."""
    styles = category_styles(context.categories, unknown=_has_unknown(context))
    found, labelled = _layers(context)
    return (
        _layout()
        .get_template("page.html.j2")
        .render(
            context=context,
            styles=styles,
            leaflet=_leaflet(),
            script=Markup(_packaged("layout/map.js")),
            overview=_data_uri(context.overview),
            outlines=_overview(context, styles, found),
            bar=_scale_bar(context),
            scene=_scene(context, styles),
            tiles=_tiles(context),
            found=found,
            labelled=labelled,
            rows=list(_rows(context)),
            histograms=list(
                charts.histograms(
                    np.asarray(context.building_categories),
                    np.asarray(context.confidences),
                    styles[: len(context.categories)],
                    context.thresholds,
                )
            ),
            recall_lines=list(charts.recall_lines(context.curves, styles)),
            f1_lines=list(charts.f1_lines()),
            plot=charts,
            galleries=list(_galleries(context, styles)),
            false_positives=made_of(context.found, FALSE_POSITIVES),
            false_negatives=made_of(context.labelled, FALSE_NEGATIVES),
            advice=advise(context),
            work=work_of(context.records),
        )
    )


@cache
def _layout() -> jinja2.Environment:
    """The page's templates, escaping everything that is not marked as ours."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: _packaged(f"layout/{name}")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= numbers.FILTERS | {
        "training_points": charts.training_points,
        "reliability_points": charts.reliability_points,
    }
    return environment


def _packaged(name: str) -> str:
    return PACKAGE.joinpath(name).read_text(encoding="utf-8")


def _leaflet() -> dict[str, Markup]:
    """The map library as it is shipped; of its style only what needs no picture."""
    style = _packaged("leaflet/leaflet.css").replace("behavior: url(#default#VML);", "")
    while "url(images/" in style:
        before, _, after = style.partition("url(images/")
        style = before + "none" + after.partition(")")[2]
    script = _packaged("leaflet/leaflet.js").partition("//# sourceMappingURL")[0]
    licence = _packaged("leaflet/LICENSE")
    return {name: Markup(text) for name, text in (("style", style), ("script", script), ("licence", licence))}


def _data_uri(picture: Picture) -> str:
    kind = "png" if picture.content.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(picture.content).decode()}"


def _has_unknown(context: ReportContext) -> bool:
    truths = context.truth_categories
    return truths is not None and bool((np.asarray(truths) < 0).any())


def _inside_html(content: object) -> Markup:
    """JSON that may stand inside a script element."""
    return Markup(orjson.dumps(content).replace(b"<", b"\\u003c").decode())


def _layers(context: ReportContext) -> tuple[Layer, Layer | None]:
    """The buildings and the labels of the map."""
    truths, found, labelled = context.truth_polygons_px, context.found, context.labelled
    sharpest = context.pyramid.factor if context.pyramid else _px_per_overview_px(context)
    categories, known = context.building_categories, context.truth_categories

    def building(row: int) -> dict[str, Any]:
        confidence, area = float(context.confidences[row]), float(context.areas_m2[row])
        about = {"id": row + 1, "c": int(categories[row]), "p": round(confidence, 3), "a": round(area, 1)}
        return about | {"o": found.names[row] if found else ""}

    layer = map_layer(context.polygons_px, building, sharpest)
    if truths is None or known is None:
        return layer, None

    def label(row: int) -> dict[str, Any]:
        return {"id": row + 1, "c": int(known[row]), "o": labelled.names[row] if labelled else ""}

    return layer, map_layer(truths, label, sharpest)


def _px_per_overview_px(context: ReportContext) -> float:
    return context.width / context.overview.width


def _overview(context: ReportContext, styles: Sequence[Style], found: Layer) -> list[dict[str, Any]]:
    """One path per category with the buildings that the map shows."""
    categories = np.asarray(context.building_categories)[found.rows]
    polygons = np.array(context.polygons_px, dtype=object)[found.rows]
    paths = []
    for index, style in enumerate(styles[: len(context.categories)]):
        if path := svg_path(polygons[categories == index], _px_per_overview_px(context)):
            paths.append({"style": style, "path": path})
    return paths


def _scale_bar(context: ReportContext) -> dict[str, float] | None:
    """Length in metres of a round bar of at most a quarter of the overview's width, and its share of it."""
    across = context.ground_m_per_px[0] * context.width
    if not across > 0:
        return None
    power = 10.0 ** math.floor(math.log10(across / 4))
    length = next(step * power for step in (5, 2, 1) if step * power <= across / 4)
    return {"length": length, "share": length / across}


def _scene(context: ReportContext, styles: Sequence[Style]) -> Markup:
    """What the map's script has to know."""
    pyramid = context.pyramid
    return _inside_html(
        {
            "width": context.width,
            "height": context.height,
            "metres": context.ground_m_per_px,
            "factor": pyramid.factor if pyramid else _px_per_overview_px(context),
            "levels": pyramid.levels if pyramid else 0,
            "styles": {
                style.key: {"name": style.name, "colour": style.colour, "dashes": style.dashes}
                for style in styles
            },
            "words": WORDS,
        }
    )


def _tiles(context: ReportContext) -> Markup:
    tiles = context.pyramid.tiles if context.pyramid else {}
    return _inside_html({place: base64.b64encode(tile).decode() for place, tile in tiles.items()})


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


def _galleries(context: ReportContext, styles: Sequence[Style]) -> Iterator[dict[str, Any]]:
    """The galleries with what is drawn and said of each picture."""
    cards = Cards(context, styles)
    for title, text, total, crops in context.galleries:
        shown = [cards.card(crop) | {"picture": _data_uri(crop.picture)} for crop in crops if crop.picture]
        yield {"title": title, "text": text, "total": total, "crops": shown}
