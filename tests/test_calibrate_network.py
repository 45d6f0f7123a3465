"""CalibrateNetwork: a network that is always too sure is told so, on the ground that was held out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from painted_tiles import CATEGORIES, item, write_tile

from models.predict import Prediction
from models.recipe import Recipe
from models.tiles import read_image
from pipeline.calibration import CalibrationRules
from pipeline.inference import InferenceRules
from pipeline.schema import Grid, Pair, PairIndex, Tile, Window
from pipeline.seams import MergeRules
from pipeline.settings import Training
from pipeline.steps.calibration import _look, calibrate_network
from pipeline.steps.detections import Detector
from pipeline.steps.training import _scorer, pairs_on, read_sides, tile_samples
from pipeline.thresholds import ThresholdRules
from pipeline.vectorize import VectorizeRules

SIDE, STRIDE, COLUMNS = 96, 64, 6


class RedRoofs:
    """Finds every red rectangle exactly, and is sure of it whether it is a building or paint."""

    categories, digest, name = CATEGORIES, "0123456789abcdef", "red"

    def predict(self, images):
        return [self._of(image) for image in images]

    def _of(self, image):
        red = (image[0] > 200) & (image[1] < 100)
        columns, rows = np.flatnonzero(red.any(axis=0)), np.flatnonzero(red.any(axis=1))
        if not len(columns):
            return Prediction(np.empty((0, 4)), np.empty(0), np.empty((0, 3)), np.empty((0, 28, 28)))
        box = np.array([[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]], dtype=np.float32)
        score = 0.99 if rows[0] < 48 else 0.6
        masks = np.ones((1, 28, 28), np.float32)
        return Prediction(box, np.array([score]), np.array([[0.0, 0.0, score]]), masks)


@pytest.fixture
def pairs(tmp_path):
    """A row of overlapping tiles: buildings in the upper half, paint that is none in the lower."""
    index = []
    for column in range(COLUMNS):
        name, left = f"r0000_c{column:04d}", column * STRIDE
        items = [item(40, 60, 60, 80)] if column % 2 else [item(36, 10, 60, 34)]
        write_tile(tmp_path, name, items, SIDE, SIDE)
        content = json.loads((tmp_path / "items" / f"{name}.json").read_text())
        content["window"] = [left, 0, SIDE, SIDE]
        for entry in content["items"]:
            entry["label_id"] = column
        content["items"] = [] if column % 2 else content["items"]
        (tmp_path / "items" / f"{name}.json").write_text(json.dumps(content))
        ids = [entry["label_id"] for entry in content["items"]]
        index.append(Pair(tile_id=name, window=content["window"], label_ids=ids))
    place = {"crs": "EPSG:32737", "transform": (0.1, 0, 5e5, 0, -0.1, 9e6)}
    (tmp_path / "pairs.json").write_text(PairIndex(image_id="grid", pairs=index, **place).model_dump_json())
    return tmp_path


def red_detector(**rules):
    detector = Detector(Path("none.h5"), CATEGORIES, InferenceRules(**rules), VectorizeRules())
    detector.__dict__["predictor"] = RedRoofs()
    return detector


def calibrated(pairs, **training):
    detector, told = red_detector(batch_size=2), []
    _, held_out = read_sides([pairs], (), Training(**training).validation_share)
    made = calibrate_network(
        held_out,
        {pairs: 4.0},
        detector,
        Training(**training),
        MergeRules(),
        ThresholdRules(),
        CalibrationRules(min_detections=1),
        lambda share, text: told.append(share),
    )
    return made, told


def test_thresholds_part_buildings_from_paint_on_the_held_out_ground(pairs):
    made, told = calibrated(pairs, validation_share=0.5)
    assert made.tiles == 3 and told == [1 / 3, 2 / 3, 1.0]
    assert made.truths == made.categories["completed"].hits >= 1
    assert made.categories["completed"].f1.value == 1.0
    assert made.weights == RedRoofs.digest
    assert "held-out buildings" in made.sentence


@pytest.mark.parametrize("views", ["one", "flips", "all"])
def test_what_is_judged_in_a_tile_is_what_inference_writes_of_it(pairs, views):
    detector = red_detector(views=views)
    tile = Tile(tile_id="r0000_c0000", window=Window(0, 0, SIDE, SIDE), valid_share=1)
    image = read_image(pairs / "tiles" / f"{tile.tile_id}.tif")
    grid = Grid(
        width=SIDE, height=SIDE, crs="EPSG:32737", srid=32737, transform=(0.1, 0, 5e5, 0, -0.1, 9e6),
        ground_m_per_px=(0.1, 0.1), bands=[1, 2, 3], stretch=None, observed="",
    )  # fmt: skip
    ((_, judged),) = _look(detector, [(pairs, tile.tile_id)])
    (written,) = detector.detect("grid", grid, [tile], image[None], [None])
    (found,) = written["detections"]
    assert judged.probabilities.tolist() == [pytest.approx(found["scores"], abs=1e-4)]


def test_of_a_single_look_every_digit_is_judged(pairs):
    found = [(pairs, f"r0000_c{column:04d}") for column in range(COLUMNS)]
    looks = [judged for _, judged in _look(red_detector(batch_size=4), found)]
    for look, plain in zip(looks, tile_samples(RedRoofs(), found, Recipe()), strict=True):
        assert [*look.polygons] == [*plain.polygons]
        assert np.array_equal(look.probabilities, plain.probabilities)


def test_tiles_that_people_reviewed_are_found_by_their_windows(pairs):
    ground = {"grid": [Window(STRIDE, 0, SIDE, SIDE), Window(7, 0, SIDE, SIDE)], "elsewhere": []}
    assert pairs_on([pairs], ground) == [(pairs, "r0000_c0001")]


def test_without_held_out_ground_the_default_is_used_and_said(pairs):
    made, told = calibrated(pairs, validation_share=0.0)
    assert made.tiles == 0 and told == []
    assert set(made.thresholds.values()) == {0.5} and made.temperature == 1.0
    assert made.sentence.startswith("No held-out ground")


def test_buildings_of_unknown_condition_are_asked_for_and_barely_visible_ones_are_not(tmp_path):
    items = [item(36, 10, 60, 34, None), item(0, 40, 10, 60, visible_share=0.1)]
    write_tile(tmp_path, "r0000_c0000", items)
    (sample,) = tile_samples(RedRoofs(), [(tmp_path, "r0000_c0000")], Recipe())
    assert sample.truth_categories.tolist() == [-1]
    assert [polygon.bounds for polygon in sample.truth_polygons] == [(36, 10, 60, 34)]
    assert [polygon.bounds for polygon in sample.ignored_polygons] == [(0, 40, 10, 60)]


def test_an_epoch_loses_nothing_by_finding_what_nobody_is_asked_to_find(tmp_path):
    write_tile(tmp_path, "asked", [item(36, 10, 60, 34)])
    write_tile(tmp_path, "barely", [item(0, 10, 10, 34, visible_share=0.1)])
    pairs = [(tmp_path, "asked"), (tmp_path, "barely")]
    alone, both = (_scorer(some, CATEGORIES, Recipe())(RedRoofs()) for some in (pairs[:1], pairs))
    assert alone == both == {"score": pytest.approx(2 / 3), "mean_f1": pytest.approx(1 / 3), "all_f1": 1.0}
