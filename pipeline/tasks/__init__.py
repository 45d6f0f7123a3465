"""The graph: which artifacts there are, what each needs, and one call that makes it.

    SourceImage ─ TileImage ──┬─────────────────────────── InferShard ─ AggregateImage ─┬─ EvaluateImage ─ ReportImage
    SourceLabels ─ LoadLabels ┴ CutTiles ─ TrainMaskRCNN ──┘                            └─ Submission
                                           SourceWeights ──┘

Parameters are identity (`image_id`, `shard`); everything else is a setting. Every task has a
`digest` of the settings and inputs that decide its result; `requires()` and `output()` read
settings and the inputs' `os.stat`, nothing else.
"""

from pipeline.tasks.learning import CutTiles, LoadLabels, TileImage, TrainMaskRCNN
from pipeline.tasks.sources import SourceImage, SourceLabels, SourceWeights

from pipeline.tasks.mapping import AggregateImage, EvaluateImage, InferShard, ReportImage, Submission  # isort: skip

__all__ = [
    "AggregateImage",
    "CutTiles",
    "EvaluateImage",
    "InferShard",
    "LoadLabels",
    "ReportImage",
    "SourceImage",
    "SourceLabels",
    "SourceWeights",
    "Submission",
    "TileImage",
    "TrainMaskRCNN",
]
