"""From detections to a map of buildings, its score and its submission."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import luigi

from pipeline import settings
from pipeline.catalogue import read_catalogue
from pipeline.errors import SourceError
from pipeline.metrics import MetricRules
from pipeline.schema import EVALUATION_VERSION
from pipeline.steps.buildings import Selection, aggregate_image, read_selection
from pipeline.steps.evaluation import Judged, evaluate_image
from pipeline.steps.submission import check_names, submit
from pipeline.targets import MadeTarget, PublishedTarget
from pipeline.tasks.calibrating import calibrated
from pipeline.tasks.detecting import InferLarge, InferShard, shards_of, told
from pipeline.tasks.learning import TileImage
from pipeline.tasks.parameters import ImageId
from pipeline.tasks.sources import SourceLabels
from pipeline.tasks.step import ImageStep, Step, digests

logger = logging.getLogger("luigi-interface")


class AggregateImage(ImageStep):
    """The map: one row per building, duplicates across tiles merged, as CSV and GeoJSON."""

    sections = (settings.Aggregation, settings.Labels)

    @property
    def tiles(self) -> TileImage:
        """The image's frame, and the windows that detections lie in."""
        return self.shards[0].tiles

    @property
    def shards(self) -> list[InferShard]:
        """All detections of the image's tiles."""
        return shards_of(self.image_id)

    @property
    def large(self) -> InferLarge | None:
        """The buildings that no tile sees whole; None where they are not looked at again."""
        return InferLarge(image_id=self.image_id) if settings.LargeBuildings().refine else None

    def requires(self) -> list[Step]:
        """Tiles, every shard, the large buildings where they are looked at again, and the thresholds."""
        return [self.tiles, *self.shards, *([self.large] if self.large else []), calibrated()]

    @property
    def inputs(self) -> Mapping[str, Any]:
        """The detections; shards differ in which tiles they hold, not in what decides a detection."""
        return digests(self.shards[0], *([self.large] if self.large else []), calibrated())

    @property
    def csv(self) -> Path:
        """The published CSV."""
        return self.workspace.output / f"{self.image_id}.csv"

    @property
    def selection(self) -> Selection:
        """What confidences mean, and which are enough."""
        given = settings.Aggregation().score_thresholds
        return read_selection(calibrated().calibration, given, settings.Labels().names)

    @property
    def table(self) -> Path:
        """Folder of the buildings as later tasks read them, with all their columns."""
        return self.folder("buildings")

    @property
    def published(self) -> PublishedTarget:
        """The published files."""
        return PublishedTarget(self.workspace.record(self.image_id, "AggregateImage"), self.digest)

    def output(self) -> list[luigi.Target]:
        """The published files, and the buildings for later tasks."""
        return [self.published, MadeTarget(self.table, self.digest)]

    def run(self) -> None:
        """Merges the detections across tiles and publishes the buildings."""
        with self.publishing(self.published) as (folder, counts), self.making(self.table) as table:
            counts |= aggregate_image(
                self.tiles.read(),
                self.shards[0].detections,
                settings.Labels().names,
                self.selection,
                settings.Aggregation(),
                folder,
                self.progress,
                self.large.detections if self.large else None,
                table,
            )
        logger.info("%s: %s", self, told(counts))


class JudgedImage(ImageStep):
    """A step that holds the map of an image against its labels."""

    @property
    def buildings(self) -> AggregateImage:
        """What is judged."""
        return AggregateImage(image_id=self.image_id)

    @property
    def tiles(self) -> TileImage:
        """The image's frame, and where the seams are."""
        return TileImage(image_id=self.image_id)

    @property
    def labels(self) -> SourceLabels:
        """What it is judged by."""
        return SourceLabels(image_id=self.image_id)

    def requires(self) -> list[Step]:
        """Tiles, buildings and labels."""
        return [self.tiles, self.buildings, self.labels]

    @property
    def inputs(self) -> Mapping[str, Any]:
        """All three; and the version of the score, which no older reader knows."""
        return dict(super().inputs) | {"schema_version": str(EVALUATION_VERSION)}


class EvaluateImage(JudgedImage):
    """`<image_id>.report.json`: the challenge's metric of the published CSV, everywhere and at the seams."""

    sections = (settings.Labels, settings.Metrics)

    @property
    def report(self) -> Path:
        """The published metric."""
        return self.workspace.output / f"{self.image_id}.report.json"

    @property
    def judged(self) -> Judged:
        """The files that are compared, and the metric that comes of it."""
        return Judged(self.buildings.csv, self.labels.source, self.labels.area, self.report)

    def output(self) -> PublishedTarget:
        """The published metric."""
        return PublishedTarget(self.workspace.record(self.image_id, "EvaluateImage"), self.digest)

    def run(self) -> None:
        """Scores the published CSV, everywhere and at the seams."""
        with self.publishing(self.output()) as (folder, _):
            report = evaluate_image(
                self.tiles.tiled,
                self.judged,
                settings.Labels(),
                settings.Metrics().rules(MetricRules),
                self.progress,
                self.buildings.table,
            )
            (folder / self.report.name).write_text(report.model_dump_json(indent=1))
        logger.info("score of %s\n%s", self.image_id, report.table())


class Submission(Step):
    """`submission_<split>.zip`: the validated CSVs of every image of a split, named as the challenge asks."""

    split = ImageId(default="test", description="Folder of input/, or split of the catalogue.")

    @property
    def names(self) -> Mapping[str, str]:
        """Image id to the name its CSV has in the zip.

        Raises:
            SourceError: two images have one name.
        """
        entries = read_catalogue(settings.Storage().catalogue)
        listed = {name: entry.submission_name for name, entry in entries.items() if entry.split == self.split}
        there = {name: listed.get(name, name) for name in self.workspace.images_of(self.split)}
        return check_names(listed | there)

    @property
    def buildings(self) -> list[AggregateImage]:
        """The map of every image.

        Raises:
            SourceError: there is none.
        """
        if not self.names:
            raise SourceError(
                "no image in this split",
                where=self.workspace.root / "input" / self.split,
                remedy="Put images there, or name a catalogue in [Storage] catalogue.",
            )
        return [AggregateImage(image_id=image_id) for image_id in self.names]

    def requires(self) -> list[AggregateImage]:
        """Every map."""
        return self.buildings

    @property
    def inputs(self) -> Mapping[str, Any]:
        """The maps by image, and their names in the zip."""
        maps = {task.image_id: task.digest for task in self.buildings}
        return maps | {"names": settings.digest(self.names)}

    def output(self) -> PublishedTarget:
        """The zip."""
        return PublishedTarget(self.workspace.record(f"submission_{self.split}", "Submission"), self.digest)

    def run(self) -> None:
        """Checks every CSV and packs them."""
        with self.publishing(self.output()) as (folder, _):
            submit(
                {task.image_id: task.csv for task in self.buildings},
                self.names,
                {task.image_id: task.tiles.read().grid for task in self.buildings},
                folder / f"submission_{self.split}.zip",
                settings.Labels().names,
                self.progress,
            )
