"""What `docker build .` sees and copies, as .dockerignore and Dockerfile say it."""

from __future__ import annotations

import shutil
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[1]


def copied() -> list[str]:
    """The sources of the Dockerfile's COPY lines, in order; all of them lie at the top of the repository."""
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    return [source for line in lines if line.startswith("COPY ") for source in line.split()[1:-1]]


def is_admitted(name: str) -> bool:
    """Whether .dockerignore lets a file or folder at the top into the context: its last pattern that fits."""
    admitted = True
    for pattern in (ROOT / ".dockerignore").read_text().split():
        if fnmatch(name, pattern.removeprefix("!")):
            admitted = pattern.startswith("!")
    return admitted


def copy_context(folder: Path) -> None:
    """Put into `folder`, which is made, what COPY puts into the image's."""
    folder.mkdir()
    for name in filter(is_admitted, copied()):
        source, target = ROOT / name, folder / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target)
