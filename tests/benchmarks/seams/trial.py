"""One run of a rule in a process of its own: what it makes, how long it takes and how much memory."""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np
import shapely

from pipeline.provenance import peak_mib
from pipeline.seams import Detections
from tests.benchmarks.seams.peers import Peer


@dataclass(frozen=True, eq=False)
class Trial:
    """What a rule made of one set of detections.

    Attributes:
        polygons: object[m], image pixels.
        seconds: the rule's alone, without making and reading the library's own form.
        peak_mib: memory above that of the start, the library's own form included.
    """

    polygons: np.ndarray
    seconds: float
    peak_mib: float


def trial(peer: Peer, detections: Detections, windows: np.ndarray) -> Trial:
    """One run in a forked process, which takes nothing over from earlier runs.

    Raises:
        RuntimeError: the process ended without a result.
    """
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    process = fork.Process(target=_run, args=(sender, peer, detections, windows))
    process.start()
    sender.close()
    try:
        polygons, seconds, peak_mib = receiver.recv()
    except EOFError as error:
        process.join()
        raise RuntimeError(f"{peer.name} ended with exit code {process.exitcode}") from error
    process.join()
    return Trial(shapely.from_wkb(polygons), seconds, peak_mib)


def _run(sender: Connection, peer: Peer, detections: Detections, windows: np.ndarray) -> None:
    start_mib = peak_mib()
    prepared = peer.prepare(detections, windows)
    begin = peer.clock()
    result = peer.rule(prepared, windows)
    seconds = peer.clock() - begin
    polygons = peer.read(result)
    sender.send((shapely.to_wkb(polygons), seconds, peak_mib() - start_mib))
    sender.close()
