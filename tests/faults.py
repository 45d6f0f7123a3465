# ruff: noqa: E501
"""Every fault that is tried, in one table: what was tried, what survived, what was lost.

    python -m tests.faults [--kills 100] [--fuzz-seconds 120] [--write]

`make test-faults` runs it; `--write` puts the table into docs/reliability.md. Kills come in series of ten, each
from a fresh workspace and a seed of its own.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"
SERIES = 10
GROUPS = {
    "bad inputs through the command line": "tests/test_bad_inputs.py",
    "settings and inputs that make tasks stale": "tests/test_stale.py",
    "disks, permissions, servers, links, several at once, damage": "tests/test_faults.py",
    "databases, web servers, schedulers, workers that go away": "tests/test_outages.py",
    "fuzzed readers": "tests/test_fuzz.py",
}


class Row(NamedTuple):
    """A line of the table."""

    fault: str
    tried: int
    survived: int
    lost: int
    seconds: float


def run_tests(fault: str, file: str, environment: dict[str, str]) -> Row:
    """The tests of one file, each a fault that is tried."""
    began = time.monotonic()
    with tempfile.NamedTemporaryFile(suffix=".xml") as report:
        subprocess.run(
            [sys.executable, "-m", "pytest", file, "-o", "timeout=900", f"--junitxml={report.name}"],
            cwd=ROOT,
            check=False,
            env=os.environ | environment,
        )
        (suite,) = ElementTree.parse(report.name).iter("testsuite")
    tried = int(suite.get("tests", 0)) - int(suite.get("skipped", 0))
    lost = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
    return Row(fault, tried, tried - lost, lost, time.monotonic() - began)


def run_kills(kills: int) -> Row:
    """So many SIGKILLs over the whole graph; says what was lost, if anything was."""
    sys.path.insert(0, str(ROOT / "tests"))
    import kills as killing

    began, tried, survived, tasks = time.monotonic(), 0, 0, Counter[str]()
    with tempfile.TemporaryDirectory() as temporary:
        village = killing.undisturbed(Path(temporary))
        for seed in range(-(-kills // SERIES)):
            folder = Path(temporary) / str(seed)
            folder.mkdir()
            tally = killing.kill(village, folder, min(SERIES, kills - tried), seed)
            tried, survived, tasks = tried + tally.tried, survived + tally.survived, tasks + tally.tasks
            print(*tally.lost, f"{tried} kills, {survived} survived", sep="\n", flush=True)
    print("kills by task:", ", ".join(f"{name} {count}" for name, count in tasks.most_common()))
    return Row(
        "SIGKILL at a seeded moment of the graph", tried, survived, tried - survived, time.monotonic() - began
    )


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown."""
    lines = ["| fault | tried | survived | lost | seconds |", "|---|---|---|---|---|"]
    lines += [
        f"| {row.fault} | {row.tried} | {row.survived} | {row.lost} | {row.seconds:,.0f} |" for row in rows
    ]
    return "\n".join(lines)


def preface() -> str:
    """With what and when."""
    libraries = ("luigi", "torch", "rasterio", "psycopg2-binary")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in libraries)
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}, {versions}"
    return f"`python -m tests.faults`, {date.today()}, {machine}."


def main() -> int:
    """Tries everything; 1 where something was lost."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--fuzz-seconds", type=int, default=120)
    parser.add_argument("--write", action="store_true", help="put the table into docs/reliability.md")
    options = parser.parse_args()
    environment = {"JENGO_FUZZ_SECONDS": str(options.fuzz_seconds)}
    rows = [run_kills(options.kills)]
    rows += [run_tests(fault, file, environment) for fault, file in GROUPS.items()]
    print(text := f"{preface()}\n\n{table(rows)}")
    if options.write:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}")
    return 1 if any(row.lost for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
