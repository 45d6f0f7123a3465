import numpy as np
import pytest
import shapely
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from painted_tiles import CATEGORIES, item, write_tile
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as v2

from models.augment import hue_matrix, move, relight, saturation_matrix
from models.copy_paste import GAP_PX, paste
from models.dataset import TileDataset, make_target
from models.recipe import Recipe
from models.sampling import Draw
from models.tiles import Items, read_image, read_items

STILL = Recipe(flips=False, brightness=0, contrast=0, tint=0)
CORNERS = ((30, 40, 90, 60), (70, 80, 100, 110), (10, 90, 40, 118))


def _rng(seed=0):
    return np.random.default_rng(seed)


def _items(*boxes, categories=None, shares=None):
    polygons = np.array([shapely.MultiPolygon([shapely.box(*box)]) for box in boxes], dtype=object)
    shares = np.ones(len(boxes)) if shares is None else np.array(shares)
    return Items("grid/t", polygons, categories or ("completed",) * len(boxes), shares)


def _painted(items, height=120, width=128):
    """A tile with a level of its own for every item."""
    image = torch.full((3, height, width), 30, dtype=torch.uint8)
    for row, polygon in enumerate(items.polygons):
        x1, y1, x2, y2 = map(int, polygon.bounds)
        image[:, y1:y2, x1:x2] = 100 + 50 * row
    return image


def _still(**knobs):
    return Recipe(**({"flips": False, "brightness": 0, "contrast": 0, "tint": 0} | knobs))


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), flips=st.booleans())
def test_picture_masks_boxes_and_polygons_move_as_one(seed, flips):
    """Wherever a tile is turned and magnified to, its items' pixels lie where their polygons do."""
    recipe = _still(flips=flips, rotation=30.0, scale_min=0.5, scale_max=1.5)
    items = _items(*CORNERS)
    image, moved = move(_painted(items), items, recipe, _rng(seed))
    target = make_target(moved, *image.shape[1:], CATEGORIES, recipe)
    assert image.shape[1:] in ((120, 128), (128, 120))
    for row, polygon in enumerate(moved.polygons):
        level = 100 + 50 * row
        shown = (image[0].int() - level).abs() <= 20
        inner, outer = polygon.buffer(-1.6), polygon.buffer(1.6)
        y, x = np.nonzero(shown.numpy())
        edge = (x > 0) & (y > 0) & (x < image.shape[2] - 1) & (y < image.shape[1] - 1)
        # Levels between an item's and the ground's also lie on the edges of brighter items.
        others = shapely.union_all([p.buffer(1.6) for p in np.delete(moved.polygons, row)])
        lit = shapely.points(x[edge] + 0.5, y[edge] + 0.5)
        assert (shapely.intersects(lit, outer) | shapely.intersects(lit, others)).all()
        ys, xs = np.mgrid[0 : image.shape[1], 0 : image.shape[2]]
        within = shapely.contains_xy(inner, xs + 0.5, ys + 0.5)
        assert shown.numpy()[within].all()
    for box, mask in zip(target["boxes"], target["masks"], strict=True):
        ys, xs = torch.where(mask > 0)
        found = torch.stack((xs.min(), ys.min(), xs.max() + 1, ys.max() + 1))
        assert (found - box).abs().max() <= 2  # of a sharp corner a mask shows less than its box


@pytest.mark.parametrize("degrees", [-17.0, 8.0])
def test_a_turn_is_torchvisions(degrees):
    """Masks and boxes that torchvision would turn lie where those made from turned polygons do."""

    class Chance:
        """Turns by just these degrees."""

        def integers(self, high):
            return 0

        def uniform(self, low, high):
            return degrees / 45 if (low, high) == (-1, 1) else low

        def random(self, count):
            return np.zeros(count)

    items, recipe = _items((30, 40, 90, 60), (70, 70, 90, 95)), _still(rotation=45.0)
    image, moved = move(_painted(items), items, recipe, Chance())
    target = make_target(moved, 120, 128, CATEGORIES, recipe)
    plain = make_target(items, 120, 128, CATEGORIES, recipe)
    masks = v2.rotate(tv_tensors.Mask(plain["masks"]), degrees)
    overlap = ((masks & target["masks"]).sum((1, 2)) / (masks | target["masks"]).sum((1, 2))).tolist()
    assert min(overlap) > 0.85
    boxes = tv_tensors.BoundingBoxes(plain["boxes"], format="XYXY", canvas_size=(120, 128))
    assert torch.allclose(v2.rotate(boxes, degrees).as_subclass(torch.Tensor), target["boxes"], atol=0.02)
    assert torch.equal(image, v2.rotate(_painted(items), degrees, v2.InterpolationMode.BILINEAR))


def test_what_leaves_the_tile_is_seen_less_of():
    items = _items((0, 0, 64, 60), (60, 50, 68, 70))
    shares, sizes = [], []
    for seed in range(30):
        image, moved = move(_painted(items), items, _still(scale_min=2.0, scale_max=2.0), _rng(seed))
        shares.append(moved.visible_shares)
        sizes.append(image.shape)
        whole = shapely.area(items.polygons) * 4
        assert np.allclose(shapely.area(moved.polygons) / whole, moved.visible_shares, atol=0.02)
        bounds = shapely.bounds(moved.polygons[~shapely.is_empty(moved.polygons)])
        assert (bounds[:, :2] >= 0).all() and (bounds[:, 2:] <= (128, 120)).all()
    assert set(sizes) == {(3, 120, 128)} and np.min(shares) < 0.3 < 0.9 < np.max(shares)


def test_smaller_ground_is_surrounded_by_black():
    items = _items(*CORNERS)
    image, moved = move(_painted(items), items, _still(scale_min=0.5, scale_max=0.5), _rng())
    assert image.shape == (3, 120, 128) and (image == 0).float().mean() == pytest.approx(0.75, abs=0.02)
    assert (moved.visible_shares == 1).all()
    assert np.allclose(shapely.area(moved.polygons), shapely.area(items.polygons) / 4)


def test_a_tile_without_items_moves_too():
    items = _items()
    image, moved = move(_painted(items), items, _still(rotation=20.0, scale_min=0.5, scale_max=2), _rng())
    assert image.shape == (3, 120, 128) and len(moved.polygons) == 0 and moved.visible_shares.shape == (0,)


def test_nothing_asked_changes_nothing():
    items = _items(*CORNERS)
    image, moved = move(_painted(items), items, STILL, _rng())
    assert torch.equal(image, _painted(items))
    assert shapely.equals(moved.polygons, items.polygons).all()
    assert torch.equal(relight(image, STILL, _rng()), image)


def _colourful():
    return torch.from_numpy(_rng().integers(60, 190, (3, 40, 50), dtype=np.uint8))


@pytest.mark.parametrize(
    ("matrix", "theirs"),
    [
        (saturation_matrix(1.3), lambda image: v2.adjust_saturation(image, 1.3)),
        (saturation_matrix(0.0), lambda image: v2.adjust_saturation(image, 0.0)),
        (1.2 * np.eye(3), lambda image: v2.adjust_brightness(image, 1.2)),
    ],
    ids=["more saturation", "grey", "brightness"],
)
def test_colours_change_as_torchvisions(matrix, theirs):
    image = _colourful()
    mine = np.einsum("ij,jhw->ihw", matrix, image.numpy()).clip(0, 255)
    assert np.abs(mine - theirs(image).numpy()).max() < 2


def test_a_turned_hue_keeps_grey_and_luma():
    grey = np.full(3, 120.0)
    assert np.allclose(hue_matrix(25) @ grey, grey, atol=0.5)
    red = np.array([200.0, 60, 60])
    turned = hue_matrix(25) @ red
    luma = np.array([0.299, 0.587, 0.114])
    assert turned @ luma == pytest.approx(red @ luma, abs=0.5) and np.abs(turned - red).max() > 10
    assert np.allclose(hue_matrix(-25) @ turned, red, atol=1e-6)


@pytest.mark.parametrize(
    "knobs",
    [
        {"brightness": 0.3}, {"contrast": 0.3}, {"tint": 0.3}, {"saturation": 0.9}, {"hue": 30.0},
        {"blur": 3.0}, {"jpeg_quality": 20},
    ],
    ids=lambda knobs: next(iter(knobs)),
)  # fmt: skip
def test_every_kind_of_light_changes_a_tile_within_reason(knobs):
    image = _colourful()
    changed = [relight(image, _still(**knobs), _rng(seed)) for seed in range(6)]
    assert all(other.shape == image.shape and other.dtype == torch.uint8 for other in changed)
    assert torch.equal(changed[0], relight(image, _still(**knobs), _rng(0)))
    off = [(other.float() - image.float()).abs().mean().item() for other in changed]
    assert 1 < max(off) < 60 and len({round(value, 3) for value in off}) > 3


def test_blur_takes_detail_and_keeps_light():
    image = _colourful()
    blurred = relight(image, _still(blur=3.0), _rng(1)).float()
    assert blurred.var() < 0.6 * image.float().var()
    assert blurred.mean() == pytest.approx(image.float().mean(), abs=1)


def test_pasted_buildings_are_whole_and_free():
    ground = _items((0, 0, 40, 40), (90, 90, 128, 120))
    source = _items(
        (30, 30, 60, 50), (70, 60, 90, 90), (5, 5, 10, 60), (100, 0, 128, 30),
        categories=("foundation", None, "completed", "unfinished"), shares=[1, 1, 1, 0.9],
    )  # fmt: skip
    before, pasted = _painted(ground), set()
    for seed in range(20):
        image, items = paste(before, ground, _painted(source), source, 4, _rng(seed))
        new = items.polygons[2:]
        pasted |= set(items.categories[2:])
        assert len(items.categories) == len(items.polygons) == len(items.visible_shares) <= 3
        for polygon in new:
            x1, y1, x2, y2 = map(int, polygon.bounds)
            assert 0 <= x1 < x2 <= 128 and 0 <= y1 < y2 <= 120
            assert shapely.distance(polygon, ground.polygons).min() >= GAP_PX - 1e-6
            assert (image[:, y1 + 3 : y2 - 3, x1 + 3 : x2 - 3] == 100).all()
            far = torch.ones(120, 128, dtype=torch.bool)
            far[max(0, y1 - 4) : y2 + 4, max(0, x1 - 4) : x2 + 4] = False
            assert torch.equal(image[:, far], before[:, far])
    assert pasted == {"foundation"}
    assert torch.equal(before, _painted(ground))


def test_black_ground_and_full_tiles_take_nothing():
    source = _items((30, 30, 60, 50))
    for ground in (_items((0, 0, 128, 120)), _items()):
        black = torch.zeros(3, 120, 128, dtype=torch.uint8)
        image, items = paste(black, ground, _painted(source), source, 4, _rng())
        assert len(items.polygons) == len(ground.polygons) and not image.any()


def test_a_showing_holds_all_of_it(tmp_path):
    tiles = [
        write_tile(tmp_path, "r0000_c0000", [item(8, 12, 40, 22), item(60, 40, 72, 70, None)]),
        write_tile(tmp_path, "r0000_c0001", [item(20, 20, 40, 44, "foundation")]),
    ]
    recipe = Recipe(
        rotation=10.0, scale_min=0.7, scale_max=1.4, paste=3, saturation=0.3, hue=10.0, blur=1.5,
        jpeg_quality=60, min_item_px=2,
    )  # fmt: skip
    data = TileDataset(tiles, CATEGORIES, recipe)
    labels = set()
    for position in range(12):
        image, target = data[Draw(0, 0, position)]
        assert image.shape == (3, 96, 96) and image.dtype == torch.uint8 and image.is_contiguous()
        assert target["masks"].shape == (len(target["labels"]), 96, 96)
        labels |= set(target["labels"].tolist())
    assert labels == {1, 3, 4}
    assert torch.equal(data[0][0], torch.from_numpy(read_image(tiles[0].image)))
    assert len(read_items(tiles[0].items).polygons) == 2
