"""What a network's confidences mean, and from which on its buildings are published."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import luigi

from pipeline import settings
from pipeline.calibration import CalibrationRules
from pipeline.schema import Window
from pipeline.seams import MergeRules
from pipeline.steps.calibration import calibrate_network
from pipeline.steps.importing import tiles_reviewed
from pipeline.steps.training import FoundPair, pairs_on, read_sides
from pipeline.tasks.detecting import detector, network
from pipeline.tasks.gpu import GpuStep
from pipeline.tasks.learning import CutTiles, TrainMaskRCNN
from pipeline.tasks.sources import SourceWeights
from pipeline.tasks.step import Step, digest_of, digests
from pipeline.thresholds import ThresholdRules

logger = logging.getLogger("luigi-interface")


class CalibrateNetwork(GpuStep):
    """`thresholds.json`: what the network's confidences mean on held-out ground, and which to publish.

    Held out from a network learnt here is what training sets apart. Given weights have learnt from nothing
    here, so that the tiles on which people corrected their proposals are such ground.
    """

    sections = (settings.Thresholds, settings.Inference, settings.Outlines, settings.Labels)

    @property
    def reviewed(self) -> dict[str, list[Window]]:
        """By image, the tiles where people corrected given weights; none before they did so often enough."""
        if not settings.Inference().weights or settings.Review().labels != "newest":
            return {}
        back = [folder for folder in self.workspace.rounds if (folder / "imported.json").is_file()]
        weights = digest_of(SourceWeights().weights) if back else None
        return tiles_reviewed(back, weights, settings.Thresholds().min_detections) if weights else {}

    @property
    def pairs(self) -> list[CutTiles]:
        """The pairs of tile and labels, of which some are held out."""
        reviewed = [CutTiles(image_id=image_id) for image_id in self.reviewed]
        return reviewed or TrainMaskRCNN().pairs

    def requires(self) -> list[Step]:
        """The network and the pairs."""
        return [network(), *self.pairs]

    @property
    def inputs(self) -> Mapping[str, Any]:
        """Network and pairs, what is held out of them, and how detections become published buildings."""
        training, aggregation = settings.Training(), settings.Aggregation()
        apart = self.reviewed or [TrainMaskRCNN().held_out, training.validation_share]
        held_out = [apart, training.min_visible_share]
        merging = [asdict(aggregation.rules(MergeRules)), aggregation.min_area_m2]
        return (
            digests(network())
            | {pairs.image_id: pairs.digest for pairs in self.pairs}
            | {"held_out": settings.digest(held_out), "merging": settings.digest(merging)}
        )

    @property
    def calibration(self) -> Path:
        """Temperature and thresholds."""
        return self.workspace.calibration(self.digest) / "thresholds.json"

    def output(self) -> luigi.LocalTarget:
        """Temperature and thresholds."""
        return luigi.LocalTarget(str(self.calibration))

    def run(self) -> None:
        """Looks at the held-out tiles, merges what is found there, and chooses."""
        training, aggregation = settings.Training(), settings.Aggregation()
        min_areas_px2 = {
            Path(pairs.output().path).parent: aggregation.min_area_m2
            / math.prod(pairs.tiles.read().grid.ground_m_per_px)
            for pairs in self.pairs
        }
        with self.making(self.calibration.parent) as folder:
            calibration = calibrate_network(
                self._held_out(list(min_areas_px2)),
                min_areas_px2,
                detector(),
                training,
                aggregation.rules(MergeRules),
                settings.Thresholds().rules(ThresholdRules),
                settings.Thresholds().rules(CalibrationRules),
                self.progress,
            )
            (folder / self.calibration.name).write_text(calibration.model_dump_json(indent=1))
        logger.info("%s: %s", self, calibration.sentence)

    def _held_out(self, folders: list[Path]) -> list[FoundPair]:
        """The tiles that the network has not learnt from, of folders of CutTiles."""
        if reviewed := self.reviewed:
            return pairs_on(folders, reviewed)
        return read_sides(folders, TrainMaskRCNN().held_out, settings.Training().validation_share)[1]


def calibrated() -> CalibrateNetwork | SourceWeights:
    """The task whose thresholds are used: those chosen here, or given with weights that nobody reviewed."""
    given = settings.Inference().weights and not CalibrateNetwork().reviewed
    return SourceWeights() if given else CalibrateNetwork()
