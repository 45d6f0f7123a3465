"""Steps between reading and writing: labelled ground, held-out pairs, scoring, seams and coverage."""

import json

import geopandas
import independent_metric
import numpy as np
import pytest
import rasterio
import shapely
from rasterio.transform import from_origin

from pipeline.errors import LabelError
from pipeline.labels import LabelRules
from pipeline.metrics import MetricRules
from pipeline.pairs import PairRules
from pipeline.raster import Imagery, TiledImage, validity
from pipeline.schema import PairIndex
from pipeline.settings import Labels, Tiling
from pipeline.steps.buildings import Selection
from pipeline.steps.evaluation import Evaluation, Judged, check_coverage, evaluate_image
from pipeline.steps.labels import load_labels
from pipeline.steps.pairs import cut_tiles, tile_frame
from pipeline.steps.reporting import report_image
from pipeline.steps.tiles import tile_image
from pipeline.stores import open_store
from pipeline.submission import Rows, write_csv

CRS = "EPSG:32737"
LEFT, TOP, METRES = 533000.0, 9367000.0, 0.25


def on_ground(col, row, width, height):
    """A box given in pixels, on the ground."""
    x, y = LEFT + col * METRES, TOP - row * METRES
    return shapely.box(x, y - height * METRES, x + width * METRES, y)


def write_image(path, pixels, **profile):
    """A GeoTIFF of uint8[3, height, width] at `LEFT`, `TOP`."""
    shape = dict(zip(("count", "height", "width"), pixels.shape, strict=True))
    place = {"crs": CRS, "transform": from_origin(LEFT, TOP, METRES, METRES)}
    with rasterio.open(path, "w", driver="GTiff", dtype="uint8", **shape, **place, **profile) as dst:
        dst.write(pixels)
    return path


def small_tiles(path, least=0.0):
    """Tiles of 200 px, 150 px apart; those with less than the share `least` of valid pixels left out."""

    class Small(Tiling):
        tile_size, overlap, min_valid_share = "200", "50", least

    told = []
    made = tile_image("a", path, Imagery(), Small(), lambda share, text: told.append(share))
    assert told[-1] == 1.0
    return made


@pytest.fixture
def image(tmp_path):
    return write_image(tmp_path / "a.tif", np.full((3, 300, 500), 120, dtype=np.uint8))


@pytest.fixture
def index(image):
    return small_tiles(image)


def labels_file(path, boxes, conditions, crs=CRS):
    frame = geopandas.GeoDataFrame({"condition": conditions}, geometry=boxes, crs=CRS).to_crs(crs)
    frame.to_file(path, driver="GeoJSON", engine="pyogrio")
    return path


def published(path, places):
    """A CSV of finished buildings, given in pixels, in falling confidence."""
    boxes_px = [shapely.box(col, row, col + width, row + height) for col, row, width, height in places]
    ground = geopandas.GeoSeries([on_ground(*place) for place in places], crs=CRS)
    probabilities = np.array([[0, 0, 0.9 - 0.1 * number] for number in range(len(places))])
    write_csv(path, [Rows(np.array(boxes_px), ground.to_crs("EPSG:4326").to_numpy(), probabilities)])
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
    cut_tiles(TiledImage(index, image), items, ground, PairRules(), folder, lambda share, text: None)
    made = PairIndex.model_validate_json((folder / "pairs.json").read_bytes())
    assert (made.crs, made.transform) == (index.grid.crs, index.grid.transform)
    assert {pair.window.col_off for pair in made.pairs} == {0, 150}
    for pair in made.pairs:
        name, left, label_ids = pair.tile_id, pair.window.col_off, pair.label_ids
        with rasterio.open(folder / "tiles" / f"{name}.tif") as src:
            pixels = src.read(1)
            assert src.crs.to_epsg() == 32737
        inside = max(0, min(200, 250 - left))
        assert (pixels[:, :inside] == 120).all() and (pixels[:, inside:] == 0).all()
        content = json.loads((folder / "items" / f"{name}.json").read_text())
        assert label_ids == [item["label_id"] for item in content["items"]]
        for item in content["items"]:
            assert item["category"] == "completed"


def evaluated(index, image, csv, labels, area=None):
    files = Judged(csv, labels, area, csv.with_suffix(".report.json"))
    return evaluate_image(TiledImage(index, image), files, Labels(), MetricRules())


def test_scoring_takes_labels_as_drawn_and_counts_on_labelled_ground_only(tmp_path, image, index):
    boxes = [on_ground(10, 10, 40, 40), on_ground(100, 10, 40, 40), on_ground(300, 10, 40, 40)]
    crossed = shapely.Polygon([(0, 0), (1, 1), (1, 0), (0, 1)])
    crossed = shapely.transform(crossed, lambda xy: xy * 10 + (LEFT + 50, TOP - 60))
    labels = labels_file(
        tmp_path / "l.geojson",
        [*boxes, crossed, None],
        ["Complete", None, "Complete", "Foundation", "Complete"],
    )
    csv = published(tmp_path / "a.csv", [(10, 10, 40, 40), (100, 10, 40, 40), (300, 10, 40, 40)])
    everywhere = evaluated(index, image, csv, labels)
    assert (everywhere.proposals, everywhere.truths) == (3, 4)
    assert everywhere.score.all_buildings.true_positives == 3
    assert everywhere.score.categories["completed"].true_positives == 2
    assert everywhere.score.categories["completed"].false_positives == 1, "of unknown condition"
    assert everywhere.score.categories["foundation"].false_negatives == 1, "its ring is invalid"
    area = labels_file(tmp_path / "area.geojson", [on_ground(0, 0, 80, 60)], [None])
    there = evaluated(index, image, csv, labels, area)
    assert (there.proposals, there.truths) == (1, 1) and there.score.all_f1 == 1.0
    assert "mean F1" in there.table() and "no seams" in there.table()


def test_scoring_takes_labels_as_far_as_the_image_shows_them(tmp_path, image, index):
    # The image is 500 px wide: it shows half of the first, a fifth of the third, nothing of the fourth.
    boxes = [on_ground(-40, 20, 80, 40), on_ground(100, 20, 40, 40)]
    boxes += [on_ground(490, 20, 50, 40), on_ground(600, 20, 40, 40)]
    labels = labels_file(tmp_path / "l.geojson", boxes, ["Complete"] * 4)
    csv = published(
        tmp_path / "a.csv", [(0, 20, 40, 40), (100, 20, 40, 40), (490, 20, 10, 40), (300, 20, 9, 9)]
    )
    report = evaluated(index, image, csv, labels)
    assert (report.proposals, report.truths) == (3, 2), "what nobody is asked to find is no false alarm"
    counts = report.score.all_buildings
    assert (counts.true_positives, counts.false_positives, counts.false_negatives) == (2, 1, 0)
    assert min(pair.iou for pair in report.score.matches.pairs) > 0.999
    assert report.edge.model_dump() == {"outside_image": 1, "barely_shown": 1, "cut": 1}
    assert "1 outside the image and left out" in report.table() and "1 cut to the image" in report.table()


def test_an_independent_metric_takes_labels_as_far_as_the_image_shows_them(tmp_path, image, index):
    rng = np.random.default_rng(3)
    places = np.column_stack([rng.uniform(-60, 520, 150), rng.uniform(-60, 320, 150)])
    sizes = rng.uniform(15, 60, (150, 2))
    boxes = [on_ground(*place, *size) for place, size in zip(places, sizes, strict=True)]
    left = LEFT + np.array([-5, 5, 5, -5])
    boxes += [shapely.Polygon(np.column_stack([left, TOP - np.array([20, 30, 20, 30])])), shapely.Polygon()]
    labels = labels_file(
        tmp_path / "l.geojson",
        boxes,
        rng.choice(["Complete", "Incomplete", "Foundation", None], len(boxes)),
        "EPSG:4326",
    )
    found = np.column_stack([places, places + sizes])[:120] + rng.normal(0, 3, (120, 4))
    found = found.clip(0, [500, 300, 500, 300])
    found = found[(found[:, 2:] - found[:, :2] > 1).all(axis=1)]
    polygons_px = shapely.box(*found.T)
    ground = [shapely.transform(one, lambda xy: (LEFT, TOP) + xy * (METRES, -METRES)) for one in polygons_px]
    lonlat = geopandas.GeoSeries(ground, crs=CRS).to_crs("EPSG:4326").to_numpy()
    csv = tmp_path / "a.csv"
    write_csv(csv, [Rows(polygons_px, lonlat, rng.dirichlet([0.3] * 3, len(found)))])
    ours = evaluated(index, image, csv, labels)
    assert min(ours.edge.model_dump().values()) > 3 and ours.proposals < len(found)
    plain = independent_metric.score(csv, labels, image)
    assert plain["mean_f1"] == pytest.approx(ours.score.mean_f1)
    assert plain["all_buildings"] == pytest.approx(ours.score.all_buildings.model_dump())
    for name, counts in ours.score.categories.items():
        assert plain["categories"][name] == pytest.approx(counts.model_dump())
    without = independent_metric.score(csv, labels)["all_buildings"]
    assert without["false_negatives"] > ours.score.all_buildings.false_negatives


def test_seams_are_scored_where_the_tiles_meet(tmp_path, image, index):
    # Tiles begin at 0, 150 and 300 px across, 0 and 100 down: the zone is 150 to 200, 300 to 350; 100 to 200.
    whole, halves, alone, low = (10, 10, 60, 60), (160, 20, 30, 40), (210, 20, 40, 40), (20, 220, 40, 40)
    labels = labels_file(
        tmp_path / "l.geojson", [on_ground(*place) for place in (whole, halves, alone, low)], ["Complete"] * 4
    )
    csv = published(
        tmp_path / "a.csv", [whole, (160, 20, 14, 40), (175, 20, 15, 40), alone, (211, 21, 38, 38)]
    )
    report = evaluated(index, image, csv, labels)
    seams = report.seams
    across, down = index.grid.ground_m_per_px
    assert seams.seam_km == pytest.approx((2 * 300 * down + 500 * across) / 1000)
    assert seams.zone.counts.model_dump() == dict(
        true_positives=0, false_positives=2, false_negatives=1, precision=0, recall=0, f1=0
    )
    assert (seams.zone.duplicates, seams.zone.splits) == (0, 1)
    assert (seams.interior.counts.true_positives, seams.interior.counts.false_negatives) == (2, 1)
    assert (seams.interior.duplicates, seams.interior.splits) == (1, 0)
    assert seams.splits_per_km == pytest.approx(1 / seams.seam_km)
    for line in ("near seams", "away from seams", "0.28 km of seams", "Every valid pixel lies in a tile."):
        assert line in report.table()

    upper = labels_file(tmp_path / "area.geojson", [on_ground(0, 0, 500, 90)], [None])
    there = evaluated(index, image, csv, labels, upper).seams
    assert there.seam_km == pytest.approx(2 * 90 * down / 1000, rel=1e-3)
    assert there.interior.counts.false_negatives == 0, "the missed one stands below"

    path = tmp_path / "a.report.json"
    path.write_text(report.model_dump_json())
    told = Judged(csv, labels, None, path)
    nothing = Selection(1.0, {}), tmp_path / "none.json", []
    page = report_image(TiledImage(index, image), csv, Labels(), *nothing, told, "Imagery: the village.")
    assert "Imagery: the village." in page
    assert "near seams" in page and seams.sentence in page and report.coverage.sentence in page

    older = Evaluation.model_validate(report.model_dump(exclude={"seams", "coverage"}))
    assert "seams" not in older.table()
    path.write_text(older.model_dump_json())
    assert "near seams" not in report_image(TiledImage(index, image), csv, Labels(), *nothing, told)


def test_a_missing_tile_shows_as_valid_ground_without_one(image, index):
    assert check_coverage(TiledImage(index, "nowhere.tif")).uncovered_px == 0, "nothing has to be read"
    lacking = index.model_copy(update={"tiles": index.tiles[1:]})
    found = check_coverage(TiledImage(lacking, image))
    assert (found.uncovered_px, found.uncovered_share) == (150 * 100, pytest.approx(0.1))
    nothing = check_coverage(TiledImage(index.model_copy(update={"tiles": []}), image))
    assert (nothing.uncovered_px, nothing.uncovered_share) == (500 * 300, 1.0)


def test_tiles_left_out_on_purpose_show_too(tmp_path):
    pixels = np.full((3, 300, 500), 120, dtype=np.uint8)
    pixels[:, :, 380:] = 0
    path = write_image(tmp_path / "a.tif", pixels, nodata=0)
    strict = small_tiles(path, least=0.5)
    assert {tile.window.col_off for tile in strict.tiles} == {0, 150}
    found = check_coverage(TiledImage(strict, path))
    assert (found.uncovered_px, found.uncovered_share) == (30 * 300, pytest.approx(30 / 380))
    assert check_coverage(TiledImage(small_tiles(path), path)).uncovered_px == 0


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("nodata", [0, None])
def test_tiles_without_a_valid_pixel_leave_nothing_uncovered(tmp_path, monkeypatch, seed, nodata):
    monkeypatch.setattr(validity, "_MAX_CELLS", 6000)  # cells of 16 px a side, which tiles do not end on
    rng = np.random.default_rng(seed)
    pixels = np.zeros((3, 600, 900), dtype=np.uint8)
    for _ in range(3):
        x, y, w, h = rng.integers(0, 700), rng.integers(0, 450), *rng.integers(5, 200, 2)
        pixels[:, y : y + h, x : x + w] = 120
    path = write_image(tmp_path / "a.tif", pixels, nodata=nodata)
    index = small_tiles(path)
    assert index.empty_tiles
    assert check_coverage(TiledImage(index, path)).model_dump() == {"uncovered_px": 0, "uncovered_share": 0}
    # The tile that holds most of what is valid is gone: some of that is in no other.
    richest = max(index.tiles, key=lambda tile: tile.valid_share)
    rest = [tile for tile in index.tiles if tile is not richest]
    lacking = check_coverage(TiledImage(index.model_copy(update={"tiles": rest}), path))
    assert 0 < lacking.uncovered_share <= 1


def test_an_area_without_polygons_is_refused(tmp_path, index):
    area = tmp_path / "area.geojson"
    point = geopandas.GeoDataFrame(geometry=[shapely.Point(LEFT, TOP)], crs=CRS)
    point.to_file(area, driver="GeoJSON", engine="pyogrio")
    labels = labels_file(tmp_path / "l.geojson", [on_ground(0, 0, 9, 9)], ["Complete"])
    with pytest.raises(LabelError, match="no polygon"):
        load_labels(labels, area, index.grid, LabelRules())
