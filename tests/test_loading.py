"""Batches of training tiles, read here or by other processes."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from painted_tiles import CATEGORIES, item, tiles, write_tile

from models import loading
from models.dataset import TileDataset
from models.loading import load_batches, reading_processes
from models.recipe import Recipe
from models.sampling import draw_epoch

CPU, GPU = torch.device("cpu"), torch.device("cuda")
STRONG = Recipe(rotation=10.0, scale_min=0.6, scale_max=1.5, paste=2, blur=2.0, jpeg_quality=50)


def test_reading_processes_change_nothing(tmp_path):
    """Masks of a width that is no multiple of eight, and of tiles without items, come as they went."""
    learnt = [
        *tiles(tmp_path),
        write_tile(tmp_path, "r0001_c0000", [item(5, 5, 60, 50)], width=90, height=70),
    ]
    draws = draw_epoch(np.ones(len(learnt)), 0, STRONG)
    here, there = (
        [
            sample
            for images, targets in load_batches(
                TileDataset(learnt, CATEGORIES, replace(STRONG, workers=workers)), [draws[:2], draws[2:]], CPU
            )
            for sample in zip(images, targets, strict=True)
        ]
        for workers in (0, 2)
    )
    assert len(here) == len(there) == len(draws)
    for (image, target), (same_image, same_target) in zip(here, there, strict=True):
        assert torch.equal(image, same_image) and target.keys() == same_target.keys()
        for name, value in target.items():
            same = same_target[name]
            assert type(value) is type(same) and getattr(value, "dtype", None) == getattr(same, "dtype", None)
            assert torch.equal(value, same) if torch.is_tensor(value) else value == same


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
