"""One tile's predictions as its artifact."""

import json

import numpy as np
import orjson
import pytest
import shapely
from hypothesis import example, given, settings
from hypothesis import strategies as st
from shapely import affinity

from pipeline.calibration import CalibrationRules, calibrate
from pipeline.errors import ArtifactError, SettingsError
from pipeline.inference import InferenceRules, clip_to_ground, tile_detections
from pipeline.schema import Grid, Tile, TileDetections, Window
from pipeline.steps.buildings import read_selection
from pipeline.steps.detection_rows import outlines_px, read_detections
from pipeline.thresholds import ThresholdRules

GRID = Grid(
    width=4000,
    height=3000,
    crs="EPSG:32737",
    srid=32737,
    transform=(0.1, 0, 533000, 0, -0.1, 9367000),
    ground_m_per_px=(0.1, 0.1),
    bands=[1, 2, 3],
    stretch=None,
    observed="2018-04-30T09:12:00Z",
)
TILE = Tile(tile_id="r0001_c0002", window=Window(1000, 500, 512, 512), valid_share=1)
NAMES = ("foundation", "unfinished", "completed")


def artifact(polygons, probabilities, ambiguities=None):
    objects = np.empty(len(polygons), dtype=object)
    objects[:] = polygons
    return tile_detections(
        "grid_042",
        TILE,
        GRID,
        objects,
        np.array(probabilities, dtype=float).reshape(-1, 3),
        NAMES,
        {"name": "maskrcnn_small", "weights": "abc"},
        "2026-01-01T00:00:00+00:00",
        ambiguities,
    )


def test_a_detection_tells_how_unsure_its_mask_is_where_that_is_known():
    house = shapely.box(10, 20, 110, 120)
    raw = artifact([house, None, house], [[0.9, 0, 0]] * 3, np.array([0.12345, 0.5, np.nan]))
    content = TileDetections.model_validate_json(json.dumps(raw))
    assert [one.ambiguity for one in content.detections] == [0.123, None]
    assert "ambiguity" not in raw["detections"][1]


def test_a_tile_without_detections_has_an_artifact():
    content = TileDetections.model_validate_json(json.dumps(artifact([], [])))
    assert content.detections == [] and content.window == TILE.window


def test_polygons_are_in_image_pixels_and_all_probabilities_survive():
    holed = shapely.box(10, 20, 110, 120) - shapely.box(40, 50, 80, 90)
    raw = artifact([holed, None, shapely.box(0, 0, 30, 30)], [[0.1, 0.2, 0.6], [1, 0, 0], [0.5, 0.3, 0.1]])
    content = TileDetections.model_validate_json(json.dumps(raw))
    first, second = outlines_px(content)
    assert first.equals(shapely.transform(holed, lambda xy: xy + np.array((1000, 500))))
    assert second.equals(shapely.box(1000, 500, 1030, 530))
    assert content.categories == list(NAMES) and content.detections[0].scores == [0.1, 0.2, 0.6]


def test_rings_are_flat_open_and_in_tile_pixels_whole_ones_where_buildings_are_large():
    large, small = shapely.box(10.3, 20.26, 110.4, 120), shapely.box(-0.01, 3, 30.24, 20.06)
    one, other = (found["polygon"] for found in artifact([large, small], [[0.9, 0, 0]] * 2)["detections"])
    assert sorted(zip(one[::2], one[1::2], strict=True)) == [(10, 20), (10, 120), (110, 20), (110, 120)]
    assert all(isinstance(number, int) for number in one)
    assert sorted(zip(other[::2], other[1::2], strict=True)) == [(0, 3), (0, 20.1), (30.2, 3), (30.2, 20.1)]
    assert "-0.0" not in json.dumps(other)


GROUND = shapely.MultiPolygon([shapely.box(0, 0, 300, 512)])


def clip(*polygons, ground=GROUND, share=0.5):
    objects = np.empty(len(polygons), dtype=object)
    objects[:] = polygons
    return clip_to_ground(objects, (512, 512), ground, share)


def test_what_lies_mostly_on_nodata_is_dropped_and_the_rest_is_cut_straight():
    inside, most, least, none = (shapely.box(x, 100, x + 100, 180) for x in (100, 240, 260, 400))
    kept, counts = clip(inside, most, least, none, None)
    assert counts == {"on_nodata": 2, "clipped": 1}
    assert kept[0] is inside and kept[1].equals(shapely.box(240, 100, 300, 180))
    assert kept[2] is kept[3] is kept[4] is None


def test_a_tile_without_valid_ground_keeps_nothing_at_any_share():
    kept, counts = clip(shapely.box(0, 0, 50, 50), ground=shapely.MultiPolygon(), share=0.0)
    assert kept.tolist() == [None] and counts == {"on_nodata": 1, "clipped": 0}


def test_what_nodata_tears_apart_keeps_its_largest_part():
    ground = shapely.MultiPolygon([shapely.box(0, 0, 300, 512), shapely.box(320, 0, 512, 512)])
    (kept,), counts = clip(shapely.box(200, 0, 400, 50), ground=ground)
    assert kept.equals(shapely.box(200, 0, 300, 50)) and counts["clipped"] == 1


def test_a_tile_ends_the_polygons_of_its_detections():
    kept, counts = clip(shapely.box(-0.4, 10, 50, 60), shapely.box(520, 10, 550, 60), ground=None)
    assert kept[0].equals(shapely.box(0, 10, 50, 60)) and kept[1] is None
    assert counts == {"on_nodata": 0, "clipped": 0}


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_is_0_to_1(share):
    with pytest.raises(SettingsError, match="min_valid_share"):
        InferenceRules(min_valid_share=share)


def test_what_vanishes_when_rounded_is_no_detection():
    assert artifact([shapely.box(0, 0, 0.001, 5)], [[0.9, 0, 0]])["detections"] == []


def test_rounding_to_tenths_of_a_pixel_keeps_polygons_valid():
    dented = shapely.Polygon([(0, 0), (40, 0), (20.02, 29.98), (20, 30.04), (40, 60), (0, 60), (19.98, 30)])
    assert dented.is_valid and not shapely.transform(dented, lambda xy: xy.round(1)).is_valid
    (found,) = artifact([dented], [[0.9, 0, 0]])["detections"]
    kept = shapely.Polygon(np.reshape(found["polygon"], (-1, 2)))
    assert kept.is_valid and kept.area == pytest.approx(dented.area / 2, rel=0.01)
    assert found["polygon"] == np.round(found["polygon"], 1).tolist()


def test_rounding_to_whole_pixels_keeps_polygons_valid():
    dented = shapely.Polygon([(0, 0), (90, 0), (45.3, 59.8), (45, 60.4), (90, 120), (0, 120), (44.8, 60)])
    assert dented.is_valid and not shapely.transform(dented, lambda xy: xy.round()).is_valid
    (found,) = artifact([dented], [[0.9, 0, 0]])["detections"]
    kept = shapely.Polygon(np.reshape(found["polygon"], (-1, 2)))
    assert kept.is_valid and kept.area == pytest.approx(dented.area / 2, rel=0.03)
    assert all(isinstance(number, int) for number in found["polygon"])


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.tuples(st.floats(0, 400), st.floats(0, 400), st.floats(1e-3, 90), st.floats(1e-3, 90)), max_size=5
    )
)
@example([(1.5607390778956614, 0.0, 0.001, 51.0)])  # GEOS finds no shell for its hole on the grid
def test_what_is_written_is_valid_and_whatever_is_seen_is_written(rectangles):
    houses = [affinity.rotate(shapely.box(x, y, x + w, y + h), w * h) for x, y, w, h in rectangles]
    yards = [house - affinity.scale(house, 0.5, 0.5) for house in houses]
    raw = artifact(yards, [[0.2, 0.3, 0.4]] * len(yards))
    drawn = outlines_px(TileDetections.model_validate_json(orjson.dumps(raw)))
    assert all(polygon.is_valid and polygon.area > 0 for polygon in drawn)
    assert len(drawn) >= sum(min(w, h) > 0.5 for _, _, w, h in rectangles)


@pytest.mark.parametrize("damage", ["", "{", '{"schema_version": 1}', "[]", '{"schema_version": 99}'])
def test_damaged_artifacts_are_refused_in_one_line(tmp_path, damage):
    path = tmp_path / "r0001_c0002.json"
    path.write_text(damage)
    with pytest.raises(ArtifactError, match="Delete it and the manifests") as raised:
        read_detections(path)
    assert "\n" not in str(raised.value) and str(path) in str(raised.value)


def test_artifacts_of_another_version_are_refused(tmp_path):
    path = tmp_path / "r0001_c0002.json"
    path.write_text(json.dumps(artifact([], []) | {"schema_version": 1}))
    with pytest.raises(ArtifactError, match="schema version 1 instead of 2"):
        read_detections(path)


def test_thresholds_are_set_or_calibrated_or_one_half(tmp_path):
    path = tmp_path / "thresholds.json"
    assert read_selection(path, {}, NAMES) == (1.0, dict.fromkeys(NAMES, 0.5), None)
    made = calibrate([], NAMES, ThresholdRules(default=0.3), CalibrationRules(), tiles=0, weights="")
    path.write_text(made.model_copy(update={"temperature": 2.0}).model_dump_json())
    temperature, thresholds, calibration = read_selection(path, {"completed": 0.9}, NAMES)
    assert temperature == 2.0 == calibration.temperature
    assert thresholds == {"foundation": 0.3, "unfinished": 0.3, "completed": 0.9}
    with pytest.raises(SettingsError, match="unknown categories"):
        read_selection(path, {"castle": 0.9}, NAMES)
    path.write_text('{"thresholds": {"foundation": 0.3}}')
    with pytest.raises(ArtifactError, match="CalibrateNetwork makes it anew"):
        read_selection(path, {}, NAMES)
