"""Settings: declared once, checked when read, digested without what cannot change a result."""

import dataclasses
import doctest

import luigi
import pytest
from luigi.configuration import get_config

from models import ranges
from models.ranges import Share
from models.recipe import Recipe
from pipeline import settings
from pipeline.errors import SettingsError
from pipeline.regularize import RegularizeRules
from pipeline.seams import MergeRules
from pipeline.tiling import TilingRules


@pytest.fixture
def config(monkeypatch):
    """Luigi's configuration, emptied for a test and restored after it."""
    parser = get_config()
    before = {name: dict(parser.items(name, raw=True)) for name in parser.sections()}
    for name in parser.sections():
        parser.remove_section(name)
    luigi.task_register.Register.clear_instance_cache()
    yield parser
    luigi.task_register.Register.clear_instance_cache()
    for name in parser.sections():
        parser.remove_section(name)
    for name, values in before.items():
        for key, value in values.items():
            parser.set(name, key, value)


def test_defaults_are_those_of_the_modules(config):
    assert settings.Training().rules(Recipe) == Recipe()
    assert settings.Aggregation().rules(MergeRules) == MergeRules()
    assert settings.Tiling().tile_size == str(TilingRules.tile_size)


@pytest.mark.parametrize("section", settings.ALL, ids=lambda section: section.__name__)
def test_every_knob_is_described_and_every_section_reads(config, section):
    for name, parameter in section.get_params():
        assert parameter.description and len(parameter.description) > 10, name
    assert set(section().described()) <= {name for name, _ in section.get_params()}


def test_a_value_from_the_configuration_reaches_the_rules(config):
    config.set("Aggregation", "min_agreement", "0.4")
    assert settings.Aggregation().rules(MergeRules).min_agreement == 0.4


@pytest.mark.parametrize(
    ("section", "key", "value", "says"),
    [
        (settings.Tiling, "tilesize", "512", "Did you mean tile_size"),
        (settings.Tiling, "nonsense", "512", "It may hold"),
        (settings.Training, "epochs", "many", "epochs"),
        (settings.Labels, "duplicate_iou", "half", "duplicate_iou"),
        (settings.Labels, "condition_attribute", "%(roof)s", "condition_attribute: cannot be read"),
        (settings.Labels, "categories", "{", "categories"),
        (settings.Labels, "categories", '{"a": ["x"], "b": ["x"]}', "share no spelling"),
        (settings.Labels, "categories", '{"a": "x"}', "JSON object"),
        (settings.Inference, "precision", "float8", "precision"),
        (settings.Inference, "shards", "0", "shards: must be 1 to 10,000"),
        (settings.Inference, "writers", "-1", "writers"),
        (settings.Training, "epochs", "-3", "epochs"),
        (settings.Training, "validation_share", "1", "validation_share: must be at least 0 and below 1"),
        (settings.Tiling, "tile_size", "abc", "not a size"),
        (settings.Tiling, "tile_size", "0", "tile_size: must be at least 1"),
        (settings.Tiling, "overlap", "2000", "overlap must be below"),
        (settings.Tiling, "min_valid_share", "5", "min_valid_share"),
        (settings.Labels, "duplicate_iou", "9", "duplicate_iou: must be 0 to 1"),
        (settings.Pairs, "empty_share", "-1", "empty_share"),
        (settings.Outlines, "threshold", "3", "threshold: must be above 0 and below 1"),
        (settings.Aggregation, "coincident_iou", "7", "coincident_iou"),
        (settings.Aggregation, "min_agreement", "0", "min_agreement: must be above 0 and at most 1"),
        (settings.Aggregation, "detail_share", "5", "detail_share"),
        (settings.Aggregation, "score_thresholds", '{"hut": 0.5}', "unknown categories"),
        (settings.Thresholds, "min_iou", "1", "min_iou"),
        (settings.Metrics, "size_limits_m2", "[200, 50]", "size_limits_m2"),
        (settings.Checks, "region_m", "0", "region_m"),
        (settings.Review, "budget", "0", "budget"),
        (settings.Imagery, "metres_per_pixel", "-1", "metres_per_pixel"),
    ],
)
def test_what_cannot_be_honoured_is_said_in_one_line(config, section, key, value, says):
    config.set(section.get_task_family(), key, value)
    with pytest.raises(SettingsError, match=says) as raised:
        section()
    assert "\n" not in str(raised.value)
    assert section.get_task_family() in str(raised.value) or "categories" in str(raised.value)


@pytest.mark.parametrize("value", [99.0, -0.1, float("nan"), float("inf")])
def test_a_value_out_of_range_is_told_with_its_range(value):
    with pytest.raises(
        SettingsError, match=rf"^wall_px: must be 0 to 16 \(found {value}\)\. The default is 3\.0\.$"
    ):
        RegularizeRules(wall_px=value)


def test_a_value_out_of_range_is_told_with_its_section(config):
    config.set("Aggregation", "wall_px", "99")
    with pytest.raises(SettingsError, match=r"^\[Aggregation\] wall_px: must be 0 to 16 \(found 99\.0\)"):
        settings.Aggregation()


SIZES = [("75m", "19m"), ("0.4m", "0.1m"), ("1024", "19m"), ("64px", "0")]


@pytest.mark.parametrize(("size", "overlap"), SIZES)
def test_sizes_are_pixels_or_metres(config, size, overlap):
    config.set("Tiling", "tile_size", size), config.set("Tiling", "overlap", overlap)
    assert settings.Tiling().overlap == overlap


@pytest.mark.parametrize("name", ["Labls", "labels", "Lables", "Label", "[Labels"])
def test_a_misspelt_section_is_refused(config, name):
    settings.Labels()
    config.set(name, "duplicate_iou", "0.4")
    with pytest.raises(SettingsError, match=r"unknown section .*Did you mean \[Labels\]"):
        settings.Labels()


def test_sections_of_luigi_and_of_tasks_are_left_alone(config):
    luigis = ("scheduler", "worker", "logging", "email", "resources", "task_history", "batch-notifier")
    for name in (*luigis, "SourceLabels", "CheckLabels", "TileImage", "something"):
        config.set(name, "key", "1")
    settings.check_all()


def test_insignificant_knobs_stay_out_of_the_digest(config):
    assert "device" not in settings.Training().described()
    assert "batch_size" in settings.Training().described()
    assert "batch_size" not in settings.Inference().described()
    assert "database_url" not in settings.Labels().described()


def test_digest_depends_on_values_and_not_on_the_order_of_keys():
    assert settings.digest({"a": 1, "b": 2}) == settings.digest({"b": 2, "a": 1})
    assert settings.digest({"a": 1}) != settings.digest({"a": 2})
    assert len(settings.digest()) == 12


def test_knobs_of_a_dataclass_become_parameters():
    @dataclasses.dataclass(frozen=True)
    class Rules:
        """Rules."""

        size: int = 3
        """Size
        in pixels."""
        share: Share = 0.5
        """Share."""
        names: tuple[str, ...] = ("a",)
        """Names."""
        on: bool = False
        """Whether."""

    @settings.knobs_of(Rules, insignificant=("on",))
    class Trial(settings.Section):
        """A section."""

    assert Trial().rules(Rules, size=4) == Rules(size=4)
    parameters = dict(Trial.get_params())
    assert parameters["size"].description == "Size in pixels."
    assert parameters["share"].description == "Share. 0 to 1."
    assert set(Trial().described()) == {"size", "share", "names"}


def test_the_environment_may_name_the_database(config, monkeypatch):
    monkeypatch.setenv("JENGO_DATABASE_URL", "postgresql://jengo@localhost/jengo")
    assert settings.Labels().database == "postgresql://jengo@localhost/jengo"
    monkeypatch.delenv("JENGO_DATABASE_URL")
    assert settings.Labels().database == ""


def test_ranges_are_told_in_words():
    assert doctest.testmod(ranges).failed == 0
