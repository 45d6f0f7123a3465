from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Geod
from rasterio.crs import CRS
from rasterio.transform import Affine

from pipeline import frames
from pipeline.errors import LabelError, RasterError
from pipeline.schema import Grid, Window

NORTH_UP = (0.074, 0.0, 530_000.0, 0.0, -0.074, 9_366_000.0)
ROTATED = (0.08, 0.06, 530_000.0, 0.06, -0.08, 9_366_000.0)
GRID_001 = Path(__file__).parents[2] / "shared" / "data" / "zanzibar" / "grid_001.geojson"


def grid(transform=NORTH_UP, crs="EPSG:32737", width=4000, height=3000):
    return Grid(
        width=width, height=height, crs=crs, srid=None, transform=transform, ground_m_per_px=(1, 1),
        bands=[1, 2, 3], stretch=None, observed="2018-01-01T00:00:00Z",
    )  # fmt: skip


def test_first_pixel_lies_at_the_transforms_origin():
    corner, centre, last = frames.px_to_crs(shapely.points([(0, 0), (0.5, 0.5), (10, 20)]), NORTH_UP)
    assert (corner.x, corner.y) == (530_000, 9_366_000)
    assert (centre.x, centre.y) == pytest.approx((530_000.037, 9_365_999.963), abs=1e-6)
    assert (last.x, last.y) == pytest.approx((530_000.74, 9_365_998.52), abs=1e-6)


def test_an_affine_serves_as_its_six_numbers():
    points = shapely.points([(3, 4)])
    assert frames.px_to_crs(points, Affine(*ROTATED))[0] == frames.px_to_crs(points, ROTATED)[0]
    assert frames.crs_to_px(points, Affine(*ROTATED))[0] == frames.crs_to_px(points, ROTATED)[0]


@settings(deadline=None, max_examples=50)
@given(
    xy=st.lists(st.tuples(*[st.floats(0, 75_000)] * 2), min_size=1, max_size=20),
    transform=st.sampled_from([NORTH_UP, ROTATED, (1e-6, 0, 39.2, 0, -1e-6, -6.1)]),
)
def test_pixels_survive_the_way_to_the_crs_and_back(xy, transform):
    there = frames.px_to_crs(shapely.points(xy), transform)
    back = shapely.get_coordinates(frames.crs_to_px(there, transform))
    assert np.allclose(back, xy, atol=1e-5)


@pytest.mark.parametrize(
    "move",
    [
        lambda geoms: frames.px_to_crs(geoms, NORTH_UP),
        lambda geoms: frames.crs_to_px(geoms, NORTH_UP),
        lambda geoms: frames.reproject(geoms, "EPSG:32737", "EPSG:4326"),
        lambda geoms: frames.reproject(geoms, "EPSG:4326", "EPSG:4326"),
        lambda geoms: frames.ground_areas(geoms, "EPSG:32737"),
    ],
)
def test_nothing_in_nothing_out(move):
    assert len(move([])) == 0
    moved = move([None, shapely.Polygon()])
    assert len(moved) == 2


def test_none_and_empty_keep_their_places():
    box = shapely.box(0, 0, 1, 1)
    moved = frames.px_to_crs([None, box, shapely.Polygon()], NORTH_UP)
    assert moved[0] is None and not moved[1].is_empty and moved[2].is_empty
    areas = frames.ground_areas([None, shapely.Polygon()], "EPSG:32737")
    assert np.isnan(areas[0]) and areas[1] == 0


def test_reproject_takes_and_gives_x_before_y():
    (point,) = frames.reproject([shapely.Point(39.2, -6.1)], "EPSG:4326", "EPSG:32737")
    assert (point.x, point.y) == pytest.approx((522_130, 9_325_700), abs=100)
    (back,) = frames.reproject([point], "EPSG:32737", "EPSG:4326")
    assert (back.x, back.y) == pytest.approx((39.2, -6.1), abs=1e-9)


@pytest.mark.parametrize("crs", [32737, CRS.from_epsg(32737), CRS.from_epsg(32737).to_wkt()])
def test_a_crs_may_be_given_as_code_object_or_text(crs):
    point = shapely.Point(522_000, 9_325_000)
    expected = frames.reproject([point], "EPSG:32737", "EPSG:4326")[0]
    assert frames.reproject([point], crs, "EPSG:4326")[0].equals_exact(expected, 1e-12)


def test_the_same_crs_moves_nothing():
    polygon = shapely.Polygon([(39.123456789012345, -6.1), (39.2, -6.1), (39.2, -6.2)])
    assert frames.reproject([polygon], "EPSG:4326", "OGC:CRS84")[0] == polygon
    assert frames.reproject([polygon], "EPSG:4326", "EPSG:4326")[0] == polygon


@pytest.mark.parametrize("point", [(530_000, 9_366_000), (39, np.nan), (np.inf, 0)])
def test_coordinates_without_a_place_are_refused_by_name(point):
    with pytest.raises(LabelError, match=r"labels\.geojson: 1 of 2 coordinates.*Check that") as error:
        points = shapely.points([(39.2, -6.1), point])
        frames.reproject(points, "EPSG:4326", "EPSG:32737", where="labels.geojson")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("crs", ["EPSG:99999", "no such thing", 'LOCAL_CS["local",UNIT["metre",1]]'])
def test_a_crs_off_the_earth_is_refused(crs):
    with pytest.raises(LabelError, match="no way leads from CRS"):
        frames.reproject([shapely.Point(0, 0)], crs, "EPSG:4326")


@pytest.mark.parametrize("lonlat", [(39.2, -6.1), (-122.3, 47.6), (85.5, 27.6), (25.0, 69.9)])
@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3857", "EPSG:6933", "utm"])
def test_areas_are_the_grounds_own(crs, lonlat):
    lon, lat = lonlat
    crs = f"EPSG:{32600 + int(lon + 186) // 6}" if crs == "utm" else crs
    rng = np.random.default_rng(7)
    starts = np.column_stack(
        [rng.uniform(lon - 0.05, lon + 0.05, 50), rng.uniform(lat - 0.05, lat + 0.05, 50)]
    )
    sides = rng.uniform(3e-5, 1e-3, (50, 2))
    boxes = shapely.box(*starts.T, *(starts + sides).T)
    truth = np.array([abs(Geod(ellps="WGS84").geometry_area_perimeter(box)[0]) for box in boxes])
    areas = frames.ground_areas(frames.reproject(boxes, "EPSG:4326", crs), crs)
    assert np.abs(areas / truth - 1).max() < 1e-3


def test_real_buildings_have_their_geodesic_areas():
    geopandas = pytest.importorskip("geopandas")
    if not GRID_001.exists():
        pytest.skip("shared data is absent")
    labels = geopandas.read_file(GRID_001)
    polygons = labels.geometry[labels.geometry.is_valid & ~labels.geometry.is_empty].force_2d()
    truth = polygons.map(lambda polygon: abs(Geod(ellps="WGS84").geometry_area_perimeter(polygon)[0]))
    areas = frames.ground_areas(polygons.to_crs("EPSG:3857"), "EPSG:3857")
    assert len(areas) > 4000
    assert np.abs(areas / truth.to_numpy() - 1).max() < 1e-3


def test_a_pixels_ground_length_is_not_its_crs_unit():
    utm = frames.ground_m_per_px(NORTH_UP, 1000, 1000, "EPSG:32737")
    assert utm == pytest.approx((0.074, 0.074), rel=1e-3)
    mercator = frames.ground_m_per_px((0.149, 0, 9_519_391, 0, -0.149, 3_203_170), 1000, 1000, "EPSG:3857")
    assert mercator == pytest.approx((0.149 * np.cos(np.radians(27.64)),) * 2, rel=0.01)
    degrees = frames.ground_m_per_px((1e-6, 0, 39, 0, -1e-6, -60), 10, 10, "EPSG:4326")
    assert degrees == pytest.approx((0.0558, 0.1114), rel=1e-2)


def test_a_rotated_pixel_keeps_its_length():
    assert frames.ground_m_per_px(ROTATED, 1000, 1000, "EPSG:32737") == pytest.approx((0.1, 0.1), rel=1e-3)


@pytest.mark.parametrize(
    ("transform", "crs"),
    [
        ((1, 0, 0, 0, -1, 95), "EPSG:4326"),
        ((1, 0, 9e12, 0, -1, 9e12), "EPSG:32737"),
        (NORTH_UP, 'LOCAL_CS["local",UNIT["metre",1]]'),
    ],
)
def test_an_image_off_the_earth_is_refused(transform, crs):
    with pytest.raises(RasterError, match=r"a\.tif: the image's centre has no place on the earth"):
        frames.ground_m_per_px(transform, 10, 10, crs, where="a.tif")


def test_points_and_bounds_in_lonlat():
    corners = frames.lonlat_of_px(np.array([(0, 0), (4000, 3000)]), NORTH_UP, "EPSG:32737")
    assert corners.shape == (2, 2)
    west, south, east, north = frames.grid_lonlat_bounds(grid())
    assert west <= corners[0, 0] < corners[1, 0] <= east
    assert south <= corners[1, 1] < corners[0, 1] <= north
    assert frames.lonlat_of_px(np.empty((0, 2)), NORTH_UP, "EPSG:32737").shape == (0, 2)


def test_bounds_follow_curved_edges():
    # North of the equator a parallel bulges towards the pole on a UTM grid as wide as its zone.
    wide = grid(transform=(600, 0, 200_000, 0, -600, 7_800_000), crs="EPSG:32633", width=1000, height=10)
    corner = frames.lonlat_of_px(np.array([(0, 0), (1000, 0)]), wide.transform, wide.crs)[:, 1].max()
    assert frames.grid_lonlat_bounds(wide)[3] > corner + 0.05


def test_windows_become_boxes():
    assert frames.window_box(Window(3, 5, 10, 20)).bounds == (3, 5, 13, 25)
    boxes = frames.window_boxes(np.array([[3, 5, 10, 20], [0, 0, 1, 1]]))
    assert shapely.bounds(boxes).tolist() == [[3, 5, 13, 25], [0, 0, 1, 1]]
    assert len(frames.window_boxes([])) == 0
