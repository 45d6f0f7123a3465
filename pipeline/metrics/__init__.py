"""What the challenge's metric does not tell: how exact outlines are, what is taken for what, what is missed.

::

    average_precision   COCO's AP of outlines, boxes and boundaries: how good ranking and overlap are
    boundary            how well outlines agree, however large the building
    breakdown           conditions taken for one another, and F1 by size
    curves              precision over recall at every confidence
    image               all of it for one image, and whether its confidences came true

The challenge's metric stays the headline (`pipeline.evaluate`); these numbers rest on its matches where
they count matches, and on COCO's own rules where they are COCO's.
"""

from pipeline.metrics.average_precision import AveragePrecision, average_precision
from pipeline.metrics.boundary import BoundaryQuality, boundary_ious
from pipeline.metrics.breakdown import Confusion, SizeClass, confuse, score_by_size
from pipeline.metrics.curves import PrecisionRecall, precision_recall
from pipeline.metrics.image import ImageMetrics, MetricRules, measure_image

__all__ = [
    "AveragePrecision",
    "BoundaryQuality",
    "Confusion",
    "ImageMetrics",
    "MetricRules",
    "PrecisionRecall",
    "SizeClass",
    "average_precision",
    "boundary_ious",
    "confuse",
    "measure_image",
    "precision_recall",
    "score_by_size",
]
