"""Every stage beside its peers, in one table.

python -m tests.benchmarks [STAGE ...] [--write]
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import os
import platform
import re
import sys
import time
from datetime import date
from pathlib import Path

import torch

from tests.benchmarks.rows import Row, table

STAGES = [
    "reading",
    "cutting",
    "labelling",
    "masks",
    "merging",
    "files",
    "orchestration",
    "memory",
    "inference",
    "operations",
]
PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"
SECTION = re.compile(r"(?<=<!-- stages:begin -->\n).*(?=<!-- stages:end -->)", re.DOTALL)
LIBRARIES = ["rasterio", "simplejpeg", "shapely", "geopandas", "torch", "torchvision", "luigi", "sahi"]


def run(stages: list[str]) -> list[Row]:
    """All rows, each told as soon as it is known; a stage that fails is a row that says so."""
    found: list[Row] = []
    for stage in stages:
        started = time.monotonic()
        try:
            for row in importlib.import_module(f"tests.benchmarks.stages.{stage}").rows():
                print(" | ".join(row.cells), file=sys.stderr, flush=True)
                found.append(row)
        except Exception as error:
            told = getattr(error, "stderr", None) or repr(error)
            print(told, file=sys.stderr, flush=True)
            found.append(Row(stage, "", skipped=f"FAILED, {told.strip().splitlines()[-1][:100]}"))
        print(f"{stage}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return found


def preface(stages: list[str], minutes: float) -> str:
    """How, when and with what."""
    versions = [f"Python {platform.python_version()}"]
    for name in LIBRARIES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    what = "" if stages == STAGES else " " + " ".join(stages)
    return (
        f"`python -m tests.benchmarks{what}`, {date.today()}, {os.cpu_count()} cores with a load of"
        f" {os.getloadavg()[1]:.0f}, {gpu}, {minutes:.0f} min. {', '.join(versions)}."
    )


def main() -> int:
    """Returns 1 where a stage failed or the section could not be written."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=", ".join(STAGES))
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}")
    given = parser.parse_args()
    if unknown := set(given.stages) - set(STAGES):
        parser.error(f"no stage {', '.join(sorted(unknown))}; there are {', '.join(STAGES)}")
    stages, start = given.stages or STAGES, time.monotonic()
    rows = run(stages)
    text = preface(stages, (time.monotonic() - start) / 60) + "\n\n" + table(rows)
    print(text)
    if given.write:
        page, count = SECTION.subn(lambda _: text, PAGE.read_text(encoding="utf-8"))
        if not count:
            print(f"{PAGE} has no section for it", file=sys.stderr)
            return 1
        PAGE.write_text(page, encoding="utf-8")
    return int(any(row.skipped.startswith("FAILED") for row in rows))


if __name__ == "__main__":
    sys.exit(main())
