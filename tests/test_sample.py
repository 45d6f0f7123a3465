"""The sample scene: repeatable, true to its labels, and as dirty as promised."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import rasterio
import shapely

from pipeline import sample
from pipeline.errors import SettingsError
from pipeline.painting.canvas import Light, Noise, rasterise
from pipeline.painting.digitising import CONDITIONS
from pipeline.painting.settlement import plan_settlement
from pipeline.sample import Dirt, SceneSpec, label_rows, paint_scene, write_scene

SPEC = SceneSpec(width=1536, height=1280, seed=11)
SMALL = SceneSpec(width=512, height=512, seed=5)


@pytest.fixture(scope="module")
def scene():
    return paint_scene(SPEC)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scene")
    paths = folder / "scene.tif", folder / "scene.geojson"
    write_scene(SPEC, *paths)
    return paths


@pytest.fixture(scope="module")
def features(files):
    return json.loads(files[1].read_text())["features"]


def _inside(scene, k, shrink=1.5):
    height, width = scene.image.shape[:2]
    return np.asarray(rasterise(scene.buildings[k].buffer(-shrink), 0, 0, width, height)) > 0


def test_same_spec_same_bytes(tmp_path):
    paths = [(tmp_path / f"{k}.tif", tmp_path / f"{k}.geojson") for k in range(2)]
    for image, labels in paths:
        write_scene(SMALL, image, labels)
    assert paths[0][0].read_bytes() == paths[1][0].read_bytes()
    assert paths[0][1].read_bytes() == paths[1][1].read_bytes()


def test_other_seed_other_settlement():
    one, other = paint_scene(SMALL), paint_scene(replace(SMALL, seed=6))
    assert np.abs(one.image.astype(int) - other.image).mean() > 5
    assert shapely.MultiPolygon(list(one.buildings)) != shapely.MultiPolygon(list(other.buildings))


def test_buildings_stand_inside_the_flown_area_and_apart(scene):
    assert shapely.is_valid(scene.buildings).all()
    assert shapely.contains(scene.flown, scene.buildings).all()
    first, second = shapely.STRtree(scene.buildings).query(scene.buildings, predicate="intersects")
    assert (first == second).all()


def test_some_neighbours_nearly_touch(scene):
    first, second = shapely.STRtree(scene.buildings).query(
        scene.buildings, predicate="dwithin", distance=0.25 / SPEC.metres_per_pixel
    )
    assert (first < second).sum() >= 3


def test_conditions_and_sizes_are_like_the_real_ones():
    plans = [
        plan_settlement(300, 300, shapely.box(0, 0, 300, 300), 150, np.random.default_rng(seed))
        for seed in range(4)
    ]
    houses = [house for plan in plans for house in plan.houses]
    counts = Counter(house.category for house in houses)
    total = sum(counts.values())
    assert counts["completed"] / total == pytest.approx(0.64, abs=0.05)
    assert counts["unfinished"] / total == pytest.approx(0.18, abs=0.05)
    assert counts["foundation"] / total == pytest.approx(0.18, abs=0.05)
    x0, y0, x1, y1 = shapely.bounds([house.outline for house in houses]).T
    longest = np.maximum(x1 - x0, y1 - y0)
    assert 11 < np.median(longest) < 18
    assert 18 < np.percentile(longest, 90) < 28
    assert longest.max() > 55, "no hall"


def test_one_building_has_a_courtyard(scene):
    assert any(polygon.interiors for polygon in scene.buildings)


def test_collar_is_black_and_flown_ground_is_not(scene):
    height, width = scene.image.shape[:2]
    flown = np.asarray(rasterise(scene.flown, 0, 0, width, height)) > 0
    assert (~flown).sum() > 1000
    assert (scene.image[~flown] == 0).all()
    assert (scene.image[flown].max(axis=1) > 0).all()


def test_labels_line_up_with_what_is_painted(scene):
    """A roof differs from the ground around it; a label a few metres off is half ground itself."""
    height, width = scene.image.shape[:2]
    grey = scene.image.mean(axis=2)

    def edge_contrast(shift):
        contrasts = []
        for k in np.flatnonzero(np.array(scene.categories) == "completed"):
            polygon = shapely.transform(scene.buildings[k], lambda c: c + shift)
            ring = polygon.buffer(4).difference(polygon.buffer(1))
            inner, outer = (
                np.asarray(rasterise(area, 0, 0, width, height)) > 0 for area in (polygon.buffer(-2), ring)
            )
            if inner.any() and outer.any():
                contrasts.append(abs(grey[inner].mean() - grey[outer].mean()))
        return np.mean(contrasts)

    assert edge_contrast((0, 0)) > 35
    assert edge_contrast((0, 0)) > 1.5 * edge_contrast((25, 25))


def test_conditions_look_different(scene):
    """Walls stand dark in their own shadow; foundations lie in the light of the ground."""
    grey = scene.image.mean(axis=2)
    dark: dict[str, list[float]] = {"unfinished": [], "foundation": [], "completed": []}
    for k, category in enumerate(scene.categories):
        pixels = grey[_inside(scene, k)]
        if len(pixels) > 400:
            dark[category].append(np.percentile(pixels, 10))
    assert np.mean(dark["unfinished"]) + 15 < np.mean(dark["foundation"]) < np.mean(dark["completed"])


def test_image_is_a_cog_with_the_tags_of_the_real_ones(files):
    with rasterio.open(files[0]) as src:
        assert (src.width, src.height, src.count, src.dtypes[0]) == (SPEC.width, SPEC.height, 3, "uint8")
        assert src.crs == rasterio.CRS.from_string(SPEC.crs)
        assert src.res == (SPEC.metres_per_pixel, SPEC.metres_per_pixel)
        assert (src.bounds.left, src.bounds.top) == SPEC.origin
        assert src.nodata is None
        assert src.compression.name == "jpeg"
        assert src.overviews(1) == [2, 4]
        assert src.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert src.tags()["TIFFTAG_DATETIME"] == SPEC.observed
        assert src.read(1, window=((0, 2), (0, 2))).max() <= 2


def test_file_holds_the_painted_pixels(files, scene):
    with rasterio.open(files[0]) as src:
        read = np.moveaxis(src.read(), 0, 2).astype(int)
    assert np.abs(read - scene.image).mean() < 6


def test_label_file_is_dirty_in_the_stated_counts(features, scene):
    dirt = Dirt.among(len(scene.buildings))
    present = [feature for feature in features if feature["geometry"] is not None]
    assert len(features) - len(present) == dirt.null_geometry == 1
    kinds = Counter(feature["geometry"]["type"] for feature in present)
    assert kinds == {"MultiPolygon": dirt.multipolygon, "Polygon": len(present) - 1}
    assert sum(feature["geometry"]["coordinates"] == [] for feature in present) == dirt.empty == 1
    conditions = Counter(feature["properties"]["condition"] for feature in features)
    assert set(conditions) == {"Complete", "Incomplete", "Foundation", None}
    assert conditions[None] == dirt.null_condition
    shapes = np.array([shapely.geometry.shape(feature["geometry"]) for feature in present])
    assert (~shapely.is_valid(shapes)).sum() == dirt.self_intersecting
    assert len(features) == len(scene.buildings) - 1 + dirt.duplicates + 3


def test_duplicates_and_strays_are_there(scene):
    dirt = Dirt.among(len(scene.buildings))
    rows = [(g, c) for g, c in label_rows(scene, SPEC) if g is not None and not g.is_empty]
    geometries, conditions = shapely.make_valid([g for g, _ in rows]), [c for _, c in rows]
    first, second = shapely.STRtree(geometries).query(geometries, predicate="intersects")
    first, second = first[first < second], second[first < second]
    common = shapely.area(shapely.intersection(geometries[first], geometries[second]))
    same = common / shapely.area(shapely.union(geometries[first], geometries[second])) > 0.5
    assert same.sum() == dirt.duplicates
    disagree = sum(conditions[a] != conditions[b] for a, b in zip(first[same], second[same], strict=True))
    assert disagree == dirt.conflicting
    image = shapely.box(0, 0, SPEC.width, SPEC.height)
    assert shapely.disjoint(geometries, image).sum() == dirt.outside


def test_clean_labels_are_the_buildings(scene):
    rows = label_rows(scene, SPEC, dirty=False)
    drawn = [geometry for geometry, _ in rows]
    overlap = shapely.area(shapely.intersection(drawn, scene.buildings))
    iou = overlap / (shapely.area(drawn) + shapely.area(scene.buildings) - overlap)
    assert iou.min() > 0.8
    assert [condition for _, condition in rows] == [CONDITIONS[c] for c in scene.categories]


def test_labels_are_lonlat_on_zanzibar(files, features):
    assert json.loads(files[1].read_text())["crs"]["properties"]["name"].endswith("CRS84")
    lon, lat = features[0]["geometry"]["coordinates"][0][0][:2]
    assert 39 < lon < 40 and -7 < lat < -5


@pytest.mark.parametrize(
    "spec",
    [
        SMALL,
        replace(SMALL, houses_per_hectare=0),
        replace(SMALL, width=64, height=64),
        replace(SMALL, metres_per_pixel=0.075, collar=0),
    ],
)
def test_small_and_empty_scenes(spec, tmp_path):
    write_scene(spec, tmp_path / "a.tif", tmp_path / "a.geojson")
    written = json.loads((tmp_path / "a.geojson").read_text())["features"]
    assert len(written) == len(paint_scene(spec).buildings)
    with rasterio.open(tmp_path / "a.tif") as src:
        assert src.shape == (spec.height, spec.width)


@pytest.mark.parametrize("wrong", [{"width": 10}, {"metres_per_pixel": -1}, {"collar": -5}])
def test_impossible_specs_are_refused(wrong):
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        SceneSpec(**wrong)


def test_demo_paints_what_is_missing(tmp_path, monkeypatch):
    scenes = {"training": {"scene_001": SMALL}, "test": {"scene_042": replace(SMALL, seed=42)}}
    monkeypatch.setattr(sample, "DEMO_SCENES", scenes)
    training = tmp_path / "input/training/images/scene_001.tif"
    test = tmp_path / "input/test/images/scene_042.tif"
    assert sample.write_demo(tmp_path) == [training, test]
    assert sample.write_demo(tmp_path) == []
    (tmp_path / "input/test/labels/scene_042.geojson").unlink()
    assert sample.write_demo(tmp_path) == [test]
    training.write_bytes(b"cut short")
    assert sample.write_demo(tmp_path) == [training]
    scenes["training"]["scene_001"] = replace(SMALL, seed=8)
    assert sample.write_demo(tmp_path) == [training]
    assert sorted(p.name for p in (tmp_path / "input").iterdir()) == ["test", "training"]


def test_demo_scenes_do_not_overlap_on_the_ground():
    specs = [spec for split in sample.DEMO_SCENES.values() for spec in split.values()]
    boxes = [
        shapely.box(
            s.origin[0],
            s.origin[1] - s.height * s.metres_per_pixel,
            s.origin[0] + s.width * s.metres_per_pixel,
            s.origin[1],
        )
        for s in specs
    ]
    first, second = shapely.STRtree(boxes).query(boxes, predicate="intersects")
    assert (first == second).all()
    assert len({spec.seed for spec in specs}) == len(specs)


def test_noise_has_no_seams():
    noise = Noise(np.random.default_rng(0), [3, 17, 60])
    whole = noise.read(0, 0, 400, 300)
    assert np.allclose(whole[100:200, 50:250], noise.read(50, 100, 200, 100), atol=1e-4)
    assert abs(whole.mean()) < 0.3 and 0.6 < whole.std() < 1.5


def test_shadows_fall_away_from_the_sun():
    assert Light(0.0, np.pi / 4).shadow(3.0) == pytest.approx([3.0, 0.0])


def test_what_a_difference_leaves_as_a_line_stays_black():
    square, line = shapely.box(2, 2, 5, 5), shapely.LineString([(0, 7), (8, 7)])
    alone, both = (
        np.asarray(rasterise(geometry, 0, 0, 8, 8))
        for geometry in (square, shapely.GeometryCollection([line, square]))
    )
    assert alone.any() and (both == alone).all()
