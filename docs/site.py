"""What mkdocs does not do by itself: pages that lie outside docs/, and the notebook as a page."""

from __future__ import annotations

import json
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
OUTSIDE = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are made here."""
    for source, page in OUTSIDE.items():
        files.append(File.generated(config, page, content=_relinked((ROOT / source).read_text())))
    notebook = json.loads((ROOT / "docs" / "notebook.ipynb").read_text())
    files.append(File.generated(config, "notebook.md", content=notebook_page(notebook)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """The text of a page, its links to what lies outside docs/ led to the pages that are made of it."""
    if page.file.src_uri == OUTSIDE["README.md"]:
        page.meta["hide"] = ["toc"]  # the graph is wide
    for source, name in OUTSIDE.items():
        markdown = markdown.replace(f"](../{source})", f"]({name})")
    return markdown.replace("](notebook.ipynb)", "](notebook.md)")


def _relinked(text: str) -> str:
    """The text of a page at the top of the repository with its links as docs/ sees them."""
    for source, page in OUTSIDE.items():
        text = text.replace(f"]({source})", f"]({page})")
    return re.sub(r"\]\(docs/", "](", text)


def notebook_page(notebook: dict) -> str:
    """A notebook as Markdown: its text, its code, and what the code printed or drew."""
    parts = []
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(text)
            continue
        parts.append(f"```python\n{text}\n```")
        for output in cell["outputs"]:
            parts += _shown(output)
    return "\n\n".join(parts) + "\n"


def _shown(output: dict) -> list[str]:
    data = output.get("data", {})
    if "image/png" in data:
        picture = "".join(data["image/png"]).replace("\n", "")
        return [f'<img alt="what the cell drew" src="data:image/png;base64,{picture}">']
    text = "".join(output.get("text", data.get("text/plain", "")))
    return [f"```text\n{text.rstrip()}\n```"] if text.strip() else []
