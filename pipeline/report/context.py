"""What the page tells, and nothing it has to look up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pipeline.calibration import Calibration
    from pipeline.coverage import Coverage
    from pipeline.evaluate import ImageScore
    from pipeline.metrics import ImageMetrics, PrecisionRecall
    from pipeline.provenance import RunRecord
    from pipeline.report.gallery import Gallery, Picture
    from pipeline.report.pyramid import Pyramid
    from pipeline.seam_score import SeamScore
    from pipeline.training_curves import TrainingCurves
    from pipeline.verdicts import Verdicts

MAX_PAGE_MIB = 32
"""What a page holds at most, MiB: imagery, outlines, pictures, and everything else together."""


@dataclass(frozen=True)
class ReportContext:
    """All that is on the page. Geometry is in full-image pixels."""

    image_id: str
    categories: Sequence[str]
    width: int
    """Of the image in pixels."""
    height: int
    """Of the image in pixels."""
    overview: Picture
    """The image shrunk."""
    ground_m_per_px: tuple[float, float]
    """Ground width and height of an image pixel in metres; 0 where unknown."""
    polygons_px: Sequence[Any] | np.ndarray
    """object[n], the buildings, in the order of their ids."""
    building_categories: np.ndarray
    """int64[n], index into `categories`."""
    confidences: np.ndarray
    """float64[n], the highest confidence of each building, in [0, 1]."""
    areas_m2: np.ndarray
    """float64[n], ground area."""
    pyramid: Pyramid | None = None
    """The imagery below the map; None for a map without imagery."""
    truth_polygons_px: Sequence[Any] | np.ndarray | None = None
    """object[m], the labels; None where the image has none."""
    truth_categories: np.ndarray | None = None
    """int64[m], index into `categories`, -1 where unknown."""
    score: ImageScore | None = None
    """The metric; None where nothing was scored."""
    found: Verdicts | None = None
    """What became of the buildings; None where nothing was scored."""
    labelled: Verdicts | None = None
    """What became of the labels; None where nothing was scored."""
    seams: SeamScore | None = None
    """The metric near the seams and away from them; None where nothing was scored."""
    coverage: Coverage | None = None
    """Valid ground that no tile covers; None where nobody looked."""
    metrics: ImageMetrics | None = None
    """What the challenge's metric does not tell; None where nothing was scored."""
    curves: Sequence[PrecisionRecall] = ()
    """Precision over recall of each category, then of all buildings; none where nothing was scored."""
    galleries: Sequence[Gallery] = ()
    """Pictures of buildings worth a look."""
    thresholds: Mapping[str, float] = field(default_factory=dict)
    """Lowest confidence published, by category."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """What the page says about the image below its name."""
    training: TrainingCurves | None = None
    """How the network was learnt; None where nobody knows."""
    calibration: Calibration | None = None
    """What the network's confidences mean on held-out ground; None where nobody calibrated."""
    records: Sequence[RunRecord] = ()
    """What made the result, in the order of the graph."""
    attribution: str = ""
    """Whom imagery and labels are owed to."""

    @property
    def merged(self) -> int:
        """Buildings that were found, before the unsure and the small ones were left out; 0 where unknown."""
        return next((record.counts["merged"] for record in self.records if "merged" in record.counts), 0)
