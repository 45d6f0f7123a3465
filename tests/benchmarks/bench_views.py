"""What looking at tiles several times brings and costs: test-time augmentation on one labelled image.

    python -m tests.benchmarks.bench_views WORKSPACE IMAGE [--views one flips ...] [-- LUIGI-OPTIONS]

In a workspace whose network is learnt (after `make demo`: `demo scene_042`), the graph is run up to
EvaluateImage with every setting of `[Inference] views`, thresholds chosen anew for each. The last run is
with the first setting again, so that the published results are those that were there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from models.views import VIEWS


class Outcome(NamedTuple):
    """How well an image was mapped, and how long its tiles were looked at."""

    mean_f1: float
    all_f1: float
    boundary_iou: float
    seconds_per_tile: float


def look(workspace: Path, image_id: str, views: str, options: list[str]) -> Outcome:
    """Runs the graph with one setting; exits where the graph does."""
    command = [sys.executable, "-m", "luigi", "--module", "pipeline", "EvaluateImage", "--image-id", image_id]
    command += ["--Inference-views", views, "--local-scheduler", *options]
    done = subprocess.run(command, cwd=workspace, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(done.stdout[-3000:])
    records = shards(workspace, image_id, views)
    if not records:
        sys.exit(f"work/{image_id}: nothing to time, though the map is there; remove output/{image_id}.*")
    tiles = sum(record["counts"]["tiles"] for record in records)
    report = json.loads((workspace / "output" / f"{image_id}.report.json").read_text())
    return Outcome(
        report["score"]["mean_f1"],
        report["score"]["all_f1"],
        report["metrics"]["boundary"]["mean_boundary_iou"] or 0.0,
        sum(record["seconds"] for record in records) / tiles,
    )


def shards(workspace: Path, image_id: str, views: str) -> list[dict[str, Any]]:
    """Records of the shards that last looked so, in this run or before."""
    paths = workspace.glob(f"work/{image_id}/detections-*/*.manifest.json")
    records = [json.loads(path.read_text()) for path in sorted(paths, key=lambda path: path.stat().st_mtime)]
    mine = [record for record in records if record["settings"]["Inference"]["views"] == views]
    return [record for record in mine if record["digest"] == mine[-1]["digest"]]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workspace", type=Path)
    parser.add_argument("image_id")
    parser.add_argument("--views", nargs="+", choices=list(VIEWS), default=list(VIEWS))
    parser.add_argument("options", nargs="*", help="after --, for luigi")
    given = parser.parse_args()
    print("| views | looks | mean F1 | all buildings F1 | boundary IoU | s per tile | x |")
    print("|---|---|---|---|---|---|---|")
    first = None
    for views in given.views:
        found = look(given.workspace, given.image_id, views, given.options)
        first = first or found
        scores = f"{found.mean_f1:.3f} | {found.all_f1:.3f} | {found.boundary_iou:.3f}"
        cost = f"{found.seconds_per_tile:.2f} | {found.seconds_per_tile / first.seconds_per_tile:.1f}"
        print(f"| {views} | {len(VIEWS[views])} | {scores} | {cost} |", flush=True)
    look(given.workspace, given.image_id, given.views[0], given.options)


if __name__ == "__main__":
    main()
