"""InferShard's step: tiles of a real GeoTIFF through a predictor, and what lies on no valid ground."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
from bright_roofs import bright_detector
from rasterio.transform import from_origin

from pipeline import tiling
from pipeline.errors import RasterError, SettingsError
from pipeline.pairs import PairRules
from pipeline.raster import Imagery, TiledImage, reader
from pipeline.schema import Grid, Tile, Window
from pipeline.settings import Tiling
from pipeline.steps import detections
from pipeline.steps.detection_rows import outlines_px, read_detections
from pipeline.steps.detections import Detector, infer_tiles
from pipeline.steps.pairs import cut_tiles, tile_frame
from pipeline.steps.tiles import tile_image
from pipeline.stores import label_frame, open_store

WIDTH, HEIGHT = 500, 300
ROOFS = [(20, 20, 60, 60), (180, 100, 260, 150), (120, 200, 290, 240), (330, 60, 400, 100)]


def write(path, pixels, **profile):
    with rasterio.open(
        path, "w", driver="GTiff", width=WIDTH, height=HEIGHT, count=len(pixels), dtype="uint8",
        crs="EPSG:32737", transform=from_origin(533000, 9367000, 0.5, 0.5), **profile,
    ) as dst:  # fmt: skip
        dst.write(pixels)
    return path


def village(bands=3):
    """Four bright roofs on dark ground; the second and third reach over column 220."""
    pixels = np.random.default_rng(2).integers(60, 90, (bands, HEIGHT, WIDTH)).astype(np.uint8)
    for left, top, right, bottom in ROOFS:
        pixels[:3, top:bottom, left:right] = 230
    return pixels


def infer(folder, image, size=512, imagery=None, run=slice(None), **rules):
    class Small(Tiling):
        tile_size, overlap = str(size), str(size // 4)

    imagery = imagery or Imagery()
    index = tile_image("a", image, imagery, Small(), lambda share, text: None)
    told = []
    tiled, detector = TiledImage(index, image, imagery), bright_detector(**rules)
    counts = infer_tiles(tiled, run, detector, folder, lambda share, text: told.append(share))
    assert told == sorted(told)
    return {name: count for name, count in counts.items() if isinstance(count, int)}, index


def corners(found):
    """Least and largest x and y of a detection."""
    points = np.reshape(found["polygon"], (-1, 2))
    return [*points.min(axis=0), *points.max(axis=0)]


def outlines(path):
    return list(outlines_px(read_detections(path)))


@pytest.mark.parametrize("tag", ["alpha", "nodata"])
def test_detections_on_nodata_are_dropped_or_clipped_and_counted(tmp_path, tag):
    pixels = village(4 if tag == "alpha" else 3)
    if tag == "alpha":
        pixels[3] = 255
        pixels[3, :, 220:] = 0
        image = write(tmp_path / "a.tif", pixels, photometric="rgb", alpha="yes")
    else:
        pixels[:, :, 220:] = 230
        image = write(tmp_path / "a.tif", pixels, nodata=230)
        # The roofs themselves are valid.
        pixels[:, :, :220][pixels[:, :, :220] == 230] = 231
        write(image, pixels, nodata=230)
    counts, _ = infer(tmp_path, image)
    found = outlines(tmp_path / "r0000_c0000.json")
    assert max(outline.bounds[2] for outline in found) <= 220.5
    if tag == "alpha":
        # Of 80 px 40 are valid, of 170 px 100, of the last roof none.
        assert counts == {"tiles": 1, "inferred": 1, "detections": 3, "on_nodata": 1, "clipped": 2}
        for outline, (left, top, right, bottom) in zip(
            sorted(found, key=lambda outline: outline.bounds[1]), ROOFS[:3], strict=True
        ):
            assert outline.symmetric_difference(shapely.box(left, top, min(right, 220), bottom)).area < 150
            assert len(outline.exterior.coords) < 14, "straight walls stay straight"
    else:
        # The bright nodata and the roofs that touch it are one region, most of it invalid.
        assert counts["on_nodata"] == 1 and counts["detections"] == 1


def test_a_white_collar_without_a_tag_is_no_roof(tmp_path):
    pixels = village()
    pixels[:, :, 440:] = 255
    image = write(tmp_path / "a.tif", pixels)
    counts, _ = infer(tmp_path, image)
    assert counts["on_nodata"] == 1 and counts["detections"] == 4
    counts, _ = infer(tmp_path, image, imagery=Imagery(collars=False), run=slice(0))
    assert counts == {"tiles": 0, "inferred": 0, "detections": 0, "on_nodata": 0, "clipped": 0}
    (tmp_path / "r0000_c0000.json").unlink()
    counts, _ = infer(tmp_path, image, imagery=Imagery(collars=False))
    assert counts["on_nodata"] == 0 and counts["detections"] == 5


def test_the_share_that_must_be_valid_is_a_setting(tmp_path):
    pixels = village(4)
    pixels[3] = 255
    pixels[3, :, 220:] = 0
    image = write(tmp_path / "a.tif", pixels, photometric="rgb", alpha="yes")
    counts, _ = infer(tmp_path, image, min_valid_share=0.9)
    assert counts["detections"] == 1 and counts["on_nodata"] == 3


def test_tiles_read_ahead_are_the_same(tmp_path, monkeypatch):
    pixels = village(4)
    pixels[3] = 255
    pixels[3, :, 220:] = 0
    image = write(tmp_path / "a.tif", pixels, photometric="rgb", alpha="yes")
    here, ahead = tmp_path / "here", tmp_path / "ahead"
    for folder in (here, ahead):
        folder.mkdir()
        monkeypatch.setattr(Detector, "reads_ahead", lambda self, source, is_so=folder is ahead: is_so)
        counts, index = infer(folder, image, size=128, batch_size=3, workers=2)
        assert counts["tiles"] == counts["inferred"] == len(index.tiles) > 4
    for tile in index.tiles:
        one, other = (json.loads((folder / f"{tile.tile_id}.json").read_bytes()) for folder in (here, ahead))
        assert one["detections"] == other["detections"] and one["window"] == list(tile.window)


def test_only_a_file_is_read_between_batches_and_only_where_no_core_is_free(monkeypatch):
    detector = bright_detector(device="cpu")
    monkeypatch.setattr(detections.os, "sched_getaffinity", lambda process: {0, 1})
    for threads, ahead in ((2, False), (1, True)):
        monkeypatch.setattr("torch.get_num_threads", lambda threads=threads: threads)
        assert detector.reads_ahead(Path("image.tif")) is ahead
        assert detector.reads_ahead("https://example.org/image.tif")


def test_drawn_by_other_processes_it_is_the_same(tmp_path, monkeypatch):
    # As beside a GPU, where the network's process must not wait for outlines.
    image = write(tmp_path / "a.tif", village())
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
        if folder is there:
            monkeypatch.setattr(detections, "_writers", lambda processes, start=detections._writers: start(2))
        counts, index = infer(folder, image, size=128, batch_size=3, workers=1)
        assert counts["detections"] > 4
    for tile in index.tiles:
        one, other = (json.loads((folder / f"{tile.tile_id}.json").read_bytes()) for folder in (here, there))
        assert one["detections"] == other["detections"]


@pytest.mark.parametrize("ahead", [False, True])
def test_what_cannot_be_read_ends_the_shard_and_leaves_no_thread(tmp_path, monkeypatch, ahead):
    monkeypatch.setattr(Detector, "reads_ahead", lambda self, source: ahead)
    image = write(tmp_path / "a.tif", village(), compress="deflate", tiled=True, blockxsize=64, blockysize=64)
    with rasterio.open(image) as src:
        offset = int(src.get_tag_item("BLOCK_OFFSET_5_3", "TIFF", bidx=1))
    _, index = infer(tmp_path, image, size=128, run=slice(0))
    with open(image, "r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * 200)
    detector = bright_detector(batch_size=2, workers=2)
    with pytest.raises(RasterError, match="pixels cannot be read"):
        infer_tiles(TiledImage(index, image), slice(None), detector, tmp_path, lambda share, text: None)
    assert not [thread for thread in threading.enumerate() if thread.name in ("reading", "jpeg", "drawing")]


def test_a_shard_tells_where_its_time_went(tmp_path):
    image = write(tmp_path / "a.tif", village())
    _, index = infer(tmp_path, image, size=128, run=slice(0))
    detector = bright_detector(batch_size=2)
    told = infer_tiles(TiledImage(index, image), slice(None), detector, tmp_path, lambda share, text: None)
    assert {"tiles_per_s", "megapixels_per_s", "data_wait_share", "read_s", "network_s", "draw_s"} <= set(
        told
    )
    assert told["megapixels_per_s"] == pytest.approx(told["tiles_per_s"] * 128**2 / 1e6, abs=2e-3, rel=1e-3)
    assert 0 < told["data_wait_share"] < 1 and told["network_s"] > 0 and told["draw_s"] > 0
    again = infer_tiles(TiledImage(index, image), slice(None), detector, tmp_path, lambda share, text: None)
    assert again["inferred"] == 0 and "tiles_per_s" not in again


def test_no_step_reads_with_more_memory_than_the_settings_allow(tmp_path, monkeypatch):
    image, allowed = write(tmp_path / "a.tif", village()), []
    monkeypatch.setattr(
        reader, "opened", lambda path, imagery, *rest, real=reader.opened: (
            allowed.append(imagery.cache_mb) or real(path, imagery, *rest)
        ),
    )  # fmt: skip
    _, index = infer(tmp_path, image, imagery=Imagery(cache_mb=17))
    (tmp_path / "pairs").mkdir()
    labels = label_frame([], [], [], [], index.grid.crs)
    store = open_store("", tmp_path / "store")
    store.replace_labels("a", "one", labels, {})
    items = store.items_in_tiles("a", tile_frame(index))
    tiled = TiledImage(index, image, Imagery(cache_mb=17))
    cut_tiles(tiled, items, None, PairRules(), tmp_path / "pairs", print)
    assert allowed == [17, 17, 17]


def test_a_resumed_run_infers_whole_batches_and_nothing_else(tmp_path):
    image = write(tmp_path / "a.tif", village())
    _, index = infer(tmp_path, image, size=128, batch_size=2)
    paths = [tmp_path / f"{tile.tile_id}.json" for tile in index.tiles]
    times = [path.stat().st_mtime_ns for path in paths]
    paths[3].unlink()
    counts, _ = infer(tmp_path, image, size=128, batch_size=2)
    assert counts["inferred"] == 2
    again = [path.stat().st_mtime_ns != time for path, time in zip(paths, times, strict=True)]
    assert again == [False, False, False, True] + [False] * (len(paths) - 4)


def test_tiles_are_seen_in_the_same_batches_whatever_the_number_of_shards(tmp_path, monkeypatch):
    """Also where an image is wider than what is read at once."""
    monkeypatch.setattr(tiling, "PANEL_COLUMNS", 2)
    image, seen = write(tmp_path / "a.tif", village()), []
    monkeypatch.setattr(detections._Line, "run", lambda _, batches: seen.append(batches) or [])
    dealt = []
    for shards in (1, 2, 3):
        for run in tiling.shard_slices(15, shards, 2):
            infer(tmp_path, image, size=128, batch_size=2, run=run)
        dealt.append([[tile.tile_id for tile in batch] for part in seen for batch in part])
        seen.clear()
    assert dealt[0] == dealt[1] == dealt[2]
    assert dealt[0][:2] == [["r0000_c0000", "r0000_c0001"], ["r0001_c0000", "r0001_c0001"]]


def test_a_network_of_other_categories_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    from models.maskrcnn import build
    from models.weights import WeightsMetadata, write_weights
    from pipeline.inference import InferenceRules
    from pipeline.steps.detections import Detector
    from pipeline.vectorize import VectorizeRules

    torch.manual_seed(0)
    path = tmp_path / "hut.h5"
    write_weights(path, build("maskrcnn_small", ("hut",)), WeightsMetadata("maskrcnn_small", {}, ("hut",)))
    detector = Detector(path, ("house",), InferenceRules(device="cpu"), VectorizeRules())
    with pytest.raises(SettingsError, match="other categories"):
        _ = detector.predictor


@pytest.mark.parametrize("views", ["flips", "turns", "scales", "all"])
def test_several_looks_find_what_one_finds_once(views):
    image = np.zeros((1, 3, 128, 128), np.uint8)
    image[:, :, 20:60, 30:90] = image[:, :, 80:110, 0:50] = 255
    tile = Tile(tile_id="r0000_c0000", window=Window(0, 0, 128, 128), valid_share=1)
    grid = Grid(
        width=128, height=128, crs="EPSG:32737", srid=32737, transform=(0.1, 0, 5e5, 0, -0.1, 9e6),
        ground_m_per_px=(0.1, 0.1), bands=[1, 2, 3], stretch=None, observed="",
    )  # fmt: skip
    once, often = (
        sorted(next(bright_detector(views=choice).detect("a", grid, [tile], image, [None]))["detections"],
               key=lambda found: corners(found)[0])
        for choice in ("one", views)
    )  # fmt: skip
    assert len(once) == len(often) == 2
    for one, other in zip(once, often, strict=True):
        assert np.abs(np.subtract(corners(one), corners(other))).max() <= 2
        assert max(other["scores"]) >= max(one["scores"])
