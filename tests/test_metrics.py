"""Metrics beside the challenge's, against hand-counted cases, pycocotools, rasters and the plain metric."""

from __future__ import annotations

import contextlib
import io

import independent_metric
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_erosion

from pipeline.errors import SettingsError
from pipeline.evaluate import score_image
from pipeline.matching import overlapping_pairs
from pipeline.metrics import ImageMetrics, MetricRules, average_precision, boundary_ious, measure_image
from pipeline.metrics.average_precision import MIN_IOU

CATEGORIES = ("foundation", "unfinished", "completed")
SIDE = 64
BOW_TIE = shapely.Polygon([(0, 0), (10, 10), (10, 0), (0, 10)])


def box(x, y=0, w=10, h=10):
    return shapely.box(x, y, x + w, y + h)


def sure(categories, scores):
    probabilities = np.zeros((len(categories), len(CATEGORIES)))
    probabilities[np.arange(len(categories)), categories] = scores
    return probabilities


def measure(proposals, truths, **rules):
    """Metrics and score of [(polygon, category, confidence)] against [(polygon, category)]."""
    polygons = np.array([p for p, _, _ in proposals], dtype=object)
    probabilities = sure(
        np.array([c for _, c, _ in proposals], dtype=int), np.array([s for _, _, s in proposals])
    )
    outlines = np.array([t for t, _ in truths], dtype=object)
    known = np.array([c for _, c in truths], dtype=np.int64)
    score = score_image(polygons, probabilities, outlines, known, CATEGORIES)
    metrics = measure_image(
        polygons, probabilities, outlines, known, CATEGORIES, score.matches, MetricRules(**rules)
    )
    return metrics, score


def precision_of(polygons, categories, scores, truths, known):
    pairs = overlapping_pairs(polygons, truths, MIN_IOU)
    return average_precision(pairs, sure(categories, scores), known, CATEGORIES)


# Average precision.


def test_everything_found_is_one_and_nothing_found_is_zero():
    truths = np.array([box(0), box(20)], dtype=object)
    known = np.array([0, 1])
    right = precision_of(truths, [0, 1], [0.9, 0.8], truths, known)
    assert (right.ap, right.ap50, right.ap75, right.all_buildings) == (1, 1, 1, 1)
    assert right.categories == {"foundation": 1, "unfinished": 1, "completed": None}
    nothing = precision_of(truths[:0], [], [], truths, known)
    assert (nothing.ap, nothing.all_buildings) == (0, 0)


def test_without_truths_there_is_no_precision():
    none = np.empty(0, dtype=object)
    result = precision_of(np.array([box(0)]), [0], [0.9], none, np.empty(0, dtype=np.int64))
    assert (result.ap, result.ap50, result.ap75, result.all_buildings) == (None,) * 4


def test_precision_by_hand():
    # A hit, a failure, a hit, of two truths: precision 1 up to a recall of one half, then 2/3.
    truths = np.array([box(0), box(20)], dtype=object)
    polygons = np.array([box(0), box(500), box(20)], dtype=object)
    result = precision_of(polygons, [0, 0, 0], [0.9, 0.8, 0.7], truths, np.array([0, 0]))
    assert result.ap50 == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_an_overlap_of_just_one_half_is_a_match_to_coco():
    # Also the reason for a limit of its own: to the challenge it is none.
    polygons, truths = np.array([box(0, w=5)]), np.array([box(0)])
    assert precision_of(polygons, [0], [0.9], truths, np.array([0])).ap50 == 1
    assert not len(overlapping_pairs(polygons, truths).ious)


def test_overlaps_count_up_to_what_they_are():
    # IoU 0.7: found at 0.50, 0.55, 0.60, 0.65 and 0.70.
    result = precision_of(np.array([box(0, w=7)]), [0], [0.9], np.array([box(0)]), np.array([0]))
    assert (result.ap, result.ap50, result.ap75) == (pytest.approx(0.5), 1, 0)


def random_scene(rng, shapes):
    """Truths, and proposals many of which overlap them well, with ties in score and in overlap."""
    truths = [shapes(rng, None) for _ in range(rng.integers(0, 9))]
    near = [shapes(rng, truth) for truth in truths for _ in range(rng.integers(0, 3))]
    proposals = near + [shapes(rng, None) for _ in range(rng.integers(0, 4))]
    rng.shuffle(proposals)
    scores = rng.choice([0.2, 0.4, 0.6, 0.8, 0.9], len(proposals))
    return proposals, rng.integers(0, 3, len(proposals)), scores, truths, rng.integers(0, 3, len(truths))


def integer_box(rng, near):
    x1, y1, x2, y2 = near if near is not None else (*rng.integers(0, 40, 2), 0, 0)
    if near is None:
        x2, y2 = x1 + rng.integers(4, 20), y1 + rng.integers(4, 20)
    else:
        dx, dy, dw, dh = rng.integers(-1, 2, 4)
        x1, y1, x2, y2 = max(x1 + dx, 0), max(y1 + dy, 0), x2 + dw, y2 + dh
    return int(x1), int(y1), int(x2), int(y2)


def mask_of(shape):
    """The pixels of a box, without a corner: an L."""
    x1, y1, x2, y2 = shape
    mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
    mask[y1:y2, x1:x2] = 1
    mask[y1 : (y1 + y2) // 2, x1 : (x1 + x2) // 2] = 0
    return mask


def polygon_of(shape):
    x1, y1, x2, y2 = shape
    corner = shapely.box(x1, y1, (x1 + x2) // 2, (y1 + y2) // 2)
    return shapely.difference(shapely.box(x1, y1, x2, y2), corner)


def coco_precision(kind, scene):
    """AP, AP50, AP75 and AP by category as pycocotools has them; -1 where there is no truth."""
    coco = pytest.importorskip("pycocotools.coco", reason="pip install pycocotools")
    from pycocotools import mask as rle
    from pycocotools.cocoeval import COCOeval

    proposals, proposed, scores, truths, known = scene

    def annotation(number, shape, category):
        x1, y1, x2, y2 = shape
        code = rle.encode(np.asfortranarray(mask_of(shape)))
        place = {"bbox": [x1, y1, x2 - x1, y2 - y1], "segmentation": code, "area": 1, "iscrowd": 0}
        return {"id": number, "image_id": 1, "category_id": int(category), **place}

    with contextlib.redirect_stdout(io.StringIO()):
        labels = coco.COCO()
        labels.dataset = {
            "images": [{"id": 1, "width": SIDE, "height": SIDE}],
            "categories": [{"id": index} for index in range(len(CATEGORIES))],
            "annotations": [
                annotation(n, t, c) for n, (t, c) in enumerate(zip(truths, known, strict=True), 1)
            ],
        }
        labels.createIndex()
        found = coco.COCO()
        found.dataset = dict(labels.dataset)
        found.dataset["annotations"] = [
            annotation(n, p, c) | {"score": float(s)}
            for n, (p, c, s) in enumerate(zip(proposals, proposed, scores, strict=True), start=1)
        ]
        found.createIndex()
        evaluation = COCOeval(labels, found, kind)
        evaluation.params.maxDets = [1, 10, 1000]
        evaluation.evaluate()
        evaluation.accumulate()
    table = evaluation.eval["precision"][:, :, :, 0, 2]  # overlap, recall, category

    def mean(values):
        values = values[values > -1]
        return values.mean() if len(values) else None

    return [
        mean(table),
        mean(table[0]),
        mean(table[5]),
        *(mean(column) for column in np.moveaxis(table, 2, 0)),
    ]


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_agrees_with_pycocotools(kind):
    draw = shapely.box if kind == "bbox" else None
    for seed in range(40):
        scene = random_scene(np.random.default_rng(seed), integer_box)
        proposals, proposed, scores, truths, known = scene
        polygons, outlines = (
            np.array([draw(*shape) if draw else polygon_of(shape) for shape in side], dtype=object)
            for side in (proposals, truths)
        )
        ours = precision_of(polygons, proposed, scores, outlines, known)
        theirs = coco_precision(kind, scene)
        assert [ours.ap, ours.ap50, ours.ap75, *ours.categories.values()] == _nearly(theirs), seed
        together = proposals, np.zeros_like(proposed), scores, truths, np.zeros_like(known)
        assert ours.all_buildings == _nearly(coco_precision(kind, together))[0], seed


@pytest.mark.parametrize(("truths", "found"), [([2, 4], 1), ([4, 2], 51 / 101)])
def test_of_equal_overlaps_the_last_truth_is_taken(truths, found):
    # The first proposal overlaps both alike; the second needs the one at 2.
    shapes = [[(x, 0, x + 10, 10) for x in side] for side in ([3, 0], truths)]
    scene = shapes[0], np.zeros(2, dtype=int), np.array([0.9, 0.8]), shapes[1], np.zeros(2, dtype=int)
    polygons, outlines = (shapely.box(*np.array(side, dtype=float).T) for side in shapes)
    ours = precision_of(polygons, scene[1], scene[2], outlines, scene[4])
    assert ours.ap50 == pytest.approx(found)
    assert ours.ap50 == _nearly(coco_precision("bbox", scene))[1]


def _nearly(values):
    return [value if value is None else pytest.approx(value, abs=1e-12) for value in values]


# Boundary IoU.


def raster_boundary_iou(mask, other, width):
    """As its authors compute it: what erosion by a 3 x 3 square takes in `width` rounds."""
    bands = [m & ~binary_erosion(m, np.ones((3, 3)), iterations=width) for m in (mask, other)]
    return (bands[0] & bands[1]).sum() / (bands[0] | bands[1]).sum()


def test_boundary_iou_of_boxes_is_that_of_their_pixels():
    rng = np.random.default_rng(0)
    for _ in range(50):
        one, other = integer_box(rng, None), integer_box(rng, None)
        masks = np.zeros((2, 2 * SIDE, 2 * SIDE), dtype=bool)
        for mask, (x1, y1, x2, y2) in zip(masks, (one, other), strict=True):
            mask[y1 + 5 : y2 + 5, x1 + 5 : x2 + 5] = True
        for width in (1, 3):
            (ours,) = boundary_ious(np.array([shapely.box(*one)]), np.array([shapely.box(*other)]), width)
            assert ours == pytest.approx(raster_boundary_iou(*masks, width), abs=1e-12)


def test_boundary_iou_by_hand():
    # A 10 x 10 square and its right half moved up by nothing: bands of one metre, 36 and 26 m2.
    square, half = np.array([box(0)]), np.array([box(5, w=5)])
    # Shared are 5 + 5 + 8 of the outer sides; the half's left side lies inside the square.
    assert boundary_ious(square, half, 1.0)[0] == pytest.approx(18 / (36 + 26 - 18))


def test_a_shift_costs_large_buildings_as_much_as_small_ones():
    sides = np.array([10.0, 20.0, 40.0, 80.0])
    ious = shapely.area(shapely.box(0.25, 0, sides, sides)) / (sides * (sides + 0.25))
    boundary = boundary_ious(shapely.box(0, 0, sides, sides), shapely.box(0.25, 0, sides + 0.25, sides), 0.5)
    assert ious[-1] - ious[0] > 0.03
    assert np.ptp(boundary) < 0.02


coordinate = st.floats(0, 30, allow_nan=False)
size = st.floats(0.5, 20)
rectangle = st.builds(lambda x, y, w, h: shapely.box(x, y, x + w, y + h), coordinate, coordinate, size, size)


@settings(deadline=None, max_examples=100)
@given(rectangle, rectangle, st.floats(0.1, 15))
def test_boundary_iou_is_symmetric_bounded_and_one_for_equals(one, other, width):
    one, other = np.array([one]), np.array([other])
    (ours,) = boundary_ious(one, other, width)
    assert 0 <= ours <= 1
    assert ours == pytest.approx(boundary_ious(other, one, width)[0], abs=1e-9)
    assert boundary_ious(one, one, width)[0] == pytest.approx(1)
    if width > 10:  # wider than any half: no core is left
        shared = shapely.area(shapely.intersection(one, other))
        assert ours == pytest.approx((shared / (shapely.area(one) + shapely.area(other) - shared))[0])


def test_boundary_iou_of_many_goes_in_batches(monkeypatch):
    from pipeline.metrics import boundary

    x = np.arange(25.0)
    one, other = shapely.box(x, 0, x + 10, 10), shapely.box(x + x / 10, 0, x + 10, 10 - x / 10)
    at_once = boundary_ious(one, other, 0.5)
    monkeypatch.setattr(boundary, "_BATCH", 10)
    assert np.array_equal(boundary_ious(one, other, 0.5), at_once)


# Confusion and sizes.


def test_who_was_taken_for_whom():
    metrics, _ = measure(
        [(box(0), 0, 0.9), (box(20), 2, 0.8), (box(40), 2, 0.7), (box(500), 1, 0.6)],
        [(box(0), 0), (box(20), 1), (box(40), -1), (box(60), 2), (box(80), -1)],
    )
    confusion = metrics.confusion
    assert confusion.matched == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]
    assert (confusion.unknown, confusion.false) == ([0, 0, 1], [0, 1, 0])
    assert (confusion.missed, confusion.missed_unknown) == ([0, 0, 1], 1)
    assert confusion.agreement == 0.5


def test_confidences_as_published_are_held_against_what_was_found():
    # Unknown, which tells nothing; right; of another condition; nothing there.
    metrics, _ = measure(
        [(box(40), 2, 0.5), (box(0), 0, 0.95), (box(20), 2, 0.95), (box(500), 1, 0.5)],
        [(box(0), 0), (box(20), 1), (box(40), -1)],
    )
    bins = [(one.count, one.confidence, one.accuracy) for one in metrics.reliability.bins]
    assert bins == [(1, 0.5, 0), (2, pytest.approx(0.95), 0.5)]


def test_sizes_are_the_truths_and_for_false_proposals_their_own():
    metrics, _ = measure(
        [(box(0, w=6), 0, 0.9), (box(500, w=100, h=100), 0, 0.8)],
        [(box(0, w=5), 0), (box(100, w=30, h=30), 0), (BOW_TIE, 0)],
    )
    sizes = [(size.from_m2, size.to_m2, size.counts) for size in metrics.sizes]
    assert [(low, high) for low, high, _ in sizes] == [(0, 50), (50, 200), (200, None)]
    counts = [(c.true_positives, c.false_positives, c.false_negatives) for *_, c in sizes]
    # The match has 60 m2 and its truth 50, a limit, from which a building is medium.
    assert counts == [(0, 0, 1), (1, 0, 0), (0, 1, 1)]


category = st.integers(0, 2)
shape = st.builds(box, st.integers(0, 12), st.integers(0, 12), st.integers(1, 6), st.integers(1, 6))
proposals_of = st.lists(st.tuples(shape, category, st.sampled_from([0.2, 0.5, 0.7, 1.0])), max_size=12)
truths_of = st.lists(st.tuples(st.one_of(shape, st.just(BOW_TIE)), st.integers(-1, 2)), max_size=12)


@settings(deadline=None, max_examples=150)
@given(proposals_of, truths_of)
def test_everything_is_counted_once_and_every_number_is_a_share(proposals, truths):
    metrics, score = measure(proposals, truths, size_limits_m2=(4.0, 9.0, 16.0))
    confusion, total = metrics.confusion, score.all_buildings
    table = np.array(confusion.matched)
    assert table.sum() + sum(confusion.unknown) == total.true_positives
    known, proposed = [c for _, c in truths], [c for _, c, _ in proposals]
    assert (table.sum(axis=1) + confusion.missed).tolist() == [known.count(c) for c in range(3)]
    columns = table.sum(axis=0) + confusion.false + np.array(confusion.unknown)
    assert columns.tolist() == [proposed.count(c) for c in range(3)]
    assert sum(table[a, b] for a in range(3) for b in range(3) if a != b) == len(score.matches.class_mistakes)
    for name in ("true_positives", "false_positives", "false_negatives"):
        assert sum(getattr(size.counts, name) for size in metrics.sizes) == getattr(total, name)
    for precision in (metrics.outlines, metrics.boxes, metrics.boundaries):
        numbers = [precision.ap, precision.ap50, precision.ap75, precision.all_buildings]
        assert all(0 <= number <= 1 for number in numbers if number is not None)
        assert (precision.ap is None) == (not any(c >= 0 for c in known))
    if metrics.boundary.matches:
        assert 0 <= metrics.boundary.mean_boundary_iou <= 1
    assert metrics.boundary.matches == total.true_positives
    assert ImageMetrics.model_validate_json(metrics.model_dump_json()) == metrics


@settings(deadline=None, max_examples=60)
@given(proposals_of, truths_of)
def test_counts_agree_with_the_independent_metric(proposals, truths):
    metrics, _ = measure(proposals, truths)
    plain = independent_metric.count([(c, s, p) for p, c, s in proposals], [(c, t) for t, c in truths])
    ours = np.sum([list(size.counts.model_dump().values())[:3] for size in metrics.sizes], axis=0)
    assert ours.tolist() == [plain[name] for name in ("true_positives", "false_positives", "false_negatives")]


@settings(deadline=None, max_examples=60)
@given(proposals_of)
def test_what_is_its_own_truth_is_found_exactly(proposals):
    kept = [p for n, p in enumerate(proposals) if not any(p[0].intersects(q[0]) for q in proposals[:n])]
    metrics, _ = measure(kept, [(polygon, category) for polygon, category, _ in kept])
    found = None if not kept else 1
    assert (metrics.outlines.ap, metrics.boxes.ap, metrics.boundaries.ap) == (found,) * 3
    assert (metrics.boundary.mean_boundary_iou, metrics.boundary.mean_iou) == (
        (None, None) if not kept else (pytest.approx(1), pytest.approx(1))
    )


def test_nothing_against_nothing():
    metrics, _ = measure([], [])
    assert metrics.outlines.ap is None
    assert metrics.boundary.mean_boundary_iou is None
    assert metrics.confusion.agreement == 0
    assert [size.counts.f1 for size in metrics.sizes] == [0, 0, 0]


def test_empty_and_missing_outlines_are_never_found():
    metrics, _ = measure(
        [(None, 0, 0.9), (shapely.Polygon(), 0, 0.8)], [(shapely.Polygon(), 0), (BOW_TIE, 0), (box(0), 0)]
    )
    assert (metrics.outlines.ap, metrics.boxes.ap) == (0, 0)
    assert sum(size.counts.false_negatives for size in metrics.sizes) == 3


def test_an_invalid_truth_has_no_box_either():
    metrics, _ = measure([(box(0), 0, 0.9)], [(BOW_TIE, 0)])
    assert metrics.boxes.ap == 0


def test_a_ragged_outline_is_no_match_by_its_boundary():
    metrics, _ = measure([(box(1, w=40, h=40), 0, 0.9)], [(box(0, w=40, h=40), 0)])
    assert (metrics.outlines.ap50, metrics.boxes.ap50, metrics.boundaries.ap50) == (1, 1, 0)
    assert metrics.boundary.mean_iou == pytest.approx(39 / 41)
    assert 0.3 < metrics.boundary.mean_boundary_iou < 0.5


def test_a_match_at_the_edge_of_an_overlap_is_compared_in_any_frame():
    # The score's frame may say 0.5000001 where this one says 0.4999999.
    _, score = measure([(box(0), 0, 0.9)], [(box(0), 0)])
    metrics = measure_image(
        [box(0, w=4)], sure([0], [0.9]), [box(0)], [0], CATEGORIES, score.matches, MetricRules()
    )
    assert metrics.outlines.ap == 0
    assert metrics.boundary.matches == 1
    assert 0 < metrics.boundary.mean_boundary_iou < 0.5


@pytest.mark.parametrize(
    "rules", [{"boundary_m": 0.0}, {"size_limits_m2": (50.0, 20.0)}, {"size_limits_m2": (0.0,)}]
)
def test_rules_that_measure_nothing_are_refused(rules):
    with pytest.raises(SettingsError, match=next(iter(rules))):
        MetricRules(**rules)


def test_measures_a_large_image():
    corners = np.arange(3_000.0)
    polygons = shapely.box(corners * 20, 0, corners * 20 + 10, 10)
    categories = np.arange(len(corners)) % 3
    probabilities = sure(categories, np.full(len(corners), 0.9))
    score = score_image(polygons, probabilities, polygons, categories, CATEGORIES)
    metrics = measure_image(
        polygons, probabilities, polygons, categories, CATEGORIES, score.matches, MetricRules()
    )
    assert (metrics.outlines.ap, metrics.boundaries.ap, metrics.confusion.agreement) == (1, 1, 1)
