"""Jengo: from drone orthomosaics to building maps.

``luigi --module pipeline ReportImage --image-id grid_042 --local-scheduler`` runs the graph below
this line, in this order; `pipeline.tasks` is the place to read on.
"""

from pipeline.logs import shorten_errors
from pipeline.tasks import (
    AggregateImage,
    CutTiles,
    EvaluateImage,
    InferShard,
    LoadLabels,
    ReportImage,
    SourceImage,
    SourceLabels,
    SourceWeights,
    Submission,
    TileImage,
    TrainMaskRCNN,
)  # isort: skip

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

shorten_errors()
