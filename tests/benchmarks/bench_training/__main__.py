"""Runs what is not done yet and prints the table; see the package's docstring.

    python -m tests.benchmarks.bench_training [--means MEANS] [--data DATA] [--folder FOLDER] [--sets SET ...]
        [--rows ROW ...] [--folds N ...] [--shown TILES] [--start WEIGHTS] [--minutes MINUTES] [--jobs N]
        [--write]

Where DATA is not there, painted scenes take its place. MEANS say what a machine affords: `cpu`, `light` (a
CPU, half an hour a network) or `gpu`. With `cpu` ours begins with WEIGHTS: those of `make demo`, where they
are there, else none; with the others it begins with ImageNet's, unless WEIGHTS are given. What was measured
lies in FOLDER and is not measured again; a run that is broken off goes on. Nothing is
begun that would not end within MINUTES, and the table holds what there is.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import sys
import time
from datetime import date
from pathlib import Path

import torch
import torchvision

from tests.benchmarks.bench_training.contenders import CONTENDERS, MEANS, Means, takes_part
from tests.benchmarks.bench_training.grounds import FOLDS, PAINTED, REAL
from tests.benchmarks.bench_training.schedule import run_all
from tests.benchmarks.bench_training.tables import MIDDLE, Results, report
from tests.benchmarks.bench_training.trial import Trial

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "benchmarks.md"
DEMO = "demo/work/networks/*/weights.h5"
"""What `make demo` learnt on painted scenes."""


def trials(given: argparse.Namespace, means: Means) -> list[Trial]:
    """All that was asked for, what tells most first; the reference after ours on the same ground."""
    grounds = REAL if given.data.is_dir() else PAINTED
    if means.whole:
        grounds = {place: ground._replace(northern=1.0) for place, ground in grounds.items()}
    places = given.sets or list(grounds)
    made = [
        Trial(
            place,
            fold,
            name,
            contender,
            grounds[place],
            {other: ground for other, ground in grounds.items() if other != place},
            means,
            given.data.absolute(),
            given.folder.absolute(),
        )
        for name, contender in CONTENDERS.items()
        if (not given.rows or name in given.rows) and takes_part(contender, means, given.data)
        for place in places
        for fold in (given.folds or contender.folds)
    ]
    return sorted(made, key=_urgency)


def _urgency(trial: Trial) -> tuple[int, int]:
    """The main rows on one third, ours on the others, the pieces, then the slow rest."""
    main, first = len(trial.contender.folds) == FOLDS, trial.fold == MIDDLE
    stage = 0 if main and first else 1 if trial.name == "ours" else 2 if first else 3
    return stage, list(CONTENDERS).index(trial.name)


def start_of(given: Path | None, folder: Path, usual: str) -> str:
    """The file that ours begins with, copied and named by its digest, since results depend on it.

    Args:
        given: this one.
        folder: to copy it to.
        usual: else this one; else what the demo learnt, where that is there.
    """
    if usual and not given:
        return usual
    found = [given] if given else sorted(ROOT.glob(DEMO), key=lambda path: path.stat().st_mtime)[-1:]
    if not found:
        return ""
    copy = folder.absolute() / f"painted_{hashlib.sha256(found[0].read_bytes()).hexdigest()[:12]}.h5"
    if not copy.exists():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(found[0], copy)
    return str(copy)


def preface(name: str, means: Means) -> str:
    """How, when and with what the figures were made."""
    versions = {"Python": platform.python_version(), "torch": torch.__version__}
    versions |= {"torchvision": torchvision.__version__}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} cores, no GPU"
    return (
        f"`python -m tests.benchmarks.bench_training --means {name}`, {date.today()}, {device};"
        f" {', '.join(f'{name} {version}' for name, version in versions.items())}."
        f" Ours: {', '.join(f'{name} {value}' for name, value in means.knobs.items())};"
        f" tiles of {means.tile_size} px; begun with {Path(means.start).name or 'nothing'}."
    )


def main() -> int:
    """Returns 1 where a trial failed or the section could not be written."""
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--means", choices=list(MEANS), default="gpu" if on_gpu else "cpu")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "bench_training")
    parser.add_argument("--sets", nargs="+", metavar="SET")
    parser.add_argument("--rows", nargs="+", metavar="ROW", choices=list(CONTENDERS))
    parser.add_argument("--folds", nargs="+", type=int, metavar="N", choices=(0, 1, 2))
    parser.add_argument("--shown", type=int, metavar="TILES", help="tiles shown to every network")
    parser.add_argument("--start", type=Path, metavar="WEIGHTS", help="what ours begins with")
    parser.add_argument("--minutes", type=float, default=28.0, help="in which all of it is to end")
    parser.add_argument("--jobs", type=int, help="trials at a time; one per core, one on a GPU")
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}")
    given = parser.parse_args()
    means = MEANS[given.means]
    means = means._replace(start=start_of(given.start, given.folder, means.start))
    if given.shown:
        means = means._replace(shown=given.shown)
    everything, start, failed = trials(given, means), time.monotonic(), 0
    jobs = given.jobs or (1 if on_gpu else os.cpu_count() or 1)
    for trial, error in run_all(everything, jobs, given.minutes):
        minutes = (time.monotonic() - start) / 60
        place = f"{minutes:5.1f} min  {trial.place} {trial.fold} {trial.name}"
        print(f"{place}  {error or trial.result.read_text()}", file=sys.stderr, flush=True)
        failed += bool(error)
    results: Results = {
        (trial.place, trial.fold, trial.name): json.loads(trial.result.read_text())
        for trial in everything
        if trial.result.exists()
    }
    places = list(dict.fromkeys(trial.place for trial in everything))
    text = f"{preface(given.means, means)}\n\n{report(results, places)}"
    print(text)
    if given.write:
        section = rf"(?<=<!-- training {given.means}:begin -->\n).*(?=<!-- training {given.means}:end -->)"
        page, count = re.subn(
            section, lambda _: f"{text}\n", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL
        )
        if not count:
            print(f"{PAGE} has no section for it", file=sys.stderr)
            return 1
        PAGE.write_text(page, encoding="utf-8")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
