"""Writes the reference pages from the code: docs/settings.md and docs/artifacts.md.

python docs/reference.py [--check]
"""

from __future__ import annotations

import ast
import inspect
import sys
from pathlib import Path

import luigi

from pipeline import evaluate, schema, settings
from pipeline.bootstrap import Estimate
from pipeline.calibration import Calibration
from pipeline.coverage import Coverage
from pipeline.edge import EdgeCounts
from pipeline.metrics import AveragePrecision, BoundaryQuality, Confusion, ImageMetrics, SizeClass
from pipeline.outputs import Building
from pipeline.review.ceiling import Ceiling
from pipeline.review.changes import RoundNumbers, RoundsReport, Tally
from pipeline.review.records import QueuedTile, Round
from pipeline.seam_score import SeamScore, SeamSide
from pipeline.steps.checking import LabelCheck, LabelShift
from pipeline.steps.evaluation import Evaluation
from pipeline.steps.importing import Imported, ReviewedTile
from pipeline.temperature import Reliability
from pipeline.thresholds import Cut

DOCS = Path(__file__).parent
WRITTEN = "<!-- Written by docs/reference.py from the code; run `make docs` after a change there. -->"


def settings_page() -> str:
    """Every section and knob with its default and description."""
    lines = [
        "# Settings",
        WRITTEN,
        "",
        "A section of `luigi.cfg` in the folder you work from, or an option: `[Tiling] tile_size` is",
        "`--Tiling-tile-size`.",
        "",
        "The values of settings marked * are not part of any digest, but what some of them refer to is:",
        "another catalogue (`[Storage] catalogue`), other weights (`[Inference] weights`), other images to",
        "review (`[Review] images`) or another choice of labels (`[Review] labels`) rerun what needs them.",
        "The others rerun nothing; those that say how the machine computes (`device`, `compile`,",
        "`[Inference] batch_size`) can change results slightly.",
    ]
    for section in settings.ALL:
        name = section.get_task_family()
        lines += ["", f"## [{name}]", "", inspect.getdoc(section) or "", ""]
        lines += ["| setting | default | |", "|---|---|---|"]
        for knob, parameter in section.get_params():
            default = parameter.serialize(parameter._default)
            shown = f"`{default}`" if default else "(empty)"
            mark = "" if parameter.significant else " *"
            text = (parameter.description or "").partition(" Choices: ")[0].replace("|", "\\|")
            if isinstance(parameter, luigi.ChoiceParameter):
                text += " One of " + ", ".join(f"`{choice}`" for choice in _choices(section, knob)) + "."
            lines.append(f"| `{knob}`{mark} | {shown} | {text} |")
    return "\n".join(lines) + "\n"


def artifacts_page() -> str:
    """Every artifact's fields as the schema declares them."""
    lines = ["# Artifacts", WRITTEN, "", inspect.getdoc(schema) or ""]
    titles = {
        schema.TileIndex: "work/<image>/tiles-<digest>/tiles.geojson",
        schema.Grid: "",
        schema.Stretch: "",
        schema.Tile: "",
        schema.PairIndex: "work/<image>/pairs-<digest>/pairs.json",
        schema.Pair: "",
        schema.TileItems: "work/<image>/pairs-<digest>/items/<tile>.json",
        schema.Item: "",
        schema.TileDetections: "work/<image>/detections-<digest>/<tile>.json",
        schema.CoarseIndex: "work/<image>/large-<digest>/index.json, beside one <tile>.json each",
        schema.CoarseTile: "",
        schema.ModelTag: "",
        schema.Detection: "",
        Calibration: "work/calibrations/<digest>/thresholds.json",
        Cut: "",
        Estimate: "",
        Reliability: "",
        Building: "output/<image>.geojson, .gpkg, .parquet, .fgb, .shp, .pmtiles, .mbtiles: a building",
        Evaluation: "output/<image>.report.json",
        EdgeCounts: "",
        evaluate.ImageScore: "",
        evaluate.Counts: "",
        evaluate.Matches: "",
        evaluate.Match: "",
        SeamScore: "",
        SeamSide: "",
        Coverage: "",
        ImageMetrics: "",
        AveragePrecision: "",
        BoundaryQuality: "",
        Confusion: "",
        SizeClass: "",
        LabelCheck: "output/<image>.checks.json",
        LabelShift: "",
        Ceiling: "",
        Round: "review/round_<n>/round.json",
        QueuedTile: "",
        Imported: "review/round_<n>/imported.json",
        ReviewedTile: "",
        RoundNumbers: "review/round_<n>/numbers.json",
        Tally: "",
        RoundsReport: "review/round_<n>/report.json",
    }
    for kind, place in titles.items():
        lines += ["", f"## {kind.__name__}", ""] + ([f"`{place}`", ""] if place else [])
        lines += [inspect.getdoc(kind) or "", ""]
        lines += ["| field | type | |", "|---|---|---|"]
        texts: dict[str, str] = {}
        annotations: dict[str, str] = {}
        for base in reversed(kind.__mro__):
            if base.__module__.startswith("pipeline."):
                texts |= _field_texts(base)
                annotations |= inspect.get_annotations(base)
        for name in kind.__pydantic_fields__:
            kind_text = annotations[name].replace("|", "\\|")
            lines.append(f"| `{name}` | `{kind_text}` | {texts.get(name, '')} |")
    return "\n".join(lines) + "\n"


def _choices(section: type, knob: str) -> list[str]:
    # Luigi keeps choices as a set, whose order differs from run to run.
    return sorted(str(choice) for choice in dict(section.get_params())[knob]._choices)


def _field_texts(kind: type) -> dict[str, str]:
    (definition,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(definition, ast.ClassDef)
    pairs = zip(definition.body, definition.body[1:], strict=False)
    return {
        ast.unparse(field.target): " ".join(str(text.value.value).split())
        for field, text in pairs
        if isinstance(field, ast.AnnAssign)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
    }


PAGES = {"settings.md": settings_page, "artifacts.md": artifacts_page}


def main() -> int:
    """Writes the pages, or with --check says which are out of date."""
    stale = [name for name, page in PAGES.items() if _read(DOCS / name) != page()]
    if "--check" in sys.argv:
        sys.stderr.write("".join(f"docs/{name} is out of date: make docs\n" for name in stale))
        return len(stale)
    for name, page in PAGES.items():
        (DOCS / name).write_text(page())
    return 0


def _read(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


if __name__ == "__main__":
    sys.exit(main())
