"""The run record beside every artifact: what made it, with what, on what, how long, how large.

A record holds no secret: settings reach it through `Section.described`, which leaves
passwords out because settings never hold any.
"""

from __future__ import annotations

import hashlib
import os
import platform
import resource
import subprocess
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from pipeline.schema import Versioned

_PROCESS = Path("/proc/self")
PACKAGES = ("luigi", "rasterio", "shapely", "geopandas", "torch", "torchvision", "h5py", "numpy")


class RunRecord(Versioned):
    """Where an artifact comes from."""

    task: str
    image_id: str | None
    digest: str
    settings: dict[str, dict[str, str]]
    """Settings that decided the result, by section."""
    inputs: dict[str, str]
    """Digests of the artifacts and inputs it was made from, by task."""
    weights: str | None = None
    """SHA-256 of the network that found or judged it, as `weights_digest` tells; None where none did."""
    counts: dict[str, int] = Field(default_factory=dict)
    measured: dict[str, float] = Field(default_factory=dict)
    """How fast it was, where a task tells: shares of 0 to 1, seconds (_s), rates (_per_s), MiB (_mib)."""
    files: dict[str, int] = Field(default_factory=dict)
    """Sizes in bytes of the files it stands for, by name."""
    sha256: dict[str, str] = Field(default_factory=dict)
    """What is in them, by name."""
    revision: str | None
    versions: dict[str, str]
    host: dict[str, str | int]
    started: str
    seconds: float
    peak_memory_mib: float
    """Largest memory that the process held, without those that it started."""
    peak_memory_since: Literal["task", "process"] = "process"
    """Since the task began; or the process, with the tasks before, where the system starts no count anew."""


def peak_mib() -> float:
    """Largest memory that this program has held, since `restart_peak` where that is possible, MiB.

    As Linux tells of the program alone; what `getrusage` tells begins with the peak of the process that
    started it, and is taken where there is nothing else.
    """
    try:
        lines = (_PROCESS / "status").read_text().splitlines()
    except OSError:
        unit = 1 if platform.system() == "Darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
    (line,) = [one for one in lines if one.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def restart_peak() -> bool:
    """Whether `peak_mib` counts from now on; not where the system is not Linux, or does not permit it.

    Source: proc_pid_clear_refs(5).
    """
    try:
        (_PROCESS / "clear_refs").write_text("5")
        return True
    except OSError:
        return False


class Stopwatch:
    """Times one task from construction and turns into its `RunRecord`."""

    def __init__(self, task: str, image_id: str | None, digest: str):
        self._task, self._image_id, self._digest = task, image_id, digest
        self._started, self._clock = datetime.now(UTC), time.monotonic()
        self._peak_is_its_own = restart_peak()

    def record(
        self, settings: dict, inputs: dict[str, str], counts: Mapping[str, int | float] | None = None
    ) -> RunRecord:
        """The record of the task up to now; of the counts, whole numbers are counts and others measured."""
        told = counts or {}
        return RunRecord(
            task=self._task,
            image_id=self._image_id,
            digest=self._digest,
            settings=settings,
            inputs=inputs,
            counts={name: value for name, value in told.items() if isinstance(value, int)},
            measured={name: value for name, value in told.items() if isinstance(value, float)},
            revision=revision(),
            versions=versions(),
            host=host(),
            started=self._started.isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - self._clock, 3),
            peak_memory_mib=round(peak_mib(), 1),
            peak_memory_since="task" if self._peak_is_its_own else "process",
        )


def facts_of(folder: Path, paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Sizes and SHA-256 of files by their names in `folder`, as fields of a record."""
    files = {str(path.relative_to(folder)): path for path in sorted(paths)}
    return {
        "files": {name: path.stat().st_size for name, path in files.items()},
        "sha256": {name: sha256_of(path) for name, path in files.items()},
    }


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_record(path: Path) -> RunRecord | None:
    """The record at `path`; None where there is none or it is not one of this schema's."""
    try:
        return RunRecord.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


@cache
def versions() -> dict[str, str]:
    """Versions of this project, Python and the packages that decide results."""
    found = {"jengo": _version("jengo"), "python": platform.python_version()}
    return found | {name: _version(name) for name in PACKAGES}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


@cache
def revision() -> str | None:
    """The git revision of a checkout, with '+' when it has uncommitted changes; None elsewhere."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


@cache
def host() -> dict[str, str | int]:
    """Facts of the machine that explain times and memory, without its name."""
    pages, page_size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "system": platform.system(),
        "machine": platform.machine(),
        "cores": os.cpu_count() or 1,
        "memory_mib": pages * page_size // 2**20,
    }
