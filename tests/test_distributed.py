"""Two processes learn what one learns."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from painted_tiles import CATEGORIES, item, tiles, write_tile

import models.train
from models import run
from models.distributed import local_device
from models.errors import DeviceError, TrainingError
from models.recipe import Recipe
from models.tiles import TrainingTile
from models.train import train
from models.weights import read_weights

RECIPE = Recipe(
    network="maskrcnn_small", epochs=2, batch_size=3, accumulate=2, optimizer="sgd", warmup_steps=1,
    learning_rate=1e-2, device="cpu", mine_every=1, ema_decay=0.5,
    precision="float32",
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("one_thread")


def write_tiles(folder):
    """Eight tiles with unlike numbers of items, some of them unknown."""
    tiles(folder, 6)
    for number in (0, 1):
        write_tile(folder, f"r0001_c{number:04d}", [item(8, 8, 40, 50 - number, None)])
    (folder / "run").mkdir(exist_ok=True)


def learn(folder, **knobs):
    """Train on the eight tiles in batches of 3, 3 and 2."""
    items = sorted((folder / "items").iterdir())
    training = [TrainingTile(folder / "tiles" / f"{path.stem}.tif", path) for path in items]
    recipe = replace(RECIPE, **knobs)
    return train(training, training[:1], CATEGORIES, recipe, folder / "run", lambda predictor: {"score": 0.5})


def in_two_processes(folder, what):
    """What two processes printed that did something together in a folder."""
    write_tiles(folder)
    environment = os.environ | {"PYTHONPATH": f"{Path(__file__).parents[1]}:{Path(__file__).parent}"}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    done = subprocess.run(
        [*command, __file__, what, str(folder)], env=environment, timeout=250, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """The folder of two processes that learnt, and what they printed."""
    folder = tmp_path_factory.mktemp("together")
    return folder, in_two_processes(folder, "learn")


def test_two_processes_have_the_losses_of_one(tmp_path, together):
    write_tiles(tmp_path)
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


def test_asked_to_stop_one_stops_all_and_none_ends_before_the_checkpoint_is_written(tmp_path, together):
    printed = in_two_processes(tmp_path, "stop")
    assert printed.count("asked to stop, and stopped after epoch 1, step 1 of the next") == 2
    assert sorted(line for line in printed.splitlines() if "checkpoint" in line) == ["checkpoint 1"] * 2
    in_two_processes(tmp_path, "learn")
    folders = (tmp_path, together[0])
    mine, theirs = (read_weights(folder / "run" / "weights.h5")[1] for folder in folders)
    assert all(torch.equal(theirs[name], value) for name, value in mine.items())


def test_a_loss_that_is_not_finite_names_the_tiles_of_all_processes(tmp_path):
    told = {line for line in in_two_processes(tmp_path, "fail").splitlines() if "not finite" in line}
    assert len(told) == 1 and len(set(re.findall(r"grid/r\d+_c\d+", told.pop()))) == 3


def test_fewer_gpus_than_processes_are_told(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(DeviceError, match=r"fewer GPUs than processes \(found 2\). Start 2 processes"):
        local_device(torch.device("cuda"))


def stop(folder):
    """Ask the second process to stop in its second epoch, while the first is slow to write."""
    first = os.environ["RANK"] == "0"
    write, draw = run.write_checkpoint, models.train.draw_epoch

    def write_slowly(path, state):
        time.sleep(2 * (state["epoch"]["steps"] > 0))
        write(path, state)

    def be_asked(weights, epoch, recipe):
        if epoch == 1 and not first:
            os.kill(os.getpid(), signal.SIGTERM)
        return draw(weights, epoch, recipe)

    run.write_checkpoint, models.train.draw_epoch = write_slowly, be_asked
    try:
        learn(folder)
    except TrainingError as error:
        state = torch.load(folder / "run" / "checkpoint.pth", weights_only=True)
        tell(f"{error}\ncheckpoint {state['epoch']['steps']}")


def fail(folder):
    """Learn at a rate that no network survives, in whole batches of three."""
    try:
        learn(folder, learning_rate=1e30, gradient_clip=0.0, warmup_steps=0, accumulate=1, tiles_per_epoch=6)
    except TrainingError as error:
        tell(str(error))


def tell(text):
    """Text and line's end at once: two processes write to one pipe."""
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    do = {"learn": lambda folder: tell(learn(folder).name), "stop": stop, "fail": fail}
    do[sys.argv[1]](Path(sys.argv[2]))
