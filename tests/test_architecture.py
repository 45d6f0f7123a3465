"""The floors of the house: imports go down only, and heavy packages stay behind their doors."""

import ast
import re
import sys
from configparser import ConfigParser
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted(
    path for package in ("jengo", "pipeline", "models", "sql") for path in (ROOT / package).rglob("*.py")
)

FLOORS = [
    {"jengo"},
    {"pipeline.__init__", "pipeline.summary", "pipeline.verify"},
    {"pipeline.tasks", "pipeline.logs", "pipeline.defaults", "pipeline.dashboard"},
    {"pipeline.steps"},
    {"pipeline.settings", "pipeline.targets"},
    {"pipeline.review"},
    {"pipeline.cost", "pipeline.seam_score", "pipeline.calibration", "pipeline.held_out", "pipeline.metrics"},
    {"pipeline.raster", "pipeline.stores", "pipeline.sample", "pipeline.catalogue", "pipeline.provenance"}
    | {"pipeline.tiling", "pipeline.labels", "pipeline.pairs", "pipeline.inference", "pipeline.vectorize"}
    | {"pipeline.large", "pipeline.inputs"}
    | {
        "pipeline.seams",
        "pipeline.regularize",
        "pipeline.thresholds",
        "pipeline.submission",
        "pipeline.evaluate",
    }
    | {"pipeline.outputs", "pipeline.report", "pipeline.fetch", "pipeline.coverage"}
    | {"pipeline.training_curves", "pipeline.split"},
    {"pipeline.frames", "pipeline.evidence", "pipeline.clipping", "pipeline.painting", "pipeline.rounding"}
    | {"pipeline.styles", "pipeline.qml", "pipeline.edge", "pipeline.verdicts"},
    {"pipeline.checks"},
    {
        "pipeline.pace",
        "pipeline.bars",
        "pipeline.polygons",
        "pipeline.atomic",
        "pipeline.matching",
        "pipeline.bootstrap",
    }
    | {
        "pipeline.temperature",
        "pipeline.confinement",
        "pipeline.names",
        "pipeline.mishaps",
        "pipeline.untouched",
        "pipeline.unparsed",
        "pipeline.rules",
    },
    {"pipeline.schema", "pipeline.errors"},
    {"models", "sql"},
]
PURE = ["tiling", "labels", "pairs", "inference", "large", "vectorize", "seams", "thresholds", "submission"]
PURE += ["evaluate", "frames", "matching", "outputs", "polygons", "report", "seam_score", "coverage"]
PURE += ["clipping", "cost", "bootstrap", "calibration", "evidence", "held_out", "metrics", "regularize"]
PURE += ["temperature", "edge", "split", "training_curves", "checks", "review", "verdicts"]
BANNED = ("utils", "helpers", "common", "misc", "manager")


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] in ("jengo", "models", "sql"):
        return parts[0]
    return ".".join(parts[:2])


def _imports(path: Path, top_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    # What only type checkers import binds nothing at run time.
    tree.body = [
        node
        for node in tree.body
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    ]
    names = set()
    for node in tree.body if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return names


def _floor(module: str) -> int | None:
    found = [
        level
        for level, names in enumerate(FLOORS)
        for name in names
        if module == name or module.startswith(name + ".")
    ]
    return found[0] if found else None


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_every_module_has_a_floor(path):
    assert _floor(_name(path)) is not None, f"give {_name(path)} a floor"


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_imports_go_down(path):
    own, floor = _name(path), _floor(_name(path))
    if floor == 0:
        return
    for imported in _imports(path):
        target = _floor(imported)
        if target is None or imported == own or imported.startswith(own + "."):
            continue
        sibling_steps = own == "pipeline.steps"
        assert target > floor or (target == floor and sibling_steps), f"{own} imports {imported}"


@pytest.mark.parametrize("name", PURE)
def test_pure_modules_see_no_doors(name):
    paths = [path for path in MODULES if _name(path) == f"pipeline.{name}"]
    assert paths
    for path in paths:
        roots = {imported.split(".")[0] for imported in _imports(path)}
        assert not roots & {"luigi", "sqlalchemy", "torch", "torchvision", "psycopg2"}, path


def test_models_know_nothing_of_maps_and_tasks():
    for path in (ROOT / "models").rglob("*.py"):
        roots = {imported.split(".")[0] for imported in _imports(path)}
        assert not roots & {"luigi", "sqlalchemy", "pipeline", "sql", "geopandas", "pyproj"}, path


def test_torch_is_imported_when_a_task_runs_and_not_before():
    for path in (ROOT / "pipeline").rglob("*.py"):
        roots = {imported.split(".")[0] for imported in _imports(path, top_only=True)}
        assert not roots & {"torch", "torchvision"}, path
    for name in ("__init__", "recipe", "ranges", "errors", "categories"):
        assert not {"torch", "torchvision"} & _imports(ROOT / "models" / f"{name}.py", top_only=True)


def test_no_module_is_named_for_nothing():
    for path in MODULES:
        assert not any(word in path.stem.split("_") for word in BANNED), path


def test_what_is_imported_is_asked_for():
    options = ConfigParser()
    options.read(ROOT / "setup.cfg")
    extras = dict(options["options.extras_require"])
    asked = [options["options"]["install_requires"]]
    asked += [extras[name] for name in extras.keys() - {"bench", "docs", "test"}]
    declared = {_package(line) for line in "\n".join(asked).split()}
    ours = sys.stdlib_module_names | {"jengo", "pipeline", "models", "sql"}
    roots = {imported.split(".")[0] for path in MODULES for imported in _imports(path)} - ours
    # A package of an extra need not be installed: it is called like what is imported of it.
    brought_by = packages_distributions()
    packages = {root: {_package(name) for name in brought_by.get(root, [root])} for root in roots}
    assert not [root for root, names in packages.items() if not names & declared]


def _package(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[<>=!\[]", requirement)[0]).lower()
