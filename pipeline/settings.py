"""Every knob of the pipeline, declared once, with its unit.

A section of luigi.cfg is a class here; `[Tiling] tile_size` is also `--Tiling-tile-size` on the
command line. Most knobs are fields of the frozen dataclass of the module that uses them: name,
default, docstring and allowed values are taken from there, so a notebook and a task graph share
them. An insignificant knob (batch sizes, devices, connections) cannot change a result and stays
out of every digest.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import hashlib
import inspect
import json
import math
import os
import re
import textwrap
from collections.abc import Callable, Collection, Mapping
from functools import cache, cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

import luigi
from luigi.cmdline_parser import CmdlineParser
from luigi.configuration import get_config

from models.errors import ModelError
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
from pipeline.schema import SCHEMA_VERSION
from pipeline.seams import MergeRules
from pipeline.thresholds import ThresholdRules
from pipeline.tiling import TilingRules
from pipeline.vectorize import VectorizeRules

_SHOWN = 200
"""Characters of somebody else's error that are told."""
_MAX_SHARDS = 10_000
_CATEGORY = re.compile(r"\w[\w -]{0,62}")


def digest(*parts: Any) -> str:
    """First 12 hexadecimal digits of the SHA-256 of `parts` as canonical JSON, schema version included."""
    canonical = json.dumps([SCHEMA_VERSION, *parts], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


_READ: dict[tuple[type, Any, tuple[tuple[str, str], ...]], Any] = {}
"""Values of sections as they were read, by command line and by what the section of luigi.cfg held."""


class Section(luigi.Config):
    """A section of luigi.cfg; its values are checked when it is read.

    Raises:
        SettingsError: a value that cannot be read or is out of range, or a key nobody declared.
    """

    @classmethod
    @cache
    def get_params(cls):
        """Luigi's list of the parameters, looked up once."""
        return super().get_params()

    @classmethod
    def get_param_values(cls, params, args, kwargs):
        """Luigi's values; read once for each state of file and command line: graphs ask a thousand times."""
        section, config = cls.get_task_family(), get_config()
        written = tuple(config.items(section, raw=True)) if section in config.sections() else ()
        state = (cls, CmdlineParser.get_instance(), written)
        if args or kwargs:
            return cls._read_values(params, args, kwargs)
        if state not in _READ:
            _READ[state] = cls._read_values(params, args, kwargs)
        return _READ[state]

    @classmethod
    def _read_values(cls, params, args, kwargs):
        """Luigi's values, with its errors and warnings turned into one line each."""
        section = cls.get_task_family()
        _refuse_unknown_keys(section, {name for name, _ in params})
        for name, parameter in params:
            try:
                parameter.has_task_value(section, name)
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                raise SettingsError(
                    f"cannot be read: {_short(error)}",
                    where=f"[{section}] {name}",
                    remedy=parameter.description,
                ) from error
        return super().get_param_values(params, args, kwargs)

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        for name, value in self.param_kwargs.items():
            if isinstance(value, float) and not math.isfinite(value):
                where = f"[{self.get_task_family()}] {name}"
                raise SettingsError("not a finite number", where=where, found=value)
        self.check()

    if TYPE_CHECKING:  # the parameters that `knobs_of` adds

        def __getattr__(self, name: str) -> Any: ...

    def check(self) -> None:
        """Looks at the values together; raises SettingsError for what cannot be honoured."""

    def described(self) -> dict[str, str]:
        """The significant values by name, as luigi writes them."""
        return dict(self._described)

    @cached_property
    def _described(self) -> dict[str, str]:
        return self.to_str_params(only_significant=True)

    def rules(self, kind: type, **given: Any) -> Any:
        """The values as the dataclass `kind` of the module that uses them.

        Raises:
            SettingsError: a value that `kind` refuses.
        """
        names = {field.name for field in dataclasses.fields(kind)} - given.keys()
        values = {name: getattr(self, name) for name in names if hasattr(self, name)}
        try:
            return kind(**values, **given)
        except (ValueError, ModelError) as error:
            raise SettingsError(str(error), where=f"[{self.get_task_family()}]") from error


def _short(error: Exception) -> str:
    text = str(error)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _refuse_unknown_keys(section: str, known: Collection[str]) -> None:
    config = get_config()
    if section not in config.sections():
        return
    for key in sorted({key.replace("-", "_") for key in config[section]} - set(known)):
        close = difflib.get_close_matches(key, known, n=1)
        remedy = f"Did you mean {close[0]}?" if close else f"It may hold: {', '.join(sorted(known))}."
        raise SettingsError("unknown setting", where=f"[{section}]", found=key, remedy=remedy)


def knobs_of(*kinds: type, insignificant: Collection[str] = ()) -> Callable[[type], type]:
    """Class decorator: the fields of dataclasses as parameters of a section."""

    def decorate(section: type) -> type:
        for kind in kinds:
            texts, hints = _field_texts(kind), get_type_hints(kind)
            for field in dataclasses.fields(kind):
                if not hasattr(section, field.name):
                    options = {
                        "default": field.default,
                        "description": texts[field.name],
                        "significant": field.name not in insignificant,
                    }
                    parameter = _parameter(hints[field.name], options)
                    setattr(section, field.name, parameter)
                    parameter.__set_name__(section, field.name)
        return section

    return decorate


def _parameter(hint: Any, options: dict[str, Any]) -> Any:
    if get_origin(hint) is Literal:
        return luigi.ChoiceParameter(choices=get_args(hint), **options)
    if get_origin(hint) is tuple:
        return luigi.ListParameter(**options)
    if hint is bool:
        return luigi.BoolParameter(parsing=luigi.BoolParameter.EXPLICIT_PARSING, **options)
    return {int: luigi.IntParameter, float: luigi.FloatParameter, str: luigi.Parameter}[hint](**options)


def _field_texts(kind: type) -> dict[str, str]:
    """The docstring below each field of a dataclass, on one line."""
    module = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    (definition,) = (node for node in module.body if isinstance(node, ast.ClassDef))
    return {
        ast.unparse(node.target): " ".join(ast.literal_eval(text.value).split())
        for node, text in pairwise(definition.body)
        if isinstance(node, ast.AnnAssign) and isinstance(text, ast.Expr)
    }


class Storage(Section):
    """Where inputs, artifacts and results lie."""

    workspace = luigi.Parameter(
        default=".", significant=False, description="Folder that holds input/, work/ and output/."
    )
    catalogue = luigi.Parameter(
        default="",
        significant=False,
        description="CSV of images read in place (image_id, split, url); `challenge` for the packaged one.",
    )


@knobs_of(ImageryRules, insignificant=("cache_mb",))
class Imagery(Section):
    """How pixels are read."""


class Tiling(Section):
    """How images are cut into tiles."""

    tile_size = luigi.Parameter(
        default=str(TilingRules.tile_size),
        description="Side of a tile in pixels (1024) or in metres on the ground (75m).",
    )
    overlap = luigi.Parameter(
        default=str(TilingRules.overlap),
        description="Common strip of neighbouring tiles, in pixels or metres like tile_size.",
    )
    min_valid_share = luigi.FloatParameter(
        default=TilingRules.min_valid_share,
        description="Share of a tile's pixels that must be valid for it to count, 0 to 1.",
    )


@knobs_of(LabelRules, insignificant=("examples",))
class Labels(Section):
    """How label files are read, and where labels are kept."""

    categories = luigi.DictParameter(
        default={name: list(spellings) for name, spellings in LabelRules.categories},
        description="JSON object: category of the map to its spellings in label files, in column order.",
    )
    database_url = luigi.Parameter(
        default="",
        significant=False,
        description="SQLAlchemy URL of a PostGIS database without password; empty: the environment's "
        "JENGO_DATABASE_URL, and where there is none GeoPackage files.",
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
    """Which tiles are learnt from."""


@knobs_of(Recipe, insignificant=("device", "workers", "compile"))
class Training(Section):
    """How the network learns."""

    images = luigi.ListParameter(
        default=(),
        description="JSON list of image ids to learn from; empty: all of input/training, and those training "
        "images of the catalogue that have labels there.",
    )
    validation_images = luigi.ListParameter(
        default=(),
        description="JSON list of training images held out whole; empty: those that the catalogue names, "
        "and where it names none a share of each.",
    )
    validation_share = luigi.FloatParameter(
        default=0.2,
        description="Share of each training image's ground that is held out, 0 to 1, where none is whole.",
    )
    reviewed_weight = luigi.FloatParameter(
        default=3.0,
        description="How often a tile that people have looked at is shown, for each showing of another.",
    )


@knobs_of(ThresholdRules, CalibrationRules)
class Thresholds(Section):
    """How confidences are calibrated, and the lowest worth publishing chosen, on held-out tiles."""


@knobs_of(InferenceRules, insignificant=("batch_size", "device", "workers", "writers", "compile"))
class Inference(Section):
    """How the network is run over an image."""

    weights = luigi.Parameter(
        default="", significant=False, description="Weights file (.h5) to use as given; empty: train one."
    )
    shards = luigi.IntParameter(
        default=4,
        significant=False,
        description="Tasks an image's tiles are dealt to; more let more workers help.",
    )

    def check(self) -> None:
        """Refuses to deal tiles to nobody, or to more tasks than a scheduler takes."""
        if not 1 <= self.shards <= _MAX_SHARDS:
            raise SettingsError(
                f"must be at least 1 and at most {_MAX_SHARDS:,}",
                where="[Inference] shards",
                found=self.shards,
                remedy="One task is enough for a small image.",
            )
        self.rules(InferenceRules)


@knobs_of(VectorizeRules)
class Outlines(Section):
    """How masks become polygons."""


@knobs_of(LargeRules)
class LargeBuildings(Section):
    """How buildings that no tile sees whole are looked at again."""


@knobs_of(MergeRules, RegularizeRules)
class Aggregation(Section):
    """How detections become buildings, and which are published."""

    min_area_m2 = luigi.FloatParameter(
        default=4.0, description="Buildings smaller than this are dropped; square metres on the ground."
    )
    score_thresholds: Any = luigi.DictParameter(
        default={},
        description="JSON object: category to the lowest confidence published, 0 to 1; empty: as calibrated.",
    )
    formats = luigi.ListParameter(
        default=("csv", "geojson"), description=f"JSON list of what to publish, of {', '.join(FORMATS)}."
    )

    def check(self) -> None:
        """Refuses formats that nobody writes, and thresholds and areas that are none."""
        if unknown := [name for name in self.formats if name not in FORMATS] or not self.formats:
            raise SettingsError(
                "unknown formats" if self.formats else "no format",
                where="[Aggregation] formats",
                found=unknown if self.formats else list(self.formats),
                remedy=f"Known are {', '.join(FORMATS)}; ExportImage writes the GeoPackage.",
            )
        for name, value in self.score_thresholds.items():
            if type(value) not in (int, float) or not 0 <= value <= 1:
                raise SettingsError(
                    "a threshold is a number from 0 to 1",
                    where=f"[Aggregation] score_thresholds, {name}",
                    found=value,
                )
        if self.min_area_m2 < 0:
            raise SettingsError(
                "must be at least 0", where="[Aggregation] min_area_m2", found=self.min_area_m2
            )


@knobs_of(MetricRules)
class Metrics(Section):
    """What is measured beside the challenge's metric."""


@knobs_of(CheckRules)
class Checks(Section):
    """What counts as wrong with labels."""


@knobs_of(ReviewRules)
class Review(Section):
    """Which images and tiles people look at, and what becomes of their corrections."""

    images = luigi.ListParameter(
        default=(),
        significant=False,
        description="JSON list of image ids to look at; empty: all of input/review, else of input/training.",
    )
    labels = luigi.ChoiceParameter(
        default="newest",
        choices=("newest", "drawn"),
        significant=False,
        description="Whether labels that people corrected count, or the label files alone.",
    )
    ensemble = luigi.ListParameter(
        default=(),
        description="JSON list of beginnings of versions' names, such as maskrcnn_small-1a2b: buildings of "
        "other networks to fuse with the network's own, and to be unsure of where they differ.",
    )
    label_studio_url = luigi.Parameter(
        default="",
        significant=False,
        description="Address of a Label Studio server to make a project on; empty: files only.",
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
