"""Calibration: a known temperature found again, reliability by hand, and thresholds that suit it."""

from __future__ import annotations

import independent_metric
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from pipeline.calibration import UNLABELLED, Calibration, CalibrationRules, calibrate, true_labels
from pipeline.errors import SettingsError
from pipeline.evaluate import pool, score_image
from pipeline.evidence import TileSample, outcomes
from pipeline.temperature import BACKGROUND, BINS, fit_temperature, reliability, temper
from pipeline.thresholds import ThresholdRules, choose_cut, evidence_of

CATEGORIES = ("foundation", "unfinished", "completed")
NONE = np.empty(0, dtype=object)


def boxes(x):
    return shapely.box(np.asarray(x, dtype=float), 0, np.asarray(x, dtype=float) + 10, 10)


def logits_and_truth(rng, count):
    """Logits of the categories and the background, and labels that come as often as these say."""
    logits = rng.normal(0, 2, (count, 4))
    labels = (softmax(logits, axis=1).cumsum(axis=1) > rng.random((count, 1))).argmax(axis=1)
    return logits, np.where(labels == 3, BACKGROUND, labels)


def network(rng, count=300, temperature=1.0, across=20):
    """A sample whose probabilities are too sure by a factor of `temperature` in their logits."""
    logits, labels = logits_and_truth(rng, count)
    place = np.arange(count) * across
    found = labels != BACKGROUND
    probabilities = softmax(logits * temperature, axis=1)[:, :3]
    return TileSample(boxes(place), probabilities, boxes(place[found]), labels[found], NONE)


def calibration(samples, objective="mean_f1", min_detections=100, resamples=200):
    rules = ThresholdRules(objective=objective, resamples=resamples), CalibrationRules(min_detections)
    return calibrate(samples, CATEGORIES, *rules, tiles=len(samples), weights="abc")


# Temperature.


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7, 3.0])
def test_a_known_temperature_is_found_again(temperature):
    logits, labels = logits_and_truth(np.random.default_rng(0), 20_000)
    probabilities = softmax(logits * temperature, axis=1)[:, :3]
    assert fit_temperature(probabilities, labels) == pytest.approx(temperature, rel=0.03)


@pytest.mark.parametrize("temperature", [0.5, 2.0, 8.0])
def test_it_is_the_softmax_of_the_logits_over_the_temperature(temperature):
    logits = np.random.default_rng(0).normal(0, 1, (100, 4))
    tempered = temper(softmax(logits, axis=1)[:, :3], temperature)
    assert tempered == pytest.approx(softmax(logits / temperature, axis=1)[:, :3], abs=1e-9)


row = st.lists(st.floats(0, 1), min_size=4, max_size=4).filter(sum)


@settings(deadline=None)
@given(st.lists(row, min_size=1, max_size=5), st.floats(0.1, 10))
def test_rows_stay_probabilities_and_keep_their_best_category(rows, temperature):
    whole = np.array(rows)
    probabilities = (whole / whole.sum(axis=1, keepdims=True))[:, :3]
    tempered = temper(probabilities, temperature)
    assert ((tempered >= 0) & (tempered <= 1)).all()
    assert (tempered.sum(axis=1) <= 1 + 1e-12).all()
    told = probabilities.max(axis=1) > 1e-6
    best = np.take_along_axis(tempered, probabilities.argmax(axis=1)[:, None], axis=1)[:, 0]
    assert (best[told] == tempered.max(axis=1)[told]).all()


def test_one_is_no_temperature():
    probabilities = np.array([[1.0, 0.0, 0.0], [0.2, 0.3, 1e-9]])
    assert np.array_equal(temper(probabilities, 1.0), probabilities)
    assert temper(np.empty((0, 3)), 2.0).shape == (0, 3)


def test_certainty_that_errs_stays_finite():
    sure = np.array([[1.0, 0.0, 0.0]] * 10, dtype=np.float32)
    labels = np.array([0] * 7 + [BACKGROUND] * 3)
    temperature = fit_temperature(sure, labels)
    assert 1 < temperature <= 10.01
    assert 0.5 < temper(sure, temperature)[0, 0] < 1


# Reliability.


def test_reliability_by_hand():
    # Of four at 0.9 half are right, of two at 0.5 both are; one is of another category than it says.
    probabilities = np.array([[0.9, 0, 0]] * 4 + [[0, 0.5, 0.1]] * 2)
    result = reliability(probabilities, np.array([0, 0, BACKGROUND, 1, 1, 1]))
    assert [(one.count, one.confidence, one.accuracy) for one in result.bins] == [
        (2, pytest.approx(0.5), 1.0),
        (4, pytest.approx(0.9), 0.5),
    ]
    assert result.expected_error == pytest.approx((2 * 0.5 + 4 * 0.4) / 6)
    losses = [-np.log(p) for p in (0.9, 0.9, 0.1, 1e-6, 0.5, 0.5)]
    assert result.log_loss == pytest.approx(np.mean(losses), abs=1e-5)


def test_bins_hold_their_upper_edge():
    edges = np.linspace(0, 1, BINS + 1)
    probabilities = np.column_stack([edges, np.zeros(BINS + 1)])
    result = reliability(probabilities, np.zeros(BINS + 1, dtype=int))
    assert [one.count for one in result.bins] == [2] + [1] * (BINS - 1)
    assert all(one.low <= one.confidence <= one.high for one in result.bins)


def test_reliability_of_nothing():
    result = reliability(np.empty((0, 3)), np.empty(0, dtype=int))
    assert (result.detections, result.expected_error, result.log_loss, result.bins) == (0, 0, 0, [])


def test_what_comes_as_often_as_it_says_has_no_error():
    logits, labels = logits_and_truth(np.random.default_rng(0), 50_000)
    assert reliability(softmax(logits, axis=1)[:, :3], labels).expected_error < 0.01


# What a detection is.


def test_labels_are_what_the_walk_over_all_buildings_gives():
    probabilities = np.array([[0.9, 0, 0], [0.8, 0, 0], [0.7, 0, 0], [0.6, 0, 0], [0.5, 0, 0], [0.4, 0, 0]])
    sample = TileSample(
        # Right; a duplicate of it; of another category; unknown; ignored; nothing.
        boxes([0, 1, 100, 200, 300, 400]),
        probabilities,
        boxes([0, 100, 200]),
        np.array([0, 2, -1]),
        boxes([300]),
    )
    labels = true_labels(evidence_of([sample], 3, ThresholdRules()))
    assert labels.tolist() == [0, BACKGROUND, 2, UNLABELLED, UNLABELLED, BACKGROUND]


# All of it.


def test_overconfidence_is_taken_back():
    result = calibration([network(np.random.default_rng(0), 4_000, temperature=3.0)])
    assert result.temperature == pytest.approx(3.0, rel=0.1)
    assert result.before.expected_error > 0.1
    assert result.after.expected_error < 0.03
    assert result.after.log_loss < result.before.log_loss
    assert result.before.detections == result.after.detections == 4_000


def cuts(sample):
    """The threshold of each category, its probabilities taken as they are."""
    by_category, _ = outcomes(evidence_of([sample], len(CATEGORIES), ThresholdRules()))
    chosen = (choose_cut(mine, ThresholdRules()).threshold.value for mine in by_category)
    return dict(zip(CATEGORIES, chosen, strict=True))


def test_thresholds_are_those_of_tempered_probabilities():
    sample = network(np.random.default_rng(0), temperature=3.0)
    result = calibration([sample])
    tempered = sample._replace(probabilities=temper(sample.probabilities, result.temperature))
    assert result.thresholds == cuts(tempered)
    assert result.thresholds != cuts(sample)


@pytest.mark.parametrize("objective", ["mean_f1", "all_f1"])
def test_scores_promised_are_those_of_the_independent_metric(objective):
    sample = network(np.random.default_rng(0), temperature=2.0)
    result = calibration([sample], objective)
    probabilities = temper(sample.probabilities, result.temperature)
    limits = np.array([result.thresholds[name] for name in CATEGORIES])
    kept = np.flatnonzero(probabilities.max(axis=1) >= limits[probabilities.argmax(axis=1)])
    proposals = [(probabilities[n].argmax(), probabilities[n].max(), sample.polygons[n]) for n in kept]
    truths = list(zip(sample.truth_categories.tolist(), sample.truth_polygons, strict=True))
    f1 = [
        independent_metric.count([p for p in proposals if p[0] == c], [t for t in truths if t[0] == c])["f1"]
        for c in range(3)
    ]
    assert result.mean_f1.value == pytest.approx(np.mean(f1))
    assert result.all_f1.value == pytest.approx(independent_metric.count(proposals, truths)["f1"])


def test_each_objective_is_best_at_its_own():
    sample = network(np.random.default_rng(3), temperature=2.0)
    mean, everything = (calibration([sample], objective, resamples=0) for objective in ("mean_f1", "all_f1"))
    assert mean.mean_f1.value >= everything.mean_f1.value
    assert everything.all_f1.value >= mean.all_f1.value
    assert len(set(everything.thresholds.values())) == 1
    assert everything.thresholds["completed"] == everything.all_buildings.threshold.value
    assert mean.thresholds == {name: cut.threshold.value for name, cut in mean.categories.items()}


def test_too_few_detections_leave_probabilities_alone():
    sample = network(np.random.default_rng(0), count=99, temperature=3.0)
    result = calibration([sample])
    assert (result.temperature, result.before) == (1.0, result.after)
    assert result.thresholds == cuts(sample)
    assert calibration([sample], min_detections=99).temperature != 1.0
    with pytest.raises(SettingsError, match="min_detections"):
        CalibrationRules(min_detections=0)


def test_nothing_to_validate_on():
    result = calibration([])
    assert (result.temperature, result.thresholds) == (1.0, dict.fromkeys(CATEGORIES, 0.5))
    assert (result.mean_f1.value, result.mean_f1.low, result.truths, result.blocks) == (0, None, 0, 0)


def test_intervals_hold_what_they_are_of():
    result = calibration([network(np.random.default_rng(seed), 100) for seed in range(10)])
    assert result.blocks == 20  # ten samples, two blocks across each
    for estimate in (result.mean_f1, result.all_f1, result.all_buildings.f1):
        assert estimate.low < estimate.value < estimate.high


def test_it_survives_json_and_is_the_same_again():
    samples = [network(np.random.default_rng(seed), 100, temperature=2.0) for seed in range(3)]
    result = calibration(samples)
    assert Calibration.model_validate_json(result.model_dump_json()) == result
    rules = ThresholdRules(), CalibrationRules()
    assert calibrate(iter(samples), CATEGORIES, *rules, tiles=3, weights="abc") == result


def test_the_digest_is_that_of_the_truth():
    sample = network(np.random.default_rng(0), 50)
    surer = sample._replace(probabilities=sample.probabilities**2)
    assert calibration([sample]).validation == calibration([surer]).validation
    others = [
        sample._replace(truth_polygons=sample.truth_polygons[::-1]),
        sample._replace(truth_categories=(sample.truth_categories + 1) % 3),
        sample._replace(ignored_polygons=boxes([5])),
    ]
    assert len({calibration([one]).validation for one in [sample, *others]}) == 4


def test_pooled_scores_of_several_images_are_promised():
    samples = [network(np.random.default_rng(seed), 120) for seed in range(3)]
    result = calibration(samples)
    scores = []
    for sample in samples:
        probabilities = temper(sample.probabilities, result.temperature)
        limits = np.array([result.thresholds[name] for name in CATEGORIES])
        kept = probabilities.max(axis=1) >= limits[probabilities.argmax(axis=1)]
        truth = sample.truth_polygons, sample.truth_categories
        scores.append(score_image(sample.polygons[kept], probabilities[kept], *truth, CATEGORIES))
    assert pool(scores).mean_f1 == pytest.approx(result.mean_f1.value)
    assert pool(scores).all_f1 == pytest.approx(result.all_f1.value)
