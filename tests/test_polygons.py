"""Repairs on arrays of polygons."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from shapely import box

from pipeline.polygons import areas_on, clip_to_frame, fill_holes, largest_parts, polygonal


def geometries(*items: object) -> np.ndarray:
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array


def test_largest_parts():
    house, shed, line = box(0, 0, 5, 5), box(9, 9, 10, 10), shapely.LineString([(0, 0), (1, 1)])
    nested = shapely.GeometryCollection([line, shapely.MultiPolygon([shed, house])])
    two = shapely.MultiPolygon([shed, house])
    found = largest_parts(geometries(house, two, nested, line, shapely.Polygon(), None))
    assert found[0] is house and found[1].equals(house) and found[2].equals(house)
    assert list(found[3:]) == [None, None, None]
    assert largest_parts(geometries()).shape == (0,)


def test_fill_holes():
    court = box(0, 0, 100, 100) - box(10, 10, 12, 12) - box(30, 30, 60, 60)
    plain = box(0, 0, 3, 3)
    found = fill_holes(geometries(plain, court, None), 100)
    assert found[0] is plain and found[2] is None
    assert found[1].equals(box(0, 0, 100, 100) - box(30, 30, 60, 60))
    assert fill_holes(geometries(court), 1)[0] is court
    assert fill_holes(geometries(court), 1e6)[0].equals(box(0, 0, 100, 100))


def test_polygonal_keeps_all_polygons_of_a_repaired_ring():
    crossed = shapely.Polygon([(0, 0), (2, 2), (2, 0), (0, 2), (-3, 2), (0, 2)])
    (repaired,) = polygonal(geometries(shapely.make_valid(crossed)))
    assert repaired.geom_type == "MultiPolygon" and repaired.area == 2


def test_polygonal():
    house, line = box(0, 0, 5, 5), shapely.LineString([(0, 0), (1, 1)])
    found = polygonal(geometries(house, shapely.GeometryCollection([house, line]), line, shapely.Polygon()))
    assert found[0] is house and found[1].equals(house) and found[2].is_empty
    assert shapely.area(found).tolist() == [25, 25, 0, 0]


def test_what_reaches_beyond_a_frame_is_cut_and_told():
    inside, across, comb, outside = (
        shapely.box(1, 1, 4, 4),
        shapely.box(-2, 2, 3, 5),
        shapely.Polygon([(8, 1), (12, 1), (12, 9), (8, 9), (8, 6), (11, 6), (11, 3), (8, 3)]),
        shapely.box(20, 20, 30, 30),
    )
    polygons = np.array([inside, across, comb, outside, None], dtype=object)
    clipped, beyond = clip_to_frame(polygons, (0, 0, 10, 10))
    assert beyond.tolist() == [False, True, True, True, False]
    assert clipped[0] is inside and clipped[3] is clipped[4] is None
    assert clipped[1].equals(shapely.box(0, 2, 3, 5)) and clipped[2].equals(shapely.box(8, 6, 10, 9))
    assert polygons[1] is across


@pytest.mark.parametrize("seed", range(20))
def test_areas_on_ground_are_those_on_its_union(seed):
    chance = np.random.default_rng(seed)
    corners = chance.integers(0, 100, (2, 60))
    tiles = shapely.box(*corners, *(corners + 20))
    spots = shapely.buffer(shapely.points(chance.uniform(0, 120, (25, 2))), chance.uniform(1, 15, 25))
    windows = shapely.box(*corners[:, ::3], *(corners[:, ::3] + chance.integers(1, 40, (2, 20))))
    touching = shapely.box(corners[0, :5] + 20, corners[1, :5], corners[0, :5] + 40, corners[1, :5] + 20)
    for ground in (windows, spots, [shapely.union_all(spots)], touching, np.array([]), tiles[:1]):
        expected = shapely.area(shapely.intersection(tiles, shapely.union_all(ground)))
        assert areas_on(tiles, ground) == pytest.approx(expected, abs=1e-9)
    exact = shapely.area(shapely.intersection(tiles, shapely.union_all(windows)))
    assert areas_on(tiles, windows).tolist() == exact.tolist(), "where every corner is a pixel's"


def test_areas_of_nothing_and_on_lines():
    tile = geometries(box(0, 0, 10, 10))
    assert areas_on(geometries(), tile).shape == (0,)
    mixed = shapely.GeometryCollection([shapely.LineString([(0, 0), (9, 9)]), box(5, 5, 20, 20)])
    assert areas_on(tile, geometries(mixed)).tolist() == [25]
