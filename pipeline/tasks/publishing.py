"""What people open and other tools take: a GeoPackage with a project for QGIS, a page, training sets."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import luigi

from pipeline import settings
from pipeline.errors import SourceError
from pipeline.inputs import fingerprint
from pipeline.provenance import RunRecord, read_record
from pipeline.report.work import PUBLISHING
from pipeline.steps.exporting import export_image
from pipeline.steps.reporting import report_image
from pipeline.steps.training_sets import export_training
from pipeline.targets import PublishedTarget
from pipeline.tasks.calibrating import CalibrateNetwork, calibrated
from pipeline.tasks.detecting import network, told
from pipeline.tasks.learning import CutTiles, TileImage, TrainMaskRCNN
from pipeline.tasks.mapping import AggregateImage, EvaluateImage
from pipeline.tasks.parameters import ImageIds
from pipeline.tasks.sources import SourceLabels
from pipeline.tasks.step import ImageStep, Step

logger = logging.getLogger("luigi-interface")


class ExportImage(ImageStep):
    """`<image_id>.gpkg`, `.qgs`, `.stac.json`: the map, tiles, labels and what to review, for QGIS."""

    sections = (settings.Labels,)

    @property
    def tiles(self) -> TileImage:
        """The tiles, a layer of their own."""
        return TileImage(image_id=self.image_id)

    @property
    def buildings(self) -> AggregateImage:
        """What is handed over."""
        return AggregateImage(image_id=self.image_id)

    @property
    def score(self) -> EvaluateImage | None:
        """What labels say of it; None for an image without labels."""
        return EvaluateImage(image_id=self.image_id) if SourceLabels(image_id=self.image_id).found else None

    def requires(self) -> list[Step]:
        """Tiles and buildings, and their score where there are labels."""
        return [self.tiles, self.buildings, *([self.score] if self.score else [])]

    @property
    def inputs(self) -> Mapping[str, Any]:
        """All of them, and where in the workspace the files lie that the project and the item point to."""
        given = (self.tiles.image.found, SourceLabels(image_id=self.image_id).found)
        places = [str(path.relative_to(self.workspace.root)) for path in given if isinstance(path, Path)]
        return dict(super().inputs) | {"places": places}

    def output(self) -> PublishedTarget:
        """The published files."""
        return PublishedTarget(self.workspace.record(self.image_id, "ExportImage"), self.digest)

    def run(self) -> None:
        """Writes the files."""
        score = self.score
        with self.publishing(self.output()) as (folder, counts):
            counts |= export_image(
                self.tiles.read(),
                self.tiles.image.source,
                self.buildings.table,
                settings.Labels(),
                score.judged if score else None,
                settings.Aggregation().formats,
                folder,
                self.workspace.output,
                self.progress,
            )
        logger.info("%s: %s", self, told(counts))


class ReportImage(ImageStep):
    """`<image_id>.html`: one page with the map, the metric where there are labels, and what made it."""

    @property
    def exported(self) -> ExportImage:
        """What goes to other tools with it."""
        return ExportImage(image_id=self.image_id)

    @property
    def buildings(self) -> AggregateImage:
        """What the page shows."""
        return self.exported.buildings

    @property
    def score(self) -> EvaluateImage | None:
        """How good it is; None for an image without labels."""
        return self.exported.score

    def requires(self) -> list[Step]:
        """The buildings, their score where there are labels, and what goes to other tools."""
        return [self.buildings, *([self.score] if self.score else []), self.exported]

    @property
    def inputs(self) -> Mapping[str, Any]:
        """All; whom the imagery is owed to; the history beside given weights, which decides nothing else."""
        history, credit = network().history, self.exported.tiles.image.credit
        given: dict[str, Any] = {"credit": credit} if credit else {}
        if settings.Inference().weights and history.is_file():
            given["history"] = fingerprint(history)
        return dict(super().inputs) | given

    def output(self) -> PublishedTarget:
        """The page."""
        return PublishedTarget(self.workspace.record(self.image_id, "ReportImage"), self.digest)

    def run(self) -> None:
        """Draws the page."""
        score, tiles = self.score, self.buildings.tiles
        with self.publishing(self.output()) as (folder, _):
            page = report_image(
                tiles.tiled,
                self.buildings.csv,
                settings.Labels(),
                self.buildings.selection,
                network().history,
                self._records(),
                score.judged if score else None,
                tiles.image.credit,
                self.progress,
            )
            (folder / f"{self.image_id}.html").write_text(page, encoding="utf-8")
        logger.info("%s: open %s", self, self.workspace.output / f"{self.image_id}.html")

    def _records(self) -> list[RunRecord]:
        """Run records of everything the page tells of, in the graph's order."""
        shards, chosen = self.buildings.shards, calibrated()
        pairs = chosen.pairs if isinstance(chosen, CalibrateNetwork) else []
        tiles = [self.buildings.tiles, *(pair.tiles for pair in pairs)]
        paths = [step.folder("tiles") / "run.json" for step in tiles]
        paths += [pair.labels.folder("labels") / "run.json" for pair in pairs]
        paths += [pair.folder("pairs") / "run.json" for pair in pairs]
        paths.append(network().weights.with_name("run.json"))
        if pairs:
            paths.append(chosen.calibration.with_name("run.json"))
        paths += [Path(shard.output().path) for shard in shards]
        if self.buildings.large:
            paths.append(Path(self.buildings.large.output().path))
        paths += [self.workspace.record(self.image_id, task) for task in PUBLISHING]
        return [record for path in paths if (record := read_record(path))]


class ReportImages(luigi.WrapperTask, Step):
    """The pages of several images, with all that stands behind them; complete when every one is."""

    image_ids = ImageIds(default=(), description="JSON list of image ids; empty: all of input/test.")

    @property
    def names(self) -> list[str]:
        """Ids of the images.

        Raises:
            SourceError: there are none.
        """
        names = list(self.image_ids) or self.workspace.images_of("test")
        if not names:
            raise SourceError(
                "no image to map",
                where=self.workspace.root / "input/test/images",
                remedy="Put images there, or name some.",
            )
        return names

    def requires(self) -> list[ReportImage]:
        """Every page."""
        return [ReportImage(image_id=name) for name in self.names]


class ExportTraining(Step):
    """`work/training_sets/<digest>/`: the training tiles as a COCO dataset and as one for YOLO."""

    @property
    def network(self) -> TrainMaskRCNN:
        """What would learn from the same tiles, on the same sides."""
        return TrainMaskRCNN()

    def requires(self) -> list[CutTiles]:
        """The training pairs."""
        return self.network.pairs

    @property
    def inputs(self) -> Mapping[str, Any]:
        """The training pairs by image, what is held out, and the names."""
        training = settings.Training()
        return {pairs.image_id: pairs.digest for pairs in self.network.pairs} | {
            "held_out": self.network.held_out,
            "validation_share": training.validation_share,
            "categories": settings.Labels().names,
        }

    @property
    def folder(self) -> Path:
        """Where the datasets lie."""
        return self.workspace.training_set(self.digest)

    def output(self) -> luigi.LocalTarget:
        """The datasets, whole."""
        return luigi.LocalTarget(str(self.folder / "run.json"))

    def run(self) -> None:
        """Writes the datasets."""
        with self.making(self.folder) as folder:
            counts = export_training(
                [Path(pairs.output().path).parent for pairs in self.network.pairs],
                settings.Labels().names,
                self.network.held_out,
                settings.Training().validation_share,
                folder,
                self.progress,
            )
        logger.info("%s: %s; see %s", self, told(counts), self.folder)
