"""The graph: which artifacts there are, what each needs, and one call that makes it.

    SourceImage ── TileImage ─┬──────────────────────── InferShard ── AggregateImage ─┬─ ReportImage
    SourceLabels ─ LoadLabels ┴ CutTiles ─ TrainMaskRCNN ─┘                │           └─ Submission
                                                             EvaluateImage ┘

Parameters are identity (`image_id`, `shard`); everything else is a setting. Every task has a
`digest` of the settings and inputs that decide its result; `requires()` and `output()` read
settings and the inputs' `os.stat`, nothing else.
"""

from __future__ import annotations

import difflib
import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import luigi
from luigi.task import task_id_str

from pipeline import settings
from pipeline.catalogue import read_catalogue
from pipeline.errors import SettingsError, SourceError
from pipeline.inference import InferenceRules
from pipeline.labels import read_area
from pipeline.pairs import PairRules
from pipeline.provenance import RunRecord, Stopwatch, read_record
from pipeline.raster import Imagery as ImageryRules
from pipeline.schema import TileIndex
from pipeline.settings import digest
from pipeline.steps.buildings import aggregate_image, read_thresholds
from pipeline.steps.detections import infer_tiles
from pipeline.steps.evaluation import evaluate_image
from pipeline.steps.labels import load_labels
from pipeline.steps.pairs import cut_tiles, tile_frame
from pipeline.steps.reporting import report_image
from pipeline.steps.submission import submit
from pipeline.steps.tiles import tile_image
from pipeline.steps.training import train_network
from pipeline.stores import LabelStore, check_image_id, open_store
from pipeline.targets import (
    LabelStoreTarget,
    PublishedTarget,
    SourceTarget,
    Workspace,
    atomic,
    fingerprint,
    scratch_folder,
    write_atomic,
)
from pipeline.thresholds import ThresholdRules
from pipeline.tiling import read_tile_index, shard_slices, write_tile_index
from pipeline.vectorize import VectorizeRules

logger = logging.getLogger("luigi-interface")


class ImageId(luigi.Parameter):
    """A name, never a path: the stem of the image's file."""

    def normalize(self, value: str) -> str:
        """The id itself; SettingsError where it could leave the workspace or break a file name."""
        return check_image_id(value)

    parse = normalize


class Step(luigi.Task):
    """A task of this graph: knows its workspace, its digest and how to tell its progress."""

    sections: tuple[type[settings.Section], ...] = ()
    """Settings that decide this step's own result (those of its requirements come with their digests)."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # Two workspaces, or two settings of one, may share a luigid: their tasks are not the same.
        everything = [section().described() for section in settings.ALL]
        parameters = self.to_str_params(only_significant=True)
        identity = {"workspace": digest(str(self.workspace.root), everything)}
        self.task_id = task_id_str(self.get_task_family(), parameters | identity)

    @property
    def workspace(self) -> Workspace:
        """The folder with inputs, artifacts and results."""
        return Workspace(settings.Storage().workspace)

    @property
    def inputs(self) -> dict[str, str]:
        """Digests of what this step is made from, by name."""
        raise NotImplementedError

    @property
    def digest(self) -> str:
        """Identity of the result: this step, its settings and its inputs."""
        return digest(type(self).__name__, self._described(), self.inputs)

    def _described(self) -> dict[str, dict[str, str]]:
        return {section.get_task_family(): section().described() for section in self.sections}

    def progress(self, fraction: float, message: str) -> None:
        """Shows how far the step is in luigid and, now and then, in the log."""
        self.set_progress_percentage(round(100 * fraction, 1))
        self.set_status_message(message)
        now = time.monotonic()
        if now - getattr(self, "_told", 0.0) > 10:
            self._told = now
            logger.info("%s: %s", self, message)

    @contextmanager
    def making(self, target: Path) -> Iterator[Path]:
        """A temporary folder that becomes the folder `target`, with a run record in it."""
        before, watch = self.digest, self._watch()
        with atomic(target) as folder:
            folder.mkdir()
            yield folder
            self._refuse_change(before)
            (folder / "run.json").write_text(self._record(watch).model_dump_json(indent=1))

    @contextmanager
    def finishing(self, record: Path) -> Iterator[dict[str, int]]:
        """Work that resumes in place; the run record, written last, says that it is whole.

        The counts put into the mapping go into the record.
        """
        before, watch, counts = self.digest, self._watch(), dict[str, int]()
        record.parent.mkdir(parents=True, exist_ok=True)
        yield counts
        self._refuse_change(before)
        write_atomic(record, self._record(watch, counts).model_dump_json(indent=1))

    @contextmanager
    def publishing(self) -> Iterator[tuple[Path, dict[str, int]]]:
        """A temporary folder whose files become results under their friendly names, stamped.

        The counts put into the mapping go into the stamp.
        """
        target: PublishedTarget = self.output()
        watch, counts = self._watch(), dict[str, int]()
        with scratch_folder(self.workspace.output) as folder:
            yield folder, counts
            self._refuse_change(target.digest)
            target.publish(folder, self._record(watch, counts))

    def _watch(self) -> Stopwatch:
        return Stopwatch(type(self).__name__, getattr(self, "image_id", None), self.digest)

    def _record(self, watch: Stopwatch, counts: dict[str, int] | None = None) -> RunRecord:
        return watch.record(self._described(), {name: str(made) for name, made in self.inputs.items()}, counts)

    def _refuse_change(self, before: str) -> None:
        if self.digest != before:
            raise SourceError(
                "an input changed while it was being read", where=self, remedy="Run the same command again."
            )


class ImageStep(Step):
    """A step about one image."""

    image_id = ImageId(description="Stem of the image's file name.")

    def folder(self, kind: str) -> Path:
        """Where this step's artifact lies."""
        return self.workspace.artifact(self.image_id, kind, self.digest)


class SourceImage(ImageStep):
    """An orthomosaic: a file in input/<split>/images, or an address in the catalogue."""

    @property
    def source(self) -> Path | str | None:
        """Path or URL of the image; None when there is none."""
        entry = read_catalogue(settings.Storage().catalogue).get(self.image_id)
        return self.workspace.find_image(self.image_id) or (entry.url if entry else None)

    @property
    def inputs(self) -> dict:
        """Fingerprint of the file."""
        return {"image": fingerprint(self.source)} if self.source else {}

    def output(self) -> SourceTarget:
        return SourceTarget(self.source)

    def run(self) -> None:
        """Says where the image should have been."""
        known = self.workspace.images_everywhere()
        close = difflib.get_close_matches(self.image_id, known, n=1)
        raise SourceError(
            "no such image in input/*/images",
            where=self.workspace.root,
            found=self.image_id,
            remedy=f"Did you mean {close[0]}?" if close else f"Put {self.image_id}.tif into input/test/images.",
        )


class SourceLabels(ImageStep):
    """The labels of an image: a vector file in input/<split>/labels."""

    @property
    def source(self) -> Path | None:
        """Path of the label file; None when there is none."""
        return self.workspace.find_labels(self.image_id)

    @property
    def area(self) -> Path | None:
        """Path of the polygons within which the labels are complete; None for the whole image."""
        return self.workspace.find_area(self.image_id)

    @property
    def inputs(self) -> dict:
        """Fingerprints of the label file and of its area."""
        paths = {"labels": self.source, "area": self.area}
        return {name: fingerprint(path) for name, path in paths.items() if path}

    def output(self) -> SourceTarget:
        return SourceTarget(self.source)

    def run(self) -> None:
        """Says where the labels should have been."""
        raise SourceError(
            "no label file in input/*/labels",
            where=self.workspace.root,
            found=self.image_id,
            remedy=f"Put {self.image_id}.geojson (or .gpkg, .shp, .fgb) into input/training/labels.",
        )


class TileImage(ImageStep):
    """`tiles.geojson`: every tile of an image that holds valid pixels."""

    sections = (settings.Imagery, settings.Tiling)

    def requires(self) -> SourceImage:
        return SourceImage(self.image_id)

    @property
    def inputs(self) -> dict[str, str]:
        return {"SourceImage": self.requires().digest}

    def output(self) -> luigi.LocalTarget:
        return luigi.LocalTarget(str(self.folder("tiles") / "tiles.geojson"))

    def run(self) -> None:
        with self.making(self.folder("tiles")) as folder:
            index = tile_image(
                self.image_id, self.requires().source, settings.Imagery().rules(ImageryRules), settings.Tiling(), self.progress
            )
            write_tile_index(folder / "tiles.geojson", index)

    def read(self) -> TileIndex:
        """The tiles."""
        return read_tile_index(Path(self.output().path))


class LoadLabels(ImageStep):
    """The cleaned labels of an image as rows of the label store, and the report of the cleaning."""

    sections = (settings.Labels,)

    def requires(self) -> dict[str, Step]:
        return {"labels": SourceLabels(self.image_id), "tiles": TileImage(self.image_id)}

    @property
    def inputs(self) -> dict[str, str]:
        # Labels are judged against the image's frame, not against its tiles: other tiles, same labels.
        return {
            "SourceLabels": SourceLabels(self.image_id).digest,
            "SourceImage": SourceImage(self.image_id).digest,
        }

    @property
    def store(self) -> LabelStore:
        """The store that holds the rows."""
        return open_store(settings.Labels().database_url, self.folder("labels"))

    def output(self) -> LabelStoreTarget:
        return LabelStoreTarget(self.store, self.image_id, self.digest)

    def run(self) -> None:
        source, before = self.requires()["labels"], self.digest
        labels, report = load_labels(
            source.source, source.area, self.requires()["tiles"].read().grid, settings.Labels().label_rules()
        )
        logger.info("labels of %s\n%s", self.image_id, report.table())
        self._refuse_change(before)
        write_atomic(self.folder("labels") / "report.json", report.model_dump_json(indent=1))
        self.store.replace_labels(self.image_id, self.digest, labels, report.model_dump())


class CutTiles(ImageStep):
    """The training pairs of an image: a raster and the items of every chosen tile."""

    sections = (settings.Pairs,)

    def requires(self) -> dict[str, Step]:
        return {"tiles": TileImage(self.image_id), "labels": LoadLabels(self.image_id)}

    @property
    def inputs(self) -> dict[str, str]:
        return _digests(self.requires().values())

    def output(self) -> luigi.LocalTarget:
        return luigi.LocalTarget(str(self.folder("pairs") / "pairs.json"))

    def run(self) -> None:
        tiles, labels = self.requires()["tiles"], self.requires()["labels"]
        index = tiles.read()
        items = labels.store.items_in_tiles(self.image_id, tile_frame(index), labels.digest)
        area = SourceLabels(self.image_id).area
        ground = read_area(area, index.grid.crs) if area else None
        with self.making(self.folder("pairs")) as folder:
            source = SourceImage(self.image_id).source
            cut_tiles(index, source, items, ground, settings.Pairs().rules(PairRules), folder, self.progress)


class TrainMaskRCNN(Step):
    """`weights.h5`, `history.json` and `thresholds.json`, learnt from every training image."""

    sections = (settings.Training, settings.Thresholds)
    resources = {"gpu": 1}  # noqa: RUF012 (luigi reads a plain attribute)

    @property
    def images(self) -> list[str]:
        """Ids of the training images."""
        return list(settings.Training().images) or self.workspace.images_of("training")

    def requires(self) -> list[Step]:
        if not self.images:
            raise SettingsError(
                "nothing to learn from",
                where="[Training] images",
                remedy="Put labelled images into input/training, or give [Inference] weights.",
            )
        return [CutTiles(image_id) for image_id in self.images]

    @property
    def inputs(self) -> dict[str, str]:
        pairs = {task.image_id: task.digest for task in self.requires()}
        initial = settings.Training().initial_weights
        return pairs | ({"initial_weights": digest(fingerprint(initial))} if Path(initial).is_file() else {})

    @property
    def folder(self) -> Path:
        """Where the network and its checkpoints lie."""
        return self.workspace.network(self.digest)

    @property
    def weights(self) -> Path:
        """The network."""
        return self.folder / "weights.h5"

    @property
    def thresholds(self) -> Path:
        """The lowest confidence worth publishing, by category."""
        return self.folder / "thresholds.json"

    def output(self) -> list[luigi.LocalTarget]:
        names = ("weights.h5", "history.json", "thresholds.json", "run.json")
        return [luigi.LocalTarget(str(self.folder / name)) for name in names]

    def run(self) -> None:
        pairs = [Path(task.output().path).parent for task in self.requires()]
        # Checkpoints stay in the folder, so a killed training resumes; the record closes it.
        with self.finishing(self.folder / "run.json") as counts:
            counts |= train_network(
                pairs,
                settings.Labels().names,
                settings.Training(),
                settings.Thresholds().rules(ThresholdRules),
                self.folder,
                self.progress,
            )


class SourceWeights(Step):
    """Given weights, used as they are."""

    @property
    def weights(self) -> Path:
        """The network."""
        return Path(settings.Inference().weights).absolute()

    @property
    def thresholds(self) -> Path:
        """The lowest confidence worth publishing, by category; beside the weights if anywhere."""
        return self.weights.with_name("thresholds.json")

    @property
    def inputs(self) -> dict:
        """Fingerprints of both files."""
        paths = [path for path in (self.weights, self.thresholds) if path.is_file()]
        return {path.name: fingerprint(path) for path in paths}

    def output(self) -> SourceTarget:
        return SourceTarget(self.weights)

    def run(self) -> None:
        """Says that the weights are missing."""
        raise SourceError(
            "no such weights file",
            where="[Inference] weights",
            found=str(self.weights),
            remedy="Check the path, or leave it empty to train a network.",
        )


def network() -> TrainMaskRCNN | SourceWeights:
    """The task whose weights inference uses: given ones, else those learnt here."""
    return SourceWeights() if settings.Inference().weights else TrainMaskRCNN()


class InferShard(ImageStep):
    """One JSON of detections per tile, for a run of neighbouring tiles, and a manifest that closes it."""

    shard = luigi.IntParameter(description="Which run of tiles, from 0.")
    sections = (settings.Inference, settings.Outlines, settings.Labels)
    resources = {"gpu": 1}  # noqa: RUF012 (luigi reads a plain attribute)

    def requires(self) -> dict[str, Step]:
        return {"tiles": TileImage(self.image_id), "network": network()}

    @property
    def inputs(self) -> dict[str, str]:
        return _digests(self.requires().values())

    @property
    def detections(self) -> Path:
        """Folder of the image's per-tile JSON, shared by its shards."""
        return self.folder("detections")

    def output(self) -> luigi.LocalTarget:
        name = f"shard_{self.shard}_of_{settings.Inference().shards}.manifest.json"
        return luigi.LocalTarget(str(self.detections / name))

    def run(self) -> None:
        index, inference = self.requires()["tiles"].read(), settings.Inference()
        tiles = index.tiles[shard_slices(len(index.tiles), inference.shards)[self.shard]]
        with self.finishing(Path(self.output().path)) as counts:
            counts |= infer_tiles(
                self.image_id,
                tiles,
                index.grid,
                SourceImage(self.image_id).source,
                self.requires()["network"].weights,
                settings.Labels().names,
                inference.rules(InferenceRules),
                settings.Outlines().rules(VectorizeRules),
                self.detections,
                self.progress,
            )


class AggregateImage(ImageStep):
    """The map: one row per building, duplicates across tiles merged, as CSV and GeoJSON."""

    sections = (settings.Aggregation, settings.Labels)

    def requires(self) -> dict[str, Step | list[Step]]:
        shards = range(settings.Inference().shards)
        return {
            "tiles": TileImage(self.image_id),
            "network": network(),
            "shards": [InferShard(self.image_id, shard) for shard in shards],
        }

    @property
    def inputs(self) -> dict[str, str]:
        # Shards differ in which tiles they hold, not in what decides a detection.
        return _digests([InferShard(self.image_id, 0)])

    def output(self) -> PublishedTarget:
        return PublishedTarget(self.workspace.record(self.image_id, "AggregateImage"), self.digest)

    def run(self) -> None:
        needs = self.requires()
        with self.publishing() as (folder, counts):
            counts |= aggregate_image(
                needs["tiles"].read(),
                needs["shards"][0].detections,
                settings.Labels().names,
                self.thresholds,
                settings.Aggregation(),
                folder,
                self.progress,
            )

    @property
    def csv(self) -> Path:
        """The published CSV."""
        return self.workspace.output / f"{self.image_id}.csv"

    @property
    def thresholds(self) -> dict[str, float]:
        """Lowest confidence published, by category."""
        given = settings.Aggregation().score_thresholds
        return read_thresholds(network().thresholds, given, settings.Labels().names)


class EvaluateImage(ImageStep):
    """`<image_id>.report.json`: the challenge's metric of the published CSV against the labels."""

    sections = (settings.Labels,)

    def requires(self) -> dict[str, Step]:
        return {"buildings": AggregateImage(self.image_id), "labels": SourceLabels(self.image_id)}

    @property
    def inputs(self) -> dict[str, str]:
        return _digests(self.requires().values())

    def output(self) -> PublishedTarget:
        return PublishedTarget(self.workspace.record(self.image_id, "EvaluateImage"), self.digest)

    def run(self) -> None:
        labels = self.requires()["labels"]
        with self.publishing() as (folder, _):
            report = evaluate_image(
                self.image_id, self.requires()["buildings"].csv, labels.source, labels.area, settings.Labels()
            )
            (folder / f"{self.image_id}.report.json").write_text(report.model_dump_json(indent=1))
        logger.info("score of %s\n%s", self.image_id, report.table())

    @property
    def report(self) -> Path:
        """The published metric."""
        return self.workspace.output / f"{self.image_id}.report.json"


class ReportImage(ImageStep):
    """`<image_id>.html`: one page with the map, the metric where there are labels, and what made it."""

    def requires(self) -> dict[str, Step]:
        needs: dict[str, Step] = {"tiles": TileImage(self.image_id), "buildings": AggregateImage(self.image_id)}
        return needs | ({"score": EvaluateImage(self.image_id)} if self.workspace.find_labels(self.image_id) else {})

    @property
    def inputs(self) -> dict[str, str]:
        return _digests(self.requires().values())

    def output(self) -> PublishedTarget:
        return PublishedTarget(self.workspace.record(self.image_id, "ReportImage"), self.digest)

    def run(self) -> None:
        needs, labels = self.requires(), SourceLabels(self.image_id)
        judged = (needs["score"].report, labels.source, labels.area) if "score" in needs else None
        with self.publishing() as (folder, _):
            page = report_image(
                needs["tiles"].read(),
                SourceImage(self.image_id).source,
                settings.Imagery().rules(ImageryRules),
                needs["buildings"].csv,
                settings.Labels(),
                needs["buildings"].thresholds,
                self._records(),
                judged,
            )
            (folder / f"{self.image_id}.html").write_text(page)
        logger.info("%s: open %s", self, self.workspace.output / f"{self.image_id}.html")

    def _records(self) -> list[RunRecord]:
        """Run records of everything the page tells of, in the graph's order."""
        image, buildings = self.image_id, self.requires()["buildings"].requires()
        paths = [TileImage(image).folder("tiles") / "run.json", buildings["network"].weights.with_name("run.json")]
        paths += [Path(shard.output().path) for shard in buildings["shards"]]
        paths += [self.workspace.record(image, task) for task in ("AggregateImage", "EvaluateImage")]
        return [record for path in paths if (record := read_record(path))]


class Submission(Step):
    """`submission_<split>.zip`: the validated CSVs of every image of a split, named as the challenge asks."""

    split = ImageId(default="test", description="Folder of input/, or set of the catalogue.")

    @property
    def images(self) -> dict[str, str]:
        """Image id to the name its CSV has in the zip."""
        entries = read_catalogue(settings.Storage().catalogue)
        listed = {name: entry.submission_name for name, entry in entries.items() if entry.split == self.split}
        local = {name: listed.get(name, name) for name in self.workspace.images_of(self.split)}
        return listed | local

    def requires(self) -> list[Step]:
        if not self.images:
            raise SourceError(
                "no image in this split",
                where=self.workspace.root / "input" / self.split,
                remedy="Put images there, or name a catalogue in [Storage] catalogue.",
            )
        return [AggregateImage(image_id) for image_id in self.images]

    @property
    def inputs(self) -> dict[str, str]:
        return {task.image_id: task.digest for task in self.requires()}

    def output(self) -> PublishedTarget:
        return PublishedTarget(self.workspace.record(f"submission_{self.split}", "Submission"), self.digest)

    def run(self) -> None:
        buildings = {task.image_id: task for task in self.requires()}
        with self.publishing() as (folder, _):
            submit(
                {image_id: task.csv for image_id, task in buildings.items()},
                self.images,
                {image_id: TileImage(image_id).read() for image_id in buildings},
                folder / f"submission_{self.split}.zip",
                settings.Labels().names,
            )


def _digests(tasks: Iterable[Step]) -> dict[str, str]:
    return {type(task).__name__: task.digest for task in tasks}
