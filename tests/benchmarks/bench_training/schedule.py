"""Several trials at a time, what was done before left alone."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import time
from collections import defaultdict
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
    """Runs what has no result yet, several at a time; yields each with what went wrong, if anything did.

    Nothing is begun that would not end within the minutes if it takes as long as its like did: to look
    at ground takes the reference several times as long as the others.
    """
    waiting = [trial for trial in everything if not trial.result.exists()]
    deadline = time.monotonic() + 60 * minutes
    longest: dict[bool, float] = defaultdict(float)
    running: dict[Future, tuple[Trial, float]] = {}
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=spawn, initializer=_begin, initargs=(jobs,)) as pool:
        while waiting or running:
            for trial in list(waiting):
                seconds = seconds_of_ours(trial, everything) if trial.contender.is_reference else 0.0
                now = time.monotonic()
                is_in_time = now + longest[trial.contender.is_reference] < deadline
                if len(running) < jobs and seconds is not None and is_in_time:
                    waiting.remove(trial)
                    running[pool.submit(trial.run, seconds)] = trial, now
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                error, (trial, begun) = future.exception(), running.pop(future)
                alike = trial.contender.is_reference
                longest[alike] = max(longest[alike], time.monotonic() - begun)
                yield trial, "" if error is None else f"{type(error).__name__}: {error}"


def _begin(jobs: int) -> None:
    logging.disable(logging.WARNING)
    torch.set_num_threads(min(torch.get_num_threads(), max(1, (os.cpu_count() or 1) // jobs)))
