"""Clipping to tiles: the same parts as one intersection per pair, whatever the boxes."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.clipping import _lattice, clip_to_boxes
from pipeline.frames import window_boxes
from pipeline.tiling import TilingRules, tile_windows


def tiles(width=300, height=200, size=64, overlap=16):
    rules = TilingRules(tile_size=size, overlap=overlap)
    return window_boxes([window for _, _, window in tile_windows(width, height, rules)])


def polygons(seed, count=60):
    """Stars with and without holes, many across tiles' edges and some along them."""
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, (count, 11)), axis=1)
    radius = rng.uniform(0.3, 1, (count, 11)) * rng.uniform(3, 60, (count, 1))
    corners = np.stack([np.cos(angles), np.sin(angles)], axis=2) * radius[:, :, None]
    stars = shapely.polygons(corners + rng.uniform(-20, 320, (count, 1, 2)))
    stars = stars[shapely.is_valid(stars)]
    rings = shapely.difference(stars, shapely.buffer(shapely.centroid(stars), 3))
    low = rng.integers(0, 5, (20, 2)) * 48.0
    blocks = shapely.box(low[:, 0], low[:, 1], low[:, 0] + 48, low[:, 1] + 64)
    found = np.concatenate([stars, rings[shapely.get_type_id(rings) == 3], blocks])
    return found[shapely.is_valid(found) & (shapely.area(found) > 0)]


def by_the_book(shapes, boxes):
    """Area of every pair of which it is not nothing."""
    box, shape = shapely.STRtree(shapes).query(boxes, predicate="intersects")
    area = shapely.area(shapely.intersection(boxes[box], shapes[shape]))
    pairs = zip(box.tolist(), shape.tolist(), strict=True)
    return {pair: size for pair, size in zip(pairs, area, strict=True) if size > 1e-9}


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), overlap=st.sampled_from([0, 16, 40]))
def test_parts_are_those_of_an_intersection(seed, overlap):
    shapes, boxes = polygons(seed), tiles(overlap=overlap)
    assert _lattice(boxes) is not None
    found = clip_to_boxes(shapes, boxes)
    assert np.array_equal(np.lexsort((found.polygon, found.box)), np.arange(len(found.box)))
    areas = shapely.area(found.parts)
    expected = by_the_book(shapes, boxes)
    pairs = list(zip(found.box.tolist(), found.polygon.tolist(), strict=True))
    assert {pair for pair, area in zip(pairs, areas, strict=True) if area > 1e-9} == set(expected)
    assert areas.sum() == pytest.approx(sum(expected.values()), rel=1e-9)
    held, frames = found.parts[areas > 1e-9], boxes[found.box[areas > 1e-9]]
    assert shapely.is_valid(held).all() and np.isin(shapely.get_type_id(held), (3, 6)).all()
    assert shapely.covers(shapely.buffer(frames, 1e-6), held).all()


@pytest.mark.parametrize("boxes", ["missing", "turned", "scattered"])
def test_boxes_need_not_be_a_whole_grid(boxes):
    shapes, frames = polygons(3), tiles()
    if boxes == "missing":
        frames = frames[np.arange(len(frames)) % 3 > 0]
    elif boxes == "turned":
        frames = np.array([shapely.affinity.rotate(frame, 20, origin=(0, 0)) for frame in frames])
    else:
        rng = np.random.default_rng(0)
        low = rng.uniform(0, 250, (40, 2))
        frames = shapely.box(low[:, 0], low[:, 1], low[:, 0] + rng.uniform(5, 70, 40), low[:, 1] + 30)
    assert (_lattice(frames) is None) == (boxes != "missing")
    found = clip_to_boxes(shapes, frames)
    areas = shapely.area(found.parts)
    expected = by_the_book(shapes, frames)
    pairs = dict(zip(zip(found.box.tolist(), found.polygon.tolist(), strict=True), areas, strict=True))
    assert {pair: area for pair, area in pairs.items() if area > 1e-9} == pytest.approx(expected)


def test_nothing_clips_to_nothing():
    none = np.empty(0, dtype=object)
    for shapes, boxes in ((none, tiles()), (polygons(0), none), (none, none)):
        assert [len(part) for part in clip_to_boxes(shapes, boxes)] == [0, 0, 0]
