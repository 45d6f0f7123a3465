"""Every knob of the pipeline, declared once, with its unit.

A section of luigi.cfg is a class here; `[Tiling] tile_size` is also `--Tiling-tile-size` on the
command line. Most knobs are fields of the frozen dataclass of the module that uses them: name,
default, docstring and allowed values are taken from there, so a notebook and a task graph share
them. An insignificant knob (batch sizes, devices, connections) is no part of a digest itself; what it points
to may be, and devices and batch sizes may change the last digits of a result. Those that say which files
are read, where results are kept and how tiles are dealt still tell the tasks of two runs apart; incidental
ones (devices, processes, caches) do not.
"""

from pipeline.settings.section import Section, digest, knobs_of
from pipeline.settings.sections import (
    ALL,
    Aggregation,
    Checks,
    Imagery,
    Inference,
    Labels,
    LargeBuildings,
    Metrics,
    Outlines,
    Pairs,
    Review,
    Storage,
    Thresholds,
    Tiling,
    Training,
    check_all,
)

__all__ = [
    "ALL",
    "Aggregation",
    "Checks",
    "Imagery",
    "Inference",
    "Labels",
    "LargeBuildings",
    "Metrics",
    "Outlines",
    "Pairs",
    "Review",
    "Section",
    "Storage",
    "Thresholds",
    "Tiling",
    "Training",
    "check_all",
    "digest",
    "knobs_of",
]
