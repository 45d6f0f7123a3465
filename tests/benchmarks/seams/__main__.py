"""Runs everything and prints it; see the package's docstring.

python -m tests.benchmarks.seams [--quick] [--write]
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import re
import sys
import time
from datetime import date
from pathlib import Path

import shapely

from tests.benchmarks.seams.results import Results, collect
from tests.benchmarks.seams.tables import report

PAGE = Path(__file__).parents[3] / "docs" / "benchmarks.md"
SECTION = re.compile(r"(?<=<!-- seams:begin -->\n).*(?=<!-- seams:end -->)", re.DOTALL)
LIBRARIES = ["numpy", "shapely", "sahi", "supervision", "geopandas"]


def preface(results: Results, minutes: float) -> str:
    """How, when and with what the figures were made."""
    installed = {one.metadata["Name"].lower(): one.version for one in importlib.metadata.distributions()}
    versions = [f"Python {platform.python_version()}", f"GEOS {shapely.geos_version_string}"]
    versions += [f"{name} {installed[name]}" for name in LIBRARIES if name in installed]
    if results.postgis_version:
        versions.append(f"PostGIS {results.postgis_version}")
    return (
        f"`python -m tests.benchmarks.seams`, {date.today()}, {os.cpu_count()} cores, no GPU,"
        f" {minutes:.0f} min. {', '.join(versions)}."
    )


def main() -> int:
    """Returns 1 where the section could not be written."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="one seed and tiling, small scenes: a minute or two"
    )
    parser.add_argument("--write", action="store_true", help=f"put the tables into {PAGE.name}")
    given = parser.parse_args()
    start = time.monotonic()
    results = collect(given.quick, lambda row: print(row, file=sys.stderr, flush=True))
    text = preface(results, (time.monotonic() - start) / 60) + "\n\n" + report(results)
    print(text)
    if given.write:
        page, count = SECTION.subn(lambda _: f"{text}\n", PAGE.read_text(encoding="utf-8"))
        if not count:
            print(f"{PAGE} has no section for it", file=sys.stderr)
            return 1
        PAGE.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
