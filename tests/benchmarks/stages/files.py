"""Per-tile JSON, the contract between inference and aggregation."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from pipeline.steps.detection_rows import read_detections
from tests.benchmarks.bench_polygons import artifact, read_luigi, write_luigi, write_ours
from tests.benchmarks.network_masks import look
from tests.benchmarks.rows import Row, interleaved
from tests.benchmarks.seams.scenes import typical

ROUNDS = 21
"""Of ours and of the peer in turn."""
MEMORY = Path("/dev/shm")
"""A file system without a disk, on Linux."""


def rows() -> Iterator[Row]:
    """Writing and reading a tile's file; where there is no disk, what is our own doing shows."""
    contents = [artifact(seen) for seen in look(typical(300), 8)] * 8  # so many that all is warm
    yield _written("per-tile JSON, write", contents, None)
    if MEMORY.is_dir():
        yield _written("per-tile JSON, write, in memory", contents, MEMORY)
    yield _read("per-tile JSON, read", contents)


def _written(stage: str, contents: list[dict], parent: Path | None) -> Row:
    """Files that are new in a folder that is new, in `parent`."""
    with tempfile.TemporaryDirectory(dir=parent) as name:
        numbers = count()

        def write_all(write) -> None:
            folder = Path(name) / str(next(numbers))
            folder.mkdir()
            write({folder / f"{number}.json": content for number, content in enumerate(contents)})

        took = interleaved(
            {"ours": lambda: write_all(write_ours), "luigi": lambda: write_all(write_luigi)}, ROUNDS
        )
    return _row(stage, took, len(contents), 50 / 213)


def _read(stage: str, contents: list[dict]) -> Row:
    """Files that were just written."""
    with tempfile.TemporaryDirectory() as name:
        paths = [Path(name) / f"{number}.json" for number in range(len(contents))]
        write_ours(dict(zip(paths, contents, strict=True)))
        took = interleaved(
            {
                "ours": lambda: [read_detections(path) for path in paths],
                "luigi": lambda: [read_luigi(path) for path in paths],
            },
            ROUNDS,
        )
    return _row(stage, took, len(contents), 100 / 172)


def _row(stage: str, took: dict[str, float], files: int, target: float) -> Row:
    ours, theirs = (took[who] / files * 1e6 for who in ("ours", "luigi"))
    return Row(stage, "luigi.LocalTarget + json", ours, theirs, "us", target)
