"""Mask grids as polygons, measured against torchvision's own pasting."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from rasterio.features import rasterize, shapes
from scipy.ndimage import gaussian_filter

from pipeline.vectorize import VectorizeRules, mask_ambiguities, masks_to_polygons

EXACT = VectorizeRules(simplify_cells=0)


def roofs(count: int, seed: int = 0, size: int = 28) -> np.ndarray:
    """float32[count, size, size]: turned rectangles and discs with soft edges and a little noise."""
    rng = np.random.default_rng(seed)
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    x, y = np.meshgrid(axis, axis)
    grids = []
    for number in range(count):
        if number % 3:
            angle = rng.uniform(0, np.pi)
            along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
            reach = 0.95 / (abs(np.cos(angle)) + abs(np.sin(angle)))
            inside = reach - np.maximum(np.abs(along), np.abs(across))
        else:
            inside = 0.95 - np.hypot(x, y)
        grids.append(1 / (1 + np.exp(-16 * inside)) + rng.normal(0, 0.02, x.shape))
    return np.clip(grids, 0, 1).astype(np.float32)


def random_boxes(count: int, low: float, high: float, seed: int = 0) -> np.ndarray:
    """Whole-pixel boxes between `low` and `high` pixels a side."""
    rng = np.random.default_rng(seed)
    corner = rng.integers(5, 40, (count, 2))
    return np.hstack([corner, corner + rng.integers(low, high, (count, 2))]).astype(np.float64)


def pasted_region(box: np.ndarray, size: int) -> np.ndarray:
    """The box, in pixel edges, that torchvision's pasting of a whole-pixel `box` really covers.

    It pads the grid by one sample, widens the box by as much, truncates the corners to whole pixels
    and paints both end pixels (its TO_REMOVE).
    """
    centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2 * (size + 2) / size
    low, high = np.trunc(centre - half), np.trunc(centre + half) + 1
    centre, half = (low + high) / 2, (high - low) / 2 * size / (size + 2)
    return np.r_[centre - half, centre + half]


def pasted(masks: np.ndarray, boxes: np.ndarray, canvas: int) -> np.ndarray:
    """bool[n, canvas, canvas]: the pixels that torchvision pastes at 0.5."""
    torch = pytest.importorskip("torch")
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    size = (canvas, canvas)
    images = paste_masks_in_image(torch.from_numpy(masks)[:, None], torch.from_numpy(boxes).float(), size)
    return images[:, 0].numpy() >= 0.5


def iou(one: object, other: object) -> np.ndarray:
    return shapely.area(shapely.intersection(one, other)) / shapely.area(shapely.union(one, other))


@pytest.mark.parametrize(
    ("low", "high", "rules", "least"),
    [
        (21, 61, VectorizeRules(), 0.992),
        (21, 240, VectorizeRules(), 0.992),
        (61, 400, VectorizeRules(), 0.992),
        (21, 61, EXACT, 0.998),
    ],
)
def test_covers_the_pixels_that_torchvision_pastes(low: int, high: int, rules: VectorizeRules, least: float):
    masks, boxes, canvas = roofs(90, seed=1), random_boxes(90, low, high, seed=1), 460
    polygons = masks_to_polygons(masks, np.array([pasted_region(box, 28) for box in boxes]), rules)
    ours = np.array([rasterize([polygon], out_shape=(canvas, canvas)) > 0 for polygon in polygons])
    theirs = pasted(masks, boxes, canvas)
    overlap = (ours & theirs).sum((1, 2)) / (ours | theirs).sum((1, 2))
    assert overlap.mean() >= least and overlap.min() >= 0.95


def test_agrees_with_tracing_the_pasted_pixels_of_large_buildings():
    masks, boxes = roofs(12, seed=2), random_boxes(12, 450, 600, seed=2)
    polygons = masks_to_polygons(masks, np.array([pasted_region(box, 28) for box in boxes]))
    for polygon, pixels in zip(polygons, pasted(masks, boxes, 660).astype(np.uint8), strict=True):
        traced = [shapely.geometry.shape(shape) for shape, value in shapes(pixels) if value]
        assert iou(polygon, max(traced, key=shapely.area)) >= 0.99


@settings(deadline=None, max_examples=60)
@given(
    masks=npst.arrays(np.float32, st.tuples(st.integers(0, 4), st.just(7), st.just(7)),
                      elements=st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])),
    scale=st.floats(0.5, 80),
    simplify=st.sampled_from([0.0, 0.3, 2.0]),
)  # fmt: skip
def test_always_valid_polygon_inside_the_box_or_none(masks: np.ndarray, scale: float, simplify: float):
    boxes = np.tile([3.0, 4.0, 3 + scale, 4 + 2 * scale], (len(masks), 1))
    polygons = masks_to_polygons(masks, boxes, VectorizeRules(simplify_cells=simplify, min_piece_px2=0))
    assert polygons.shape == (len(masks),)
    for polygon in polygons[shapely.get_type_id(polygons) >= 0]:
        assert shapely.is_valid(polygon) and polygon.geom_type == "Polygon" and polygon.area > 0
        assert shapely.box(*boxes[0]).covers(polygon)


def test_what_simplifying_would_collapse_keeps_its_outline():
    mask = np.zeros((1, 7, 7), np.float32)
    mask[0, :2, 0] = 0.75, 0.5
    (polygon,) = masks_to_polygons(mask, np.array([[3.0, 4.0, 4.0, 6.0]]), VectorizeRules(min_piece_px2=0))
    assert polygon.difference(shapely.box(3, 4, 4, 6)).area < 1e-6


def test_fitting_moves_no_part_of_an_outline_further_than_twice_the_tolerance():
    masks = roofs(60, seed=4)
    boxes = np.tile([0.0, 0.0, 28.0, 28.0], (60, 1))
    exact, fitted = (masks_to_polygons(masks, boxes, rules) for rules in (EXACT, VectorizeRules()))
    points, owner = shapely.get_coordinates(exact, return_index=True)
    away = shapely.distance(shapely.points(points), shapely.boundary(fitted)[owner])
    assert 0.1 < away.max() <= 2 * VectorizeRules().simplify_cells
    assert shapely.get_num_coordinates(fitted).mean() < shapely.get_num_coordinates(exact).mean() / 6


def test_no_corner_moves_further_than_the_tolerance():
    noise = np.random.default_rng(7).normal(0, 1, (60, 28, 28))
    masks, boxes = (
        1 / (1 + np.exp(-8 * gaussian_filter(noise, (0, 1, 1)))),
        np.tile([0.0, 0, 28, 28], (60, 1)),
    )
    exact, fitted = (masks_to_polygons(masks, boxes, rules) for rules in (EXACT, VectorizeRules()))
    corners, owner = shapely.get_coordinates(fitted, return_index=True)
    moved = shapely.distance(shapely.points(corners), shapely.boundary(exact)[owner])
    assert moved.max() <= VectorizeRules().simplify_cells + 1e-9


def test_walls_are_where_a_noisy_mask_has_them_on_average():
    clean = np.zeros((28, 28), np.float32)
    clean[4:24, 6:22] = 1
    noise = np.random.default_rng(5).uniform(0.0, 0.45, (40, 28, 28)).astype(np.float32)
    boxes = np.tile([0.0, 0.0, 280.0, 280.0], (40, 1))
    (truth,) = masks_to_polygons(clean[None], boxes[:1])
    drawn = [masks_to_polygons(np.abs(clean - noise), boxes, rules) for rules in (EXACT, VectorizeRules())]
    (exact, fitted) = (iou(polygons, truth) for polygons in drawn)
    assert fitted.mean() > exact.mean() + 0.001


def test_one_tolerance_serves_every_size_and_proportion():
    masks = roofs(30, seed=6)
    square, stretched = np.tile([0.0, 0.0, 28.0, 28.0], (30, 1)), np.tile([5.0, 9.0, 425.0, 65.0], (30, 1))
    here, there = (masks_to_polygons(masks, boxes, VectorizeRules()) for boxes in (square, stretched))
    assert shapely.equals_exact(shapely.transform(here, lambda xy: xy * (15, 2) + (5, 9)), there, 1e-9).all()


def test_where_straight_walls_would_cross_the_contour_stays():
    noise = np.random.default_rng(7).normal(0, 1, (200, 28, 28))
    blobs = gaussian_filter(noise, (0, 1, 1)) * 8
    masks, boxes = 1 / (1 + np.exp(-blobs)), np.tile([0.0, 0.0, 280.0, 280.0], (200, 1))
    exact, fitted = (masks_to_polygons(masks, boxes, r) for r in (EXACT, VectorizeRules(simplify_cells=1)))
    assert shapely.is_valid(fitted).all()
    assert 0 < shapely.equals_identical(exact, fitted).sum() < 100


def test_area_is_kept():
    masks, boxes = roofs(120, seed=3), random_boxes(120, 21, 400, seed=3)
    exact, fitted = (
        shapely.area(masks_to_polygons(masks, boxes, rules)) for rules in (EXACT, VectorizeRules())
    )
    assert abs(fitted.sum() / exact.sum() - 1) <= 0.001 and np.abs(fitted / exact - 1).max() <= 0.005


def test_area_of_smooth_shapes_is_kept():
    axis = (np.arange(28) + 0.5) / 28 * 2 - 1
    x, y = np.meshgrid(axis, axis)
    disc = np.clip(0.5 + 4 * (0.8 - np.hypot(x, y)), 0, 1)
    sizes = np.array([30.0, 60.0, 150.0, 600.0])
    boxes = np.column_stack([np.zeros(4), np.zeros(4), sizes, sizes])
    areas = shapely.area(masks_to_polygons(np.repeat(disc[None], 4, 0), boxes))
    assert np.abs(areas / (np.pi * (0.8 * sizes / 2) ** 2) - 1).max() <= 0.002


@pytest.mark.parametrize("size", [1, 2, 14, 28, 56])
def test_full_mask_is_about_the_box(size: int):
    box = np.array([[10.0, 20.0, 110.0, 70.0]])
    (polygon,) = masks_to_polygons(np.ones((1, size, size), np.float32), box)
    # Half a sample is missing at each corner; a grid of one sample is a diamond.
    assert iou(polygon, shapely.box(*box[0])) >= 1 - max(0.55 / size**2, 0.015)
    assert np.allclose(polygon.bounds, box[0], atol=1)


def test_empty_masks_boxes_without_area_and_nothing_at_all():
    masks = np.stack([np.zeros((28, 28)), np.ones((28, 28)), np.ones((28, 28)), np.full((28, 28), np.nan)])
    boxes = np.array([[0, 0, 50, 50], [0, 0, 0, 50], [0, 0, np.nan, 50], [0, 0, 50, 50]], float)
    assert list(masks_to_polygons(masks, boxes)) == [None] * 4
    assert masks_to_polygons(np.empty((0, 28, 28), np.float32), np.empty((0, 4))).shape == (0,)


def test_largest_piece_and_large_holes_stay():
    mask = np.zeros((2, 28, 28), np.float32)
    mask[0, 2:20, 2:20] = 1
    mask[0, 24:26, 24:26] = 1
    mask[0, 8:12, 8:12] = 0
    mask[1] = mask[0]
    boxes = np.array([[0, 0, 280, 280], [0, 0, 56, 56]], float)
    large, small = masks_to_polygons(mask, boxes, VectorizeRules(min_hole_px2=100))
    assert large.area == pytest.approx((18 * 18 - 4 * 4) * 100, rel=0.02)
    assert len(large.interiors) == 1 and len(small.interiors) == 0


def test_small_pieces_are_dropped_and_threshold_is_honoured():
    mask = np.full((1, 28, 28), 0.6, np.float32)
    box = np.array([[0.0, 0.0, 3.0, 3.0]])
    assert masks_to_polygons(mask, box, VectorizeRules(min_piece_px2=20))[0] is None
    assert masks_to_polygons(mask, box, VectorizeRules(min_piece_px2=1))[0] is not None
    assert masks_to_polygons(mask, box, VectorizeRules(min_piece_px2=1, threshold=0.7))[0] is None


def test_a_batch_is_the_same_as_one_by_one():
    masks, boxes = roofs(300), random_boxes(300, 10, 200)
    masks[::7] = 0
    masks[::5, 10:18, 12:16] = 0
    together = masks_to_polygons(masks, boxes)
    alone = [masks_to_polygons(masks[i : i + 1], boxes[i : i + 1])[0] for i in range(300)]
    assert shapely.is_missing(together[::7]).all() and shapely.get_num_interior_rings(together).sum() > 30
    assert shapely.to_wkb(together).tolist() == shapely.to_wkb(alone).tolist()


def test_masks_and_boxes_must_match():
    with pytest.raises(ValueError, match="one square grid"):
        masks_to_polygons(np.ones((2, 28, 28)), np.zeros((1, 4)))


def test_a_mask_is_as_ambiguous_as_its_cells():
    sure, lost = np.zeros((28, 28)), np.full((28, 28), 0.5)
    sure[5:20, 5:20] = 1
    half = sure.copy()
    half[:14] = 0.5
    assert mask_ambiguities(np.array([sure, lost, half])) == pytest.approx([0, 1, 0.5])
    assert mask_ambiguities(np.empty((0, 28, 28))).shape == (0,)
