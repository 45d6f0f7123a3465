"""The graph: which artifacts there are, what each needs, and one call that makes it.

    SourceImage ── TileImage ──┬─────────── InferShard ── AggregateImage ─┬─ EvaluateImage ─ ReportImage
    SourceLabels ─ LoadLabels ─┴─ CutTiles       │                        └─ Submission
                                     └─ TrainMaskRCNN, or SourceWeights

Parameters are identity (`image_id`, `shard`); everything else is a setting. Every task has a
`digest` of the settings and inputs that decide its result; `requires()` and `output()` read
settings and the inputs' `os.stat`, nothing else.
"""

from pipeline.tasks.learning import CutTiles, LoadLabels, TileImage, TrainMaskRCNN
from pipeline.tasks.mapping import AggregateImage, EvaluateImage, InferShard, ReportImage, Submission
from pipeline.tasks.sources import SourceImage, SourceLabels, SourceWeights

__all__ = [  # noqa: RUF022 (run order)
    "SourceImage",
    "SourceLabels",
    "TileImage",
    "LoadLabels",
    "CutTiles",
    "TrainMaskRCNN",
    "SourceWeights",
    "InferShard",
    "AggregateImage",
    "EvaluateImage",
    "ReportImage",
    "Submission",
]
