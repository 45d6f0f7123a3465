"""Jengo: from drone orthomosaics to building maps.

``luigi --module pipeline ReportImage --image-id grid_042 --local-scheduler`` runs the graph listed
below, in this order; `pipeline.tasks` is the place to read on.
"""

from pipeline.defaults import set_defaults
from pipeline.logs import shorten_errors

from pipeline.tasks import (  # isort: skip
    FetchImage,
    SourceImage,
    SourceLabels,
    TileImage,
    LoadLabels,
    CutTiles,
    ExportTraining,
    TrainMaskRCNN,
    SourceWeights,
    CalibrateNetwork,
    InferShard,
    InferLarge,
    AggregateImage,
    EvaluateImage,
    ExportImage,
    ReportImage,
    ReportImages,
    Submission,
    CheckLabels,
    SelectTiles,
    ExportReview,
    FetchReview,
    ImportReview,
    ReviewRound,
)
from pipeline.tasks.step import schedule_at_one_look

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

set_defaults()
shorten_errors()
schedule_at_one_look()
