"""The seams' benchmark: its simulation, its score, its rules and what it writes."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import shapely

from pipeline.seams import Detections
from tests.benchmarks.seams import scenes
from tests.benchmarks.seams.__main__ import PAGE, SECTION
from tests.benchmarks.seams.comparison import compare
from tests.benchmarks.seams.growth import Growth, exponent, side_by_side
from tests.benchmarks.seams.network import DROPPING_10, IDEAL, PRESETS, ROUGH, Network, see
from tests.benchmarks.seams.peers import OURS, PLAIN, Peer
from tests.benchmarks.seams.results import DEFAULT_LAYOUT, Results
from tests.benchmarks.seams.scenes import Scene, windows_over
from tests.benchmarks.seams.score import score
from tests.benchmarks.seams.tables import report
from tests.benchmarks.seams.targets import Check
from tests.benchmarks.seams.trial import trial

SEEDS = range(3)
NEAR = 3.0  # px by which libraries that work in whole pixels may be off


@pytest.fixture(scope="module")
def rows() -> Scene:
    return scenes.rows(60)


@pytest.fixture(scope="module")
def windows(rows: Scene) -> np.ndarray:
    return rows.windows(512, 128)


@pytest.fixture(scope="module")
def small_scenes(rows: Scene) -> list[Scene]:
    return [scenes.typical(150), scenes.big(8), rows]


def scene_of(*boxes: tuple[float, float, float, float]) -> Scene:
    """Rectangles x1, y1, x2, y2 in pixels of 5 cm."""
    footprints = shapely.box(*np.array(boxes, float).T)
    return Scene("boxes", footprints, np.zeros(len(boxes), np.int64), 0.05)


def as_bytes(detections: Detections) -> tuple[bytes, ...]:
    arrays = detections.probabilities, detections.tiles
    return b"".join(shapely.to_wkb(detections.polygons)), *(array.tobytes() for array in arrays)


def tiles_of(detections: Detections, windows: np.ndarray) -> np.ndarray:
    x, y, width, height = windows[detections.tiles].T
    return shapely.box(x, y, x + width, y + height)


class TestNetwork:
    def test_a_perfect_one_sees_the_clipped_footprints(self, rows, windows):
        seen = see(rows.footprints, rows.categories, windows, Network(), seed=0)
        x, y, width, height = windows.T
        frames = shapely.box(x, y, x + width, y + height)
        expected = [
            part
            for frame in frames
            for part in shapely.get_parts(shapely.intersection(rows.footprints, frame))
            if part.area > 0
        ]
        assert shapely.equals_exact(
            shapely.normalize(seen.polygons), shapely.normalize(expected), tolerance=1e-9
        ).all()

    @pytest.mark.parametrize("network", PRESETS.values(), ids=PRESETS)
    def test_it_is_deterministic_and_its_seed_counts(self, rows, windows, network):
        one, again, other = (
            see(rows.footprints, rows.categories, windows, network, seed) for seed in (0, 0, 1)
        )
        assert as_bytes(one) == as_bytes(again) != as_bytes(other)

    @pytest.mark.parametrize("network", PRESETS.values(), ids=PRESETS)
    def test_detections_are_what_merging_takes(self, rows, windows, network):
        seen = see(rows.footprints, rows.categories, windows, network, seed=0)
        assert shapely.is_valid(seen.polygons).all()
        assert set(shapely.get_type_id(seen.polygons)) == {3}
        assert shapely.covers(shapely.buffer(tiles_of(seen, windows), 1e-6), seen.polygons).all()
        assert shapely.area(seen.polygons).min() >= network.min_visible_px2
        assert (seen.probabilities > 0).all() and (seen.probabilities.sum(axis=1) <= 1 + 1e-12).all()
        assert (np.diff(seen.tiles) >= 0).all()

    def test_missing_detections_leave_the_others_as_they_were(self, rows, windows):
        whole = see(rows.footprints, rows.categories, windows, IDEAL, seed=0)
        fewer = see(rows.footprints, rows.categories, windows, DROPPING_10, seed=0)
        assert set(shapely.to_wkb(fewer.polygons)) < set(shapely.to_wkb(whole.polygons))
        assert 0.8 < len(fewer) / len(whole) < 0.97

    def test_welding_makes_one_of_what_touches_in_a_tile(self):
        scene = scene_of((100, 100, 200, 200), (203, 100, 300, 200), (400, 100, 500, 200))
        windows = windows_over(600, 300, 600, 0)
        sure = see(scene.footprints, scene.categories, windows, Network(weld_share=1), seed=0)
        assert len(sure) == 2
        welded = sure.polygons[shapely.area(sure.polygons).argmax()]
        assert welded.symmetric_difference(shapely.box(100, 100, 300, 200)).area < 1
        never = see(scene.footprints, scene.categories, windows, Network(), seed=0)
        assert len(never) == 3

    def test_shattering_breaks_what_the_edge_cuts_into_doubtful_fragments(self, rows, windows):
        whole, broken = (
            see(rows.footprints, rows.categories, windows, network, 0)
            for network in (Network(), Network(shatter_share=1))
        )
        cut = ~np.isin(shapely.to_wkb(whole.polygons), shapely.to_wkb(rows.footprints))
        fragments = ~np.isin(shapely.to_wkb(broken.polygons), shapely.to_wkb(whole.polygons))
        assert fragments.sum() == 2 * cut.sum() > 0
        assert shapely.area(broken.polygons).sum() == pytest.approx(shapely.area(whole.polygons).sum())
        score = broken.probabilities.max(axis=1)
        assert np.median(score[fragments]) < 0.5 < np.median(score[~fragments])

    def test_neighbours_that_touch_outside_a_tile_are_not_welded_in_it(self):
        # They touch at x 300 only, which the left tile does not see.
        wedge = shapely.Polygon([(100, 100), (400, 100), (400, 300), (300, 300)])
        other = shapely.Polygon([(100, 340), (300, 301), (400, 301), (400, 500), (100, 500)])
        footprints, windows = np.array([wedge, other]), windows_over(400, 600, 400, 0)
        windows = np.array([[0, 0, 200, 600], [200, 0, 200, 600]])
        seen = see(footprints, np.zeros(2, np.int64), windows, Network(weld_share=1), seed=0)
        assert np.bincount(seen.tiles).tolist() == [2, 1]

    def test_glimpses_are_missed_more_often_than_wholes(self, rows, windows):
        perfect = see(rows.footprints, rows.categories, windows, Network(), seed=0)
        blinkered = see(rows.footprints, rows.categories, windows, Network(glimpse_recall=0.0), seed=0)
        found = np.isin(shapely.to_wkb(perfect.polygons), shapely.to_wkb(blinkered.polygons))
        whole = np.isin(shapely.to_wkb(perfect.polygons), shapely.to_wkb(rows.footprints))
        assert found[whole].all()
        assert 0 < found[~whole].mean() < 1

    def test_categories_are_mistaken_as_often_as_asked(self, rows, windows):
        kept = Network(), replace(Network(), wrong_category_share=0.3)
        right, wrong = (see(rows.footprints, rows.categories, windows, network, 0) for network in kept)
        mistaken = right.probabilities.argmax(axis=1) != wrong.probabilities.argmax(axis=1)
        assert 0.2 < mistaken.mean() < 0.4

    def test_rough_borders_stay_near_the_true_ones(self, rows, windows):
        ragged = see(rows.footprints, rows.categories, windows, Network(ragged_px=2.0), seed=0)
        perfect = see(rows.footprints, rows.categories, windows, Network(), seed=0)
        apart = shapely.hausdorff_distance(ragged.polygons, perfect.polygons)
        assert 1 < np.median(apart) < 12


class TestScenes:
    def test_big_buildings_are_as_long_as_promised_and_apart(self):
        scene = scenes.big(30)
        length = [max(np.ptp(shapely.get_coordinates(shape), axis=0)) for shape in scene.footprints]
        tiles = np.array(length) / scenes.BIG_TILE_PX
        assert tiles.min() > 0.2 and tiles.max() < 3.1  # turned, so a little more or less
        assert len(scene.neighbours) == 0

    def test_rows_touch(self, rows):
        assert len(rows.footprints) >= 60
        assert len(rows.neighbours) > 0.7 * len(rows.footprints)

    def test_a_part_is_the_middle(self, rows):
        part = rows.part(10)
        assert len(part.footprints) == len(part.categories) == 10
        assert np.ptp(shapely.bounds(part.footprints)[:, 0]) < np.ptp(shapely.bounds(rows.footprints)[:, 0])

    def test_what_was_digitised_twice_is_no_neighbour_of_itself(self):
        scene = scene_of((0, 0, 100, 100), (2, 2, 101, 101), (102, 0, 200, 100))
        assert scene.neighbours.tolist() == [[0, 2], [1, 2]]

    def test_labels_become_footprints_in_pixels(self, tmp_path):
        ring = [[39.0, -6.0], [39.0001, -6.0], [39.0001, -6.0001], [39.0, -6.0001], [39.0, -6.0]]
        path = tmp_path / "labels.geojson"
        shapes = [{"type": "Polygon", "coordinates": [ring]}, {"type": "Polygon", "coordinates": []}]
        features = [
            {"type": "Feature", "properties": {"condition": "Foundation"}, "geometry": shape}
            for shape in shapes
        ]
        path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
        scene = scenes.real(path, metres_per_pixel=0.1)
        assert len(scene.footprints) == 1 and scene.categories.tolist() == [0]
        assert scene.spans_m() == pytest.approx([11.1], abs=0.1)

    def test_labels_that_are_not_there_are_said_so(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="not part of the project"):
            scenes.real(tmp_path / "none.geojson")


class TestScore:
    TRUTH = scene_of((0, 0, 100, 100), (102, 0, 200, 100), (400, 0, 1100, 100))

    def test_the_truth_is_perfect(self):
        best = score(self.TRUTH.footprints, self.TRUTH)
        assert (best.found, best.f1, best.duplicates, best.split, best.welded) == (3, 1.0, 0, 0, 0.0)
        assert best.large_recall == 1.0

    def test_nothing_found(self):
        none = score(np.empty(0, object), self.TRUTH)
        assert (none.found, none.f1, none.duplicates, none.split, none.large_recall) == (0, 0.0, 0, 0, 0.0)

    def test_a_second_look_is_a_duplicate(self):
        found = np.append(self.TRUTH.footprints, [shapely.box(3, 3, 60, 100), shapely.box(0, 0, 99, 99)])
        twice = score(found, self.TRUTH)
        assert (twice.duplicates, twice.split) == (2, 0)
        assert twice.f1 == pytest.approx(2 * 3 / (5 + 3))

    def test_two_parts_are_a_split(self):
        found = np.array([shapely.box(400, 0, 700, 100), shapely.box(690, 0, 1100, 100)])
        parts = score(found, self.TRUTH)
        assert (parts.duplicates, parts.split) == (0, 1)
        assert score(found, self.TRUTH, min_iou=0.8).f1 == 0.0

    def test_a_union_of_neighbours_is_welded(self):
        found = np.array([shapely.box(0, 0, 200, 100), self.TRUTH.footprints[2]])
        assert score(found, self.TRUTH).welded == 1.0
        assert score(np.append(found[:1], self.TRUTH.footprints[:2]), self.TRUTH).duplicates > 0

    def test_large_buildings_count_by_themselves(self):
        assert score(self.TRUTH.footprints[:2], self.TRUTH).large_recall == 0.0
        assert np.isnan(score(np.empty(0, object), scene_of((0, 0, 9, 9))).large_recall)


class TestPeers:
    WINDOWS = windows_over(700, 400, 400, 100)  # two tiles, 300 px apart
    HOUSES = scene_of((20, 40, 120, 140), (310, 40, 390, 140), (450, 200, 600, 300))
    """One seen by the left tile, one by both, one by the right."""

    def seen(self) -> Detections:
        return see(self.HOUSES.footprints, self.HOUSES.categories, self.WINDOWS, Network(), seed=0)

    @pytest.mark.parametrize("peer", [*PLAIN, OURS], ids=lambda peer: peer.name)
    def test_each_house_once_but_without_a_filter(self, peer):
        result = score(peer(self.seen(), self.WINDOWS), self.HOUSES, min_iou=0.9)
        assert result.found == (4 if peer.name == "no filter" else 3)
        assert result.duplicates == (1 if peer.name == "no filter" else 0)

    def test_libraries_find_each_house_once(self):
        pytest.importorskip("sahi")
        pytest.importorskip("supervision")
        from tests.benchmarks.seams.libraries import LIBRARIES

        for peer in LIBRARIES:
            polygons = peer(self.seen(), self.WINDOWS)
            order = np.argsort(shapely.bounds(polygons)[:, 0])
            apart = shapely.hausdorff_distance(polygons[order], self.HOUSES.footprints)
            assert len(polygons) == 3 and apart.max() < NEAR, peer.name

    def test_postgis_finds_each_house_once(self, postgis_server):
        pytest.importorskip("sahi")
        pytest.importorskip("supervision")
        from tests.benchmarks.seams.libraries import postgis_self_join

        found = postgis_self_join(postgis_server)(self.seen(), self.WINDOWS)
        assert score(found, self.HOUSES, min_iou=0.9).f1 == 1.0

    def test_the_drop_edge_rule_loses_what_no_tile_sees_whole(self):
        hall = scene_of((100, 50, 600, 150))
        pieces = see(hall.footprints, hall.categories, self.WINDOWS, Network(), seed=0)
        drop_edge = next(peer for peer in PLAIN if peer.name == "drop-edge rule")
        assert len(pieces) == 2
        assert len(drop_edge(pieces, self.WINDOWS)) == 0
        assert len(OURS(pieces, self.WINDOWS)) == 1

    def test_a_trial_makes_what_the_rule_makes(self):
        run = trial(OURS, self.seen(), self.WINDOWS)
        assert shapely.equals_identical(run.polygons, OURS(self.seen(), self.WINDOWS)).all()
        assert run.seconds > 0

    def test_a_trial_that_dies_is_said_so(self):
        dies = Peer("dies", "", lambda *_: os._exit(3))
        with pytest.raises(RuntimeError, match="dies ended with exit code 3"):
            trial(dies, self.seen(), self.WINDOWS)


class TestOurs:
    @pytest.mark.parametrize("seed", SEEDS)
    def test_small_versions_of_the_three_scenes(self, seed, small_scenes):
        for scene in small_scenes:
            windows = scene.windows(*DEFAULT_LAYOUT)
            ideal = see(scene.footprints, scene.categories, windows, IDEAL, seed)
            assert score(OURS(ideal, windows), scene, min_iou=0.8).f1 >= 0.99, scene.name

    def test_a_rough_network_hurts_ours_least(self, rows):
        found = compare(rows, (512, 128), ROUGH, [*PLAIN, OURS], seeds=1)
        f1 = {row.rule: row.mean("f1") for row in found}
        assert max(f1, key=lambda rule: f1[rule]) == "ours"


class TestTables:
    def test_a_report_has_every_rule_and_verdict(self, rows):
        peers = [PLAIN[0], replace(PLAIN[1], bears=60), OURS]
        small = list(compare(rows, DEFAULT_LAYOUT, IDEAL, peers, seeds=1))
        grown = list(side_by_side(500, [OURS], rounds=1))
        streamed = [Growth("ours, streamed", count, count**0.5, 20.0) for count in (10_000, 100_000)]
        results = Results(
            peers,
            absent={"PostGIS self-join": "no server"},
            layouts={"rows": small},
            networks={"rough": small},
            welding=small[-1:],
            troubles=small,
            dropping=small[-1:],
            growth=grown + streamed,
        )
        text = report(results)
        assert "| box NMS \\* |" in text, "run on a part of the scene alone"
        assert "*PostGIS self-join*: not run, no server." in text
        assert (
            "| power of detections that time grows with, 10,000 to 100,000 | at most 1.05 | .500 | yes |"
            in text
        )

    def test_a_check_is_met_at_its_target(self):
        assert Check("", 0.9, 0.9).met and Check("", 0.9, 0.9, least=False).met
        assert not Check("", 0.89, 0.9).met and not Check("", 0.91, 0.9, least=False).met

    def test_the_exponent_of_a_square_is_two(self):
        rows = [Growth("square", count, count**2, 0.0) for count in (10, 100, 1000)]
        assert exponent(rows) == pytest.approx(2)

    def test_the_page_has_a_section_for_it(self):
        assert len(SECTION.findall(PAGE.read_text(encoding="utf-8"))) == 1
