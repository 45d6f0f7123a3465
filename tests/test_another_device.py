"""Nothing is left on the CPU that a GPU would look for: networks on a device that is not the CPU."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from another_device import NAME, another_device
from painted_tiles import CATEGORIES, tiles

from models.maskrcnn import build
from models.predict import Predictor
from models.recipe import NETWORKS, Recipe
from models.train import train

RECIPE = Recipe(
    network="maskrcnn_small", precision="float32", epochs=2, batch_size=2, learning_rate=1e-3, device="cpu"
)


def test_the_device_tells_its_tensors_from_the_cpus():
    with another_device() as device:
        there, here = torch.ones(2, 3).to(NAME), torch.ones(2, 3)
        with pytest.raises(RuntimeError, match="aten::add: tensors on both devices"):
            there + here
        with pytest.raises(RuntimeError, match="numpy"):
            there.numpy()
        before = device.operations
        assert there.device.type == NAME and torch.equal((there + there).cpu(), here * 2)
        assert (device.operations - before, device.waits) == (2, 1)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_network_finds_the_same_there(network):
    torch.manual_seed(1)
    model = build(network, CATEGORIES)
    images = np.random.default_rng(1).integers(0, 255, (2, 3, 96, 128), dtype=np.uint8)
    knobs = {"score_threshold": 0.0, "detections_per_tile": 20, "proposals_per_tile": 50}
    here = Predictor(model, "cpu", "float32", **knobs)
    expected, described = here.predict(images), here.embed(images)
    with another_device():
        there = Predictor(model, NAME, "float32", **knobs)
        found = there.predict(images)
        assert np.allclose(there.embed(images), described, atol=1e-4)
    assert all(len(one.scores) for one in found)
    for one, other in zip(found, expected, strict=True):
        assert all(np.allclose(mine, theirs, atol=1e-3) for mine, theirs in zip(one, other, strict=True))


@pytest.mark.usefixtures("one_thread")
@pytest.mark.filterwarnings("ignore:.*to a meta parameter")  # which this device's are only by name
@pytest.mark.parametrize(
    "knobs",
    [{}, {"optimizer": "sgd", "anchors": "fitted"}, {"ema_decay": 0.0, "mine_every": 1, "accumulate": 2}],
    ids=str,
)
def test_a_network_learns_the_same_there(tmp_path, knobs):
    recipe, learnt = replace(RECIPE, **knobs), tiles(tmp_path)

    def learn(name, device):
        folder = tmp_path / name
        folder.mkdir()
        weights = train(learnt, learnt, CATEGORIES, replace(recipe, device=device), folder, _count)
        history = json.loads((folder / "history.json").read_text())
        assert Predictor(weights, device, "float32").categories == CATEGORIES
        return [[*record["losses"].values(), *record["validation_losses"].values()] for record in history]

    told = learn("here", "cpu")
    with another_device():
        told_there = learn("there", NAME)
    assert np.allclose(told_there, told, rtol=1e-3)


def _count(predictor: Predictor) -> dict[str, float]:
    (found,) = predictor.predict(np.zeros((1, 3, 96, 96), dtype=np.uint8))
    return {"score": float(len(found.scores))}
