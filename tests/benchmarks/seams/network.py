"""What a network sees of true footprints, tile by tile, without a network.

Every footprint is clipped to every tile that shows some of it. Then the simulated network does to the
pieces what real ones do: it draws touching neighbours as one blob and one cut building as two fragments,
misses pieces, the more readily the less of a building they show, stops short of the tile's edge, draws
outlines off and ragged, mistakes categories and doubts what it hardly sees. Each of these has a random
stream and, the last one excepted, a knob of its own, so that two networks that differ in one knob differ in
little else. The same arguments give the same detections.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import shapely
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.special import expit

from pipeline.polygons import largest_parts
from pipeline.seams import Detections

CATEGORIES = 3
_RAGGED_STEP_PX = 6.0  # distance of the outline's points that move apart from each other
_RAGGED_WAVE_PX = 60.0  # mean length of a ragged border's waves: neighbouring points move together
_WHOLE = 1 - 1e-9  # share of a building above which no edge cuts it
_WAVES = 5  # sine waves that make up one ragged border
# Scores of the demo's network over nine painted scenes: medians of .63, .77, .95 and .99 where a tile shows
# 5, 17, 37 and 62 % or more of a building, and of .4 for a part of what it shows.
_SURE_LOGIT = 4.6  # median for a building shown whole
_SURE_LOGIT_BY_SHARE = 7.5  # the same by visible share, as long as it is smaller
_FRAGMENT_LOGIT = -0.5
_LOGIT_DEVIATION = 2.7
_FRAGMENT_LOGIT_DEVIATION = 1.3


@dataclass(frozen=True)
class Network:
    """How far a simulated network is from a perfect one; without arguments it is perfect."""

    jitter_px: float = 0.0
    """Standard deviation in pixels, along each axis, by which a mask stands off."""
    jitter_scale: float = 0.0
    """Standard deviation of the factor, along each axis, by which a mask is too large or too small."""
    ragged_px: float = 0.0
    """Standard deviation in pixels by which an outline wanders about the true one."""
    edge_px: float = 0.0
    """Most pixels by which a mask stops short of each edge of its tile."""
    weld_share: float = 0.0
    """Probability that a tile draws two neighbours that touch in it as one blob, in [0, 1]."""
    shatter_share: float = 0.0
    """Probability that a tile draws a building which its edge cuts as two fragments, in [0, 1]."""
    touch_px: float = 4.0
    """Distance in pixels up to which two footprints count as touching."""
    drop_share: float = 0.0
    """Probability that a detection is missing, whatever it shows, in [0, 1]."""
    glimpse_recall: float = 1.0
    """Probability of finding a building of which next to nothing is visible, in [0, 1]."""
    enough_share: float = 0.5
    """Visible share of a building from which it is found as surely as a whole one, in (0, 1]."""
    enough_px2: float = 20_000.0
    """Visible area in square pixels from which it is found so whatever its share: a part of a hall."""
    min_visible_px2: float = 0.0
    """Area in square pixels below which a piece is not seen at all."""
    wrong_category_share: float = 0.0
    """Probability that the most probable category is not the true one, in [0, 1]."""


IDEAL = Network(jitter_px=1.0, jitter_scale=0.02, min_visible_px2=30.0)
"""Masks as good as masks get: all there, a pixel off."""
WELDING_15 = replace(IDEAL, weld_share=0.15)
"""The same, but every seventh time a tile draws two touching neighbours as one."""
SHATTERING_15 = replace(IDEAL, shatter_share=0.15)
"""The same, but every seventh building that a tile's edge cuts is two fragments there."""
DROPPING_10 = replace(IDEAL, drop_share=0.1)
"""The same, with a tenth of the detections missing."""
ROUGH = Network(
    jitter_px=2.0,
    jitter_scale=0.03,
    ragged_px=2.0,
    edge_px=4.0,
    weld_share=0.1,
    drop_share=0.05,
    glimpse_recall=0.2,
    min_visible_px2=100.0,
    wrong_category_share=0.15,
)
"""What a network of middling quality does, all at once."""
PRESETS = {
    "ideal": IDEAL,
    "welding 15 %": WELDING_15,
    "shattering 15 %": SHATTERING_15,
    "dropping 10 %": DROPPING_10,
    "rough": ROUGH,
}


@dataclass(frozen=True, eq=False)
class _Views:
    """What tiles show of buildings: polygons, their tiles, their buildings, the share of it that the tile
    shows and whether the polygon is but a part of that."""

    polygons: np.ndarray
    tiles: np.ndarray
    sources: np.ndarray
    shares: np.ndarray
    broken: np.ndarray

    def take(self, index: np.ndarray) -> _Views:
        return _Views(*(getattr(self, column.name)[index] for column in fields(self)))


def see(
    footprints: np.ndarray, categories: np.ndarray, windows: np.ndarray, network: Network, seed: int
) -> Detections:
    """What the network finds in every tile.

    Args:
        footprints: object[n] of valid shapely Polygons in image pixels.
        categories: int64[n] in 0..2.
        windows: int64[t, 4], col_off, row_off, width, height of each tile in image pixels.
        network: the knobs.
        seed: of everything that is left to chance.

    Returns:
        Detections, sorted by tile; every polygon lies inside its window. A building of which a tile
        shows two separate parts is two detections there.
    """
    weld, find, retreat, move, fray, judge, shatter = np.random.default_rng(seed).spawn(7)
    frames = shapely.box(*windows[:, :2].T, *(windows[:, :2] + windows[:, 2:]).T)
    views = _clip(footprints, frames)
    if network.weld_share:
        views = _weld(views, footprints, network, weld)
    if network.shatter_share:
        views = _shatter(views, network, shatter)
    polygons = views.polygons
    frames = frames[views.tiles]
    if network.edge_px:
        frames = _shrunk(frames, network.edge_px, retreat)
    if network.jitter_px or network.jitter_scale:
        polygons = _moved(polygons, network, move)
    if network.ragged_px:
        polygons = _frayed(polygons, network.ragged_px, fray)
    polygons = largest_parts(_clipped(polygons, frames))
    area = np.nan_to_num(shapely.area(polygons))
    seen = (area > 0) & (area >= network.min_visible_px2) & _found(views, network, find)
    probabilities = _judged(categories[views.sources], views, network, judge)
    return Detections(polygons[seen], probabilities[seen], views.tiles[seen])


def _clip(footprints: np.ndarray, frames: np.ndarray) -> _Views:
    """Every connected part of a footprint that a frame shows, by frame."""
    tiles, sources = shapely.STRtree(footprints).query(frames, predicate="intersects")
    order = np.lexsort((sources, tiles))
    tiles, sources = tiles[order], sources[order]
    parts, owner = shapely.get_parts(_clipped(footprints[sources], frames[tiles]), return_index=True)
    solid = shapely.area(parts) > 0
    parts, owner = parts[solid], owner[solid]
    shares = shapely.area(parts) / shapely.area(footprints)[sources[owner]]
    return _Views(parts, tiles[owner], sources[owner], shares, np.zeros(len(parts), bool))


def _clipped(polygons: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """The polygons inside their frames; those wholly inside as they are."""
    parts = polygons.copy()
    cut = ~shapely.covers(frames, polygons)
    parts[cut] = shapely.intersection(polygons[cut], frames[cut])
    return parts


def _weld(views: _Views, footprints: np.ndarray, network: Network, rng: np.random.Generator) -> _Views:
    """The views with neighbours that touch in their tile drawn as one blob, by chance."""
    first, second = _neighbours(views, network.touch_px)
    welded = rng.random(len(first)) < network.weld_share
    count = len(views.tiles)
    edges = coo_array((np.ones(welded.sum(), np.int8), (first[welded], second[welded])), (count, count))
    blob = connected_components(edges, directed=False)[1]
    size = np.bincount(blob)[blob]
    rows = np.flatnonzero(size > 1)
    if not len(rows):
        return views
    _, owner = np.unique(blob[rows], return_inverse=True)
    order = np.argsort(owner, kind="stable")
    rows, owner = rows[order], owner[order]
    gathered = shapely.geometrycollections(views.polygons[rows], indices=owner)
    # Half the distance and a little, so that what stood just `touch_px` apart is one as well.
    bridge = network.touch_px / 2 + 0.1
    united = shapely.union_all(shapely.buffer(gathered, bridge, join_style="mitre")[:, None], axis=1)
    united = _sound(largest_parts(shapely.buffer(united, -bridge, join_style="mitre")))
    area = shapely.area(views.polygons[rows])
    largest = rows[np.lexsort((area, owner))[np.flatnonzero(np.diff(owner, append=-1))]]
    whole = np.bincount(owner, shapely.area(footprints)[views.sources[rows]])
    shares = np.minimum(np.bincount(owner, area) / whole, 1)
    alone = views.take(size == 1)
    together = _Views(
        np.concatenate([alone.polygons, united]),
        np.concatenate([alone.tiles, views.tiles[largest]]),
        np.concatenate([alone.sources, views.sources[largest]]),
        np.concatenate([alone.shares, shares]),
        np.zeros(len(alone.tiles) + len(united), bool),
    )
    return together.take(np.argsort(together.tiles, kind="stable"))


def _shatter(views: _Views, network: Network, rng: np.random.Generator) -> _Views:
    """The views with what an edge cuts parted across its long side, by chance."""
    chance, place = rng.random((2, len(views.tiles)))
    rows = np.flatnonzero((views.shares < _WHOLE) & (chance < network.shatter_share))
    corners = shapely.get_coordinates(shapely.oriented_envelope(views.polygons[rows])).reshape(-1, 5, 2)
    turned = np.hypot(*(corners[:, 1] - corners[:, 0]).T) < np.hypot(*(corners[:, 2] - corners[:, 1]).T)
    a, b, c, d = np.moveaxis(np.where(turned[:, None, None], corners[:, 1:], corners[:, :4]), 1, 0)
    along = (0.3 + 0.4 * place[rows])[:, None]
    here, there = a + along * (b - a), d + along * (c - d)
    halves = [shapely.polygons(np.stack(ring, axis=1)) for ring in ((a, here, there, d), (here, b, c, there))]
    parts = np.concatenate([largest_parts(_clipped(views.polygons[rows], half)) for half in halves])
    solid = ~shapely.is_missing(parts)
    broken = views.take(np.tile(rows, 2)[solid])
    broken = replace(broken, polygons=parts[solid], broken=np.ones(solid.sum(), bool))
    kept = views.take(np.setdiff1d(np.arange(len(views.tiles)), rows))
    both = _Views(
        *(
            np.concatenate([getattr(kept, column.name), getattr(broken, column.name)])
            for column in fields(_Views)
        )
    )
    return both.take(np.argsort(both.tiles, kind="stable"))


def _neighbours(views: _Views, distance_px: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of views of one tile, but of two buildings, that are at most so far apart."""
    # Tiles are laid far apart from each other, so that one tree finds pairs inside tiles alone.
    bounds = shapely.bounds(views.polygons)
    pitch = np.max(bounds[:, [2, 3]], initial=0) + 2 * distance_px + 1
    apart = views.tiles * pitch
    bounds[:, [0, 2]] += apart[:, None]
    reach = bounds + distance_px * np.array([-1, -1, 1, 1])
    first, second = shapely.STRtree(shapely.box(*bounds.T)).query(shapely.box(*reach.T))
    pair = (first < second) & (views.sources[first] != views.sources[second])
    first, second = first[pair], second[pair]
    near = shapely.dwithin(views.polygons[first], views.polygons[second], distance_px)
    first, second = first[near], second[near]
    order = np.lexsort((second, first))
    return first[order], second[order]


def _found(views: _Views, network: Network, rng: np.random.Generator) -> np.ndarray:
    """bool[n]: which views are found, by how much of a building they show."""
    enough = np.maximum(
        views.shares / network.enough_share, shapely.area(views.polygons) / network.enough_px2
    )
    recall = network.glimpse_recall + (1 - network.glimpse_recall) * np.minimum(enough, 1)
    return rng.random(len(recall)) < recall * (1 - network.drop_share)


def _shrunk(frames: np.ndarray, edge_px: float, rng: np.random.Generator) -> np.ndarray:
    """The frames with each side moved inwards by up to `edge_px`."""
    inwards = rng.uniform(0, edge_px, (len(frames), 4)) * np.array([1, 1, -1, -1])
    return shapely.box(*(shapely.bounds(frames).reshape(-1, 4) + inwards).T)


def _moved(polygons: np.ndarray, network: Network, rng: np.random.Generator) -> np.ndarray:
    """The polygons shifted, and scaled about their centroids."""
    shift = rng.normal(0, network.jitter_px, (len(polygons), 2))
    scale = 1 + rng.normal(0, network.jitter_scale, (len(polygons), 2))
    count = shapely.get_num_coordinates(polygons)
    centre = shapely.get_coordinates(shapely.centroid(polygons))
    offset = shapely.get_coordinates(polygons) - np.repeat(centre, count, axis=0)
    moved = offset * np.repeat(scale, count, axis=0) + np.repeat(centre + shift, count, axis=0)
    return _sound(shapely.set_coordinates(polygons.copy(), moved))


def _frayed(polygons: np.ndarray, ragged_px: float, rng: np.random.Generator) -> np.ndarray:
    """The polygons with outlines that wander: each bent by a smooth field of displacements of its own.

    The field is a sum of sine waves, so points near each other move together, and a bend this gentle
    folds nothing over.
    """
    polygons = shapely.segmentize(polygons, _RAGGED_STEP_PX)
    count = shapely.get_num_coordinates(polygons)
    xy = shapely.get_coordinates(polygons)
    displacement = np.zeros_like(xy)
    amplitude = ragged_px * np.sqrt(2 / _WAVES)
    for axis in (0, 1):
        for _ in range(_WAVES):
            direction, phase = rng.uniform(0, 2 * np.pi, (2, len(polygons)))
            frequency = 2 * np.pi / (_RAGGED_WAVE_PX * rng.uniform(0.5, 1.5, len(polygons)))
            wave = frequency[:, None] * np.column_stack([np.cos(direction), np.sin(direction)])
            angle = (xy * np.repeat(wave, count, axis=0)).sum(axis=1) + np.repeat(phase, count)
            displacement[:, axis] += amplitude * np.sin(angle)
    return _sound(shapely.set_coordinates(polygons, xy + displacement))


def _sound(polygons: np.ndarray) -> np.ndarray:
    """The polygons, those that moving has made invalid repaired."""
    invalid = ~shapely.is_valid(polygons)
    polygons[invalid] = largest_parts(shapely.make_valid(polygons[invalid]))
    return polygons


def _judged(categories: np.ndarray, views: _Views, network: Network, rng: np.random.Generator) -> np.ndarray:
    """float64[n, 3]: a probability for each category, what is missing to one being the background's."""
    rows = np.arange(len(categories))
    confusion, doubt = rng.random(len(rows)), rng.normal(0, 1, len(rows))
    wrong = confusion < network.wrong_category_share
    seen = np.where(wrong, categories + rng.integers(1, CATEGORIES, len(categories)), categories) % CATEGORIES
    sure = np.minimum(_SURE_LOGIT_BY_SHARE * views.shares, _SURE_LOGIT)
    median = np.where(views.broken, _FRAGMENT_LOGIT, sure)
    deviation = np.where(views.broken, _FRAGMENT_LOGIT_DEVIATION, _LOGIT_DEVIATION)
    score = expit(median + deviation * doubt)
    probabilities = np.repeat((score * (1 - score) / CATEGORIES)[:, None], CATEGORIES, axis=1)
    probabilities[rows, seen] = score
    return probabilities
