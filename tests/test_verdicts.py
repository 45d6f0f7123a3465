"""What became of buildings and labels: every failure of the metric has its reason."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evaluate import score_image
from pipeline.verdicts import FALSE, INEXACT, INVALID, MISSED, MISTAKEN, REPEATED, RIGHT, judge

BOW_TIE = shapely.Polygon([(0, 0), (10, 10), (10, 0), (0, 10)])


def box(left, right, top=0, bottom=10):
    return shapely.box(left, top, right, bottom)


def verdicts(found, truths, categories=None, judged=None):
    """Of buildings in falling rank, all of the first of two categories."""
    found = np.array(found, dtype=object)
    kept = np.ones(len(found), bool) if judged is None else np.array(judged)
    ranks = np.linspace(0.9, 0.5, len(found))[:, None] * [1, 0]
    known = np.zeros(len(truths), int) if categories is None else np.array(categories)
    matches = score_image(found[kept], ranks[kept], truths, known, ["house", "hut"]).matches
    return judge(found, truths, matches, judged if judged is None else kept)


CASES = {
    "found": ([box(0, 10)], [box(0, 9)], [RIGHT], [RIGHT]),
    "nothing labelled": ([box(0, 10)], [box(50, 60)], [FALSE], [MISSED]),
    "a neighbour that it leans on": ([box(0, 10)], [box(9, 30)], [FALSE], [MISSED]),
    "an outline that is half of the label": ([box(0, 5)], [box(0, 10)], [INEXACT], [INEXACT]),
    "an outline that lies askew": ([box(0, 10)], [box(6, 16)], [INEXACT], [INEXACT]),
    "a small part of a hall": ([box(0, 5)], [box(0, 100)], [INEXACT], [INEXACT]),
    "a shed in what was taken for a hall": ([box(0, 100)], [box(0, 5)], [INEXACT], [INEXACT]),
    "twice": ([box(0, 10), box(0, 9)], [box(0, 10)], [RIGHT, REPEATED], [RIGHT]),
    "a part of what is found whole": ([box(0, 10), box(0, 4)], [box(0, 10)], [RIGHT, REPEATED], [RIGHT]),
    "two labels in one building": ([box(0, 10)], [box(0, 7), box(7, 10)], [RIGHT], [RIGHT, REPEATED]),
    "labelled twice": ([box(0, 10)], [box(0, 10), box(0, 9)], [RIGHT], [RIGHT, REPEATED]),
    "on a crossed label": ([box(0, 10)], [BOW_TIE], [INVALID], [INVALID]),
    "an empty label": ([box(0, 10)], [shapely.Polygon()], [FALSE], [INVALID]),
    "no label there": ([box(0, 10)], [None], [FALSE], [INVALID]),
    "nothing found": ([], [box(0, 10)], [], [MISSED]),
    "nothing labelled anywhere": ([box(0, 10)], [], [FALSE], []),
}


@pytest.mark.parametrize(("found", "truths", "of_found", "of_truths"), CASES.values(), ids=CASES.keys())
def test_every_failure_has_its_reason(found, truths, of_found, of_truths):
    buildings, labels = verdicts(found, truths)
    assert buildings.names.tolist() == of_found
    assert labels.names.tolist() == of_truths


def test_it_tells_what_each_is_held_against():
    truths = [box(0, 10), box(40, 50), box(80, 90)]
    buildings, labels = verdicts([box(40, 44), box(0, 10), box(0, 5), box(43, 50)], truths)
    assert buildings.others.tolist() == [1, 0, 0, 1]
    assert buildings.ious.tolist() == pytest.approx([0.4, 1, 0.5, 0.7])
    assert buildings.names.tolist() == [REPEATED, RIGHT, REPEATED, RIGHT]
    assert labels.others.tolist() == [1, 3, -1] and labels.ious.tolist() == pytest.approx([1, 0.7, 0])


def test_another_category_is_a_mistake_on_both_sides():
    buildings, labels = verdicts([box(0, 10), box(40, 50)], [box(0, 10), box(40, 50)], [1, -1])
    assert buildings.names.tolist() == labels.names.tolist() == [MISTAKEN, RIGHT]


def test_what_is_not_judged_has_no_verdict():
    buildings, labels = verdicts([box(0, 10), box(40, 50)], [box(0, 10), box(40, 50)], judged=[False, True])
    assert buildings.names.tolist() == ["", RIGHT] and buildings.others.tolist() == [-1, 1]
    assert labels.names.tolist() == [MISSED, RIGHT]


place = st.integers(0, 40)
side = st.integers(1, 15)
shape = st.one_of(
    st.builds(lambda x, y, w, h: shapely.box(x, y, x + w, y + h), place, place, side, side),
    st.sampled_from([BOW_TIE, None, shapely.Polygon()]),
)


@settings(deadline=None, max_examples=200)
@given(st.lists(shape, max_size=10), st.lists(shape, max_size=8))
def test_reasons_add_up_to_the_metric(found, truths):
    kept = np.array([one for one in found if one is not None], dtype=object)
    ranks = np.linspace(0.9, 0.1, len(kept))[:, None]
    score = score_image(kept, ranks, truths, np.zeros(len(truths), int), ["building"])
    buildings, labels = judge(kept, truths, score.matches)
    counts = score.all_buildings
    assert np.count_nonzero(buildings.names == RIGHT) == counts.true_positives
    assert np.isin(buildings.names, [FALSE, INEXACT, REPEATED, INVALID]).sum() == counts.false_positives
    assert np.isin(labels.names, [MISSED, INEXACT, REPEATED, INVALID]).sum() == counts.false_negatives
    for own, other in ((buildings, labels), (labels, buildings)):
        alone = own.others < 0
        assert (own.ious[alone] == 0).all() and (own.ious[~alone] > 0).all()
        assert (own.others < len(other.names)).all()
