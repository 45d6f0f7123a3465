"""One contender on one fold: learn, calibrate, look at the held-out third, merge, and score."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from models.tiles import TrainingTile
from pipeline.atomic import atomic, write_atomic
from pipeline.calibration import CalibrationRules
from pipeline.inference import InferenceRules
from pipeline.labels import read_area
from pipeline.metrics import MetricRules
from pipeline.raster import Imagery, TiledImage
from pipeline.seams import MergeRules
from pipeline.settings import Aggregation, Labels, Tiling, Training, digest
from pipeline.steps.buildings import Selection, aggregate_image
from pipeline.steps.calibration import calibrate_network
from pipeline.steps.detections import Detector, infer_tiles
from pipeline.steps.evaluation import Judged, evaluate_image
from pipeline.steps.labels import load_labels
from pipeline.steps.pairs import cut_tiles, tile_frame
from pipeline.steps.tiles import tile_image
from pipeline.steps.training import read_sides, train_network
from pipeline.stores import open_store
from pipeline.thresholds import ThresholdRules
from pipeline.vectorize import VectorizeRules
from tests.benchmarks.bench_training import reference
from tests.benchmarks.bench_training.contenders import IMAGENET, Contender, Means, Sources, knobs_of
from tests.benchmarks.bench_training.grounds import Fold, Ground, lay_out

VALIDATION_SHARE = 0.2
"""Of the ground that is learnt from: thresholds are chosen there."""


@dataclass(frozen=True)
class Trial:
    """A contender, and the third that it is scored on."""

    place: str
    fold: int
    name: str
    contender: Contender
    ground: Ground
    others: dict[str, Ground]
    """Other sets by name; what a contender that learns from several sets learns from as well."""
    means: Means
    data: Path
    folder: Path

    @property
    def result(self) -> Path:
        """What came of it; another file for every other recipe."""
        made_from = [self.means, asdict(self.contender), self.ground, VALIDATION_SHARE]
        return self.folder / "results" / f"{self.place}_{self.fold}_{self.name}_{digest(made_from)}.json"

    @property
    def labels(self) -> Labels:
        """How labels are read: with the set's categories, or every one as a building."""
        if self.contender.sources is not Sources.ALONE:
            return Labels(condition_attribute="", categories={"building": []})
        return Labels(condition_attribute=self.ground.attribute, categories=self.ground.categories)

    @property
    def tiling(self) -> Tiling:
        """Tiles that overlap by a quarter."""
        return Tiling(tile_size=str(self.means.tile_size), overlap=str(self.means.tile_size // 4))

    def lay_out(self, place: str) -> Fold:
        """The files of a set."""
        return lay_out(self.ground_of(place), self.data, self.folder_of(place), self.fold)

    def ground_of(self, place: str) -> Ground:
        """The ground of a set."""
        return self.ground if place == self.place else self.others[place]

    def folder_of(self, place: str) -> Path:
        """Where a set's files lie; another folder for every other ground."""
        return self.folder / f"{place}_{digest(self.ground_of(place))}"

    def imagery(self, place: str) -> Imagery:
        """How a set is read."""
        ground = self.ground_of(place)
        return Imagery(metres_per_pixel=max(ground.finest, ground.metres_per_pixel / self.means.finer))

    def pairs(self) -> list[Path]:
        """Folders of the training pairs, cut where they are not there yet."""
        places = {
            Sources.ALONE: [self.place],
            Sources.POOLED: [self.place, *self.others],
            Sources.ELSEWHERE: list(self.others),
        }
        return [self._cut(place) for place in places[self.contender.sources]]

    def _cut(self, place: str) -> Path:
        rules = [asdict(self.contender.pairs), self.means.tile_size, asdict(self.imagery(place))]
        kind = digest([dict(self.labels.categories), *rules])
        pairs = self.folder_of(place) / f"pairs_{self.fold}_{kind}"
        if pairs.exists():
            return pairs
        fold, labels, imagery = self.lay_out(place), self.labels, self.imagery(place)
        index = tile_image(place, fold.image, imagery, self.tiling, nothing)
        found, _ = load_labels(fold.labels, fold.training_area, index.grid, labels.label_rules())
        with atomic(pairs) as part:
            part.mkdir()
            store = open_store("", part)
            store.replace_labels(place, kind, found, {})
            items = store.items_in_tiles(place, tile_frame(index), kind)
            area = read_area(fold.training_area, index.grid.crs)
            image = TiledImage(index, fold.image, imagery)
            cut_tiles(image, items, area, self.contender.pairs, part, nothing)
        return pairs

    def run(self, seconds: float) -> dict[str, Any]:
        """What comes of it, also written to `result`.

        Args:
            seconds: how long the reference learns.
        """
        pairs, names = self.pairs(), self.labels.names
        training = Training(
            validation_share=VALIDATION_SHARE, **knobs_of(self.contender, self.means, self.data)
        )
        run = self.folder / "runs" / self.result.stem
        run.mkdir(parents=True, exist_ok=True)
        detector = Detector(run / "weights.h5", names, InferenceRules(workers=0), VectorizeRules())
        started = spent_s()
        if self.contender.is_reference:
            learnt, _ = read_sides(pairs, (), VALIDATION_SHARE)
            tiles = [
                TrainingTile(folder / "tiles" / f"{tile}.tif", folder / "items" / f"{tile}.json")
                for folder, tile in learnt
            ]
            model = reference.build(names, self.data / IMAGENET)
            shown = reference.learn(model, tiles, names, seconds, training.device)
            detector.predictor = reference.ReferencePredictor(model, names, training.device)
        else:
            train_network(pairs, names, training, (), run, nothing)
            shown = training.epochs * training.tiles_per_epoch
        spent = spent_s() - started
        found = self._score(detector, training, pairs, run)
        found |= {"shown": shown, "seconds": round(spent, 1), "device": str(detector.predictor.device)}
        self.result.parent.mkdir(exist_ok=True)
        write_atomic(self.result, json.dumps(found, indent=1))
        return found

    def _score(
        self, detector: Detector, training: Training, pairs: list[Path], folder: Path
    ) -> dict[str, Any]:
        """What a network finds on the held-out third, by the challenge's metric."""
        fold, names, imagery = self.lay_out(self.place), self.labels.names, self.imagery(self.place)
        index = tile_image("held_out", fold.test_image, imagery, self.tiling, nothing)
        image = TiledImage(index, fold.test_image, imagery)
        aggregation = Aggregation(formats=["csv"])
        smallest = aggregation.min_area_m2 / math.prod(index.grid.ground_m_per_px)
        chosen = calibrate_network(
            read_sides(pairs, (), VALIDATION_SHARE)[1],
            dict.fromkeys(pairs, smallest),
            detector,
            training,
            aggregation.rules(MergeRules),
            ThresholdRules(resamples=0),
            CalibrationRules(),
            nothing,
        )
        detections = folder / "detections"
        detections.mkdir(exist_ok=True)
        infer_tiles(image, slice(None), detector, detections, nothing)
        selection = Selection(chosen.temperature, chosen.thresholds)
        aggregate_image(index, detections, names, selection, aggregation, folder, nothing)
        csv = folder / "held_out.csv"
        files = Judged(csv, fold.labels, fold.test_area, csv.with_suffix(".report.json"))
        score = evaluate_image(image, files, self.labels, MetricRules()).score
        rows = score.categories
        present = [row.f1 for row in rows.values() if row.true_positives + row.false_negatives]
        return {
            "mean_f1": sum(present) / len(present) if present else 0.0,
            "all_f1": score.all_f1,
            "challenge_mean_f1": score.mean_f1,
            "categories": {name: row.f1 for name, row in rows.items()},
            "precision": score.all_buildings.precision,
            "recall": score.all_buildings.recall,
            "thresholds": chosen.thresholds,
        }


def spent_s() -> float:
    """Seconds of the processor, or where a GPU computes, of the clock."""
    return time.monotonic() if torch.cuda.is_available() else time.process_time()


def nothing(_share: float, _text: str) -> None:
    """Progress that nobody follows."""
