"""From detections to a map of buildings, its score, its page and its submission."""

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
from pipeline.provenance import RunRecord, read_record
from pipeline.raster import Imagery
from pipeline.steps.buildings import Selection, aggregate_image, read_selection
from pipeline.steps.evaluation import evaluate_image
from pipeline.steps.reporting import report_image
from pipeline.steps.submission import submit
from pipeline.targets import PublishedTarget, Workspace, fingerprint
from pipeline.tasks.detecting import InferLarge, InferShard, calibrated, network, shards_of, told
from pipeline.tasks.learning import TileImage
from pipeline.tasks.sources import SourceLabels
from pipeline.tasks.step import ImageId, ImageStep, Step, digests

logger = logging.getLogger("luigi-interface")


class AggregateImage(ImageStep):
    """The map: one row per building, duplicates across tiles merged, as CSV and GeoJSON."""

    sections = (settings.Aggregation, settings.Labels)

    @property
    def shards(self) -> list[InferShard]:
        """All detections of the image's tiles."""
        return shards_of(self.image_id)

    @property
    def large(self) -> InferLarge | None:
        """The buildings that no tile sees whole; None where they are not looked at again."""
        return InferLarge(image_id=self.image_id) if settings.LargeBuildings().refine else None

    def requires(self) -> list[Step]:
        """Every shard, the large buildings where they are looked at again, and the thresholds."""
        return [*self.shards, *([self.large] if self.large else []), calibrated()]

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

    def output(self) -> PublishedTarget:
        """The published files."""
        return PublishedTarget(self.workspace.record(self.image_id, "AggregateImage"), self.digest)

    def run(self) -> None:
        """Merges the detections across tiles and publishes the buildings."""
        with self.publishing(self.output()) as (folder, counts):
            counts |= aggregate_image(
                self.shards[0].tiles.read(),
                self.shards[0].detections,
                settings.Labels().names,
                self.selection,
                settings.Aggregation(),
                folder,
                self.progress,
                self.large.detections if self.large else None,
            )
        logger.info("%s: %s", self, told(counts))


class EvaluateImage(ImageStep):
    """`<image_id>.report.json`: the challenge's metric of the published CSV, everywhere and at the seams."""

    sections = (settings.Labels, settings.Metrics)

    @property
    def buildings(self) -> AggregateImage:
        """What is judged."""
        return AggregateImage(image_id=self.image_id)

    @property
    def tiles(self) -> TileImage:
        """Where the seams are."""
        return TileImage(image_id=self.image_id)

    @property
    def labels(self) -> SourceLabels:
        """What it is judged by."""
        return SourceLabels(image_id=self.image_id)

    def requires(self) -> list[Step]:
        """Tiles, buildings and labels."""
        return [self.tiles, self.buildings, self.labels]

    @property
    def report(self) -> Path:
        """The published metric."""
        return self.workspace.output / f"{self.image_id}.report.json"

    def output(self) -> PublishedTarget:
        """The published metric."""
        return PublishedTarget(self.workspace.record(self.image_id, "EvaluateImage"), self.digest)

    def run(self) -> None:
        """Scores the published CSV, everywhere and at the seams."""
        with self.publishing(self.output()) as (folder, _):
            report = evaluate_image(
                self.tiles.read(),
                self.tiles.image.source,
                settings.Imagery().rules(Imagery),
                self.buildings.csv,
                self.labels.source,
                self.labels.area,
                settings.Labels(),
                settings.Metrics().rules(MetricRules),
            )
            (folder / self.report.name).write_text(report.model_dump_json(indent=1))
        logger.info("score of %s\n%s", self.image_id, report.table())


class ReportImage(ImageStep):
    """`<image_id>.html`: one page with the map, the metric where there are labels, and what made it."""

    @property
    def buildings(self) -> AggregateImage:
        """What the page shows."""
        return AggregateImage(image_id=self.image_id)

    @property
    def score(self) -> EvaluateImage | None:
        """How good it is; None for an image without labels."""
        return EvaluateImage(image_id=self.image_id) if SourceLabels(image_id=self.image_id).found else None

    def requires(self) -> list[Step]:
        """The buildings, and their score where there are labels."""
        return [self.buildings, *([self.score] if self.score else [])]

    @property
    def inputs(self) -> Mapping[str, Any]:
        """Both, and the history beside given weights, which decides nothing else."""
        history = network().history
        given: dict[str, Any] = {}
        if settings.Inference().weights and history.is_file():
            given["history"] = fingerprint(history)
        return dict(super().inputs) | given

    def output(self) -> PublishedTarget:
        """The page."""
        return PublishedTarget(self.workspace.record(self.image_id, "ReportImage"), self.digest)

    def run(self) -> None:
        """Draws the page."""
        score, tiles = self.score, self.buildings.shards[0].tiles
        judged = (score.report, score.labels.source, score.labels.area) if score else None
        with self.publishing(self.output()) as (folder, _):
            page = report_image(
                tiles.read(),
                tiles.image.source,
                settings.Imagery().rules(Imagery),
                self.buildings.csv,
                settings.Labels(),
                self.buildings.selection,
                network().history,
                self._records(),
                judged,
                tiles.image.credit,
            )
            (folder / f"{self.image_id}.html").write_text(page, encoding="utf-8")
        logger.info("%s: open %s", self, self.workspace.output / f"{self.image_id}.html")

    def _records(self) -> list[RunRecord]:
        """Run records of everything the page tells of, in the graph's order."""
        shards = self.buildings.shards
        paths = [shards[0].tiles.folder("tiles") / "run.json", network().weights.with_name("run.json")]
        paths += [Path(shard.output().path) for shard in shards]
        if self.buildings.large:
            paths.append(Path(self.buildings.large.output().path))
        paths += [self.workspace.record(self.image_id, task) for task in ("AggregateImage", "EvaluateImage")]
        return [record for path in paths if (record := read_record(path))]


class ReportImages(luigi.WrapperTask):
    """The pages of several images, with all that stands behind them; complete when every one is."""

    image_ids = luigi.ListParameter(
        default=(), description="JSON list of image ids; empty: all of input/test."
    )

    @property
    def names(self) -> list[str]:
        """Ids of the images.

        Raises:
            SourceError: there are none.
        """
        workspace = Workspace(settings.Storage().workspace)
        names = list(self.image_ids) or workspace.images_of("test")
        if not names:
            raise SourceError(
                "no image to map",
                where=workspace.root / "input/test/images",
                remedy="Put images there, or name some.",
            )
        return names

    def requires(self) -> list[ReportImage]:
        """Every page."""
        return [ReportImage(image_id=name) for name in self.names]


class Submission(Step):
    """`submission_<split>.zip`: the validated CSVs of every image of a split, named as the challenge asks."""

    split = ImageId(default="test", description="Folder of input/, or split of the catalogue.")

    @property
    def names(self) -> dict[str, str]:
        """Image id to the name its CSV has in the zip."""
        entries = read_catalogue(settings.Storage().catalogue)
        listed = {name: entry.submission_name for name, entry in entries.items() if entry.split == self.split}
        return listed | {name: listed.get(name, name) for name in self.workspace.images_of(self.split)}

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
        """The maps by image."""
        return {task.image_id: task.digest for task in self.buildings}

    def output(self) -> PublishedTarget:
        """The zip."""
        return PublishedTarget(self.workspace.record(f"submission_{self.split}", "Submission"), self.digest)

    def run(self) -> None:
        """Checks every CSV and packs them."""
        with self.publishing(self.output()) as (folder, _):
            submit(
                {task.image_id: task.csv for task in self.buildings},
                self.names,
                {task.image_id: task.shards[0].tiles.read() for task in self.buildings},
                folder / f"submission_{self.split}.zip",
                settings.Labels().names,
            )
