"""The docs tell the truth: references match the code, links lead somewhere, words are the house's."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_architecture import FLOORS

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def test_reference_pages_are_up_to_date():
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "reference.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_drawing_of_the_architecture_names_every_module():
    page = (ROOT / "docs" / "architecture.md").read_text()
    drawing = page[page.index("## Layers") : page.index("## The main path")]
    named = set(re.findall(r"\w+", drawing))
    modules = {name.removeprefix("pipeline.") for names in FLOORS for name in names}
    assert modules <= named, sorted(modules - named)


def test_every_page_is_in_the_sites_navigation():
    nav = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
    listed = set(re.findall(r"([\w/]+\.md)$", nav, flags=re.MULTILINE))
    assert {page.name for page in (ROOT / "docs").glob("*.md")} <= listed


def test_the_challenge_has_one_recipe():
    settings = [
        re.findall(r"^printf .*luigi\.cfg$", (ROOT / page).read_text(), flags=re.MULTILINE)
        for page in ("README.md", "docs/challenge.md")
    ]
    assert settings[0] == settings[1] and len(settings[0]) == 1


def test_every_task_stands_in_the_readme_in_run_order():
    import pipeline

    text = (ROOT / "README.md").read_text()
    table = text[text.index("| task | makes |") :]
    places = [table.index(f"`{name}`") for name in pipeline.__all__ if name != "SourceWeights"]
    assert places == sorted(places)


def test_code_blocks_of_settings_are_settings():
    import luigi.scheduler

    from pipeline import settings

    known = {section.get_task_family(): dict(section.get_params()) for section in settings.ALL}
    # Luigi's own that the docs speak of; the history's are read by name, without a class.
    known |= {"scheduler": dict(luigi.scheduler.scheduler.get_params()), "task_history": {"db_connection"}}
    for page in PAGES:
        for block in re.findall(r"```ini\n(.*?)```", page.read_text(), flags=re.DOTALL):
            section = None
            for line in block.splitlines():
                if match := re.fullmatch(r"\[(\w+)\]", line):
                    section = known[match[1]]
                elif match := re.match(r"(\w+) =", line):
                    assert section is not None
                    assert match[1] in section, line
