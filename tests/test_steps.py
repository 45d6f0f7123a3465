"""Steps between reading and writing: labelled ground, held-out pairs, and scoring against labels as drawn."""

import json

import geopandas
import numpy as np
import orjson
import pytest
import rasterio
import shapely
from rasterio.transform import from_origin

from pipeline.errors import LabelError, SettingsError
from pipeline.labels import LabelRules
from pipeline.pairs import PairRules
from pipeline.raster import Imagery
from pipeline.settings import Labels, Tiling
from pipeline.steps.evaluation import evaluate_image
from pipeline.steps.labels import load_labels
from pipeline.steps.pairs import cut_tiles, tile_frame
from pipeline.steps.tiles import tile_image
from pipeline.steps.training import split_pairs
from pipeline.stores import open_store
from pipeline.submission import Rows, write_csv

CRS = "EPSG:32737"
LEFT, TOP, METRES = 533000.0, 9367000.0, 0.25


def on_ground(col, row, width, height):
    """A box given in pixels, on the ground."""
    x, y = LEFT + col * METRES, TOP - row * METRES
    return shapely.box(x, y - height * METRES, x + width * METRES, y)


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "a.tif"
    pixels = np.full((3, 300, 500), 120, dtype=np.uint8)
    profile = {"driver": "GTiff", "width": 500, "height": 300, "count": 3, "dtype": "uint8", "crs": CRS}
    with rasterio.open(path, "w", **profile, transform=from_origin(LEFT, TOP, METRES, METRES)) as dst:
        dst.write(pixels)
    return path


@pytest.fixture
def index(image):
    class Small(Tiling):
        tile_size, overlap, min_valid_share = "200", "50", 0.0

    told = []
    made = tile_image("a", image, Imagery(), Small(), lambda share, text: told.append(share))
    assert told[-1] == 1.0
    return made


def labels_file(path, boxes, conditions, crs=CRS):
    frame = geopandas.GeoDataFrame({"condition": conditions}, geometry=boxes, crs=CRS).to_crs(crs)
    frame.to_file(path, driver="GeoJSON", engine="pyogrio")
    return path


def test_only_labelled_ground_is_learnt_from(tmp_path, image, index):
    boxes = [on_ground(20, 20, 40, 40), on_ground(400, 200, 40, 40)]
    labels = labels_file(tmp_path / "l.geojson", boxes, ["Complete", "Foundation"], "EPSG:4326")
    area = labels_file(tmp_path / "area.geojson", [on_ground(0, 0, 250, 300)], [None], "EPSG:3857")
    frame, report = load_labels(labels, area, index.grid, LabelRules())
    assert report.set_aside == {"outside_labelled_area": 1} and report.labels == 1
    store = open_store("", tmp_path / "store")
    store.replace_labels("a", "one", frame, report.model_dump())
    items = store.items_in_tiles("a", tile_frame(index), "one")
    ground = on_ground(0, 0, 250, 300)
    folder = tmp_path / "pairs"
    folder.mkdir()
    cut_tiles(index, image, items, ground, PairRules(), folder, lambda share, text: None)
    windows = json.loads((folder / "pairs.json").read_text())["windows"]
    assert {window[0] for window in windows.values()} == {0, 150}
    for name, (left, *_) in windows.items():
        with rasterio.open(folder / "tiles" / f"{name}.tif") as src:
            pixels = src.read(1)
            assert src.crs.to_epsg() == 32737
        inside = max(0, min(200, 250 - left))
        assert (pixels[:, :inside] == 120).all() and (pixels[:, inside:] == 0).all()
        content = json.loads((folder / "items" / f"{name}.json").read_text())
        for item in content["items"]:
            assert item["category"] == "completed"


def test_pairs_held_out_share_no_pixel(tmp_path):
    folders = []
    for image_id in ("a", "b"):
        folder = tmp_path / image_id
        folder.mkdir()
        windows = {f"r0000_c{i:04d}": [150 * i, 0, 200, 200] for i in range(8)}
        (folder / "pairs.json").write_bytes(orjson.dumps({"image_id": image_id, "windows": windows}))
        folders.append(folder)
    learnt, held_out = split_pairs(folders, [], 0.25)
    assert learnt and held_out
    last = max(150 * int(tile[-4:]) + 200 for _, tile in learnt)
    assert all(150 * int(tile[-4:]) >= last for _, tile in held_out)
    learnt, held_out = split_pairs(folders, ["b"], 0.25)
    assert {folder.name for folder, _ in learnt} == {"a"} and len(held_out) == 8
    with pytest.raises(SettingsError, match="not learnt from"):
        split_pairs(folders, ["c"], 0.25)
    with pytest.raises(SettingsError, match="nothing is left"):
        split_pairs(folders, ["a", "b"], 0.25)


def test_scoring_takes_labels_as_drawn_and_counts_on_labelled_ground_only(tmp_path):
    boxes = [on_ground(10, 10, 40, 40), on_ground(100, 10, 40, 40), on_ground(300, 10, 40, 40)]
    crossed = shapely.Polygon([(0, 0), (1, 1), (1, 0), (0, 1)])
    crossed = shapely.transform(crossed, lambda xy: xy * 10 + (LEFT + 50, TOP - 60))
    labels = labels_file(
        tmp_path / "l.geojson",
        [*boxes, crossed, None],
        ["Complete", None, "Complete", "Foundation", "Complete"],
    )
    lonlat = geopandas.GeoSeries(boxes, crs=CRS).to_crs("EPSG:4326").to_numpy()
    rows = Rows(np.array(boxes, dtype=object), lonlat, np.array([[0, 0, 0.9], [0, 0, 0.8], [0, 0, 0.7]]))
    csv = tmp_path / "a.csv"
    write_csv(csv, [rows])
    everywhere = evaluate_image("a", csv, labels, None, Labels())
    assert (everywhere.proposals, everywhere.truths) == (3, 4)
    assert everywhere.score.all_buildings.true_positives == 3
    assert everywhere.score.categories["completed"].true_positives == 2
    assert everywhere.score.categories["completed"].false_positives == 1, "of unknown condition"
    assert everywhere.score.categories["foundation"].false_negatives == 1, "its ring is invalid"
    area = labels_file(tmp_path / "area.geojson", [on_ground(0, 0, 80, 60)], [None])
    there = evaluate_image("a", csv, labels, area, Labels())
    assert (there.proposals, there.truths) == (1, 1) and there.score.all_f1 == 1.0
    assert "mean F1" in there.table()


def test_an_area_without_polygons_is_refused(tmp_path, index):
    area = tmp_path / "area.geojson"
    point = geopandas.GeoDataFrame(geometry=[shapely.Point(LEFT, TOP)], crs=CRS)
    point.to_file(area, driver="GeoJSON", engine="pyogrio")
    labels = labels_file(tmp_path / "l.geojson", [on_ground(0, 0, 9, 9)], ["Complete"])
    with pytest.raises(LabelError, match="no polygon"):
        load_labels(labels, area, index.grid, LabelRules())
