"""Training tiles for other networks: what COCO's own reader and a reader of YOLO's make of them."""

from __future__ import annotations

import json

import numpy as np
import orjson
import pytest
import rasterio
import shapely
import yaml
from PIL import Image, ImageDraw
from pycocotools.coco import COCO
from rasterio.features import rasterize

from pipeline.outputs.training_sets import Shape, coco_annotation, yolo_line
from pipeline.schema import SCHEMA_VERSION
from pipeline.steps.training_sets import export_training

NAMES = ("foundation", "unfinished", "completed")
COURT = shapely.box(10, 10, 90, 90) - shapely.box(30, 30, 50, 60) - shapely.box(60, 40, 80, 80)
PARTS = shapely.MultiPolygon([shapely.box(5, 5, 30, 20), shapely.box(60, 60, 90, 95)])
SHAPES = {"plain": shapely.box(20, 30, 60, 70), "court": COURT, "parts": PARTS}


def drawn(shape) -> np.ndarray:
    return rasterize([(shape, 1)], (100, 100)).astype(bool)


@pytest.mark.parametrize("name", SHAPES)
def test_cocos_own_reader_draws_the_same_buildings(tmp_path, name):
    annotation = coco_annotation(1, 1, Shape(2, SHAPES[name]))
    content = {
        "images": [{"id": 1, "width": 100, "height": 100, "file_name": "a.jpg"}],
        "categories": [{"id": 3, "name": "completed"}],
        "annotations": [annotation],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    coco = COCO(str(tmp_path / "a.json"))
    (row,) = coco.loadAnns(coco.getAnnIds(catIds=[3]))
    mask = coco.annToMask(row).astype(bool)
    assert (mask & drawn(SHAPES[name])).sum() / (mask | drawn(SHAPES[name])).sum() > 0.97
    assert row["area"] == SHAPES[name].area
    assert shapely.box(*shapely.bounds(SHAPES[name])).equals(
        shapely.box(*row["bbox"][:2], row["bbox"][0] + row["bbox"][2], row["bbox"][1] + row["bbox"][3])
    )


@pytest.mark.parametrize("name", SHAPES)
def test_yolos_outline_fills_the_same_ground(name):
    category, *places = yolo_line(Shape(1, SHAPES[name]), 100, 100).split()
    assert category == "1" and len(places) % 2 == 0
    assert all(0 <= float(place) <= 1 for place in places)
    points = [(100 * float(x), 100 * float(y)) for x, y in zip(places[::2], places[1::2], strict=True)]
    picture = Image.new("1", (800, 800))
    ImageDraw.Draw(picture).polygon([(8 * x, 8 * y) for x, y in points], fill=1)
    assert np.asarray(picture).sum() / 64 == pytest.approx(SHAPES[name].area, rel=0.05)


def item(shape, category, number):
    parts = [
        [list(ring.coords) for ring in (part.exterior, *part.interiors)] for part in shapely.get_parts(shape)
    ]
    return {"label_id": number, "category": category, "polygons": parts, "visible_share": 1.0}


@pytest.fixture
def pairs(tmp_path):
    """Four tiles side by side: a building each, the last without a condition."""
    folder = tmp_path / "pairs"
    for name in ("tiles", "items"):
        (folder / name).mkdir(parents=True)
    rows = []
    for n, category in enumerate(["completed", "foundation", "unfinished", None]):
        tile, window = f"r0000_c{n:04d}", [100 * n, 0, 100, 100]
        place = {"driver": "GTiff", "width": 100, "height": 100, "count": 3, "dtype": "uint8"}
        with rasterio.open(folder / "tiles" / f"{tile}.tif", "w", **place) as dst:
            dst.write(np.full((3, 100, 100), 60 * n + 20, dtype=np.uint8))
        content = {"schema_version": SCHEMA_VERSION, "image_id": "a", "tile_id": tile, "window": window}
        content["items"] = [item(list(SHAPES.values())[n % 3], category, n + 1)]
        (folder / "items" / f"{tile}.json").write_bytes(orjson.dumps(content))
        rows.append({"tile_id": tile, "window": window, "label_ids": [n + 1]})
    index = {"schema_version": SCHEMA_VERSION, "image_id": "a", "crs": "EPSG:32737", "pairs": rows}
    index["transform"] = [0.1, 0, 533000, 0, -0.1, 9367000]
    (folder / "pairs.json").write_bytes(orjson.dumps(index))
    return folder


def test_one_folder_serves_both(tmp_path, pairs):
    target, shares = tmp_path / "set", []
    target.mkdir()
    counts = export_training([pairs], NAMES, [], 0.25, target, lambda share, text: shares.append(share))
    assert counts == {"train_tiles": 3, "val_tiles": 1, "buildings": 4}
    assert shares[-1] == 1.0
    described = yaml.safe_load((target / "data.yaml").read_text())
    assert described["names"] == dict(enumerate([*NAMES, "unknown"]))
    seen = set()
    for side, expected in (("train", 3), ("val", 1)):
        pictures = sorted((target / described[side]).glob("*.jpg"))
        coco = COCO(str(target / "annotations" / f"{side}.json"))
        assert len(pictures) == len(coco.imgs) == expected
        for image in coco.imgs.values():
            picture = target / image["file_name"]
            assert picture in pictures
            lines = (target / "labels" / side / f"{picture.stem}.txt").read_text().splitlines()
            rows = coco.loadAnns(coco.getAnnIds(imgIds=[image["id"]]))
            assert [int(line.split()[0]) + 1 for line in lines] == [row["category_id"] for row in rows]
            number = int(picture.stem[-1])
            with Image.open(picture) as shown:
                assert shown.size == (100, 100)
                assert abs(shown.getpixel((50, 50))[0] - 60 * number - 20) <= 3
            seen |= {(number, row["category_id"]) for row in rows}
    assert seen == {(0, 3), (1, 1), (2, 2), (3, 4)}
