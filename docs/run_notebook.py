"""Runs docs/notebook.ipynb and writes what its cells give into it.

python docs/run_notebook.py
"""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent / "notebook.ipynb"


def executed() -> nbformat.NotebookNode:
    """The notebook with fresh outputs; a cell that fails ends it with CellExecutionError."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=240, record_timing=False).execute()
    return notebook


if __name__ == "__main__":
    nbformat.write(executed(), NOTEBOOK)
