"""The challenge's metric, against hand-counted cases and against an independent implementation."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import independent_metric
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evaluate import Counts, pool, score_image

CATEGORIES = ("foundation", "unfinished", "completed")
CONDITIONS = ("Foundation", "Incomplete", "Complete")
DATA = Path(__file__).parents[2] / "shared" / "data"
BOW_TIE = shapely.Polygon([(0, 0), (10, 10), (10, 0), (0, 10)])


def box(x, y=0, w=10, h=10):
    return shapely.box(x, y, x + w, y + h)


def sure(category, confidence=0.9):
    row = [0.01, 0.01, 0.01]
    row[category] = confidence
    return row


def score(proposals, truths):
    """Score of [(polygon, category, confidence)] against [(polygon, category)]."""
    return score_image(
        [p for p, _, _ in proposals],
        np.array([sure(c, s) for _, c, s in proposals]),
        [t for t, _ in truths],
        np.array([c for _, c in truths], dtype=np.int64),
        CATEGORIES,
    )


def counts(result):
    return (result.true_positives, result.false_positives, result.false_negatives)


def test_nothing_against_nothing_scores_zero():
    result = score([], [])
    assert counts(result.all_buildings) == (0, 0, 0)
    assert (result.mean_f1, result.all_f1) == (0, 0)
    assert result.matches.pairs == []


def test_one_side_empty():
    assert counts(score([(box(0), 0, 0.9)], []).categories["foundation"]) == (0, 1, 0)
    missed = score([], [(box(0), 0)])
    assert counts(missed.categories["foundation"]) == (0, 0, 1)
    assert missed.matches.misses == [0]


def test_perfect_result():
    truths = [(box(0), 0), (box(20), 1), (box(40), 2)]
    result = score([(p, c, 0.8) for p, c in truths], truths)
    assert (result.mean_f1, result.all_f1) == (1, 1)


def test_iou_of_exactly_one_half_is_not_enough():
    # 20 of 40 square units are shared.
    half = score([(box(0, w=4), 0, 0.9)], [(box(0, w=4, h=5), 0)])
    assert shapely.area(box(0, w=4, h=5)) / shapely.area(box(0, w=4)) == 0.5
    assert counts(half.all_buildings) == (0, 1, 1)
    more = score([(box(0, w=4), 0, 0.9)], [(box(0, w=4, h=5.01), 0)])
    assert counts(more.all_buildings) == (1, 0, 0)


def test_a_truth_is_taken_once_and_by_the_more_confident():
    result = score([(box(0, w=9), 0, 0.6), (box(0), 0, 0.7)], [(box(0), 0)])
    assert counts(result.all_buildings) == (1, 1, 0)
    assert [(m.proposal, m.truth, m.iou) for m in result.matches.pairs] == [(1, 0, 1.0)]
    assert result.matches.false_positives == [0]


def test_the_best_free_truth_is_taken_not_the_first():
    # Both truths overlap both proposals enough; the first proposal must leave the worse one.
    truths = [(box(0, w=8), 0), (box(0), 0)]
    result = score([(box(0), 0, 0.9), (box(0, w=9), 0, 0.8)], truths)
    assert [(m.proposal, m.truth) for m in result.matches.pairs] == [(0, 1), (1, 0)]


def test_of_truths_that_overlap_equally_the_first_is_taken():
    result = score([(box(0), 0, 0.9)], [(box(0), 0), (box(0), 0)])
    assert [m.truth for m in result.matches.pairs] == [0]


def test_equal_ranks_keep_the_order_of_submission():
    result = score([(box(0, w=9), 0, 0.7), (box(0), 0, 0.7)], [(box(0), 0)])
    assert [m.proposal for m in result.matches.pairs] == [0]


def test_equal_ranks_keep_their_order_in_a_crowd():
    # More than what a sort that is not stable happens to leave alone.
    truths = [(box(20 * i), 0) for i in range(100)]
    proposals = [(polygon, 0, 0.5 + index % 100 % 9 / 20) for index, (polygon, _) in enumerate(truths * 2)]
    result = score(proposals, truths)
    assert [m.proposal for m in result.matches.pairs] == list(range(100))


def test_equal_confidences_choose_the_first_category():
    result = score_image([box(0)], np.array([[0.4, 0.4, 0.2]]), [box(0)], np.array([0]), CATEGORIES)
    assert counts(result.categories["foundation"]) == (1, 0, 0)


def test_wrong_category_counts_in_both_but_not_in_all():
    result = score([(box(0), 0, 0.9)], [(box(0), 2)])
    assert counts(result.categories["foundation"]) == (0, 1, 0)
    assert counts(result.categories["completed"]) == (0, 0, 1)
    assert counts(result.all_buildings) == (1, 0, 0)
    assert [(m.proposal, m.truth) for m in result.matches.class_mistakes] == [(0, 0)]


def test_unknown_condition_counts_only_in_all():
    result = score([(box(0), 0, 0.9)], [(box(0), -1)])
    assert counts(result.categories["foundation"]) == (0, 1, 0)
    assert counts(result.all_buildings) == (1, 0, 0)
    assert result.matches.class_mistakes == []


def test_invalid_proposal_is_repaired_and_invalid_truth_is_never_found():
    repaired = BOW_TIE.buffer(0)
    assert counts(score([(BOW_TIE, 0, 0.9)], [(repaired, 0)]).all_buildings) == (1, 0, 0)
    assert counts(score([(BOW_TIE, 0, 0.9)], [(BOW_TIE, 0)]).all_buildings) == (0, 1, 1)


@pytest.mark.parametrize("nothing", [None, shapely.Polygon()])
def test_missing_and_empty_polygons_are_counted_and_never_matched(nothing):
    result = score([(nothing, 0, 0.9), (box(0), 0, 0.9)], [(nothing, 0), (box(0), 0)])
    assert counts(result.all_buildings) == (1, 1, 1)


def test_touching_is_not_overlapping():
    assert counts(score([(box(0), 0, 0.9)], [(box(10), 0)]).all_buildings) == (0, 1, 1)


def test_ratios():
    result = Counts.of(3, 1, 2)
    assert (result.precision, result.recall) == (0.75, 0.6)
    assert result.f1 == pytest.approx(2 * 0.75 * 0.6 / 1.35)


def test_score_survives_json():
    result = score([(box(0), 0, 0.9)], [(box(1), 0)])
    assert type(result).model_validate_json(result.model_dump_json()) == result


def test_pool_adds_counts():
    good = score([(box(0), c, 0.9) for c in range(3)], [(box(0), c) for c in range(3)])
    bad = score([], [(box(20 * i), 0) for i in range(3)])
    both = pool([good, bad])
    assert counts(both.categories["foundation"]) == (1, 0, 3)
    assert counts(both.all_buildings) == (3, 0, 3)
    assert both.mean_f1 == pytest.approx((0.4 + 1 + 1) / 3)


def test_pool_of_nothing():
    assert pool([]).mean_f1 == 0


coordinate = st.integers(0, 12)
shape = st.one_of(
    st.builds(box, coordinate, coordinate, st.integers(1, 6), st.integers(1, 6)),
    # Three corners of a box and one anywhere: bow-ties, arrows and collapsed rings among them.
    st.builds(
        lambda x, y, a, b: shapely.Polygon([(x, y), (x + 4, y), (a, b), (x, y + 4)]),
        coordinate,
        coordinate,
        coordinate,
        coordinate,
    ),
)
confidences = st.tuples(*[st.sampled_from([0.0, 0.2, 0.25, 0.5, 0.75, 1.0])] * 3)


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.tuples(shape, confidences), max_size=12),
    st.lists(st.tuples(shape, st.integers(-1, 2)), max_size=12),
)
def test_agrees_with_an_independent_metric(tmp_path_factory, proposals, truths):
    folder = tmp_path_factory.getbasetemp()
    plain = _independently(folder, [p for p, _ in proposals], [c for _, c in proposals], truths)
    ours = score_image(
        [p for p, _ in proposals],
        np.array([c for _, c in proposals]),
        [t for t, _ in truths],
        np.array([c for _, c in truths], dtype=np.int64),
        CATEGORIES,
    )
    _assert_same(ours, plain)


def test_agrees_with_an_independent_metric_on_real_labels(tmp_path):
    labels = DATA / "zanzibar" / "grid_001.geojson"
    if not labels.exists():
        pytest.skip("the challenge's label file grid_001.geojson is not here")
    features = json.loads(labels.read_text())["features"][:500]
    (tmp_path / "labels.geojson").write_text(json.dumps({"features": features}))
    truths = np.array([shapely.from_geojson(json.dumps(f["geometry"])) for f in features], dtype=object)
    known = {name: index for index, name in enumerate(CONDITIONS)}
    categories = np.array([known.get(f["properties"]["condition"], -1) for f in features])
    rng = np.random.default_rng(0)
    shifts = rng.normal(0, 1.5e-5, (len(truths), 2))
    moved = [shapely.transform(t, lambda xy, d=d: xy + d) for t, d in zip(truths, shifts, strict=True)]
    polygons = [p for p in moved if not p.is_empty][:400]
    probabilities = rng.dirichlet([0.5] * 3, len(polygons)).round(2)
    _write_plain_csv(tmp_path / "result.csv", polygons, probabilities)
    command = [sys.executable, independent_metric.__file__, "result.csv", "labels.geojson"]
    printed = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    ours = score_image(polygons, probabilities, truths, categories, CATEGORIES)
    assert 0.1 < ours.all_f1 < 0.9
    _assert_same(ours, json.loads(printed))


def test_every_building_of_a_large_image_is_found():
    corners = np.arange(20_000)
    polygons = shapely.box(corners * 10, 0, corners * 10 + 9, 9)
    probabilities = np.tile([[0.1, 0.2, 0.7]], (len(polygons), 1))
    result = score_image(polygons, probabilities, polygons, np.full(len(polygons), 2), CATEGORIES)
    assert result.all_f1 == 1


def _independently(folder, polygons, probabilities, truths):
    _write_plain_csv(folder / "result.csv", polygons, probabilities)
    features = [
        {
            "properties": {"condition": CONDITIONS[category] if category >= 0 else None},
            "geometry": shapely.geometry.mapping(polygon),
        }
        for polygon, category in truths
    ]
    (folder / "labels.geojson").write_text(json.dumps({"features": features}))
    return independent_metric.score(str(folder / "result.csv"), str(folder / "labels.geojson"))


def _write_plain_csv(path, polygons, probabilities):
    with open(path, "w") as file:
        file.write("building_id,conf_foundation,conf_unfinished,conf_completed,coords_geo,coords_pixel\n")
        for index, (polygon, row) in enumerate(zip(polygons, probabilities, strict=True), start=1):
            confidences = ",".join(repr(float(value)) for value in row)
            file.write(f'{index},{confidences},"{polygon.wkt}","{polygon.wkt}"\n')


def _assert_same(ours, plain):
    for mine, other in [
        (ours.all_buildings, plain["all_buildings"]),
        *((ours.categories[name], plain["categories"][name]) for name in CATEGORIES),
    ]:
        assert mine.model_dump() == pytest.approx(other)
    assert ours.mean_f1 == pytest.approx(plain["mean_f1"])
    assert ours.all_f1 == pytest.approx(plain["all_f1"])
