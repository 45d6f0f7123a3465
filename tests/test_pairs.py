"""Which tiles are learnt from, and the items in them."""

import numpy as np
import shapely

from pipeline.pairs import PairRules, choose_tiles, items_in_tile
from pipeline.schema import Tile, Window


def tiles(count):
    return [
        Tile(tile_id=f"r0000_c{i:04d}", window=Window(100 * i, 0, 100, 100), valid_share=1)
        for i in range(count)
    ]


def test_all_tiles_with_items_and_a_share_of_the_others():
    counts = [1, 0, 2, 0, 0, 0, 3, 0, 0, 0, 1, 1]
    chosen = choose_tiles(tiles(12), counts, np.ones(12), PairRules(empty_share=0.4))
    assert [tile.window.col_off // 100 for tile in chosen] == [0, 1, 2, 6, 9, 10, 11], "1 and 9 are empty"


def test_what_people_have_looked_at_is_kept_though_nothing_is_there():
    rules = PairRules(empty_share=0.0)
    chosen = choose_tiles(tiles(5), [1, 0, 0, 0, 1], np.ones(5), rules, [0, 1, 0.9, 0, 1])
    assert [tile.window.col_off // 100 for tile in chosen] == [0, 1, 4]


def test_unlabelled_ground_is_not_learnt_from():
    chosen = choose_tiles(tiles(4), [1, 1, 0, 1], [1, 0.4, 0.4, 0.6], PairRules())
    assert [tile.tile_id for tile in chosen] == ["r0000_c0000", "r0000_c0003"]


def test_no_tiles_and_no_items():
    assert choose_tiles([], [], [], PairRules()) == []
    assert choose_tiles(tiles(3), [0, 0, 0], np.ones(3), PairRules()) == []
    assert items_in_tile(tiles(1)[0], [], [], [], []) == []


def test_items_are_in_tile_pixels_with_their_holes_and_parts():
    holed = shapely.box(110, 10, 150, 50) - shapely.box(120, 20, 130, 30)
    parts = shapely.MultiPolygon([shapely.box(160, 0, 170, 10), shapely.box(180, 0, 190, 10)])
    items = items_in_tile(tiles(2)[1], [parts, holed], [7, 3], [None, "completed"], [0.5, 1.0000001])
    assert [(item.label_id, item.category, item.visible_share) for item in items] == [
        (3, "completed", 1.0),
        (7, None, 0.5),
    ]
    rebuilt = [shapely.MultiPolygon([(part[0], part[1:]) for part in item.polygons]) for item in items]
    assert rebuilt[0].equals(shapely.transform(holed, lambda xy: xy - (100, 0)))
    assert rebuilt[1].equals(shapely.transform(parts, lambda xy: xy - (100, 0)))
