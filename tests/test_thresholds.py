"""Thresholds: the best cut on the metric itself, what ties and ignored items do to it, how sure it is."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.bootstrap import Estimate, draw_blocks, f1_score
from pipeline.errors import SettingsError
from pipeline.evaluate import pool, score_image
from pipeline.evidence import Outcomes, gather, outcomes
from pipeline.thresholds import (
    ThresholdRules,
    TileSample,
    choose_cut,
    choose_thresholds,
    evidence_of,
    expected_scores,
)

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


def scored_at(samples, threshold):
    """The challenge's metric of what a threshold keeps, pooled over the samples."""
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
    return pool(scored)


scores = st.sampled_from([0.1, 0.2, 0.3, 0.5, 0.8, 0.9])
detection = st.tuples(st.integers(0, 40), st.integers(0, 1), scores)
truth = st.tuples(st.integers(0, 40), st.integers(0, 1))
sample = st.builds(tile, st.lists(detection, max_size=6), st.lists(truth, max_size=4))


@settings(deadline=None, max_examples=100)
@given(st.lists(sample, min_size=1, max_size=4))
def test_no_other_threshold_scores_better(samples):
    chosen = choose_thresholds(samples, CATEGORIES)
    others = [scored_at(samples, threshold) for threshold in (0.0, 0.15, 0.25, 0.4, 0.6, 0.85, 1.0)]
    for name in CATEGORIES:
        best = max(other.categories[name].f1 for other in others)
        assert scored_at(samples, chosen[name]).categories[name].f1 == best
    _, together = outcomes(evidence_of(samples, len(CATEGORIES), ThresholdRules()))
    cut = choose_cut(together, ThresholdRules(resamples=0))
    assert cut.f1.value == scored_at(samples, cut.threshold.value).all_f1 == max(o.all_f1 for o in others)


@settings(deadline=None, max_examples=100)
@given(st.lists(sample, min_size=1, max_size=4))
def test_a_cut_tells_what_its_threshold_keeps(samples):
    _, together = outcomes(evidence_of(samples, len(CATEGORIES), ThresholdRules()))
    cut = choose_cut(together, ThresholdRules())
    assert cut.f1.value == pytest.approx(scored_at(samples, cut.threshold.value).all_f1)
    assert cut.kept == (together.scores >= cut.threshold.value).sum()


@settings(deadline=None, max_examples=50)
@given(st.lists(sample, min_size=2, max_size=4), scores)
def test_intervals_are_those_of_tiles_drawn_anew(samples, threshold):
    rules = ThresholdRules(resamples=20, confidence=0.8)
    evidence = evidence_of(samples, len(CATEGORIES), rules)
    occupied = [tile for tile in samples if len(tile.polygons) + len(tile.truth_polygons)]
    mean_f1, all_f1 = expected_scores(evidence, np.full(2, threshold), rules)
    at_hand = scored_at(samples, threshold)
    assert (mean_f1.value, all_f1.value) == (pytest.approx(at_hand.mean_f1), pytest.approx(at_hand.all_f1))
    if len(occupied) < 2:
        assert (mean_f1.low, mean_f1.high) == (None, None)
        return
    drawn = [
        scored_at(
            [one for one, times in zip(occupied, row, strict=True) for _ in range(int(times))], threshold
        )
        for row in draw_blocks(len(occupied), rules.resamples)
    ]
    for estimate, values in (
        (mean_f1, [one.mean_f1 for one in drawn]),
        (all_f1, [one.all_f1 for one in drawn]),
    ):
        assert [estimate.low, estimate.high] == pytest.approx(np.quantile(values, [0.1, 0.9]).tolist())


def test_one_block_tells_nothing_of_others():
    cut = choose_cut(judged(tile([(0, 0, 0.9)], [(0, 0)])), ThresholdRules())
    assert (cut.threshold, cut.f1) == (Estimate(value=0.5), Estimate(value=1))
    assert cut.f1_elsewhere is None
    assert (cut.hits, cut.kept, cut.truths) == (1, 1, 1)


def test_no_drawings_no_intervals():
    tiles = [tile([(0, 0, 0.9)], [(0, 0)]), tile([(0, 0, 0.5)], [(0, 0)])]
    assert choose_cut(judged(*tiles), ThresholdRules(resamples=0)).f1 == Estimate(value=1)
    assert choose_cut(judged(*tiles), ThresholdRules()).f1 == Estimate(value=1, low=1, high=1)
    assert choose_cut(judged(*tiles), ThresholdRules()).threshold.value == 0.5


def test_inside_a_gap_the_threshold_is_half_of_the_best_f1():
    tiles = [tile([(0, 0, 0.9)], [(0, 0)]), tile([(0, 0, 0.4), (ELSEWHERE, 0, 0.1)], [(0, 0)])]
    assert choose_cut(judged(*tiles), ThresholdRules(resamples=0)).threshold.value == 0.25
    tiles = [tile([(0, 0, 0.9)], [(0, 0)]), tile([(0, 0, 0.6), (ELSEWHERE, 0, 0.1)], [(0, 0)])]
    assert choose_cut(judged(*tiles), ThresholdRules(resamples=0)).threshold.value == 0.5


def test_half_of_the_best_f1_gives_way_to_what_all_ground_says():
    """A network that is sure of everything: below 0.8 nothing is right, block after block."""
    blocks = np.arange(400) // 4
    hits = np.arange(400) % 4 > 0
    scores = np.where(hits, 0.9, 0.7) + np.linspace(0, 0.05, 400)
    cut = choose_cut(Outcomes(scores, hits, blocks, np.full(100, 3)), ThresholdRules())
    assert 0.74 < cut.threshold.value < 0.9
    assert cut.f1.value > 0.99


def test_a_precision_that_is_asked_for_is_reached_where_it_can_be():
    here = settlement(np.random.default_rng(2), 60)
    free, strict, most = (choose_cut(here, ThresholdRules(target_precision=asked)) for asked in (0, 0.9, 1.0))
    assert free.precision.value < 0.9 <= strict.precision.value <= most.precision.value
    assert free.threshold.value < strict.threshold.value <= most.threshold.value
    assert strict.precision.low < strict.precision.value < strict.precision.high
    kept = here.scores >= strict.threshold.value
    assert strict.precision.value == pytest.approx(here.hits[kept].mean())
    # The surest of all is wrong: no threshold is right alone, so the most precise of them is taken.
    spoilt = here._replace(scores=np.append(here.scores, 2.0), hits=np.append(here.hits, False),
                           blocks=np.append(here.blocks, 0))  # fmt: skip
    best = choose_cut(spoilt, ThresholdRules(target_precision=1.0)).precision.value
    assert 0.8 < best < 1


def test_one_lucky_block_does_not_decide():
    """Ten sure misses in one block of thirty: the best threshold lies above them, ours does not."""
    here = settlement(np.random.default_rng(5), 30)
    unlucky = Outcomes(
        np.append(here.scores, np.full(10, 0.62)),
        np.append(here.hits, np.zeros(10, dtype=bool)),
        np.append(here.blocks, np.zeros(10, dtype=int)),
        here.truths,
    )
    greedy, steady = (choose_cut(unlucky, ThresholdRules(resamples=count)) for count in (0, 200))
    assert steady.f1.value < greedy.f1.value
    half = greedy.f1.value / 2
    assert abs(steady.threshold.value - half) < abs(greedy.threshold.value - half)


@pytest.mark.parametrize(("seed", "given_up"), [(3, True), (0, False)])
def test_less_than_two_standard_errors_are_given_up_for_half_of_the_best_f1(seed, given_up):
    here, count = settlement(np.random.default_rng(seed), 60), 60
    blocks = np.append(here.blocks, np.arange(4 * count) % count)  # four sure misses each, above that half
    scores = np.append(here.scores, np.full(4 * count, 0.55))
    hits = np.append(here.hits, np.zeros(4 * count, dtype=bool))

    def f1_from(threshold, weights):
        kept = scores >= threshold
        found, rows = (np.bincount(blocks[row], minlength=count) for row in (kept & hits, kept))
        return f1_score(weights @ found, weights @ rows, weights @ here.truths)

    judged = Outcomes(scores, hits, blocks, here.truths)
    best = choose_cut(judged, ThresholdRules(resamples=0))
    weights = np.ones(count), draw_blocks(count, ThresholdRules().resamples)
    lacking, drawn = (
        f1_from(best.threshold.value, rows) - f1_from(best.f1.value / 2, rows) for rows in weights
    )
    assert (1 < lacking / drawn.std() < 2) if given_up else (2 < lacking / drawn.std() < 3)
    steady = choose_cut(judged, ThresholdRules()).threshold.value
    assert (steady < 0.35) if given_up else (steady == best.threshold.value)


def test_f1_elsewhere_is_that_of_the_blocks_not_drawn():
    # Chosen on the first block nothing is found in the second, and the other way round everything.
    scores, hits = np.repeat([0.9, 0.8, 0.3], 10), np.repeat([True, False, True], 10)
    blocks = np.repeat([0, 1, 1], 10)
    draws = draw_blocks(2, ThresholdRules().resamples)
    first, second = (draws == 0).sum(axis=0)[::-1]
    cut = choose_cut(Outcomes(scores, hits, blocks, np.array([10, 10])), ThresholdRules())
    assert cut.f1_elsewhere == pytest.approx(second / (first + second))


def test_a_score_at_the_threshold_is_kept():
    cut = choose_cut(judged(tile([(ELSEWHERE, 0, 0.5)], [(0, 0)])), ThresholdRules(default=0.5))
    assert (cut.hits, cut.kept, cut.truths) == (0, 1, 1)


def judged(*samples):
    return outcomes(evidence_of(samples, len(CATEGORIES), ThresholdRules()))[0][0]


def test_blocks_are_squares_of_ground_and_no_two_samples_share_one():
    def blocks(*samples):
        evidence = gather(samples, 2, min_iou=0.5, max_ignored_share=0.5, block_px=1024)
        return evidence.blocks.tolist(), evidence.truth_blocks.tolist(), evidence.block_count

    near = tile([(0, 0, 0.9), (900, 0, 0.9)], [(20, 0)])
    assert blocks(near) == ([0, 0], [0], 1)
    assert blocks(tile([(0, 0, 0.9), (1100, 0, 0.9)], [(1150, 0)])) == ([0, 1], [1], 2)
    assert blocks(near, near) == ([0, 0, 1, 1], [0, 1], 2)


def test_a_detection_without_a_centre_lies_somewhere():
    sample = tile([(0, 0, 0.9), (20, 0, 0.8)], [(0, 0)])
    sample.polygons[1] = None
    assert judged(sample).blocks.tolist() == [0, 0]


def test_a_truth_of_unknown_condition_counts_only_among_all():
    by_category, together = outcomes(evidence_of([tile([(0, 0, 0.9)], [(0, -1)])], 2, ThresholdRules()))
    assert [(mine.hits.tolist(), mine.truths.sum()) for mine in by_category] == [([False], 0), ([], 0)]
    assert (together.hits.tolist(), together.truths.sum()) == ([True], 1)


def settlement(rng, blocks, size=20):
    """Judged detections of blocks that are unlike each other, some easy and some hard."""
    ease = rng.beta(2, 1, blocks)
    block = np.repeat(np.arange(blocks), size)
    hits = rng.random(len(block)) < ease[block]
    scores = np.where(hits, rng.beta(4, 2, len(block)), rng.beta(2, 4, len(block)))
    return Outcomes(scores, hits, block, np.full(blocks, size))


def test_intervals_hold_what_other_ground_brings():
    everywhere = keep(settlement(np.random.default_rng(0), 20_000), 0.4)
    expected = f1_score(everywhere.hits.sum(), len(everywhere.hits), everywhere.truths.sum())
    rng, rules = np.random.default_rng(1), ThresholdRules(confidence=0.9)
    held = {"by blocks": 0, "one by one": 0}
    for _ in range(200):
        here = settlement(rng, 12)
        apart = here._replace(blocks=np.arange(len(here.hits)), truths=np.ones(len(here.hits), dtype=int))
        for name, side in (("by blocks", here), ("one by one", apart)):
            f1 = choose_cut(keep(side, 0.4), rules).f1
            held[name] += f1.low <= expected <= f1.high
    assert held["by blocks"] > 0.8 * 200
    assert held["one by one"] < 0.65 * 200


def keep(judged, threshold):
    """What a threshold keeps, with equal scores: no other threshold is left to choose."""
    kept = judged.scores >= threshold
    return Outcomes(np.ones(kept.sum()), judged.hits[kept], judged.blocks[kept], judged.truths)


def test_it_keeps_elsewhere_what_it_promises():
    """On a few blocks the best threshold flatters itself, and is worse on other ground."""
    rng = np.random.default_rng(0)
    everywhere = settlement(np.random.default_rng(1), 2_000)
    promised, kept = {0: [], 200: []}, {0: [], 200: []}
    for _ in range(60):
        here = settlement(rng, 6, size=10)
        for resamples, scores in promised.items():
            cut = choose_cut(here, ThresholdRules(resamples=resamples))
            rows = everywhere.scores >= cut.threshold.value
            scores.append(cut.f1.value)
            kept[resamples].append(f1_score(everywhere.hits[rows].sum(), rows.sum(), everywhere.truths.sum()))
    assert np.mean(kept[200]) > np.mean(kept[0]) + 0.003
    assert np.std(kept[200]) < np.std(kept[0])
    flattered = {resamples: np.mean(promised[resamples]) - np.mean(kept[resamples]) for resamples in promised}
    assert flattered[200] < 0.7 * flattered[0]


def test_a_choice_on_much_ground_is_sure():
    many = settlement(np.random.default_rng(0), 2_000)
    few = settlement(np.random.default_rng(0), 20)
    wide, narrow = (choose_cut(side, ThresholdRules()) for side in (few, many))
    assert width(narrow.f1) < width(wide.f1) / 4
    assert width(narrow.threshold) < width(wide.threshold)
    assert narrow.f1_elsewhere == pytest.approx(narrow.f1.value, abs=0.002)


def width(estimate):
    return estimate.high - estimate.low


def test_many_scores_are_thinned_and_the_chosen_one_kept():
    many = settlement(np.random.default_rng(0), 500)
    cut = choose_cut(many, ThresholdRules())
    assert (cut.hits, cut.kept) == (
        many.hits[many.scores >= cut.threshold.value].sum(),
        (many.scores >= cut.threshold.value).sum(),
    )
    assert cut.f1.low < cut.f1.value < cut.f1.high


@pytest.mark.parametrize("rules", [{"block_px": 0}, {"resamples": -1}, {"confidence": 1.0}])
def test_rules_that_draw_nothing_are_refused(rules):
    with pytest.raises(SettingsError, match=next(iter(rules))):
        ThresholdRules(**rules)
