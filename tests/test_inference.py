"""One tile's predictions as its artifact."""

import json

import numpy as np
import pytest
import shapely

from pipeline.errors import ArtifactError
from pipeline.inference import tile_detections
from pipeline.schema import Grid, Tile, TileDetections, Window
from pipeline.steps.buildings import read_detections, read_thresholds

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


def artifact(polygons, probabilities):
    objects = np.empty(len(polygons), dtype=object)
    objects[:] = polygons
    boxes = [(0, 0, 0, 0) if p is None else p.bounds for p in polygons]
    return tile_detections(
        "grid_042",
        TILE,
        GRID,
        objects,
        np.array(boxes, dtype=float).reshape(-1, 4),
        np.array(probabilities, dtype=float).reshape(-1, 3),
        NAMES,
        {"name": "maskrcnn_small", "weights": "abc"},
        "2026-01-01T00:00:00+00:00",
    )


def test_a_tile_without_detections_has_an_artifact():
    content = TileDetections.model_validate(artifact([], []))
    assert content.detections == [] and content.window == TILE.window


def test_polygons_are_in_image_pixels_and_all_probabilities_survive():
    holed = shapely.box(10, 20, 110, 120) - shapely.box(40, 50, 80, 90)
    raw = artifact([holed, None, shapely.box(0, 0, 30, 30)], [[0.1, 0.2, 0.6], [1, 0, 0], [0.5, 0.3, 0.1]])
    content = TileDetections.model_validate_json(json.dumps(raw))
    first, second = content.detections
    assert shapely.Polygon(first.polygon, first.holes).equals(
        shapely.transform(holed, lambda xy: xy + np.array((1000, 500)))
    )
    assert first.scores == {"foundation": 0.1, "unfinished": 0.2, "completed": 0.6} and first.score == 0.6
    assert second.box == (1000, 500, 1030, 530)
    assert first.lonlat == pytest.approx((39.2984, -5.7272), abs=5e-3)


def test_what_vanishes_when_rounded_is_no_detection():
    assert artifact([shapely.box(0, 0, 0.001, 5)], [[0.9, 0, 0]])["detections"] == []


@pytest.mark.parametrize("damage", ["", "{", '{"schema_version": 1}', "[]", '{"schema_version": 99}'])
def test_damaged_artifacts_are_refused_in_one_line(tmp_path, damage):
    path = tmp_path / "r0001_c0002.json"
    path.write_text(damage)
    with pytest.raises(ArtifactError, match="Delete it and the manifests") as raised:
        read_detections(path)
    assert "\n" not in str(raised.value) and str(path) in str(raised.value)


def test_artifacts_of_another_version_are_refused(tmp_path):
    path = tmp_path / "r0001_c0002.json"
    path.write_text(json.dumps(artifact([], []) | {"schema_version": 2}))
    with pytest.raises(ArtifactError):
        read_detections(path)


def test_thresholds_are_set_or_calibrated_or_one_half(tmp_path):
    path = tmp_path / "thresholds.json"
    assert read_thresholds(path, {}, NAMES) == dict.fromkeys(NAMES, 0.5)
    path.write_text('{"thresholds": {"foundation": 0.3, "unfinished": 0.4, "completed": 0.6}}')
    assert read_thresholds(path, {"completed": 0.9}, NAMES) == {
        "foundation": 0.3,
        "unfinished": 0.4,
        "completed": 0.9,
    }
    path.write_text("[]")
    with pytest.raises(ArtifactError):
        read_thresholds(path, {}, NAMES)
