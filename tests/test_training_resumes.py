"""TrainMaskRCNN as users run it: only images named, killed and ended midway, its weights taken elsewhere."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from test_graph import run_luigi

from models.predict import Predictor
from models.weights import read_weights
from pipeline.sample import SceneSpec, write_scene

pytestmark = pytest.mark.timeout(900)  # several processes that import everything, one after the other
LIGHT = """
[Tiling]
tile_size = 192
overlap = 64

[Training]
network = maskrcnn_small
epochs = 3
batch_size = 2
device = cpu
"""
TRAIN = ("TrainMaskRCNN", "--Training-images", '["scene_001"]')


def village(folder: Path, settings: str, side: int) -> Path:
    """A workspace with one labelled image, and another that is not to be learnt from."""
    for kind in ("images", "labels"):
        (folder / "input" / "training" / kind).mkdir(parents=True)
    for seed in (1, 2):
        paths = (
            folder / "input" / "training" / kind / f"scene_00{seed}{suffix}"
            for kind, suffix in (("images", ".tif"), ("labels", ".geojson"))
        )
        write_scene(SceneSpec(side, side, seed=seed, collar=10, houses_per_hectare=30), *paths, dirty=False)
    (folder / "luigi.cfg").write_text(settings)
    return folder


@pytest.fixture(scope="module")
def cut(tmp_path_factory) -> Path:
    """A workspace whose training pairs are there."""
    workspace = village(tmp_path_factory.mktemp("village"), LIGHT, 320)
    process = run_luigi(workspace, "CutTiles", "--image-id", "scene_001")
    assert process.returncode == 0, process.stdout
    return workspace


@pytest.fixture(scope="module")
def weights(cut, tmp_path_factory) -> Path:
    """Weights learnt without a break."""
    return learn(shutil.copytree(cut, tmp_path_factory.mktemp("unbroken") / "v", copy_function=shutil.copy2))


def learn(workspace: Path) -> Path:
    process = run_luigi(workspace, *TRAIN)
    assert process.returncode == 0, process.stdout
    (network,) = (workspace / "work" / "networks").iterdir()
    names = {path.name for path in network.iterdir()}
    assert names >= {"history.json", "run.json", "weights.h5"} and "checkpoint.pth" not in names
    return network / "weights.h5"


def stop_after_an_epoch(workspace: Path, number: signal.Signals) -> tuple[int, str]:
    """Starts learning, sends the signal as soon as an epoch more is done; exit code and output."""
    before = epoch_ends(workspace)
    with open(workspace / "log", "w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "luigi", "--module", "pipeline", *TRAIN, "--local-scheduler"],
            cwd=workspace,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            while epoch_ends(workspace) == before and process.poll() is None:
                time.sleep(0.02)
            process.send_signal(number)
            process.wait(120)
        finally:
            process.kill()
        log.seek(0)
        return process.returncode, log.read()


def epoch_ends(workspace: Path) -> set[int]:
    return {path.stat().st_mtime_ns for path in workspace.glob("work/networks/*/checkpoint.pth")}


def test_killed_and_ended_it_goes_on_to_the_same_weights(cut, weights, tmp_path):
    workspace = shutil.copytree(cut, tmp_path / "village", copy_function=shutil.copy2)
    code, _ = stop_after_an_epoch(workspace, signal.SIGKILL)
    assert code == -signal.SIGKILL
    code, told = stop_after_an_epoch(workspace, signal.SIGTERM)
    assert code > 0 and "Run the same again" in told and "Traceback" not in told
    stopped = re.search(r"asked to stop, and stopped after epoch (\d+)", told)
    assert stopped and int(stopped[1]) >= 2, "the killed one's first epoch was not done over"
    resumed = learn(workspace)
    (_, mine), (_, theirs) = read_weights(resumed), read_weights(weights)
    assert mine.keys() == theirs.keys()
    assert all(mine[name].equal(theirs[name]) for name in mine)


def test_a_training_whose_record_could_not_be_written_is_not_done_over(cut, weights, tmp_path):
    workspace = shutil.copytree(cut, tmp_path / "village", copy_function=shutil.copy2)
    network = workspace / "work" / "networks" / weights.parent.name
    (network / "run.json").mkdir(parents=True)
    assert run_luigi(workspace, *TRAIN).returncode != 0
    (network / "run.json").rmdir()
    learnt = (network / "history.json").stat().st_mtime_ns
    assert learn(workspace) == network / "weights.h5"
    assert (network / "history.json").stat().st_mtime_ns == learnt and not (network / "best.h5").exists()


ELSEWHERE = """
import sys
from pathlib import Path
import numpy as np
from models.predict import Predictor
(found,) = Predictor(Path(sys.argv[1]), "cpu", score_threshold=0.0).predict(np.load(sys.argv[2]))
np.savez(sys.argv[3], **found._asdict())
"""


def found_elsewhere(weights: Path, folder: Path) -> dict[str, np.ndarray]:
    """What another process finds in one image, on a CPU, with a copy of the weights."""
    copy = shutil.copy(weights, folder / "taken.h5")
    np.save(folder / "image.npy", np.random.default_rng(5).integers(0, 255, (1, 3, 128, 160), dtype=np.uint8))
    arguments = [str(copy), str(folder / "image.npy"), str(folder / "found.npz")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run([sys.executable, "-c", ELSEWHERE, *arguments], check=True, env=environment, timeout=200)
    with np.load(folder / "found.npz") as content:
        return dict(content)


def test_weights_taken_elsewhere_find_the_same(weights, tmp_path):
    theirs = found_elsewhere(weights, tmp_path)
    (mine,) = Predictor(weights, "cpu", score_threshold=0.0).predict(np.load(tmp_path / "image.npy"))
    assert len(mine.scores)
    assert all(np.array_equal(theirs[name], value) for name, value in mine._asdict().items())


@pytest.mark.gpu
def test_weights_learnt_on_a_gpu_find_the_same_on_every_cpu(cut, tmp_path):
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    workspace = shutil.copytree(cut, tmp_path / "village", copy_function=shutil.copy2)
    (workspace / "luigi.cfg").write_text(LIGHT.replace("device = cpu", "device = cuda"))
    weights = learn(workspace)
    theirs = found_elsewhere(weights, tmp_path)
    image = np.load(tmp_path / "image.npy")
    on_gpu = Predictor(weights, "cuda", "float32", score_threshold=0.0)
    on_gpu.predict(image)
    (mine,) = Predictor(weights, "cpu", score_threshold=0.0).predict(image)
    assert len(mine.scores)
    assert all(np.array_equal(theirs[name], value) for name, value in mine._asdict().items())


@pytest.mark.slow
def test_nothing_but_the_images_needs_to_be_set(tmp_path):
    workspace = village(tmp_path / "village", "", 256)
    process = run_luigi(workspace, *TRAIN, timeout=1500)
    assert process.returncode == 0, process.stdout
    (network,) = (workspace / "work" / "networks").iterdir()
    assert read_weights(network / "weights.h5")[0].network == "maskrcnn_resnet50_fpn_v2"
