"""Everything that is run, in order: the same scenes, networks and rules each time."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from tests.benchmarks.seams import scenes
from tests.benchmarks.seams.comparison import Row, compare
from tests.benchmarks.seams.growth import Growth, side_by_side, streamed
from tests.benchmarks.seams.network import DROPPING_10, IDEAL, PRESETS, WELDING_15
from tests.benchmarks.seams.peers import OURS, PLAIN, Peer
from tests.postgis import ServerError, postgis_server

LAYOUTS = [(384, 64), (512, 128), (1024, 128), (1024, 256)]
"""Tile and overlap in pixels."""
DEFAULT_LAYOUT = (1024, 256)
SIZES = [10_000, 100_000, 1_000_000]
"""Detections, about."""
RIVALS = {
    "ours": 100_000,
    "polygon NMS": 100_000,
    "box NMS": 100_000,
    "SAHI GreedyNMM": 10_000,
    "SAHI NMM": 10_000,
}
"""The rules whose time is compared, and the most detections that they are given for it."""
_MODULES = ("sahi", "supervision", "cv2")
Told = TypeVar("Told", Row, Growth)


@dataclass
class Results:
    """What came out, by question."""

    peers: list[Peer] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    """Rules and scenes that could not be had, and why."""
    postgis_version: str = ""
    layouts: dict[str, list[Row]] = field(default_factory=dict)
    """By scene: every layout and rule, ideal masks."""
    networks: dict[str, list[Row]] = field(default_factory=dict)
    """By network: every rule at the default layout, real footprints."""
    welding: list[Row] = field(default_factory=list)
    """Ours at every layout, real footprints, where tiles weld neighbours."""
    troubles: list[Row] = field(default_factory=list)
    """Every rule on the three scenes, ideal masks, at IoU 0.8."""
    dropping: list[Row] = field(default_factory=list)
    """Ours on the three scenes, a tenth of the detections missing, at IoU 0.5."""
    growth: list[Growth] = field(default_factory=list)


@contextmanager
def _ready() -> Iterator[Results]:
    """No results yet, but the rules that this machine can run and why it cannot run the others."""
    missing = [module for module in _MODULES if importlib.util.find_spec(module) is None]
    if missing:
        yield Results(
            [*PLAIN, OURS], {"libraries": f"not installed: {', '.join(missing)} (make .venv/peers)"}
        )
        return
    from tests.benchmarks.seams.libraries import LIBRARIES, postgis_self_join, postgis_version

    with ExitStack() as stack:
        try:
            server = stack.enter_context(postgis_server())
        except ServerError as error:
            yield Results([*PLAIN, *LIBRARIES, OURS], {"PostGIS self-join": str(error)})
        else:
            peers = [*PLAIN, *LIBRARIES, postgis_self_join(server), OURS]
            yield Results(peers, postgis_version=postgis_version(server))


def collect(quick: bool, say: Callable[[str], None]) -> Results:
    """Run everything.

    Args:
        quick: one seed, one layout, a few hundred buildings, no large numbers.
        say: told of each row as soon as it is known.
    """
    with _ready() as results:
        troubles = [scenes.typical(250 if quick else 500), scenes.big(), scenes.rows()]
        layouts, seeds = ([DEFAULT_LAYOUT], 1) if quick else (LAYOUTS, 3)
        try:
            truths = [scenes.real().part(400) if quick else scenes.real(), troubles[0]]
        except FileNotFoundError as error:
            results.absent["real footprints"] = str(error)
            truths = troubles[:1]

        def rows(*arguments, **options) -> list[Row]:
            return [_told(row, say) for row in compare(*arguments, **options)]

        for truth in truths:
            results.layouts[truth.name] = [
                row for layout in layouts for row in rows(truth, layout, IDEAL, results.peers, seeds)
            ]
        for name in ("welding 15 %", "shattering 15 %", "dropping 10 %", "rough"):
            results.networks[name] = rows(truths[0], DEFAULT_LAYOUT, PRESETS[name], results.peers, 1)
        for layout in layouts:
            results.welding += rows(truths[0], layout, WELDING_15, [OURS], seeds)
        for scene in troubles:
            results.troubles += rows(scene, DEFAULT_LAYOUT, IDEAL, results.peers, seeds, min_iou=0.8)
            results.dropping += rows(scene, DEFAULT_LAYOUT, DROPPING_10, [OURS], seeds)
        results.growth = _grow(results.peers, quick, say)
    return results


def _grow(peers: Sequence[Peer], quick: bool, say: Callable[[str], None]) -> list[Growth]:
    """Ours streamed at every size, and the rules beside each other at those they bear."""
    named = {peer.name: peer for peer in peers}
    grown = []
    for count in SIZES[: 1 if quick else None]:
        grown.append(_told(streamed(count), say))
        rules = [named[name] for name, most in RIVALS.items() if name in named and count <= most]
        rounds = 1 if quick else 3
        grown += [_told(row, say) for row in side_by_side(count, rules, rounds)] if rules else []
    return grown


def _told(row: Told, say: Callable[[str], None]) -> Told:
    say(str(row))
    return row
