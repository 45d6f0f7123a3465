"""Time and memory as the number of detections grows, on a town of equal houses."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np

from pipeline.seams import Detections
from tests.benchmarks.bench_memory_aggregation import measure, town
from tests.benchmarks.seams.peers import Peer
from tests.benchmarks.seams.trial import trial


@dataclass(frozen=True)
class Growth:
    """What one rule needs for so many detections."""

    rule: str
    detections: int
    seconds: float
    peak_mib: float
    """Memory above that of the start."""

    @property
    def us_each(self) -> float:
        """Microseconds for each detection."""
        return self.seconds / self.detections * 1e6


def streamed(count: int) -> Growth:
    """What `merge_stream` needs for about `count` detections, row by row, in a fresh process."""
    # Not a subprocess: Linux lets a program that replaces another inherit its peak of memory.
    with ProcessPoolExecutor(1, multiprocessing.get_context("forkserver")) as pool:
        row = pool.submit(measure, count).result()
    return Growth("ours, streamed", int(row["detections"]), row["seconds"], row["peak_mb"] - row["base_mb"])


def side_by_side(count: int, peers: Sequence[Peer], rounds: int) -> Iterator[Growth]:
    """What each peer needs for the same detections, about `count`, all at once.

    Args:
        count: of detections.
        peers: run in turn, so that what else the machine does befalls all of them.
        rounds: how often; the best counts.
    """
    batches, windows = town(count)
    detections = Detections.concatenate(list(batches))
    runs = [[trial(peer, detections, windows) for peer in peers] for _ in range(rounds)]
    for peer, trials in zip(peers, zip(*runs, strict=True), strict=True):
        seconds, peak_mib = min(one.seconds for one in trials), max(one.peak_mib for one in trials)
        yield Growth(peer.name, len(detections), seconds, peak_mib)


def exponent(rows: Sequence[Growth]) -> float:
    """The power of the number of detections that the seconds grow with."""
    size, seconds = (np.log([getattr(row, key) for row in rows]) for key in ("detections", "seconds"))
    return float(np.polyfit(size, seconds, 1)[0])
