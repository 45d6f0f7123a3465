"""The benchmark of learning: its thirds, its contenders, its reference and its table."""

import argparse
import dataclasses
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
import torch
from painted_tiles import CATEGORIES, tiles

from models.recipe import Recipe
from pipeline.settings import Training
from tests.benchmarks.bench_training import reference, schedule
from tests.benchmarks.bench_training.__main__ import start_of, trials
from tests.benchmarks.bench_training.contenders import (
    CONTENDERS,
    CPU,
    GPU,
    IMAGENET,
    LIGHT,
    MEANS,
    Contender,
    knobs_of,
    takes_part,
)  # fmt: skip
from tests.benchmarks.bench_training.grounds import CONDITIONS, FOLDS, REAL, Ground, lay_out
from tests.benchmarks.bench_training.tables import report
from tests.benchmarks.bench_training.trial import Trial


def _asked(tmp_path, **given):
    asked = {"data": tmp_path, "folder": tmp_path / "made", "sets": None, "rows": None, "folds": None}
    return argparse.Namespace(**asked | given)


@pytest.mark.parametrize("means", MEANS.values(), ids=list(MEANS))
@pytest.mark.parametrize("name", CONTENDERS)
def test_every_contender_is_a_recipe(tmp_path, means, name):
    contender = CONTENDERS[name]
    (tmp_path / IMAGENET).parent.mkdir()
    (tmp_path / IMAGENET).touch()
    recipe = Training(**knobs_of(contender, means, tmp_path)).rules(Recipe)
    assert recipe.epochs * contender.knobs.get("tiles_per_epoch", means.shown // 4) == means.shown or (
        name == "imagenet" and recipe.tiles_per_epoch < means.shown // 4
    )  # a larger network is shown fewer
    start = means.start if contender.start is None else contender.start
    assert recipe.initial_weights == (str(tmp_path / start) if start else "")
    taken = contender.knobs if start else contender.knobs | {"trainable_stages": 5}
    assert {key: getattr(recipe, key) for key in taken} == taken


def test_who_takes_part(tmp_path):
    """A row that changes nothing, or has nothing to begin with, is left out."""

    def rows(means):
        return {name for name, contender in CONTENDERS.items() if takes_part(contender, means, tmp_path)}

    trunk = {"thawed", "thawed_norms"}
    assert set(CONTENDERS) - rows(GPU) == {"imagenet", "fitted"}
    assert set(CONTENDERS) - rows(LIGHT) == {"imagenet", "fitted", "thawed"}
    assert set(CONTENDERS) - rows(CPU) == {"imagenet", "scratch", "anchors"} | trunk
    painted = CPU._replace(start=str(tmp_path / "painted.h5"))
    assert set(CONTENDERS) - rows(painted) == {"imagenet", "anchors"} | trunk
    (tmp_path / IMAGENET).parent.mkdir()
    (tmp_path / IMAGENET).touch()
    assert set(CONTENDERS) - rows(painted) == {"anchors"} | trunk


def test_what_ours_begins_with_is_named_by_its_content(tmp_path):
    (tmp_path / "weights.h5").write_bytes(b"learnt")
    one = start_of(tmp_path / "weights.h5", tmp_path / "made", "")
    (tmp_path / "weights.h5").write_bytes(b"learnt better")
    two = start_of(tmp_path / "weights.h5", tmp_path / "made", IMAGENET)
    assert start_of(None, tmp_path / "made", IMAGENET) == IMAGENET
    assert one != two and Path(one).read_bytes() == b"learnt" and Path(two).read_bytes() == b"learnt better"


def test_pieces_are_taken_from_ours():
    """No row but ours changes nothing."""
    ours = CONTENDERS["ours"]
    for name, contender in CONTENDERS.items():
        same = dataclasses.replace(contender, title=ours.title, folds=ours.folds) == ours
        assert same == (name == "ours"), name


def test_thirds_have_no_ground_in_common(tmp_path):
    ground = Ground("", "", CONDITIONS, seed=7)
    folds = [lay_out(ground, tmp_path, tmp_path / "scene", fold) for fold in range(FOLDS)]
    with rasterio.open(folds[0].image) as src:
        whole = shapely.box(*src.bounds)
    tests = [geopandas.read_file(fold.test_area).union_all() for fold in folds]
    assert math.isclose(sum(part.area for part in tests), whole.area)
    for fold, test in zip(folds, tests, strict=True):
        learnt = geopandas.read_file(fold.training_area).union_all()
        assert learnt.intersection(test).area < 1e-6 * whole.area
        assert learnt.union(test).area == pytest.approx(whole.area)
        with rasterio.open(fold.test_image) as src:
            assert src.bounds == pytest.approx(test.bounds, abs=0.2)


def test_a_changed_recipe_is_measured_again(tmp_path):
    (first,) = trials(_asked(tmp_path, rows=["ours"], sets=["unguja"], folds=[1]), CPU)
    assert first.result == dataclasses.replace(first, folder=first.folder).result
    other = dataclasses.replace(first, contender=Contender("**ours**", {"ema_decay": 0.5}))
    assert other.result != first.result
    assert dataclasses.replace(first, means=CPU._replace(shown=8)).result != first.result


def test_nothing_is_magnified(tmp_path):
    """Twice a CPU's resolution, but none finer than the image has."""

    def metres(place, means):
        (trial,) = trials(_asked(tmp_path, data=tmp_path, rows=["ours"], sets=[place], folds=[1]), means)
        return trial.imagery(place).metres_per_pixel

    assert [metres("unguja", means) for means in (CPU, LIGHT)] == [0.3, 0.15]
    assert [metres("kitsap", means) for means in (CPU, LIGHT)] == [0.3, 0.3]


def test_what_takes_long_to_look_at_is_bounded_only_on_a_cpu(tmp_path):
    """A CPU looks at Kitsap's northern half, whose files are not taken for the whole's."""

    def kitsap(means):
        (trial,) = trials(_asked(tmp_path, data=tmp_path, rows=["ours"], sets=["kitsap"], folds=[1]), means)
        return trial

    half, whole = kitsap(CPU), kitsap(GPU)
    assert [trial.ground.northern for trial in (half, whole)] == [0.5, 1.0]
    assert half.folder_of("kitsap") != whole.folder_of("kitsap")
    assert half.others == whole.others == {name: REAL[name] for name in ("unguja", "banepa")}


def test_the_reference_waits_for_ours(tmp_path):
    everything = trials(_asked(tmp_path, sets=["kitsap"], folds=[1]), CPU)
    assert [trial.name for trial in everything][:2] == ["ours", "reference"]
    ours, theirs = everything[:2]
    assert schedule.seconds_of_ours(theirs, everything) is None
    ours.result.parent.mkdir(parents=True)
    ours.result.write_text('{"seconds": 12.5}')
    assert schedule.seconds_of_ours(theirs, everything) == 12.5


def test_nothing_is_begun_that_would_not_end_in_time(tmp_path, monkeypatch):
    clock = SimpleNamespace(now=100.0, monotonic=lambda: clock.now)

    class Nap:
        contender = SimpleNamespace(is_reference=False)
        result = tmp_path / "none.json"

        def run(self, _seconds):
            clock.now += 600.0

    monkeypatch.setattr(schedule, "time", clock)
    monkeypatch.setattr(schedule, "ProcessPoolExecutor", lambda jobs, **_: ThreadPoolExecutor(jobs))
    assert len(list(schedule.run_all([Nap() for _ in range(9)], 1, 29.0))) == 2
    assert len(list(schedule.run_all([Nap() for _ in range(9)], 1, 31.0))) == 3


def test_the_reference_learns_as_torchvisions_script_does():
    rates = [reference.learning_rate(epoch / 26) * 8 for epoch in (0, 0.5, 2, 15.9, 16, 22)]
    assert rates == pytest.approx([2e-5, 0.01001, 0.02, 0.02, 0.002, 0.0002])


def test_a_flip_takes_boxes_and_masks_along():
    masks = torch.zeros(1, 6, 10, dtype=torch.uint8)
    masks[0, 1:4, 2:5] = 1
    target = {"boxes": torch.tensor([[2.0, 1, 5, 4]]), "labels": torch.tensor([1]), "masks": masks}
    image, flipped = reference._flip(masks.expand(3, -1, -1), target)
    assert flipped["boxes"].tolist() == [[5, 1, 8, 4]]
    assert flipped["masks"][0, 1:4, 5:8].all() and flipped["masks"].sum() == 9
    assert torch.equal(image[0], flipped["masks"][0])
    assert target["boxes"].tolist() == [[2, 1, 5, 4]]


def test_the_reference_is_read_like_ours(tmp_path):
    """Its one label per box becomes a row of probabilities, boxes lie in the tile, masks stay small."""
    torch.manual_seed(0)
    model = reference.build(CATEGORIES, tmp_path / "none.pth")
    model.transform.min_size = (96,)
    model.roi_heads.score_thresh = 0.0
    predictor = reference.ReferencePredictor(model, CATEGORIES, "cpu")
    images = np.random.default_rng(0).integers(0, 255, (2, 3, 64, 64), dtype=np.uint8)
    for found in predictor.predict(images):
        count = len(found.boxes)
        assert count and found.masks.shape == (count, 28, 28) and found.probabilities.shape == (count, 3)
        assert found.boxes.min() >= 0 and 32 < found.boxes.max() <= 64
        assert np.array_equal(found.probabilities.max(axis=1), found.scores)
        assert ((found.probabilities > 0).sum(axis=1) <= 1).all()


def test_the_reference_learns_from_tiles_with_buildings(tmp_path, monkeypatch):
    seen = []

    class Asked(torch.nn.Module):
        """Keeps what it is given."""

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, images, targets):
            seen.extend(zip(images, targets, strict=True))
            return {"loss": self.weight.sum()}

    ticks = iter(np.arange(0, 10, 0.25))
    monkeypatch.setattr(reference.time, "process_time", lambda: next(ticks))
    shown = reference.learn(Asked(), tiles(tmp_path), CATEGORIES, 1.0, "cpu")
    assert shown == len(seen) == 6  # three steps of two within the time
    assert all(len(target["boxes"]) == 3 and image.max() <= 1 for image, target in seen)


def test_the_table_tells_means_and_spread():
    found = {"shown": 100, "seconds": 60.4}
    results = {
        ("a", 0, "ours"): found | {"mean_f1": 0.5, "all_f1": 0.6},
        ("a", 1, "ours"): found | {"mean_f1": 0.7, "all_f1": 0.8},
        ("a", 1, "reference"): found | {"mean_f1": 0.1, "all_f1": 0.0},
        ("a", 1, "pooled"): found | {"mean_f1": 0.9, "all_f1": 0.9},
    }
    lines = report(results, ["a"]).splitlines()
    assert lines[2] == "| **ours** | .600 ± .141 | .700 ± .141 | 2 | 100 | 60 |"
    assert lines[3] == "| **ours**, the middle third | .700 | .800 | 1 | 100 | 60 |"
    assert lines[4].endswith("| .100 | .000 | 1 | 100 | 60 |")
    assert lines[5].endswith("| - | .900 | 1 | 100 | 60 |") and len(lines) == 6


@pytest.mark.slow
def test_a_trial_from_end_to_end(tmp_path):
    (trial,) = trials(
        _asked(tmp_path / "none", rows=["ours"], sets=["scene_001"], folds=[1], folder=tmp_path),
        CPU._replace(shown=8),
    )
    assert isinstance(trial, Trial)
    found = trial.run(0.0)
    assert trial.result.exists() and found["shown"] == 8 and 0 <= found["all_f1"] <= 1
