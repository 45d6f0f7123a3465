"""Every rule on the same detections: a row of figures for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tests.benchmarks.seams.network import Network, see
from tests.benchmarks.seams.peers import Peer
from tests.benchmarks.seams.scenes import Scene
from tests.benchmarks.seams.score import Score, score
from tests.benchmarks.seams.trial import trial


@dataclass(frozen=True)
class Row:
    """What one rule made of one scene, tiling and network."""

    scene: str
    layout: tuple[int, int]
    """Tile and overlap in pixels."""
    rule: str
    buildings: int
    """True ones: of a part of the scene where the rule does not bear the whole."""
    scores: tuple[Score, ...]
    """One for each seed."""
    seconds: float
    """Mean of the seeds."""
    peak_mib: float
    """Most of the seeds."""

    def mean(self, what: str) -> float:
        """The mean of one figure of the scores."""
        return float(np.mean([getattr(score, what) for score in self.scores]))


def compare(
    scene: Scene,
    layout: tuple[int, int],
    network: Network,
    peers: Sequence[Peer],
    seeds: int = 3,
    min_iou: float = 0.5,
) -> Iterator[Row]:
    """A row for each peer, as soon as it is known.

    Args:
        scene: the truth.
        layout: tile and overlap in pixels.
        network: what sees the tiles.
        peers: the rules.
        seeds: how many at most; the first is 0.
        min_iou: above which a found building is a true one.
    """
    windows = scene.windows(*layout)
    whole = [see(scene.footprints, scene.categories, windows, network, seed) for seed in range(seeds)]
    for peer in peers:
        seen, truth, tiles = whole[: peer.seeds], scene, windows
        if len(seen[0]) > peer.bears:
            truth = scene.part(int(len(scene.footprints) * peer.bears / len(seen[0])))
            tiles = truth.windows(*layout)
            seen = [
                see(truth.footprints, truth.categories, tiles, network, seed) for seed in range(len(seen))
            ]
        trials = [trial(peer, detections, tiles) for detections in seen]
        scores = tuple(score(one.polygons, truth, min_iou) for one in trials)
        yield Row(
            scene.name,
            layout,
            peer.name,
            len(truth.footprints),
            scores,
            float(np.mean([one.seconds for one in trials])),
            max(one.peak_mib for one in trials),
        )
