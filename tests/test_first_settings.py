"""The luigi.cfg that a workspace gets with its first image."""

import configparser
import re
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

from models import pretrained
from models.recipe import Recipe
from pipeline.errors import SourceError
from pipeline.steps.first_settings import write_settings

ROOT = Path(__file__).parents[1]


def image(folder, metres_per_pixel):
    path = folder / "flight.tif"
    transform = Affine(metres_per_pixel, 0, 5e5, 0, -metres_per_pixel, 9.3e6)
    profile = {"driver": "GTiff", "width": 64, "height": 64, "count": 3, "dtype": "uint8"}
    with rasterio.open(path, "w", **profile, crs="EPSG:32737", transform=transform) as dst:
        dst.write(np.full((3, 64, 64), 90, dtype=np.uint8))
    return path


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """What is written with or without a GPU, with or without torchvision's weights within reach."""

    def of(gpu, within_reach, metres_per_pixel=0.075):
        monkeypatch.setattr(pretrained, "is_within_reach", lambda network, name: within_reach)
        assert write_settings(tmp_path, image(tmp_path, metres_per_pixel), gpu)
        found = configparser.ConfigParser()
        found.read(tmp_path / "luigi.cfg")
        (tmp_path / "luigi.cfg").unlink()
        return {name: dict(section) for name, section in found.items() if section}

    return of


def test_learning_begins_with_given_weights_where_they_can_be_had(settings):
    assert settings(gpu=True, within_reach=True) == {"Training": {"initial_weights": "coco"}}
    assert settings(gpu=True, within_reach=False) == {}
    assert settings(gpu=False, within_reach=True)["Training"]["initial_weights"] == "imagenet"
    assert settings(gpu=False, within_reach=False)["Training"]["network"] == "maskrcnn_small"


def test_what_is_written_is_what_the_tutorial_says(settings):
    (block,) = re.findall(
        r"```ini\n(\[Imagery\]\n.*?)```", (ROOT / "docs" / "tutorial.md").read_text(), re.DOTALL
    )
    told = configparser.ConfigParser()
    told.read_string(block)
    assert settings(gpu=False, within_reach=True) == {name: dict(told[name]) for name in told.sections()}


def test_only_images_that_are_finer_are_looked_at_more_coarsely(settings):
    assert "Imagery" not in settings(gpu=False, within_reach=True, metres_per_pixel=0.13)


@pytest.mark.parametrize("within_reach", [True, False])
def test_what_is_written_is_a_recipe(settings, within_reach):
    knobs = settings(gpu=False, within_reach=within_reach)["Training"]
    kinds = {name: type(value) for name, value in vars(Recipe()).items()}
    typed = {name: kinds[name](value) for name, value in knobs.items()}
    assert vars(Recipe(**typed)).items() >= typed.items()


def test_settings_that_are_there_are_left_alone(tmp_path):
    (tmp_path / "luigi.cfg").write_text("[Training]\nepochs = 3\n")
    assert not write_settings(tmp_path, image(tmp_path, 0.1))
    assert (tmp_path / "luigi.cfg").read_text() == "[Training]\nepochs = 3\n"


def test_of_an_image_that_is_not_there_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "is_within_reach", lambda network, name: True)
    with pytest.raises(SourceError):
        write_settings(tmp_path, tmp_path / "none.tif", gpu=False)
    assert not list(tmp_path.iterdir())
