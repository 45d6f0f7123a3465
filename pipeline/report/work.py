"""What made a result: the run records of its tasks, told together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.provenance import RunRecord

PUBLISHING = ("AggregateImage", "EvaluateImage", "ExportImage")
"""Tasks whose files lie beside the page."""


def work_of(records: Sequence[RunRecord]) -> dict[str, Any]:
    """One line per task, the files beside the page, and the settings, inputs and versions behind them."""
    tasks: dict[str, dict[str, Any]] = {}
    settings: dict[str, dict[str, str]] = {}
    inputs: dict[str, dict[str, None]] = {}
    for record in records:
        task = tasks.setdefault(
            record.task,
            {"runs": 0, "seconds": 0.0, "peak": 0.0, "counts": {}, "digests": [], "started": record.started},
        )
        task["runs"] += 1
        task["seconds"] += record.seconds
        task["peak"] = max(task["peak"], record.peak_memory_mib)
        task["started"] = min(task["started"], record.started)
        if record.digest not in task["digests"]:
            task["digests"].append(record.digest)
        for name, count in record.counts.items():
            task["counts"][name] = task["counts"].get(name, 0) + count
        for section, values in record.settings.items():
            settings.setdefault(section, {}).update(values)
        for name, value in record.inputs.items():
            inputs.setdefault(name, {})[value] = None
    last = records[-1] if records else None
    return {
        "tasks": tasks,
        "longest": max((task["seconds"] for task in tasks.values()), default=0.0) or 1.0,
        "largest": max((task["peak"] for task in tasks.values()), default=0.0) or 1.0,
        "settings": {section: values for section, values in settings.items() if values},
        "files": {
            name: size
            for record in records
            if record.task in PUBLISHING
            for name, size in record.files.items()
        },
        "inputs": {name: " ".join(values) for name, values in inputs.items()},
        "revision": last.revision if last else None,
        "versions": last.versions if last else {},
        "host": last.host if last else {},
    }
