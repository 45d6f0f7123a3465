import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from painted_tiles import CATEGORIES, item, tiles, write_tile

from models.engine import learning_rate
from models.errors import DatasetError, DeviceError, TrainingError, WeightsError
from models.predict import Predictor
from models.recipe import Recipe
from models.train import digest_tiles, train
from models.weights import build_from_weights, read_metadata, read_weights

RECIPE = Recipe(
    network="maskrcnn_small", epochs=3, batch_size=2, warmup_steps=2, learning_rate=1e-3, device="cpu"
)

# Exact arithmetic asks for the same number of threads; several wait for each other on busy machines.
torch.set_num_threads(1)


def _train(folder, training, recipe=RECIPE, **rest):
    folder.mkdir(exist_ok=True)
    return train(training, rest.pop("validation", []), CATEGORIES, recipe, folder, **rest)


def test_training_learns_and_tells(tmp_path):
    """Twelve steps on three loud rectangles halve the loss."""
    told = []
    weights = _train(
        tmp_path / "run",
        tiles(tmp_path),
        replace(RECIPE, epochs=6, flips=False),
        validation=tiles(tmp_path)[-2:],
        on_progress=lambda share, line: told.append((share, line)),
    )
    assert weights == tmp_path / "run" / "weights.h5"
    assert sorted(path.name for path in weights.parent.iterdir()) == ["history.json", "weights.h5"]
    history = json.loads((tmp_path / "run" / "history.json").read_text())
    assert [record["epoch"] for record in history] == [1, 2, 3, 4, 5, 6]
    totals = [sum(record["losses"].values()) for record in history]
    assert totals[-1] < 0.6 * totals[0]
    assert all(record["validation_losses"].keys() == record["losses"].keys() for record in history)
    assert history[0]["learning_rate"] > history[-1]["learning_rate"] > 0
    assert all(record["seconds"] > 0 for record in history)
    assert told[0][1].startswith("epoch 1/6, step 1/2, loss ") and told[0][1].endswith(" tiles/s")
    assert told[-1] == (1.0, "epoch 6/6 done") and [share for share, _ in told] == sorted(
        share for share, _ in told
    )
    metadata = read_metadata(weights)
    assert (metadata.network, metadata.categories, metadata.epoch) == ("maskrcnn_small", CATEGORIES, 6)
    assert metadata.recipe["learning_rate"] == 1e-3 and metadata.data_digest == digest_tiles(tiles(tmp_path))
    assert build_from_weights(weights).categories == CATEGORIES


def _weights(path):
    return {name: value.numpy().tobytes() for name, value in read_weights(path)[1].items()}


def test_killed_training_goes_on_to_the_same_weights(tmp_path):
    training = tiles(tmp_path)
    unbroken = _train(tmp_path / "unbroken", training)
    script = f"""
        import os, signal, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import test_train, painted_tiles
        from pathlib import Path

        def die(share, line):
            if line.startswith("epoch 2/3, step 1"):
                os.kill(os.getpid(), signal.SIGKILL)

        folder = Path({str(tmp_path)!r})
        test_train._train(folder / "broken", painted_tiles.tiles(folder), on_progress=die)
    """
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], env=environment, timeout=200)
    assert done.returncode == -signal.SIGKILL
    broken = tmp_path / "broken"
    assert not (broken / "weights.h5").exists() and (broken / "checkpoint.pth").exists()
    assert len(json.loads((broken / "history.json").read_text())) == 1
    lines = []
    _train(broken, training, replace(RECIPE, workers=1), on_progress=lambda _, line: lines.append(line))
    assert lines[0].startswith("epoch 2/3")
    assert _weights(broken / "weights.h5") == _weights(unbroken)


def test_validation_leaves_no_trace(tmp_path):
    training = tiles(tmp_path)
    recipe = replace(RECIPE, epochs=2)
    alone = _train(tmp_path / "alone", training, recipe)
    beside = _train(
        tmp_path / "beside",
        training,
        recipe,
        validation=training[:1],
        validate=lambda predictor: {"mean_f1": 0.5},
    )
    assert _weights(alone) == _weights(beside)


def test_best_epoch_is_kept(tmp_path):
    scores = iter([0.2, 0.9, 0.4])
    seen = []

    def validate(predictor):
        assert isinstance(predictor, Predictor) and predictor.categories == CATEGORIES
        predictor.predict(np.zeros((1, 3, 64, 64), np.uint8))
        seen.append({name: value.clone() for name, value in predictor._model.state_dict().items()})
        return {"score": next(scores), "mean_f1": 0.1}

    weights = _train(tmp_path / "run", tiles(tmp_path), validate=validate)
    metadata, state = read_weights(weights)
    assert metadata.epoch == 2 and metadata.metrics == {"score": 0.9, "mean_f1": 0.1}
    assert all(torch.equal(value, seen[1][name]) for name, value in state.items())
    assert not (weights.parent / "best.h5").exists()


def test_validation_may_be_rare_but_never_skips_the_last_epoch(tmp_path):
    calls = []
    recipe = replace(RECIPE, epochs=3, validate_every=2, tiles_per_epoch=1)
    _train(tmp_path / "run", tiles(tmp_path), recipe, validate=lambda _: calls.append(1) or {"score": 1.0})
    history = json.loads((tmp_path / "run" / "history.json").read_text())
    assert [bool(record["metrics"]) for record in history] == [False, True, True] and len(calls) == 2


def test_loss_that_is_not_finite_names_its_tiles(tmp_path):
    with pytest.raises(TrainingError, match=r"not finite on tiles grid/r0000_c0000.*Lower the learning rate"):
        _train(
            tmp_path / "run",
            [write_tile(tmp_path, "r0000_c0000", [item(10, 10, 60, 60)])],
            replace(RECIPE, learning_rate=1e30, gradient_clip=0, epochs=9, optimizer="sgd"),
        )


def test_checkpoint_of_another_training_is_refused(tmp_path):
    training = tiles(tmp_path)

    def stop(share, line):
        if line.startswith("epoch 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _train(tmp_path / "run", training, on_progress=stop)
    with pytest.raises(TrainingError, match=r"another learning_rate.*Delete it"):
        _train(tmp_path / "run", training, replace(RECIPE, learning_rate=2e-3))
    with pytest.raises(TrainingError, match="another data_digest"):
        _train(tmp_path / "run", training[1:])
    (tmp_path / "run" / "checkpoint.pth").write_bytes(b"half a checkpoi")
    with pytest.raises(TrainingError, match="damaged checkpoint"):
        _train(tmp_path / "run", training)


def test_what_cannot_begin_is_said(tmp_path):
    with pytest.raises(TrainingError, match="no tiles to learn from"):
        _train(tmp_path / "run", [])
    with pytest.raises(DeviceError, match="no such GPU"):
        _train(tmp_path / "run", tiles(tmp_path), replace(RECIPE, device="cuda:99"))
    with pytest.raises(WeightsError, match="no such initial weights"):
        _train(tmp_path / "run", tiles(tmp_path), replace(RECIPE, initial_weights="none.pth"))
    lost = tiles(tmp_path)
    lost[0].items.unlink()
    with pytest.raises(DatasetError, match=r"r0000_c0000.json: no such file"):
        _train(tmp_path / "run", lost)


def test_callers_random_state_is_left_alone(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    _train(tmp_path / "run", tiles(tmp_path)[:1], replace(RECIPE, epochs=1))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    "knobs",
    [{"optimizer": "sgd"}, {"precision": "bfloat16"}, {"channels_last": False, "gradient_clip": 0.0}],
    ids=lambda knobs: next(iter(knobs)),
)
def test_other_ways_to_train(tmp_path, knobs):
    recipe = replace(RECIPE, epochs=1, tiles_per_epoch=2, **knobs)
    state = read_weights(_train(tmp_path / "run", tiles(tmp_path), recipe))[1]
    assert all(value.isfinite().all() for value in state.values())


def test_learning_rate_rises_and_falls():
    recipe = Recipe(learning_rate=1.0, warmup_steps=10)
    rates = [learning_rate(step, 100, recipe) for step in range(100)]
    assert np.allclose(rates[:10], np.arange(1, 11) / 10) and max(rates) == 1.0
    assert all(np.diff(rates[10:]) < 0) and 0 < rates[-1] < 1e-3
    assert [learning_rate(step, 1, recipe) for step in range(1)] == [1.0]
    assert max(learning_rate(step, 9, recipe) for step in range(9)) == 1.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"learning_rate": 0.0},
        {"network": "unet"},
        {"min_visible_share": 1.5},
        {"batch_size": 2.5},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_recipe_refuses_what_makes_no_sense(wrong):
    with pytest.raises(TrainingError, match=f"Recipe.{next(iter(wrong))}"):
        Recipe(**wrong)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_training_on_a_gpu(tmp_path, precision):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    recipe = replace(RECIPE, device="cuda", precision=precision, epochs=2)
    state = read_weights(_train(tmp_path / "run", tiles(tmp_path), recipe, validation=tiles(tmp_path)))[1]
    assert all(value.isfinite().all() for value in state.values())
