"""The graph: which artifacts there are, what each needs, and one call that makes it.

    SourceImage ── TileImage ──┬─────────── InferShard ──┬─ AggregateImage ─┬─ EvaluateImage ─ ReportImage
    SourceLabels ─ LoadLabels ─┴─ CutTiles       │       │                  ├─ ExportImage ─────────┘
                                     └─ TrainMaskRCNN ── CalibrateNetwork   └─ Submission

`SourceWeights` stands for the network and its thresholds where they are given; `FetchImage` comes before
`SourceImage` where an image of a catalogue is to become a file; `InferLarge` between `InferShard` and
`AggregateImage` where `[LargeBuildings] refine` asks for it.

Parameters are identity (`image_id`, `shard`); everything else is a setting. Every task has a
`digest` of the settings and inputs that decide its result; `requires()` and `output()` read
settings and the inputs' `os.stat`, nothing else.
"""

from pipeline.tasks.calibrating import CalibrateNetwork
from pipeline.tasks.checking import CheckLabels
from pipeline.tasks.detecting import InferLarge, InferShard
from pipeline.tasks.learning import CutTiles, LoadLabels, TileImage, TrainMaskRCNN
from pipeline.tasks.mapping import AggregateImage, EvaluateImage, Submission
from pipeline.tasks.publishing import ExportImage, ExportTraining, ReportImage, ReportImages
from pipeline.tasks.returning import FetchReview, ImportReview, ReviewRound
from pipeline.tasks.reviewing import ExportReview
from pipeline.tasks.selecting import SelectTiles
from pipeline.tasks.sources import FetchImage, SourceImage, SourceLabels, SourceWeights

__all__ = [  # noqa: RUF022 (run order)
    "FetchImage",
    "SourceImage",
    "SourceLabels",
    "TileImage",
    "LoadLabels",
    "CutTiles",
    "ExportTraining",
    "TrainMaskRCNN",
    "SourceWeights",
    "CalibrateNetwork",
    "InferShard",
    "InferLarge",
    "AggregateImage",
    "EvaluateImage",
    "ExportImage",
    "ReportImage",
    "ReportImages",
    "Submission",
    "CheckLabels",
    "SelectTiles",
    "ExportReview",
    "FetchReview",
    "ImportReview",
    "ReviewRound",
]
