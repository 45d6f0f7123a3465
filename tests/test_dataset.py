import json
import os

import numpy as np
import pytest
import shapely
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from painted_tiles import CATEGORIES, item, tiles, write_tile
from rasterio.features import rasterize
from rasterio.transform import Affine
from torchvision.models.detection.roi_heads import project_masks_on_boxes

from models.categories import unknown_label
from models.dataset import TileDataset
from models.errors import DatasetError
from models.recipe import Recipe
from models.sampling import Draw
from models.tiles import digest_tiles, read_items

RECIPE = Recipe()


def _target(tmp_path, items, **size):
    tile = write_tile(tmp_path, "r0000_c0000", items, **size)
    return TileDataset([tile], CATEGORIES, RECIPE)[0]


def test_another_picture_of_the_same_size_is_another_digest_and_the_same_cut_anew_is_not(tmp_path):
    learnt = tiles(tmp_path)
    before, picture = digest_tiles(learnt), learnt[1].image.read_bytes()
    learnt[1].image.write_bytes(picture[:-1] + bytes([picture[-1] ^ 1]))
    assert digest_tiles(learnt) != before
    learnt[1].image.write_bytes(picture)
    os.utime(learnt[1].image, (1, 1))
    assert digest_tiles(learnt) == before != digest_tiles(learnt[::-1])
    assert digest_tiles([learnt[0]._replace(weight=2.0), *learnt[1:]]) != before


def test_items_become_boxes_labels_and_masks(tmp_path):
    image, target = _target(
        tmp_path,
        [item(10, 20, 30.5, 60, "completed"), item(50, 4, 90, 24, "foundation")],
        width=96,
        height=80,
    )
    assert image.dtype == torch.uint8 and image.shape == (3, 80, 96)
    assert target["boxes"].dtype == torch.float32
    assert target["boxes"].tolist() == [[10, 20, 30.5, 60], [50, 4, 90, 24]]
    assert target["labels"].tolist() == [3, 1] and target["labels"].dtype == torch.int64
    assert target["masks"].shape == (2, 80, 96) and target["masks"].dtype == torch.uint8
    assert target["masks"][1].sum() == pytest.approx(40 * 20, abs=60)
    assert target["ignore_boxes"].shape == (0, 4)


@pytest.mark.parametrize(
    "ignored",
    [
        item(10, 10, 40, 40, visible_share=0.29),
        item(10, 10, 40, 13.9),
        item(10, 10, 13.9, 40),
    ],
    ids=["hidden", "flat", "narrow"],
)
def test_what_cannot_be_learnt_is_ignored(tmp_path, ignored):
    _, target = _target(tmp_path, [item(50, 50, 90, 90), ignored])
    assert target["labels"].tolist() == [3]
    assert len(target["masks"]) == 1
    assert len(target["ignore_boxes"]) == 1
    assert target["ignore_boxes"][0, :2].tolist() == [10, 10]


def test_items_of_unknown_category_are_items(tmp_path):
    _, target = _target(tmp_path, [item(50, 50, 90, 90), item(10, 10, 40, 40, None)])
    assert target["labels"].tolist() == [3, unknown_label(CATEGORIES)] == [3, 4]
    assert target["masks"][1, 11:40, 11:40].all() and len(target["ignore_boxes"]) == 0


def test_masks_of_a_tile_are_gdals_one_by_one(tmp_path):
    """Drawn side by side in one call, none may touch another's, whatever reaches beyond the tile."""
    boxes = [
        (-40, -30, 25, 20),
        (60, 50, 140, 130),
        (3, 70, 40, 96.5),
        (0, 0, 96, 80),
        (30.2, 10.7, 55.1, 33.3),
    ]
    _, target = _target(tmp_path, [item(*box) for box in boxes], width=96, height=80)
    corners = Affine.translation(-0.5, -0.5)
    alone = [rasterize([shapely.box(*box)], out_shape=(80, 96), transform=corners) for box in boxes]
    assert np.array_equal(target["masks"].numpy(), np.stack(alone))


def test_rule_limits_themselves_are_learnt(tmp_path):
    _, target = _target(tmp_path, [item(10, 10, 14, 14, visible_share=0.3)])
    assert target["labels"].tolist() == [3] and len(target["ignore_boxes"]) == 0


def test_holes_and_parts(tmp_path):
    hole = [[30, 30], [60, 30], [60, 60], [30, 60], [30, 30]]
    ring = [[10, 10], [80, 10], [80, 80], [10, 80], [10, 10]]
    island = [[84, 84], [94, 84], [94, 94], [84, 94], [84, 84]]
    entry = item(0, 0, 1, 1) | {"polygons": [[ring, hole], [island]]}
    _, target = _target(tmp_path, [entry])
    assert target["boxes"].tolist() == [[10, 10, 94, 94]]
    mask = target["masks"][0]
    assert mask[45, 45] == 0 and mask[20, 20] == 1 and mask[90, 90] == 1


def test_tile_without_items(tmp_path):
    _, target = _target(tmp_path, [])
    assert target["boxes"].shape == (0, 4) and target["ignore_boxes"].shape == (0, 4)
    assert target["labels"].shape == (0,) and target["masks"].shape == (0, 96, 96)


def test_masks_lie_where_torchvision_reads_them(tmp_path):
    """What the mask head is taught lies in the box where the item does, half a pixel would be too far."""
    off = []
    for shift in np.arange(0.05, 1, 0.1):
        _, target = _target(tmp_path, [item(20 + shift, 30 + shift, 60 + shift, 70 + shift)])
        around = torch.tensor([[10.0, 20, 70, 80]]) + torch.tensor(shift, dtype=torch.float32)
        taught = project_masks_on_boxes(target["masks"], around, torch.zeros(1, dtype=torch.int64), 28)[0]
        for axis in (0, 1):
            profile = taught.sum(axis).numpy()
            off.append(((profile * np.arange(28)).sum() / profile.sum() - 13.5) * 60 / 28)
    assert np.mean(off) == pytest.approx(0, abs=0.05) and np.abs(off).max() < 0.5


@settings(deadline=None, max_examples=25)
@given(epoch=st.integers(0, 50), position=st.integers(0, 50))
def test_shown_tiles_keep_their_items_in_place(tmp_path_factory, epoch, position):
    folder = tmp_path_factory.mktemp("pairs")
    entries = [item(8, 12, 40, 22, "completed"), item(60, 40, 72, 70, "foundation", 0.1)]
    tile = write_tile(folder, "r0000_c0000", entries, width=96, height=80)
    plain = Recipe(brightness=0, contrast=0, tint=0)
    image, target = TileDataset([tile], CATEGORIES, plain)[Draw(0, epoch, position)]
    assert image.shape[1:] in ((80, 96), (96, 80))
    assert target["masks"].shape[1:] == image.shape[1:]
    for box, colour in ((target["boxes"][0], (220, 80, 80)), (target["ignore_boxes"][0], (200, 200, 60))):
        x1, y1, x2, y2 = box.int().tolist()
        assert (image[:, y1:y2, x1:x2] == torch.tensor(colour)[:, None, None]).all()
    x1, y1, x2, y2 = target["boxes"][0].int().tolist()
    assert target["masks"][0, y1 + 1 : y2, x1 + 1 : x2].all()


def test_showing_depends_on_seed_epoch_and_position_alone(tmp_path):
    data = TileDataset(tiles(tmp_path), CATEGORIES, RECIPE)
    again = TileDataset(tiles(tmp_path), CATEGORIES, RECIPE)
    other = TileDataset(tiles(tmp_path), CATEGORIES, Recipe(seed=2))
    draws = [Draw(0, epoch, position) for epoch in range(4) for position in range(4)]
    images = [data[draw][0] for draw in draws]
    assert all(
        torch.equal(image, again[draw][0]) for image, draw in reversed(list(zip(images, draws, strict=True)))
    )
    assert not all(torch.equal(image, other[draw][0]) for image, draw in zip(images, draws, strict=True))
    assert len({image.numpy().tobytes() for image in images}) > 8


def test_every_showing_has_a_seed_of_its_own(tmp_path):
    data = TileDataset(tiles(tmp_path), CATEGORIES, RECIPE)
    seeds = [data[Draw(0, epoch, position)][1]["seed"] for epoch in (0, 1) for position in (0, 1)]
    assert len({*seeds, data[0][1]["seed"], data[1][1]["seed"]}) == 6
    assert data[0][1]["tile"] == "grid/r0000_c0000"


def test_read_items(tmp_path):
    tile = write_tile(tmp_path, "r0003_c0012", [item(1, 2, 3, 4, None, 0.5)])
    items = read_items(tile.items)
    assert items.tile == "grid/r0003_c0012" and items.categories == (None,)
    assert items.polygons[0].bounds == (1, 2, 3, 4) and items.visible_shares.tolist() == [0.5]


def test_odd_files_are_named(tmp_path):
    tile = write_tile(tmp_path, "r0000_c0000", [item(1, 2, 30, 40, "palace")])
    with pytest.raises(DatasetError, match=r"grid/r0000_c0000.*palace"):
        TileDataset([tile], CATEGORIES, RECIPE)[0]
    for content in ("{", json.dumps({"items": [{}], "image_id": "", "tile_id": ""}), "[]"):
        tile.items.write_text(content)
        with pytest.raises(DatasetError, match="not an item file"):
            read_items(tile.items)
    with pytest.raises(DatasetError, match="no such item file"):
        read_items(tmp_path / "none.json")
    tile.image.write_bytes(b"no picture")
    with pytest.raises(DatasetError, match="unreadable tile"):
        TileDataset([tile], CATEGORIES, RECIPE)[0]
