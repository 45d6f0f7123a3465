import doctest

import numpy as np
import orjson
import pyogrio
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import tiling
from pipeline.errors import ArtifactError, SettingsError
from pipeline.schema import Grid, Tile, Window
from pipeline.tiling import (
    PANEL_COLUMNS,
    TilingRules,
    build_tile_index,
    in_panels,
    parse_size,
    read_tile_index,
    shard_slices,
    tile_id,
    tile_row_col,
    tile_windows,
    write_tile_index,
)

NORTH_UP = (0.074, 0.0, 530_000.0, 0.0, -0.074, 9_366_000.0)


def grid(width=4000, height=3000, transform=NORTH_UP, crs="EPSG:32737"):
    return Grid(
        width=width, height=height, crs=crs, srid=32737, transform=transform, ground_m_per_px=(0.074, 0.074),
        bands=[1, 2, 3], stretch=None, observed="2018-01-01T00:00:00Z",
    )  # fmt: skip


def index(shares=None, **of_grid):
    image = grid(**of_grid)
    count = len(tile_windows(image.width, image.height, TilingRules()))
    return build_tile_index("grid_042", image, TilingRules(), np.ones(count) if shares is None else shares)


@st.composite
def rules(draw):
    tile_size = draw(st.integers(1, 60))
    return TilingRules(tile_size=tile_size, overlap=draw(st.integers(0, tile_size - 1)))


@settings(deadline=None, max_examples=150)
@given(width=st.integers(1, 150), height=st.integers(1, 150), rules=rules())
def test_every_pixel_is_in_a_tile_and_every_tile_in_the_image(width, height, rules):
    tiles = tile_windows(width, height, rules)
    seen = np.zeros((height, width), dtype=int)
    for _, _, (col_off, row_off, tile_width, tile_height) in tiles:
        assert tile_width == min(width, rules.tile_size) and tile_height == min(height, rules.tile_size)
        assert col_off >= 0 and row_off >= 0
        assert col_off + tile_width <= width and row_off + tile_height <= height
        seen[row_off : row_off + tile_height, col_off : col_off + tile_width] += 1
    assert seen.min() >= 1
    assert len({window for _, _, window in tiles}) == len(tiles)


@settings(deadline=None, max_examples=100)
@given(width=st.integers(1, 5000), height=st.integers(1, 5000), rules=rules())
def test_neighbours_overlap_at_least_as_asked_and_stand_in_row_order(width, height, rules):
    rules = TilingRules(rules.tile_size * 10, rules.overlap * 10)
    tiles = tile_windows(width, height, rules)
    assert [(row, col) for row, col, _ in tiles] == sorted((row, col) for row, col, _ in tiles)
    offsets = sorted({window.col_off for _, _, window in tiles})
    assert offsets[0] == 0 and offsets[-1] == max(0, width - rules.tile_size)
    assert all(0 < step <= rules.stride for step in np.diff(offsets))


def test_the_default_grid_of_a_known_image():
    tiles = tile_windows(8192, 4096, TilingRules())
    assert len(tiles) == 11 * 5
    assert tiles[0] == (0, 0, Window(0, 0, 1024, 1024))
    assert tiles[-1] == (4, 10, Window(7168, 3072, 1024, 1024))


def test_an_image_smaller_than_a_tile_is_one_tile():
    assert tile_windows(300, 200, TilingRules()) == [(0, 0, Window(0, 0, 300, 200))]
    assert [window for _, _, window in tile_windows(1500, 200, TilingRules())] == [
        Window(0, 0, 1024, 200),
        Window(476, 0, 1024, 200),
    ]


def test_an_image_may_have_twenty_thousand_tiles():
    assert len(tile_windows(75_000, 75_000, TilingRules(1024, 512))) == 146**2


def test_absurdly_many_tiles_are_refused_before_they_are_made():
    with pytest.raises(SettingsError, match=r"are too many for 75000 x 75000 px.*Raise tile_size"):
        tile_windows(75_000, 75_000, TilingRules(16, 15))


@pytest.mark.parametrize(
    "given",
    [{"tile_size": 0}, {"overlap": -1}, {"overlap": 1024}, {"tile_size": 128}, {"min_valid_share": 1.5}],
)
def test_rules_that_cannot_be_honoured_are_refused(given):
    with pytest.raises(SettingsError):
        TilingRules(**given)


@pytest.mark.parametrize(
    ("size", "pixels"),
    [
        ("1024", 1024),
        (1024, 1024),
        ("1024px", 1024),
        (" 512 px ", 512),
        ("75m", 1014),
        ("75.5 m", 1020),
        ("0", 0),
    ],
)
def test_sizes_in_pixels_or_metres(size, pixels):
    assert parse_size(size, (0.075, 0.073)) == pixels


@pytest.mark.parametrize("size", ["", "m", "-5", "10.5", "10.5px", "75ft", "1e3", "nan", None])
def test_what_is_no_size_is_refused(size):
    with pytest.raises(SettingsError, match="not a size"):
        parse_size(size, (0.075, 0.073))


@given(row=st.integers(0, 99_999), col=st.integers(0, 99_999))
def test_tile_ids_name_row_and_column(row, col):
    assert tile_row_col(tile_id(row, col)) == (row, col)


def test_docstrings_tell_the_truth():
    assert doctest.testmod(tiling).failed == 0


@given(n_tiles=st.integers(0, 500), shards=st.integers(1, 40))
def test_shards_hold_every_tile_once_and_are_equally_long(n_tiles, shards):
    slices = shard_slices(n_tiles, shards)
    runs = [list(range(n_tiles))[run] for run in slices]
    assert [tile for run in runs for tile in run] == list(range(n_tiles))
    assert len(slices) == shards and max(map(len, runs)) - min(map(len, runs)) <= 1


def test_no_shards_are_refused():
    with pytest.raises(SettingsError, match="shards must be at least 1"):
        shard_slices(5, 0)


def test_empty_tiles_are_left_out_and_counted():
    count = len(tile_windows(4000, 3000, TilingRules()))
    shares = np.linspace(0, 1, count)
    built = index(shares)
    assert built.empty_tiles == 1 and len(built.tiles) == count - 1
    assert built.tiles[0].tile_id == "r0000_c0001" and built.tiles[-1].valid_share == 1
    strict = build_tile_index("a", grid(), TilingRules(min_valid_share=float(shares[5])), shares)
    assert len(strict.tiles) == count - 5, "what has just enough is a tile"


def test_an_index_is_read_back_as_it_was(tmp_path):
    written = index(np.random.default_rng(1).random(len(tile_windows(4000, 3000, TilingRules()))))
    write_tile_index(tmp_path / "tiles.geojson", written)
    assert read_tile_index(tmp_path / "tiles.geojson") == written


def test_an_index_without_tiles_is_read_back_as_it_was(tmp_path):
    written = index(np.zeros(len(tile_windows(4000, 3000, TilingRules()))))
    write_tile_index(tmp_path / "tiles.geojson", written)
    assert read_tile_index(tmp_path / "tiles.geojson") == written
    assert written.tiles == []
    assert len(pyogrio.read_dataframe(tmp_path / "tiles.geojson")) == 0


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:32737", NORTH_UP),
        ("EPSG:3857", (0.149, 0, 4_368_223, 0, -0.149, -673_868)),
        ("EPSG:4326", (1e-6, 0, 39, 0, -1e-6, -6)),
        ("EPSG:32737", (0.06, 0.04, 530_000, 0.04, -0.06, 9_366_000)),
        ("EPSG:32737", (0.074, 0, 530_000, 0, 0.074, 9_366_000)),
    ],
)
def test_the_file_opens_as_tiles_on_the_map(tmp_path, crs, transform):
    written = index(crs=crs, transform=transform)
    write_tile_index(tmp_path / "tiles.geojson", written)
    frame = pyogrio.read_dataframe(tmp_path / "tiles.geojson")
    assert frame.crs == "EPSG:4326"
    assert frame.tile_id.tolist() == [tile.tile_id for tile in written.tiles]
    assert {"row", "col", "window", "valid_share", "bounds"} <= set(frame.columns)
    assert shapely.is_ccw(shapely.get_exterior_ring(frame.geometry.array)).all()
    # Curvature apart, a tile's bounds in the CRS are those of its outline brought back there.
    bounds = np.array([orjson.loads(text) if isinstance(text, str) else text for text in frame["bounds"]])
    assert np.allclose(frame.to_crs(crs).bounds.to_numpy(), bounds, rtol=0, atol=0.2 * abs(transform[0]))


def test_damage_is_named(tmp_path):
    path = tmp_path / "tiles.geojson"
    write_tile_index(path, index())
    whole = orjson.loads(path.read_bytes())
    broken = {
        "not JSON": path.read_bytes()[:-100],
        "no features": orjson.dumps({key: whole[key] for key in whole if key != "features"}),
        "other": b"[1, 2]",
        "bad share": orjson.dumps({**whole, "features": _with_share(whole["features"], 7)}),
    }
    for what, content in broken.items():
        path.write_bytes(content)
        with pytest.raises(ArtifactError, match=r"tiles\.geojson: not a tile index") as error:
            read_tile_index(path)
        assert "\n" not in str(error.value), what
    with pytest.raises(ArtifactError):
        read_tile_index(tmp_path / "absent.geojson")


def _with_share(features, share):
    first = {**features[0], "properties": {**features[0]["properties"], "valid_share": share}}
    return [first, *features[1:]]


def test_another_version_is_named(tmp_path):
    path = tmp_path / "tiles.geojson"
    write_tile_index(path, index())
    path.write_text(path.read_text().replace('"schema_version":1', '"schema_version":99'))
    with pytest.raises(ArtifactError, match="schema version 99 instead of 1"):
        read_tile_index(path)


def test_wide_images_are_read_in_panels():
    tiles = [
        Tile(tile_id=tile_id(row, column), window=Window(768 * column, 768 * row, 1024, 1024), valid_share=1)
        for row in range(3)
        for column in range(2 * PANEL_COLUMNS + 1)
    ]
    ordered = in_panels(tiles)
    assert sorted(ordered, key=lambda tile: tile.tile_id) == tiles
    panels = [tile_row_col(tile.tile_id)[1] // PANEL_COLUMNS for tile in ordered]
    assert panels == sorted(panels) and set(panels) == {0, 1, 2}
    assert [tile.tile_id for tile in ordered[-3:]] == ["r0000_c0048", "r0001_c0048", "r0002_c0048"]
    assert in_panels(tiles[:PANEL_COLUMNS]) == tiles[:PANEL_COLUMNS]
