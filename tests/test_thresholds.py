"""Thresholds: the best cut on the metric itself, and what it does with ties, ignored items and nothing."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evaluate import pool, score_image
from pipeline.thresholds import ThresholdRules, TileSample, choose_thresholds

CATEGORIES = ("foundation", "completed")
ELSEWHERE = 1000


def box(x, w=10):
    return shapely.box(x, 0, x + w, 10)


def tile(detections, truths, ignored=()):
    """Sample of [(x, category, score)], [(x, category)] and [x]."""
    probabilities = np.zeros((len(detections), len(CATEGORIES)))
    for row, (_, category, score) in zip(probabilities, detections, strict=True):
        row[category] = score
    return TileSample(
        np.array([box(x) for x, _, _ in detections], dtype=object),
        probabilities,
        np.array([box(x) for x, _ in truths], dtype=object),
        np.array([category for _, category in truths], dtype=np.int64),
        np.array([box(x) for x in ignored], dtype=object),
    )


def test_nothing_to_validate_on_gives_the_default():
    assert choose_thresholds([], CATEGORIES) == {"foundation": 0.5, "completed": 0.5}
    rules = ThresholdRules(default=0.3)
    assert choose_thresholds([tile([], [])], CATEGORIES, rules) == {"foundation": 0.3, "completed": 0.3}


def test_a_category_without_a_hit_keeps_the_default():
    sample = tile([(0, 0, 0.9), (ELSEWHERE, 1, 0.9)], [(0, 0), (500, 1)])
    assert choose_thresholds([sample], CATEGORIES)["completed"] == 0.5


def test_the_cut_is_the_middle_between_kept_and_dropped():
    sample = tile([(0, 0, 0.9), (20, 0, 0.8), (ELSEWHERE, 0, 0.4)], [(0, 0), (20, 0)])
    assert choose_thresholds([sample], CATEGORIES)["foundation"] == pytest.approx(0.6)


def test_everything_right_cuts_halfway_to_zero():
    assert choose_thresholds([tile([(0, 0, 0.9)], [(0, 0)])], CATEGORIES)["foundation"] == 0.45


def test_of_equal_cuts_the_one_in_the_widest_gap():
    # F1 is 2/3 after one hit of two, and again after two hits and two failures of two truths.
    detections = [(0, 0, 0.9), (ELSEWHERE, 0, 0.8), (2 * ELSEWHERE, 0, 0.75), (20, 0, 0.7)]
    sample = tile(detections, [(0, 0), (20, 0)])
    assert choose_thresholds([sample], CATEGORIES)["foundation"] == pytest.approx(0.35)


def test_equal_scores_stand_or_fall_together():
    # A cut between the hit and the failures at 0.5 would be perfect, and no threshold can make it.
    detections = [(0, 0, 0.9), (20, 0, 0.5), (ELSEWHERE, 0, 0.5), (2 * ELSEWHERE, 0, 0.5)]
    sample = tile(detections, [(0, 0), (20, 0)])
    assert choose_thresholds([sample], CATEGORIES)["foundation"] == 0.25


@pytest.mark.parametrize(("ignored", "threshold"), [([], 0.85), ([50], 0.25), ([57], 0.85)])
def test_failures_mostly_on_ignored_items_do_not_count(ignored, threshold):
    detections = [(0, 0, 0.9), (50, 0, 0.8), (50, 0, 0.7), (50, 0, 0.6), (20, 0, 0.5)]
    sample = tile(detections, [(0, 0), (20, 0)], ignored)
    assert choose_thresholds([sample], CATEGORIES)["foundation"] == pytest.approx(threshold)


def test_hits_on_ignored_items_count():
    sample = tile([(0, 0, 0.9)], [(0, 0)], ignored=[0])
    assert choose_thresholds([sample], CATEGORIES)["foundation"] == 0.45


def test_tiles_are_judged_apart():
    # The same building in two overlapping tiles is two hits, not a hit and a duplicate.
    tiles = [tile([(0, 0, 0.9)], [(0, 0)]), tile([(0, 0, 0.5)], [(0, 0)])]
    assert choose_thresholds(tiles, CATEGORIES)["foundation"] == 0.25


def test_missing_polygons_are_failures():
    sample = tile([(0, 0, 0.9), (20, 0, 0.5)], [(0, 0)])
    sample.polygons[1] = None
    assert choose_thresholds([sample], CATEGORIES)["foundation"] == pytest.approx(0.7)


scores = st.sampled_from([0.1, 0.2, 0.3, 0.5, 0.8, 0.9])
detection = st.tuples(st.integers(0, 40), st.integers(0, 1), scores)
truth = st.tuples(st.integers(0, 40), st.integers(0, 1))


@settings(deadline=None, max_examples=100)
@given(st.lists(st.builds(tile, st.lists(detection, max_size=6), st.lists(truth, max_size=4)), max_size=4))
def test_no_other_threshold_scores_better(samples):
    chosen = choose_thresholds(samples, CATEGORIES)

    def f1(index, threshold):
        scored = []
        for sample in samples:
            keep = sample.probabilities.max(axis=1) >= threshold
            scored.append(
                score_image(
                    sample.polygons[keep],
                    sample.probabilities[keep],
                    sample.truth_polygons,
                    sample.truth_categories,
                    CATEGORIES,
                )
            )
        return pool(scored).pooled.categories[CATEGORIES[index]].f1 if scored else 0.0

    for index, name in enumerate(CATEGORIES):
        best = max(f1(index, threshold) for threshold in (0.0, 0.15, 0.25, 0.4, 0.6, 0.85, 1.0))
        assert f1(index, chosen[name]) == best
