"""Detections of overlapping tiles to buildings; `make bench-seams` has every rule and its errors."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

from tests.benchmarks.rows import Row
from tests.benchmarks.seams.growth import exponent, side_by_side, streamed
from tests.benchmarks.seams.peers import OURS, PLAIN

STAGE = "duplicates across tiles"


def rows() -> Iterator[Row]:
    """10,000 detections beside the peers; growth to 100,000."""
    if importlib.util.find_spec("sahi") is None:
        yield Row(STAGE, "SAHI", skipped="not installed: make .venv/peers")
        return
    from tests.benchmarks.seams.libraries import LIBRARIES

    peers = [OURS, *(peer for peer in [*PLAIN, *LIBRARIES] if peer.name in ("polygon NMS", "SAHI GreedyNMM"))]
    us = {one.rule: one.us_each for one in side_by_side(10_000, peers, 3)}
    grown = exponent([streamed(10_000), streamed(100_000)])
    ours = us[OURS.name]
    yield Row(f"{STAGE}, 10k", "SAHI GreedyNMM", ours, us["SAHI GreedyNMM"], "us", 0.1, grown, 1.05)
    yield Row(f"{STAGE}, 10k", "STRtree polygon NMS", ours, us["polygon NMS"], "us", 0.667)
