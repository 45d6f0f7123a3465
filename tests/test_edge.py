"""Labels that reach beyond the image are judged by what of them it shows."""

from __future__ import annotations

import numpy as np
import shapely
from shapely import box

from pipeline.edge import cut_to_image

IMAGE = box(0, 0, 100, 100)


def geometries(*items: object) -> np.ndarray:
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array


def test_labels_are_cut_to_the_image_and_slivers_ignored():
    inside, on_edge, half, sliver = (
        box(5, 5, 15, 15),
        box(90, 5, 100, 15),
        box(-10, 40, 10, 60),
        box(98, 40, 108, 50),
    )
    touching, far = box(100, 70, 110, 80), box(300, 0, 310, 10)
    shown = cut_to_image(geometries(inside, on_edge, half, sliver, touching, far), IMAGE)
    assert shown.polygons[0] is inside and shown.polygons[1] is on_edge
    assert shown.polygons[2].equals(box(0, 40, 10, 60))
    assert shown.shares.tolist() == [1, 1, 0.5, 0.2, 0, 0]
    assert shown.asked.tolist() == [True, True, True, False, False, False]
    assert [one.equals(box(98, 40, 100, 50)) for one in shown.ignored] == [True]
    assert shown.counts.model_dump() == {"outside_image": 2, "barely_shown": 1, "cut": 1}


def test_what_no_one_can_find_stays_a_label_as_drawn():
    crossed = shapely.Polygon([(-5, 0), (5, 10), (5, 0), (-5, 10)])
    given = geometries(
        crossed, shapely.Polygon(), None, shapely.Point(-1, 5), shapely.LineString([(-5, 5), (5, 5)])
    )
    shown = cut_to_image(given, IMAGE)
    assert all(one is drawn for one, drawn in zip(shown.polygons, given, strict=True))
    assert shown.asked.tolist() == [True, True, True, False, True]
    assert cut_to_image(geometries(), IMAGE).counts.sentence == ""


def test_a_roof_that_a_diagonal_edge_cuts_in_two_is_one_label_of_two_parts():
    comb = shapely.Polygon([(95, 0), (110, 0), (110, 30), (95, 30), (95, 20), (105, 20), (105, 10), (95, 10)])
    shown = cut_to_image(geometries(comb), IMAGE)
    assert shown.polygons[0].equals(shapely.MultiPolygon([box(95, 0, 100, 10), box(95, 20, 100, 30)]))


def test_buildings_on_ignored_labels_are_excused_unless_they_match_another():
    huge = box(20, 20, 400, 400)  # a fence around the settlement rather than a building
    house = box(30, 30, 40, 40)
    shown = cut_to_image(geometries(huge, house), IMAGE)
    found = geometries(box(30, 30, 40, 41), box(50, 50, 60, 60), box(5, 5, 15, 15), box(5, 50, 25, 60), None)
    assert shown.excuses(found).tolist() == [False, True, False, False, False]
    assert cut_to_image(geometries(house), IMAGE).excuses(found).tolist() == [False] * 5
