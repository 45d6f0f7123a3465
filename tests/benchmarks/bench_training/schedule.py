"""Several trials at a time, what was done before left alone."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait

import torch

from tests.benchmarks.bench_training.trial import Trial


def seconds_of_ours(trial: Trial, everything: Sequence[Trial]) -> float | None:
    """How long ours learnt on the ground of a trial; None where nobody knows yet."""
    for other in everything:
        if (other.place, other.fold, other.name) == (
            trial.place,
            trial.fold,
            "ours",
        ) and other.result.exists():
            return json.loads(other.result.read_text())["seconds"]
    return None


def run_all(everything: list[Trial], jobs: int, minutes: float) -> Iterator[tuple[Trial, str]]:
    """Runs what has no result yet, several at a time; yields each with what went wrong, if anything did."""
    waiting = [trial for trial in everything if not trial.result.exists()]
    deadline = time.monotonic() + 60 * minutes
    running: dict[Future, Trial] = {}
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=spawn, initializer=_begin, initargs=(jobs,)) as pool:
        while waiting or running:
            for trial in list(waiting):
                seconds = seconds_of_ours(trial, everything) if trial.contender.is_reference else 0.0
                if len(running) < jobs and seconds is not None and time.monotonic() < deadline:
                    waiting.remove(trial)
                    running[pool.submit(trial.run, seconds)] = trial
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                error = future.exception()
                yield running.pop(future), "" if error is None else f"{type(error).__name__}: {error}"


def _begin(jobs: int) -> None:
    logging.disable(logging.WARNING)
    torch.set_num_threads(min(torch.get_num_threads(), max(1, (os.cpu_count() or 1) // jobs)))
