"""Batches of training tiles, read here or by other processes."""

import multiprocessing
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from another_device import NAME, another_device
from painted_tiles import CATEGORIES, item, tiles, write_tile

from models import loading
from models.dataset import TileDataset
from models.loading import reading_processes, tile_loaders
from models.recipe import Recipe
from models.sampling import draw_epoch
from models.tiles import read_items

CPU, GPU = torch.device("cpu"), torch.device("cuda")
STRONG = Recipe(rotation=10.0, scale_min=0.6, scale_max=1.5, paste=2, blur=2.0, jpeg_quality=50)


def samples(folder, workers, device):
    """A few tiles read for a device, back on the CPU; the width of one is no multiple of eight."""
    odd = write_tile(folder, "r0001_c0000", [item(5, 5, 60, 50)], width=90, height=70)
    learnt = [*tiles(folder), odd]
    draws = draw_epoch(np.ones(len(learnt)), 0, STRONG)
    data = TileDataset(learnt, CATEGORIES, replace(STRONG, workers=workers))
    with tile_loaders([data], device) as (loader,):
        return [
            {name: value.cpu() if torch.is_tensor(value) else value for name, value in sample.items()}
            for images, targets in loader.load([draws[:2], draws[2:]])
            for sample in (target | {"image": image} for image, target in zip(images, targets, strict=True))
        ]


def assert_same(some, others):
    assert len(some) == len(others) == 5
    for one, other in zip(some, others, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            if torch.is_tensor(value):
                assert torch.equal(value, other[name]) and value.dtype == other[name].dtype, name
            else:
                assert value == other[name], name


def test_reading_processes_change_nothing(tmp_path):
    assert_same(samples(tmp_path, 0, CPU), samples(tmp_path, 2, CPU))


def names_of(batches):
    return [[target["tile"] for target in targets] for _, targets in batches]


def test_processes_stay_and_a_new_epoch_leaves_what_was_not_read_of_the_last(tmp_path):
    learnt = tiles(tmp_path)
    with tile_loaders([TileDataset(learnt, CATEGORIES, Recipe(workers=2))], CPU) as (loader,):
        begun = next(loader.load([[0, 1], [2], [3]]))
        processes = {process.pid for process in multiprocessing.active_children()}
        assert len(begun[0]) == 2 and len(processes) == 2
        names = names_of(loader.load([[3], [2, 0]]))
        third, first, last = (read_items(learnt[row].items).tile for row in (2, 0, 3))
        assert names == [[last], [third, first]]
        assert {process.pid for process in multiprocessing.active_children()} == processes
    assert not multiprocessing.active_children()


def test_what_is_learnt_and_what_is_held_out_is_read_by_the_same_processes(tmp_path):
    learnt, recipe = tiles(tmp_path), Recipe(workers=2)
    data = [TileDataset(side, CATEGORIES, recipe) for side in (learnt[:3], learnt[3:])]
    first, last = (read_items(learnt[row].items).tile for row in (0, 3))
    with tile_loaders(data, CPU) as (training, validation):
        for _ in range(2):
            assert names_of(training.load([[0]])) == [[first]] and names_of(validation.load([[0]])) == [
                [last]
            ]
            assert len(multiprocessing.active_children()) == 2


FAILING = """
import sys
from pathlib import Path
from painted_tiles import CATEGORIES, tiles
from models.errors import DatasetError
from models.recipe import Recipe
from models.train import train
folder = Path(sys.argv[1])
learnt = tiles(folder)
for tile in learnt:
    tile.image.write_bytes(b"no tile")
try:
    train(learnt, [], CATEGORIES, Recipe(network="maskrcnn_small", workers=2, device="cpu"), folder)
except DatasetError as error:
    kept = error
    print(error)
"""


def test_a_tile_that_a_process_cannot_read_is_one_line_and_the_end(tmp_path):
    folders = ":".join(str(folder) for folder in (Path(__file__).parents[1], Path(__file__).parent))
    done = subprocess.run(
        [sys.executable, "-c", FAILING, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": folders}, timeout=60, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert re.fullmatch(r"\S+\.tif: unreadable tile: .* Cut the training tiles anew\n", done.stdout)


def test_masks_come_to_another_device_as_bits_and_are_the_same_there(tmp_path, monkeypatch):
    sent = []
    unpacked = loading._unpacked
    monkeypatch.setattr(loading, "_unpacked", lambda target: sent.append(set(target)) or unpacked(target))
    with another_device():
        there = samples(tmp_path, 2, torch.device(NAME))
    assert_same(samples(tmp_path, 0, CPU), there)
    assert all("mask_bits" in names and "masks" not in names for names in sent[:5])
    assert all("masks" in names for names in sent[5:])


@pytest.fixture
def machine(monkeypatch):
    """A machine of so many cores and MiB of shared memory."""

    def of(cores, shared_mib):
        monkeypatch.setattr(loading.os, "sched_getaffinity", lambda process: set(range(cores)))
        usage = SimpleNamespace(free=shared_mib * 2**20)
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)

    return of


def test_a_gpu_is_read_for_by_a_process_a_core(machine, monkeypatch):
    machine(4, 4096)
    assert reading_processes(Recipe().workers, GPU) == 4
    machine(64, 4096)
    assert reading_processes(-1, GPU) == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    assert reading_processes(-1, GPU) == 4
    machine(2, 4096)
    assert reading_processes(-1, GPU) == 1


def test_what_is_asked_for_is_done_and_a_cpu_reads_for_itself(machine):
    machine(4, 16)
    assert reading_processes(3, GPU) == reading_processes(3, CPU) == 3
    assert reading_processes(0, GPU) == reading_processes(-1, CPU) == 0


def test_without_memory_to_share_no_process_is_started_and_it_is_told(machine, caplog):
    machine(4, 64)
    assert reading_processes(-1, GPU) == 0
    assert "/dev/shm has 64 MiB" in caplog.text and "workers" in caplog.text
