"""Two processes learn what one learns."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from painted_tiles import CATEGORIES, item, tiles, write_tile

from models.recipe import Recipe
from models.train import train
from models.weights import read_weights

RECIPE = Recipe(
    network="maskrcnn_small", epochs=2, batch_size=3, accumulate=2, optimizer="sgd", warmup_steps=1,
    learning_rate=1e-2, device="cpu", mine_every=1, ema_decay=0.5,
    precision="float32",
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("one_thread")


def learn(folder):
    """Train on eight tiles in batches of 3, 3 and 2, with unlike numbers of items, some of them unknown."""
    training = tiles(folder, 6)
    training += [
        write_tile(folder, f"r0001_c{number:04d}", [item(8, 8, 40, 50 - number, None)]) for number in (0, 1)
    ]
    (folder / "run").mkdir(exist_ok=True)
    return train(training, training[:1], CATEGORIES, RECIPE, folder / "run", lambda predictor: {"score": 0.5})


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """The folder of two processes that learnt, and what they printed."""
    folder = tmp_path_factory.mktemp("together")
    environment = os.environ | {"PYTHONPATH": f"{Path(__file__).parents[1]}:{Path(__file__).parent}"}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    done = subprocess.run(
        [*command, __file__, str(folder)], env=environment, timeout=250, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_two_processes_have_the_losses_of_one(tmp_path, together):
    learn(tmp_path)
    folder, _ = together
    one, two = (json.loads((path / "run" / "history.json").read_text()) for path in (tmp_path, folder))
    # One rounding apart, a later step may look at another proposal: the first epoch must agree to the digits.
    for alone, shared, digits in zip(one, two, (1e-4, 5e-3), strict=True):
        for kind in ("losses", "validation_losses"):
            assert shared[kind] == pytest.approx(alone[kind], rel=digits)
        assert shared["metrics"] == alone["metrics"] == {"score": 0.5}
    mine, theirs = (read_weights(path / "run" / "weights.h5")[1] for path in (tmp_path, folder))
    for name, value in mine.items():
        torch.testing.assert_close(theirs[name], value, rtol=1e-3, atol=1e-4)


def test_only_the_first_process_tells_and_writes(together):
    folder, printed = together
    assert sorted(printed.split()) == ["weights.h5", "weights.h5"]
    assert {path.name for path in (folder / "run").iterdir()} - {"events"} == {"history.json", "weights.h5"}


if __name__ == "__main__":
    # Name and line's end at once: two processes write to one pipe.
    sys.stdout.write(f"{learn(Path(sys.argv[1])).name}\n")
