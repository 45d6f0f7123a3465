"""Jengo: from drone orthomosaics to building maps.

``luigi --module pipeline ReportImage --image-id grid_042 --local-scheduler`` runs the graph below
this line, in this order; `pipeline.tasks` is the place to read on.
"""

from pipeline.logs import shorten_errors
from pipeline.tasks import (
    SourceImage,
    SourceLabels,
    TileImage,
    LoadLabels,
    CutTiles,
    TrainMaskRCNN,
    SourceWeights,
    InferShard,
    AggregateImage,
    EvaluateImage,
    ReportImage,
    Submission,
)  # isort: skip

__all__ = [
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
]  # noqa: RUF022 (run order)

shorten_errors()
