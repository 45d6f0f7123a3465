"""The sections of luigi.cfg, each knob with its default, its unit and what it is for."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import luigi
from annotated_types import Interval

from models.ranges import Amount, Positive
from models.recipe import Recipe
from pipeline.calibration import CalibrationRules
from pipeline.checks import CheckRules
from pipeline.errors import SettingsError
from pipeline.inference import InferenceRules
from pipeline.labels import LabelRules
from pipeline.large import LargeRules
from pipeline.metrics import MetricRules
from pipeline.outputs import FORMATS
from pipeline.pairs import PairRules
from pipeline.raster import Imagery as ImageryRules
from pipeline.regularize import RegularizeRules
from pipeline.review.rules import ReviewRules
from pipeline.rules import Rules
from pipeline.seams import MergeRules
from pipeline.settings.section import Section, knobs_of
from pipeline.thresholds import ThresholdRules
from pipeline.tiling import TilingRules, parse_size
from pipeline.vectorize import VectorizeRules

_CATEGORY = re.compile(r"\w[\w -]{0,62}")


class Storage(Section):
    """Where inputs, artifacts and results are stored."""

    # A task knows the absolute path.
    incidental = ("workspace",)

    workspace = luigi.Parameter(
        default=".", significant=False, description="Folder that holds input/, work/ and output/."
    )
    catalogue = luigi.Parameter(
        default="",
        significant=False,
        description="CSV of images read in place (image_id, split, url); `challenge` for the bundled one.",
    )


@knobs_of(ImageryRules, incidental=("cache_mb",))
class Imagery(Section):
    """How pixels are read."""


@knobs_of(TilingRules)
class Tiling(Section):
    """How images are cut into tiles."""

    tile_size = luigi.Parameter(
        default=str(TilingRules.tile_size),
        description="Side of a tile in pixels (1024) or in metres on the ground (75m).",
    )
    overlap = luigi.Parameter(
        default=str(TilingRules.overlap),
        description="Overlap of neighbouring tiles, in pixels or metres like tile_size.",
    )

    def check(self) -> None:
        """Refuses sizes that are none, and tiles that would not advance at any resolution."""
        with self.blamed():
            size, overlap = (parse_size(text, (0.001, 0.001)) for text in (self.tile_size, self.overlap))
        self.rules(TilingRules, tile_size=size, overlap=0)
        if self.tile_size.endswith("m") == self.overlap.endswith("m") and overlap >= size:
            raise SettingsError(
                "overlap must be below tile_size",
                where="[Tiling]",
                found=(self.tile_size, self.overlap),
                remedy="A quarter of tile_size is a good overlap.",
            )


@knobs_of(LabelRules, insignificant=("examples",))
class Labels(Section):
    """How label files are read, and where labels are stored."""

    categories = luigi.DictParameter(
        default={name: list(spellings) for name, spellings in LabelRules.categories},
        description="JSON object that maps each category to its spellings in label files, in column order.",
    )
    database_url = luigi.Parameter(
        default="",
        significant=False,
        description="SQLAlchemy URL of a PostGIS database, without password; empty: the environment "
        "variable JENGO_DATABASE_URL, or GeoPackage files if that is not set.",
    )

    def check(self) -> None:
        """Refuses categories that are not names with lists of spellings."""
        given = self.categories
        if not isinstance(given, Mapping) or not all(
            isinstance(spellings, (list, tuple)) and all(isinstance(text, str) for text in spellings)
            for spellings in given.values()
        ):
            raise SettingsError(
                "not a JSON object of lists of spellings",
                where="[Labels] categories",
                found=given,
                remedy='Write for example {"hut": ["Hut", "hut"], "house": ["House"]}.',
            )
        if odd := [name for name in given if not _CATEGORY.fullmatch(name)]:
            raise SettingsError(
                "not a name for a column of CSV and GIS files",
                where="[Labels] categories",
                found=odd[0],
                remedy="Use letters, digits, _ - and blanks inside.",
            )
        self.label_rules()

    @property
    def database(self) -> str:
        """URL of the database that keeps labels; empty for GeoPackage files."""
        return self.database_url or os.environ.get("JENGO_DATABASE_URL", "")

    @property
    def names(self) -> tuple[str, ...]:
        """The categories in column order."""
        return tuple(self.categories)

    def label_rules(self) -> LabelRules:
        """The values as labels.py takes them."""
        pairs = tuple((name, tuple(spellings)) for name, spellings in self.categories.items())
        return self.rules(LabelRules, categories=pairs)


@knobs_of(PairRules)
class Pairs(Section):
    """Which tiles are used for training."""


@dataclass(frozen=True)
class TrainingGround(Rules):
    """Which ground is learnt from."""

    images: tuple[str, ...] = ()
    """JSON list of image ids to learn from; empty: all of input/training, and those training images of the
    catalogue that have labels there."""
    validation_images: tuple[str, ...] = ()
    """JSON list of training images held out whole; empty: those that the catalogue names, and where it names
    none a share of each."""
    validation_share: Annotated[float, Interval(ge=0, lt=1)] = 0.2
    """Share of each training image's ground that is held out, where none is whole."""
    reviewed_weight: Positive = 3.0
    """How often a tile that people have looked at is shown, for each showing of another."""


@knobs_of(TrainingGround, Recipe, incidental=("device", "workers", "compile"))
class Training(Section):
    """How the network is trained."""


@knobs_of(ThresholdRules, CalibrationRules)
class Thresholds(Section):
    """How confidences are calibrated and publication thresholds chosen, on held-out tiles."""


@dataclass(frozen=True)
class Shards(Rules):
    """How an image's tiles are dealt to tasks."""

    shards: Annotated[int, Interval(ge=1, le=10_000)] = 4
    """Tasks an image's tiles are dealt to; more let more workers help."""


@knobs_of(
    Shards,
    InferenceRules,
    insignificant=("shards", "batch_size"),
    incidental=("device", "workers", "writers", "compile"),
)
class Inference(Section):
    """How the network is run over an image."""

    weights = luigi.Parameter(
        default="", significant=False, description="Weights file (.h5) of a network to use; empty: train one."
    )


@knobs_of(VectorizeRules)
class Outlines(Section):
    """How masks become polygons."""


@knobs_of(LargeRules)
class LargeBuildings(Section):
    """How buildings larger than a tile are detected again on coarser windows."""


@dataclass(frozen=True)
class LeastArea(Rules):
    """Which buildings are too small to be published."""

    min_area_m2: Amount = 4.0
    """Buildings smaller than this are dropped; square metres on the ground."""


@knobs_of(LeastArea, MergeRules, RegularizeRules)
class Aggregation(Section):
    """How detections become buildings, and which are published."""

    score_thresholds: Any = luigi.DictParameter(
        default={},
        description="JSON object: lowest confidence published, 0 to 1, by category; empty: as calibrated.",
    )
    formats = luigi.ListParameter(
        default=("csv", "geojson"),
        description=f"JSON list of formats to publish: csv, and any of {', '.join(FORMATS[1:])}.",
    )

    def check(self) -> None:
        """Refuses formats that nobody writes, no CSV, and thresholds that are none."""
        super().check()
        if unknown := [name for name in self.formats if name not in FORMATS] or not self.formats:
            raise SettingsError(
                "unknown formats" if self.formats else "no format",
                where="[Aggregation] formats",
                found=unknown if self.formats else list(self.formats),
                remedy=f"Known are {', '.join(FORMATS)}; ExportImage writes the GeoPackage.",
            )
        if "csv" not in self.formats:
            raise SettingsError(
                "no csv",
                where="[Aggregation] formats",
                found=list(self.formats),
                remedy="The score and the page are read from the CSV: add it.",
            )
        if strange := set(self.score_thresholds) - set(Labels().names):
            raise SettingsError(
                "thresholds of unknown categories",
                where="[Aggregation] score_thresholds",
                found=sorted(strange),
                remedy=f"The categories are {', '.join(Labels().names)}.",
            )
        for name, value in self.score_thresholds.items():
            if type(value) not in (int, float) or not 0 <= value <= 1:
                raise SettingsError(
                    "a threshold is a number from 0 to 1",
                    where=f"[Aggregation] score_thresholds, {name}",
                    found=value,
                )


@knobs_of(MetricRules)
class Metrics(Section):
    """Parameters of the metrics that are reported in addition to the challenge's."""


@knobs_of(CheckRules)
class Checks(Section):
    """What counts as a label error."""


@knobs_of(ReviewRules)
class Review(Section):
    """Which images and tiles are reviewed, and how corrections are used."""

    images = luigi.ListParameter(
        default=(),
        significant=False,
        description="JSON list of image ids to review; empty: all of input/review, else of input/training.",
    )
    labels = luigi.ChoiceParameter(
        default="newest",
        choices=("newest", "drawn"),
        significant=False,
        description="Labels to use: `newest` with the corrections of reviews, `drawn` the label files alone.",
    )
    ensemble = luigi.ListParameter(
        default=(),
        description="JSON list of prefixes of version names, such as maskrcnn_small-1a2b: buildings of other "
        "networks to merge with the network's own; where they disagree, tiles count as uncertain.",
    )
    label_studio_url = luigi.Parameter(
        default="",
        significant=False,
        description="URL of a Label Studio server to create a project on; empty: files only.",
    )


ALL: tuple[type[Section], ...] = (
    Storage, Imagery, Tiling, Labels, Pairs, Training, Thresholds, Inference, Outlines,
    LargeBuildings, Aggregation, Metrics, Checks, Review
)  # fmt: skip


def check_all() -> None:
    """Reads every section once.

    Raises:
        SettingsError: the first value that cannot be honoured.
    """
    for section in ALL:
        section()
