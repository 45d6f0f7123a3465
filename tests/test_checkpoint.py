"""What a training goes on from, damaged by disks and hands."""

import io
import os
import random
import shutil

import h5py
import pytest
import torch
from painted_tiles import CATEGORIES, tiles
from test_train import RECIPE, _same, _train, _weights, unbroken  # noqa: F401 (a fixture)

from models.checkpoint import before, read_checkpoint
from models.errors import Mistake, TrainingError, WeightsError
from models.maskrcnn import build
from models.pretrained import build_initial
from models.recipe import Recipe
from models.weights import WeightsMetadata, build_from_weights, read_metadata, weights_digest, write_weights

pytestmark = pytest.mark.usefixtures("one_thread")
IDENTITY = {"seed": 1}


def saved(content) -> bytes:
    stored = io.BytesIO()
    torch.save(content, stored)
    return stored.getvalue()


CHECKPOINT = saved({"identity": IDENTITY, "learner": {"model": {"weight": torch.rand(40, 50)}}})


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 32]) + data[place + 1 :]


def damages(data: bytes, count: int = 300) -> list[bytes]:
    """The file cut off, and with one bit wrong, at many places of its beginning, its middle and its end."""
    chance, size = random.Random(1), len(data)
    places = [*range(20), *(chance.randrange(size) for _ in range(count)), *range(size - 150, size)]
    return [data[:place] for place in places] + [flipped(data, place) for place in places]


def refused(reader, path, data: bytes) -> bool:
    """Whether the reader refuses the bytes, in one line that names the file; nothing else may be raised."""
    path.write_bytes(data)
    try:
        reader(path)
    except Mistake as mistake:
        assert "\n" not in str(mistake) and str(path) in str(mistake)
        return True
    return False


def test_a_damaged_checkpoint_is_refused(tmp_path):
    path = tmp_path / "checkpoint.pth"

    def reader(path):
        state = read_checkpoint(path, IDENTITY)
        assert torch.equal(state["learner"]["model"]["weight"], whole["learner"]["model"]["weight"])

    path.write_bytes(CHECKPOINT)
    whole = read_checkpoint(path, IDENTITY)
    for data in damages(CHECKPOINT):
        refused(reader, path, data)
    others = [torch.zeros(3), [1, 2], 5, "identity", None, {"identity": 3}, {"identity": [1]}, {"model": {}}]
    files = [b"", b"\0" * 99, b"PK\3\4", b"GIF89a", b"{}", b"\x80\2}q\0.", b"\x80\4\x95", b"\x80"]
    assert all(refused(reader, path, data) for data in [*map(saved, others), *files])
    with pytest.raises(
        TrainingError, match=r"checkpoint.pth: damaged checkpoint. Delete it to train from the"
    ):
        reader(path)


@pytest.mark.parametrize("lost", ["learner", "epoch", "history", "model"])
def test_a_checkpoint_that_lacks_something_is_refused(tmp_path, lost):
    path, training = tmp_path / "run" / "checkpoint.pth", tiles(tmp_path)
    recipe = Recipe(network="maskrcnn_small", epochs=1, tiles_per_epoch=1, device="cpu")
    _train(path.parent, training, recipe, keep_checkpoint=True)
    state = torch.load(path, weights_only=True)
    del (state["learner"] if lost == "model" else state)[lost]
    path.write_bytes(saved(state))
    with pytest.raises(TrainingError, match="damaged checkpoint"):
        _train(path.parent, training, recipe)


def test_a_checkpoint_too_large_for_the_memory_is_not_called_damaged(tmp_path, monkeypatch):
    (tmp_path / "checkpoint.pth").write_bytes(CHECKPOINT)

    def load(*_, **__):
        raise RuntimeError(
            "DefaultCPUAllocator: can't allocate memory: Error code 12 (Cannot allocate memory)"
        )

    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(RuntimeError, match="Cannot allocate"):
        read_checkpoint(tmp_path / "checkpoint.pth", IDENTITY)


def stopped(folder, training) -> None:
    """Breaks a training off in its third epoch."""

    def stop(share, line):
        if line.startswith("epoch 3"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _train(folder, training, on_progress=stop)


def test_where_the_newest_is_damaged_the_training_goes_on_from_the_one_before(tmp_path, unbroken, caplog):  # noqa: F811
    training, folder, lines = tiles(tmp_path), tmp_path / "run", []
    stopped(folder, training)
    newest = folder / "checkpoint.pth"
    for path in (newest, before(newest)):
        path.write_bytes(path.read_bytes()[:-1000])
        if path == newest:
            shutil.copytree(folder, tmp_path / "both")
    with pytest.raises(TrainingError, match=r"checkpoint_before.pth: damaged checkpoint"):
        _train(folder, training)
    folder = tmp_path / "both"
    caplog.clear()
    _train(folder, training, on_progress=lambda _, line: lines.append(line))
    assert "checkpoint.pth: damaged checkpoint, the training goes on from the one before" in caplog.text
    assert lines[0].startswith("epoch 2/3") and _same(folder, unbroken)


def test_a_deleted_checkpoint_begins_the_training_anew(tmp_path, unbroken):  # noqa: F811
    training, folder, lines = tiles(tmp_path), tmp_path / "run", []
    stopped(folder, training)
    (folder / "checkpoint.pth").unlink()
    _train(folder, training, on_progress=lambda _, line: lines.append(line))
    assert lines[0].startswith("epoch 1/3") and _same(folder, unbroken)


def test_without_links_the_newest_alone_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError("no links here")))
    stopped(tmp_path / "run", tiles(tmp_path))
    assert {path.name for path in (tmp_path / "run").iterdir()} - {"events"} == {
        "checkpoint.pth",
        "history.json",
    }


def test_damaged_weights_of_the_best_epoch_never_become_the_network(tmp_path):
    training, folder = tiles(tmp_path), tmp_path / "run"
    recipe = Recipe(network="maskrcnn_small", epochs=1, tiles_per_epoch=1, device="cpu")
    knobs = {"validate": lambda _: {"score": 0.5}, "keep_checkpoint": True}
    weights = _train(folder, training, recipe, **knobs)
    learnt, best = _weights(weights), folder / "best.h5"
    weights.unlink()
    best.write_bytes(best.read_bytes()[:-1000])
    with pytest.raises(WeightsError, match=r"best.h5: the best epoch's weights are damaged. Delete the file"):
        _train(folder, training, recipe, **knobs)
    assert not weights.exists()
    best.unlink()
    assert _weights(_train(folder, training, recipe, **knobs)) == learnt


def test_damaged_weights_are_refused(tmp_path):
    path = tmp_path / "weights.h5"
    write_weights(
        path, build("maskrcnn_small", CATEGORIES), WeightsMetadata("maskrcnn_small", {}, CATEGORIES)
    )
    whole, chance = path.read_bytes(), random.Random(1)
    cuts = [*range(0, 4000, 400), *(chance.randrange(len(whole)) for _ in range(9)), len(whole) - 1]
    for reader in (build_from_weights, read_metadata, weights_digest):
        assert all(refused(reader, path, whole[:place]) for place in cuts)
    for place in range(0, 512, 5):  # the superblock, and the root's tables
        refused(read_metadata, path, flipped(whole, place))
    path.write_bytes(whole)
    with h5py.File(path, "a") as dst:
        del dst["state_dict"]["roi_heads.box_predictor.cls_score.bias"]
    with pytest.raises(
        WeightsError, match=r"weights.h5: does not fit maskrcnn_small at roi_heads.box_predictor"
    ):
        build_from_weights(path)


def test_damaged_initial_weights_are_refused(tmp_path):
    path, whole = tmp_path / "initial.pth", saved({"conv1.weight": torch.rand(40, 50)})
    recipe = Recipe(network="maskrcnn_small", initial_weights=str(path))
    assert all(
        refused(lambda _: build_initial(recipe, CATEGORIES), path, data) for data in damages(whole, 40)
    )
