import json
import multiprocessing
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

from models.dataset import TileDataset, collate_fn
from models.errors import DatasetError, DeviceError, TrainingError, WeightsError
from models.learner import Learner, learning_rate
from models.maskrcnn import build
from models.predict import Predictor
from models.pretrained import build_initial
from models.recipe import Recipe
from models.run import forget
from models.tiles import digest_tiles
from models.train import train
from models.weights import WeightsMetadata, build_from_weights, read_metadata, read_weights, write_weights

PLAIN = Recipe(
    network="maskrcnn_small", epochs=3, batch_size=2, warmup_steps=2, learning_rate=1e-3, device="cpu",
    flips=False, ema_decay=0.5,
)  # fmt: skip
RECIPE = replace(
    PLAIN, flips=True, rotation=5.0, scale_min=0.8, scale_max=1.2, paste=1, saturation=0.2, hue=5.0,
    blur=1.5, jpeg_quality=60,
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("one_thread")


def _train(folder, training, recipe=RECIPE, **rest):
    folder.mkdir(exist_ok=True)
    return train(training, rest.pop("validation", []), CATEGORIES, recipe, folder, **rest)


def test_training_learns_and_tells(tmp_path):
    """Twelve steps on three loud rectangles halve the loss."""
    told = []
    weights = _train(
        tmp_path / "run",
        tiles(tmp_path),
        replace(PLAIN, epochs=6, validate_every=3),
        validation=tiles(tmp_path)[-2:],
        on_progress=lambda share, line: told.append((share, line)),
    )
    assert weights == tmp_path / "run" / "weights.h5"
    assert {path.name for path in weights.parent.iterdir()} - {"events"} == {"history.json", "weights.h5"}
    history = json.loads((tmp_path / "run" / "history.json").read_text())
    assert [record["epoch"] for record in history] == [1, 2, 3, 4, 5, 6]
    totals = [sum(record["losses"].values()) for record in history]
    assert totals[-1] < 0.6 * totals[0]
    measured = [record["validation_losses"].keys() for record in history]
    assert measured[2] == measured[5] == history[0]["losses"].keys() and not measured[0]
    assert history[0]["learning_rate"] > history[-1]["learning_rate"] > 0
    assert all(record["seconds"] > 0 and 0 < record["data_wait_share"] < 1 for record in history)
    assert told[0][1].startswith("epoch 1/6, step 1/2, loss ") and told[0][1].endswith(" tiles/s")
    assert [share for share, _ in told] == sorted(share for share, _ in told) and told[-1][0] == 1
    assert told[-1][1].startswith("epoch 6/6 done, ") and told[-1][1].endswith("% of it waiting for tiles")
    metadata = read_metadata(weights)
    assert (metadata.network, metadata.categories, metadata.epoch) == ("maskrcnn_small", CATEGORIES, 6)
    assert metadata.recipe["learning_rate"] == 1e-3 and metadata.data_digest == digest_tiles(tiles(tmp_path))
    assert build_from_weights(weights).categories == CATEGORIES


def _weights(path):
    return {name: value.numpy().tobytes() for name, value in read_weights(path)[1].items()}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The folder of a training that nothing interrupted."""
    folder = tmp_path_factory.mktemp("unbroken")
    return _train(folder / "run", tiles(folder)).parent


def _same(folder, other):
    """Whether two trainings came to the same weights by the same losses."""
    losses = [
        [record["losses"] for record in json.loads((run / "history.json").read_text(), parse_float=str)]
        for run in (folder, other)
    ]
    return losses[0] == losses[1] and _weights(folder / "weights.h5") == _weights(other / "weights.h5")


def test_killed_training_goes_on_to_the_same_weights(tmp_path, unbroken):
    training = tiles(tmp_path)
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
    assert _same(broken, unbroken)


def _stop_at(place):
    """A listener that sends SIGTERM to this process, and to those that read for it, at a line of progress."""

    def stop(share, line):
        if line.startswith(place):
            for process in (*multiprocessing.active_children(), multiprocessing.current_process()):
                os.kill(process.pid, signal.SIGTERM)

    return stop


def test_sigterm_stops_after_the_step_and_nothing_is_lost(tmp_path, unbroken):
    training, before = tiles(tmp_path), signal.getsignal(signal.SIGTERM)
    for place, workers in (("epoch 1/3, step 1/2", 0), ("epoch 3/3, step 1/2", 1)):
        recipe = replace(RECIPE, workers=workers)
        with pytest.raises(TrainingError, match=r"run: asked to stop.*Run the same again"):
            _train(tmp_path / "run", training, recipe, on_progress=_stop_at(place))
    assert signal.getsignal(signal.SIGTERM) is before
    lines = []
    _train(tmp_path / "run", training, on_progress=lambda _, line: lines.append(line))
    assert lines[0].startswith("epoch 3/3, step 2/2")
    assert _same(tmp_path / "run", unbroken)


def test_weights_are_averaged_by_the_formula(tmp_path):
    """Each step keeps the decay's share of the mean, in the first steps (1 + n) / (10 + n) of it."""
    learner, batch = _learner(tmp_path, ema_decay=0.25)
    name = "roi_heads.box_predictor.cls_score.bias"
    mean = None
    for step in range(1, 5):
        learner.step([batch], 1, 1e-2)
        value = learner.model.state_dict()[name].clone()
        decay = min(0.25, (1 + step) / (10 + step))
        mean = value if mean is None else decay * mean + (1 - decay) * value
        assert torch.allclose(learner.kept.state_dict()[name], mean, atol=1e-7)
    assert learner.kept is not learner.model and not torch.equal(value, mean)
    assert _learner(tmp_path, ema_decay=0.0)[0].kept.network == "maskrcnn_small"


def _learner(folder, **knobs):
    """A learner, and a batch of one tile."""
    recipe = replace(RECIPE, **knobs)
    torch.manual_seed(0)
    data = TileDataset(tiles(folder), CATEGORIES, recipe)
    learner = Learner(build("maskrcnn_small", CATEGORIES).train(), recipe, torch.device("cpu"))
    return learner, collate_fn([data[0]])


def test_accumulated_batches_are_one_step_down_their_mean_gradient(tmp_path):
    learner, one = _learner(tmp_path, optimizer="sgd", gradient_clip=0.0, weight_decay=0.0, ema_decay=0.0)
    other = collate_fn([TileDataset(tiles(tmp_path), CATEGORIES, RECIPE)[1]])
    parameters = dict(learner.model.named_parameters())
    expected = {name: value.detach().clone() for name, value in parameters.items()}
    for batch in (one, other):
        learner.model.zero_grad()
        sum(learner.losses(learner.model, batch).values()).backward()
        for name, value in parameters.items():
            expected[name] -= 0.1 * value.grad / 2
    learner.step([one, other], 2, 0.1)
    assert all(torch.allclose(value, expected[name], atol=1e-6) for name, value in parameters.items())


def test_training_ends_early_where_nothing_gets_better(tmp_path):
    scores = iter([0.2, 0.5, 0.4, 0.5, 0.3, 0.1, 0.9])
    recipe = replace(RECIPE, epochs=7, patience=2, tiles_per_epoch=1)
    weights = _train(tmp_path / "run", tiles(tmp_path), recipe, validate=lambda _: {"score": next(scores)})
    history = json.loads((weights.parent / "history.json").read_text())
    assert len(history) == 4 and read_metadata(weights).epoch == 4


def test_hard_negatives_are_searched_for_and_remembered(tmp_path):
    """A network that takes all ground for buildings finds them where there are none."""
    model = build("maskrcnn_small", CATEGORIES)
    with torch.no_grad():
        model.roi_heads.box_predictor.cls_score.bias[3] += 9
    write_weights(tmp_path / "sure.h5", model, WeightsMetadata("maskrcnn_small", {}, CATEGORIES))
    recipe = replace(PLAIN, epochs=2, tiles_per_epoch=2, mine_every=1, negative_share=0.5)
    recipe = replace(recipe, initial_weights=str(tmp_path / "sure.h5"), learning_rate=1e-7)
    training = tiles(tmp_path)
    with pytest.raises(TrainingError, match="asked to stop"):
        _train(tmp_path / "run", training, recipe, on_progress=_stop_at("epoch 2/2, step 1"))
    state = torch.load(tmp_path / "run" / "checkpoint.pth", weights_only=True)
    assert state["false_positives"][:3] == [0, 0, 0] and state["false_positives"][3] > 0
    _train(tmp_path / "run", training, recipe)
    _train(tmp_path / "unbroken", training, recipe)
    assert _same(tmp_path / "run", tmp_path / "unbroken")


def test_fitted_anchors_reach_the_weights_file(tmp_path):
    items = [item(2, 2, 12 + 3 * number, 12 + 3 * number) for number in range(14)]
    training = [write_tile(tmp_path, f"r0000_c{number:04d}", [entry]) for number, entry in enumerate(items)]
    recipe = replace(RECIPE, epochs=1, tiles_per_epoch=1, anchors="fitted")
    weights = _train(tmp_path / "run", training, recipe)
    sizes = build_from_weights(weights).rpn.anchor_generator.sizes
    flat = [size for level in sizes for size in level]
    assert [len(level) for level in sizes] == [2, 2, 2] and flat == sorted(flat)
    assert flat[0] >= 10 and flat[-1] <= 49
    # What learns on from these weights keeps the anchors they were made for.
    again = build_initial(Recipe(network="maskrcnn_small", initial_weights=str(weights)), CATEGORIES)
    assert again.rpn.anchor_generator.sizes == sizes


def test_validation_leaves_no_trace(tmp_path, unbroken):
    training = tiles(tmp_path)
    _train(tmp_path / "run", training, validation=training[:1], validate=lambda _: {"mean_f1": 0.5})
    assert _same(tmp_path / "run", unbroken)


def test_validation_leaves_the_weights_in_memory_as_they_lie(tmp_path):
    """Convolutions of another memory format round otherwise."""
    training = tiles(tmp_path)
    recipe = replace(RECIPE, epochs=2, tiles_per_epoch=2, channels_last=False, ema_decay=0.0)
    _train(tmp_path / "plain", training, recipe)
    _train(tmp_path / "run", training, recipe, validate=lambda _: {"mean_f1": 0.5})
    assert _same(tmp_path / "run", tmp_path / "plain")


def test_best_epoch_is_kept(tmp_path):
    scores = iter([0.2, 0.9, 0.4])
    seen = []

    def validate(predictor):
        assert isinstance(predictor, Predictor) and predictor.categories == CATEGORIES
        predictor.predict(np.zeros((1, 3, 64, 64), np.uint8))
        seen.append({name: value.clone() for name, value in predictor._model.state_dict().items()})
        return {"score": next(scores), "mean_f1": 0.1}

    recipe = replace(RECIPE, tiles_per_epoch=2)
    weights = _train(tmp_path / "run", tiles(tmp_path), recipe, validate=validate)
    metadata, state = read_weights(weights)
    assert metadata.epoch == 2 and metadata.metrics == {"score": 0.9, "mean_f1": 0.1}
    assert all(torch.equal(value, seen[1][name]) for name, value in state.items())
    assert not (weights.parent / "best.h5").exists()


def test_a_score_that_is_no_number_is_no_best_one(tmp_path):
    scores = iter([np.nan, 0.5, 0.4])
    recipe = replace(RECIPE, tiles_per_epoch=1, patience=2)
    weights = _train(tmp_path / "run", tiles(tmp_path), recipe, validate=lambda _: {"score": next(scores)})
    assert read_metadata(weights).epoch == 2


def test_a_training_that_is_done_ends_the_same_again_until_it_is_forgotten(tmp_path):
    training, scores, lines = tiles(tmp_path), iter([0.9, 0.4]), []
    again = {"validate": lambda _: {"score": next(scores)}, "keep_checkpoint": True}
    again["on_progress"] = lambda _, line: lines.append(line)
    recipe = replace(RECIPE, epochs=2, tiles_per_epoch=1)
    weights = _train(tmp_path / "run", training, recipe, **again)
    learnt, told = _weights(weights), len(lines)
    weights.write_bytes(b"half a netwo")
    _train(tmp_path / "run", training, recipe, **again)
    assert _weights(weights) == learnt and read_metadata(weights).epoch == 1 and len(lines) == told
    with pytest.raises(TrainingError, match="another seed"):
        _train(tmp_path / "run", training, replace(recipe, seed=2))
    forget(weights.parent)
    assert {path.name for path in weights.parent.iterdir()} - {"events"} == {"history.json", "weights.h5"}


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


@pytest.mark.parametrize("knobs", [{}, {"gradient_clip": 0.0}, {"precision": "float16"}], ids=str)
def test_a_gradient_that_is_not_finite_names_its_tiles_or_is_left_out(tmp_path, knobs):
    """Weights that it spoilt would make the next tiles' losses not finite, and a checkpoint of no use."""
    learner, batch = _learner(tmp_path, **knobs)
    before = {name: value.clone() for name, value in learner.model.state_dict().items()}
    some = learner.model.roi_heads.box_predictor.cls_score.bias
    learner.losses = lambda *_: {"loss_mask": (some.sum() * 0).sqrt()}
    if not learner.scaler.is_enabled():
        with pytest.raises(TrainingError, match=r"gradient: not finite on tiles grid/r0000_c0000"):
            learner.step([batch, batch], 2, 1e-3)
        return
    scale = learner.scaler.get_scale()
    learner.step([batch], 1, 1e-3)
    assert learner.scaler.get_scale() == scale / 2
    assert all(torch.equal(value, before[name]) for name, value in learner.model.state_dict().items())


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


def test_what_cannot_begin_is_said(tmp_path):
    with pytest.raises(TrainingError, match="no tiles to learn from"):
        _train(tmp_path / "run", [])
    with pytest.raises(DeviceError, match="no such GPU"):
        _train(tmp_path / "run", tiles(tmp_path), replace(RECIPE, device="cuda:99"))
    with pytest.raises(WeightsError, match="no such initial weights"):
        _train(tmp_path / "run", tiles(tmp_path), replace(RECIPE, initial_weights="none.pth"))
    lost = tiles(tmp_path)
    lost[0].items.unlink()
    with pytest.raises(DatasetError, match=r"r0000_c0000.json: no such item file"):
        _train(tmp_path / "run", lost)


def test_callers_random_state_is_left_alone(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    _train(tmp_path / "run", tiles(tmp_path)[:1], replace(RECIPE, epochs=1))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    "knobs",
    [
        {"optimizer": "sgd", "accumulate": 2},
        {"precision": "bfloat16"},
        {"channels_last": False, "gradient_clip": 0.0, "ema_decay": 0.0},
    ],
    ids=lambda knobs: next(iter(knobs)),
)
def test_other_ways_to_train(tmp_path, knobs):
    recipe = replace(RECIPE, epochs=1, tiles_per_epoch=2, **knobs)
    state = read_weights(_train(tmp_path / "run", tiles(tmp_path), recipe))[1]
    assert all(value.isfinite().all() for value in state.values())


@pytest.mark.parametrize("able", [True, False])
def test_bfloat16_is_taken_where_the_processor_has_it(monkeypatch, able):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": able}, raising=False)
    cpu, dtype = torch.device("cpu"), torch.bfloat16 if able else torch.float32
    model = build("maskrcnn_small", CATEGORIES)
    assert Learner(model, Recipe(), cpu).dtype == dtype
    assert Learner(model, Recipe(precision="float32"), cpu).dtype == torch.float32
    assert Predictor(model, "cpu").dtype == dtype
    assert Predictor(model, "cpu", "float32").dtype == torch.float32


@pytest.mark.parametrize("there", [torch.float16, torch.float32], ids=str)
def test_a_training_goes_on_where_gradients_are_scaled_and_where_they_are_not(tmp_path, monkeypatch, there):
    """`auto` may be float32 on a CPU and float16 on the GPU where the training goes on, or the other way."""
    here = torch.float32 if there == torch.float16 else torch.float16
    monkeypatch.setattr("models.learner.choose_dtype", lambda *_: here)
    begun, batch = _learner(tmp_path)
    begun.step([batch], 1, 1e-3)
    monkeypatch.setattr("models.learner.choose_dtype", lambda *_: there)
    resumed, _ = _learner(tmp_path)
    resumed.load_state_dict(begun.state_dict())
    assert resumed.scaler.is_enabled() == (there == torch.float16) and resumed.steps == 1
    assert all(np.isfinite(value) for value in resumed.step([batch], 1, 1e-3).values())


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
        {"accumulate": 0},
        {"ema_decay": 1.0},
        {"scale_min": 1.5},
        {"jpeg_quality": 0},
        {"rotation": 90.0},
        {"frozen_norms": "some"},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_recipe_refuses_what_makes_no_sense(wrong):
    with pytest.raises(TrainingError, match=next(iter(wrong))):
        Recipe(**wrong)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "knobs",
    [{"precision": "float32"}, {"precision": "bfloat16"}, {"precision": "float16"}, {"compile": True}],
    ids=str,
)
def test_training_on_a_gpu(tmp_path, knobs):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    recipe = replace(RECIPE, device="cuda", epochs=2, **knobs)
    state = read_weights(_train(tmp_path / "run", tiles(tmp_path), recipe, validation=tiles(tmp_path)))[1]
    assert all(value.isfinite().all() for value in state.values())
