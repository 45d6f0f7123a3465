# ruff: noqa: E501
"""The catalogue of bad inputs: what is given, how the command line is called, what it must say.

A row is a file to be written, or arguments alone, and words of the one line that tells what is wrong. In
arguments `{id}` is the image id, which is the row's name, and `{file}` the file's path.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import hostile_files as hostile
import numpy as np

Writer = Callable[[Path], None]


class Bad(NamedTuple):
    """One bad input."""

    name: str
    file: str
    """Path inside the workspace, `{id}` the name; empty where the arguments themselves are bad."""
    write: Writer | None
    arguments: tuple[str, ...]
    says: str
    slow: bool = False


def _image(name: str, write: Writer, says: str, suffix: str = "tif", *more: str, slow: bool = False) -> Bad:
    arguments = ("TileImage", "--image-id", "{id}", *more)
    return Bad(name, f"input/test/images/{{id}}.{suffix}", write, arguments, says, slow)


def _labels(name: str, write: Writer, says: str, suffix: str = "geojson", slow: bool = False) -> Bad:
    arguments = ("LoadLabels", "--image-id", "{id}")
    return Bad(name, f"input/test/labels/{{id}}.{suffix}", write, arguments, says, slow)


def _set(name: str, task: str, says: str, *arguments: str) -> Bad:
    image = () if task in ("TrainMaskRCNN", "Submission") else ("--image-id", "scene_042")
    return Bad(name, "", None, (task, *image, *arguments), says)


def _id(name: str, image_id: str, says: str = "not an image id") -> Bad:
    return Bad(name, "", None, ("TileImage", "--image-id", image_id), says)


def _weights(name: str, write: Writer, says: str) -> Bad:
    arguments = ("InferShard", "--image-id", "scene_042", "--shard", "0", "--Inference-weights", "{file}")
    return Bad(name, "given/{id}/weights.h5", write, arguments, says)


def _initial(name: str, write: Writer, says: str, suffix: str) -> Bad:
    arguments = ("TrainMaskRCNN", "--Training-initial-weights", "{file}")
    return Bad(name, f"given/{{id}}.{suffix}", write, arguments, says)


def _tile(name: str, write: Writer, says: str) -> Bad:
    """A per-tile JSON in the place of the first tile's; `conftest` knows where that lies."""
    return Bad(name, "{tile}", write, ("AggregateImage", "--image-id", "scene_042"), says)


def _catalogue(name: str, text: str, says: str, *arguments: str) -> Bad:
    arguments = arguments or ("TileImage", "--image-id", "far")
    given = ("--Storage-catalogue", "{file}")
    return Bad(name, "given/{id}.csv", hostile.content(text), (*arguments, *given), says)


SQUARE = [[[39.296, -5.7286], [39.2961, -5.7286], [39.2961, -5.7287], [39.296, -5.7286]]]
DEEP = "[" * 100_000
NAN = float("nan")

RASTERS = [
    _image("empty_image", hostile.content(b""), "cannot be opened as an image"),
    _image("text_image", hostile.content("not an image"), "cannot be opened as an image"),
    _image("other_format", hostile.raster(driver="PNG", crs=None, transform=None), "states no CRS"),
    _image("half_an_image", hostile.raster(hostile.truncated), "truncated"),
    _image("corrupt_block", hostile.raster(hostile.garbled, compress="deflate"), "pixels cannot be read"),
    _image("no_crs", hostile.raster(crs=None), "states no CRS"),
    _image("no_place", hostile.raster(transform=None), "has a CRS but no place in it"),
    _image("flat_place", hostile.raster(transform=hostile.Affine(1, 1, 0, 1, 1, 0)), "to a line"),
    _image("nan_place", hostile.raster(transform=hostile.Affine(NAN, 0, 0, 0, NAN, 0)), "to a line"),
    _image("off_the_earth", hostile.raster(transform=hostile.Affine(1, 0, 1e12, 0, -1, 1e12)), "earth"),
    _image("beyond_the_pole", hostile.raster(crs="EPSG:4326", transform=hostile.Affine(1, 0, 0, 0, 1, 99)), "earth"),
    _image("points_only", hostile.ground_control_points, "ground control points only"),
    _image("palette", hostile.raster(count=1, photometric="palette"), "paletted", "tif", "--Imagery-bands", "[1]"),
    _image("complex_values", hostile.raster(dtype="complex64"), "complex values are no picture"),
    _image("sixteen_bits", hostile.raster(dtype="uint16"), "no stretch says how"),
    _image("two_bands", hostile.raster(count=2), "has 2 band(s), and band 3 was asked for"),
    _image("billion_squared", hostile.claims(10**9, 10**9), "larger than 2^40 pixels"),
    _image("too_many_tiles", hostile.raster(width=8000, height=8000, sparse_ok=True), "too many", "tif",
           "--Tiling-tile-size", "2", "--Tiling-overlap", "1"),
    _image("two_to_the_41", hostile.raster(width=2**21, height=2**20, sparse_ok=True, bigtiff="yes", tiled=True,
           blockxsize=8192, blockysize=8192), "larger than 2^40 pixels"),
    _image("one_huge_strip", hostile.claims(30_000, 30_000, rows_per_strip=30_000), "pixels cannot be read"),
    _image("decompression_bomb", hostile.bomb(20_000), "blocks are too large", slow=True),
    _image("million_bands", hostile.claims(64, 64, bands=65_535), "cannot be opened as an image"),
    _image("directory_loop", hostile.tiff({256: (4, [64]), 257: (4, [64])}, loop=True), "cannot be opened"),
    _image("folder_image", hostile.folder, "no such image"),
    _image("vrt_missing_source", hostile.content(hostile.vrt("/nowhere/a.tif")), "pixels cannot be read", "vrt"),
    _image("vrt_malformed", hostile.content("<VRTDataset><"), "not a readable VRT", "vrt"),
    _image("vrt_bomb", hostile.content(
        "<!DOCTYPE a [<!ENTITY a '" + "x" * 1000 + "'>" + "".join(
            f"<!ENTITY {new} '{f'&{old};' * 100}'>" for old, new in zip("abcdef", "bcdefg", strict=True))
        + "]><VRTDataset>&g;</VRTDataset>"), "not a readable VRT", "vrt"),
    _image("vrt_from_the_web", hostile.content(hostile.vrt("/vsicurl/http://127.0.0.1:9/a.tif")), "names a source", "vrt"),
    _image("vrt_python", hostile.content(hostile.python_vrt("executed")), "cannot be read", "vrt"),
    _image("vrt_of_itself", hostile.content(hostile.vrt("vrt_of_itself.vrt")), "cannot be", "vrt"),
    _image("vrt_as_tif", hostile.content(hostile.vrt("/vsicurl/http://127.0.0.1:9/a.tif")), "another ending"),
    _image("jp2_garbage", hostile.content(b"\x00\x00\x00\x0cjP  \r\n\x87\n" + b"\x01" * 99), "cannot be", "jp2"),
]  # fmt: skip

LABELS = [
    _labels("empty_labels", hostile.content(b""), "not a readable label file"),
    _labels("text_labels", hostile.content("condition\nComplete\n"), "not a readable label file"),
    _labels("half_a_json", hostile.content(hostile.collection(hostile.label(SQUARE))[:90]), "label file"),
    _labels("deep_json", hostile.content('{"type": "FeatureCollection", "features": ' + DEEP), "label file"),
    _labels("deep_coordinates", hostile.content(hostile.collection(hostile.label(0)).replace("0}", DEEP)), "label"),
    _labels("four_gigabytes", hostile.sparse('{"type": "FeatureCollection", "name": "', 2**32), "larger than"),
    _labels("no_condition", hostile.content(hostile.collection(hostile.label(SQUARE, state="x"))), "condition"),
    _labels("no_features", hostile.content('{"type": "FeatureCollection", "features": null}'), "label file"),
    _labels("lost_labels", hostile.content(hostile.collection(hostile.label([[[1e300, 1e300], [1e300, 0], [0, 1e300],
            [1e300, 1e300]]]))), "cannot be placed"),
    _labels("vector_vrt", hostile.content('<OGRVRTDataSource><OGRVRTLayer name="a"><SrcDataSource>/vsicurl/'
            "http://127.0.0.1:9/a.geojson</SrcDataSource></OGRVRTLayer></OGRVRTDataSource>"), "label file"),
    _labels("not_utf8", hostile.content(hostile.collection(hostile.label(SQUARE)).encode().replace(
            b"Complete", b"Compl\xe9te")), "UTF-8"),
    _labels("no_database", hostile.content(b"SQLite format 3\0" + b"\1" * 500), "label file", "gpkg"),
    _labels("text_gpkg", hostile.content("hello"), "label file", "gpkg"),
    _labels("two_layers", hostile.layers("a", "b"), "2 layers with geometry instead of one", "gpkg"),
    _labels("many_corners", hostile.circle(1_200_000), "corners", "gpkg"),
    _labels("ten_million_corners", hostile.circle(10**7), "corners", "gpkg", slow=True),
    _labels("lone_shp", hostile.content(b"\0\0\x27\x0a" + b"\0" * 100), "label file", "shp"),
    _labels("no_prj", hostile.shapefile_without_crs, "no CRS", "shp"),
    _labels("fgb_garbage", hostile.content(b"fgb\x03fgb\x01" + b"\xff" * 200), "layers with geometry", "fgb"),
    _labels("folder_labels", hostile.folder, "no label file"),
    Bad("area_without_polygon", "input/test/areas/{id}.geojson",
        hostile.content(hostile.collection(hostile.label([39.296, -5.7286], "Point"))),
        ("LoadLabels", "--image-id", "{id}"), "no polygon"),
    Bad("area_of_text", "input/test/areas/{id}.geojson", hostile.content("everywhere"),
        ("LoadLabels", "--image-id", "{id}"), "label file"),
]  # fmt: skip

SETTINGS = [
    _set("no_size", "TileImage", "not a size", "--Tiling-tile-size", "wide"),
    _set("negative_size", "TileImage", "not a size", "--Tiling-tile-size", "-5"),
    _set("endless_size", "TileImage", "overlap", "--Tiling-overlap", "999999999999m"),
    _set("nan_share", "TileImage", "min_valid_share", "--Tiling-min-valid-share", "nan"),
    _set("no_bands", "TileImage", "bands", "--Imagery-bands", "[]"),
    _set("bands_of_words", "TileImage", "bands", "--Imagery-bands", '["red", "green", "blue"]'),
    _set("endless_stretch", "TileImage", "stretch", "--Imagery-stretch", "0,inf"),
    _set("no_shards", "InferShard", "shards: must be 1 to 10,000", "--shard", "0", "--Inference-shards", "0"),
    _set("million_shards", "AggregateImage", "shards", "--Inference-shards", "1000000"),
    _set("not_enough_tiles", "InferShard", "detections_per_tile", "--shard", "0", "--Inference-detections-per-tile",
         "0"),
    _set("no_batch", "InferShard", "batch_size", "--shard", "0", "--Inference-batch-size", "0"),
    _set("no_such_device", "InferShard", "device", "--shard", "0", "--Inference-device", "abacus"),
    _set("categories_of_numbers", "LoadLabels", "JSON object", "--Labels-categories", '{"hut": 7}'),
    _set("no_categories", "LoadLabels", "categories must be named", "--Labels-categories", "{}"),
    _set("deep_categories", "LoadLabels", "[Labels] categories", "--Labels-categories", '{"a":' * 50_000),
    _set("broken_categories", "LoadLabels", "[Labels] categories", "--Labels-categories", '{"a"'),
    _set("category_with_comma", "LoadLabels", "name", "--Labels-categories", '{"a,b\\n": ["x"]}'),
    _set("other_database", "LoadLabels", "not a PostgreSQL URL", "--Labels-database-url", "sqlite:///etc/passwd"),
    _set("no_url", "LoadLabels", "not a database URL", "--Labels-database-url", "://x"),
    _set("negative_epochs", "TrainMaskRCNN", "epochs", "--Training-epochs", "-1"),
    _set("nan_rate", "TrainMaskRCNN", "learning_rate", "--Training-learning-rate", "nan"),
    _set("no_such_network", "TrainMaskRCNN", "network", "--Training-network", "yolo"),
    _set("training_image_path", "TrainMaskRCNN", "not an image id", "--Training-images", '["../../etc/passwd"]'),
    _set("training_image_nul", "TrainMaskRCNN", "not an image id", "--Training-images", '["a\\u0000b"]'),
    _set("training_image_number", "TrainMaskRCNN", "not an image id", "--Training-images", "[7]"),
    _set("no_csv", "AggregateImage", "formats", "--Aggregation-formats", '["geojson"]'),
    _set("unknown_format", "AggregateImage", "formats", "--Aggregation-formats", '["exe"]'),
    _set("threshold_of_nobody", "AggregateImage", "unknown categories", "--Aggregation-score-thresholds", '{"x": 1}'),
    _set("threshold_of_words", "AggregateImage", "score_thresholds", "--Aggregation-score-thresholds",
         '{"completed": "high"}'),
    _set("nan_threshold", "AggregateImage", "score_thresholds", "--Aggregation-score-thresholds",
         '{"completed": NaN}'),
    _set("negative_area", "AggregateImage", "min_area_m2", "--Aggregation-min-area-m2", "nan"),
    _set("no_workspace", "TileImage", "no such image", "--Storage-workspace", "/nowhere"),
    _set("split_path", "Submission", "not an image id", "--split", "../.."),
]  # fmt: skip

IDS = [
    _id("parent", "../scene_042"),
    _id("absolute", "/etc/passwd"),
    _id("nested", "a/b"),
    _id("dots", ".."),
    _id("hidden", ".scene"),
    _id("endless", "x" * 300),
    _id("blank", "a b"),
    _id("sql", "a'; DROP TABLE jengo.labels; --"),
    _id("option_like", "-rf", "expected one argument"),
    _id("newline", "a\nb"),
    _id("other_script", "пример"),
    _id("nobody", "scene_043", "Did you mean scene_042?"),
]


def weights(good: Path | None) -> list[Bad]:
    """Hostile weights files, most of them made from good ones; None for their names alone."""
    trace = "executed"

    def claims_more(file: h5py.File) -> None:
        name = sorted(file["state_dict"])[0]
        del file["state_dict"][name]
        file["state_dict"].create_dataset(
            name, shape=(2**20, 2**20), dtype="f4", chunks=(1024, 1024), compression=9
        )

    def extra_gigabytes(file: h5py.File) -> None:
        file["state_dict"].create_dataset("bomb", shape=(2**40,), dtype="f4", chunks=(2**20,), compression=9)

    def link_outside(file: h5py.File) -> None:
        name = sorted(file["state_dict"])[0]
        del file["state_dict"][name]
        file["state_dict"][name] = h5py.ExternalLink("/etc/passwd", "/")

    def objects(file: h5py.File) -> None:
        name = sorted(file["state_dict"])[0]
        del file["state_dict"][name]
        file["state_dict"].create_dataset(
            name, data=np.array([b"os.system"], dtype=object), dtype=h5py.string_dtype()
        )

    def attribute(name: str, value: Any) -> Writer:
        return hostile.hdf5(lambda file: file.attrs.__setitem__(name, value), good)

    return [
        _weights("no_weights", hostile.content(b""), "not an HDF5 file"),
        _weights("text_weights", hostile.content("weights"), "not an HDF5 file"),
        _weights("half_weights", hostile.content(good.read_bytes()[:9000] if good else b""), "damaged"),
        _weights("folder_weights", hostile.folder, "no such weights file"),
        _weights("other_hdf5", hostile.hdf5(lambda file: file.create_group("state_dict")), "format version"),
        _weights("newer_weights", attribute("format_version", 99), "format version"),
        _weights("other_categories", attribute("categories", '["hut", "shed", "barn"]'), "other categories"),
        _weights("deep_metadata", attribute("metrics", '{"a":' * 10_000), "damaged metadata"),
        _weights("unknown_network", attribute("network", "../../bin/sh"), "unknown network"),
        _weights("hostile_arguments", attribute("arguments", '{"__class__": 1}'), "unknown argument"),
        _weights("arguments_of_words", attribute("arguments", '["a"]'), "damaged metadata"),
        _weights("terabyte_of_weights", hostile.hdf5(claims_more, good), "does not fit"),
        _weights("unknown_weights", hostile.hdf5(extra_gigabytes, good), "does not fit"),
        _weights("linked_weights", hostile.hdf5(link_outside, good), "not plain numbers inside the file"),
        _weights("object_weights", hostile.hdf5(objects, good), "not plain numbers inside the file"),
        _initial("pickled_code", hostile.pickled(trace), "not a file of weights alone", "pth"),
        _initial("bare_pickle", hostile.bare_pickle(trace), "not a file of weights alone", "pth"),
        _initial("text_pth", hostile.content("weights"), "not a file of weights alone", "pth"),
        _initial("initial_bomb", hostile.hdf5(extra_gigabytes, good), "weights", "h5"),
        Bad("bad_thresholds", "given/{id}/thresholds.json", hostile.content('{"thresholds": NaN}'),
            ("AggregateImage", "--image-id", "scene_042", "--Inference-weights", "given/{id}/weights.h5"),
            "not the calibration"),
        _set("web_weights", "TrainMaskRCNN", "no digest", "--Training-initial-weights", "http://127.0.0.1:9/a.pth"),
    ]  # fmt: skip


def tiles(good: dict[str, Any] | None) -> list[Bad]:
    """Hostile per-tile JSON, made from a good one with a detection or more; None for their names alone."""
    good = good or {"detections": [{}]}

    def changed(**values: Any) -> Writer:
        return hostile.content(json.dumps(good | values))

    def detection(**values: Any) -> Writer:
        return changed(detections=[good["detections"][0] | values])

    square, refused = [10, 10, 20, 10, 20, 20, 10, 20], "not the detections of a tile"
    return [
        _tile("empty_tile", hostile.content(b""), refused),
        _tile("half_a_tile", hostile.content(json.dumps(good)[:200]), refused),
        _tile("deep_tile", hostile.content('{"detections": ' + DEEP), refused),
        _tile("newer_tile", changed(schema_version=99), "schema version 99"),
        _tile("older_tile", changed(schema_version=0), "schema version 0"),
        _tile("extra_key", changed(note="x"), refused),
        _tile("nan_polygon", detection(polygon=[NAN, 1, 2, 2, 3, 1]), refused),
        _tile("endless_polygon", hostile.content(json.dumps(good).replace('"polygon": [', '"polygon": [1e999, 3, ')),
              refused),
        _tile("two_corners", detection(polygon=square[:4]), "not a polygon"),
        _tile("half_a_corner", detection(polygon=square[:7]), "not a polygon"),
        _tile("far_corner", detection(polygon=[*square, 1e300, 0]), "not a polygon"),
        _tile("nan_scores", detection(scores=[NAN, 0.1, 0.1]), refused),
        _tile("large_scores", detection(scores=[9, 9, 9]), refused),
        _tile("too_sure_scores", detection(scores=[0.9, 0.9, 0.9]), "not a probability of each"),
        _tile("missing_score", detection(scores=[0.1, 0.9]), "not a probability of each"),
        _tile("other_scores", changed(categories=["hut", "house", "hall"]), "not of the categories"),
        _tile("text_for_numbers", detection(polygon="POLYGON EMPTY"), refused),
        _tile("four_gigabyte_tile", hostile.sparse('{"image_id": "', 2**32), "larger than"),
        _tile("other_image", changed(image_id="scene_001"), "of another tile"),
        _tile("other_tile", changed(tile_id="r0099_c0099"), "of another tile"),
    ]  # fmt: skip


CATALOGUES = [
    _catalogue("no_columns", "name,address\na,b\n", "lacks columns"),
    _catalogue("size_of_words", "image_id,split,url,width,height\nfar,test,http://127.0.0.1:9/a,wide,high\n", "pixels"),
    _catalogue("id_that_leaves", "image_id,split,url\n../far,test,http://127.0.0.1:9/a\n", "not an image id"),
    _catalogue("split_that_leaves", "image_id,split,url\nfar,../../tmp,http://127.0.0.1:9/a\n", "not an image id",
               "FetchImage", "--image-id", "far"),
    _catalogue("local_file", "image_id,split,url\nfar,test,file:///etc/passwd\n", "http"),
    _catalogue("vsi_file", "image_id,split,url\nfar,test,/vsizip//etc/passwd\n", "http"),
    _catalogue("short_row", "image_id,split,url\nfar\n", "not an image id"),
    _catalogue("nobody_listens", "image_id,split,url\nfar,test,http://127.0.0.1:9/a.tif\n", "cannot be opened"),
    _catalogue("two_of_a_name", "image_id,split,url\na,test,http://127.0.0.1:9/1/map.tif\nb,test,http://127.0.0.1:9/2/map.tif\n",
               "two images have this name", "Submission"),
    _catalogue("nul_in_csv", "image_id,split,url\nfa\0r,test,http://127.0.0.1:9/a.tif\n", "image id"),
]  # fmt: skip
