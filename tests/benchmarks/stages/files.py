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

PEER = "luigi.LocalTarget + json"
MEMORY = Path("/dev/shm")
"""A file system without a disk, on Linux."""


def rows() -> Iterator[Row]:
    """Writing and reading a tile's file; where there is no disk, what is our own doing shows."""
    disk = _took_us(None)
    yield Row("per-tile JSON, write", PEER, disk["write"], disk["luigi write"], "us", 50 / 213)
    if MEMORY.is_dir():
        memory = _took_us(MEMORY)
        stage = "per-tile JSON, write, in memory"
        yield Row(stage, PEER, memory["write"], memory["luigi write"], "us", 50 / 213)
    yield Row("per-tile JSON, read", PEER, disk["read"], disk["luigi read"], "us", 100 / 172)


def _took_us(parent: Path | None) -> dict[str, float]:
    """Microseconds a file, by what is done; files lie in a folder in `parent`."""
    contents = [artifact(seen) for seen in look(typical(300), 8)] * 8  # so many that all is warm
    with tempfile.TemporaryDirectory(dir=parent) as name:
        numbers = count()
        paths = [Path(name) / f"{number}.json" for number in range(len(contents))]

        def write_all(write) -> None:
            folder = Path(name) / str(next(numbers))
            folder.mkdir()
            write({folder / f"{number}.json": content for number, content in enumerate(contents)})

        write_ours(dict(zip(paths, contents, strict=True)))
        took = interleaved(
            {
                "write": lambda: write_all(write_ours),
                "luigi write": lambda: write_all(write_luigi),
                "read": lambda: [read_detections(path) for path in paths],
                "luigi read": lambda: [read_luigi(path) for path in paths],
            },
            21,
        )
    return {what: seconds / len(contents) * 1e6 for what, seconds in took.items()}
