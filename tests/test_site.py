"""The site of the docs builds without a warning, its notebook runs, and what is public is documented."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
API = re.findall(r"^::: (\S+)", (ROOT / "docs" / "api.md").read_text(), flags=re.MULTILINE)


def test_the_site_builds_without_a_warning(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {page.name: page.read_text() for page in tmp_path.glob("*.html")}
    assert {"index.html", "tutorial.html", "api.html", "notebook.html", "changelog.html"} <= set(pages)
    assert 'id="pipeline.seams.merge"' in pages["api.html"] and "min_agreement" in pages["api.html"]
    assert "data:image/png" in pages["notebook.html"]
    for name, page in pages.items():
        asked = re.findall(r'<(?:script|img|link)[^>]*(?:src|href)="(https?://[^"]+)', page)
        assert not [url for url in asked if "canonical" not in url], name


def test_the_notebook_runs_and_gives_what_it_shows():
    from docs.run_notebook import NOTEBOOK, executed

    def told(notebook) -> list[str]:
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
        return [output.get("data", {}).get("text/plain", output.get("text", "")) for output in outputs]

    shown = told(nbformat.read(NOTEBOOK, as_version=4))
    assert len(shown) >= 7, "run docs/run_notebook.py"
    fresh = told(executed())
    assert [text for text in fresh if "PIL" not in text] == [text for text in shown if "PIL" not in text]


def find(name: str):
    """The module, class or function of a dotted name."""
    parts = name.split(".")
    for split in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:split]))
        except ModuleNotFoundError:
            continue
        for part in parts[split:]:
            found = getattr(found, part)
        return found
    raise AssertionError(name)


@pytest.mark.parametrize("name", API)
def test_public_names_say_what_they_take_and_give(name):
    found = find(name)
    text = inspect.getdoc(found)
    assert text and not text.startswith(f"{name.rpartition('.')[2]}("), "a docstring of its own"
    if inspect.isfunction(found):
        arrays = [key for key, kind in found.__annotations__.items() if "ndarray" in str(kind)]
        parameters = list(inspect.signature(found).parameters)
        for parameter in parameters:
            assert re.search(rf"\b{parameter}\b", text), f"{parameter} is not explained"
        for key in arrays:
            assert re.search(r"\w+\[[^\]]+\]", text), f"{key}: its type and shape are not stated"


def test_every_exported_name_has_a_docstring():
    packages = [
        "pipeline.labels",
        "pipeline.raster",
        "pipeline.seams",
        "pipeline.regularize",
        "pipeline.metrics",
    ]
    for package in map(importlib.import_module, packages):
        for name in package.__all__:
            exported = getattr(package, name)
            if callable(exported):
                assert inspect.getdoc(exported), name
