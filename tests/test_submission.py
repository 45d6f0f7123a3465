"""The submission CSV: the exact bytes, the way back, every fault named, and a zip that repeats itself."""

from __future__ import annotations

import csv
import zipfile

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ArtifactError
from pipeline.schema import Grid
from pipeline.steps.submission import submit
from pipeline.submission import CATEGORIES, Rows, columns, pack_submission, read_csv, validate_csv, write_csv

HEADER = "building_id,conf_foundation,conf_unfinished,conf_completed,coords_geo,coords_pixel"
BOUNDS = (39.2, -5.8, 39.3, -5.7)
GEO = "POLYGON ((39.21 -5.75, 39.22 -5.75, 39.22 -5.74, 39.21 -5.75))"
GEO8 = (
    "POLYGON ((39.21000000 -5.75000000, 39.22000000 -5.75000000, "
    "39.22000000 -5.74000000, 39.21000000 -5.75000000))"
)
GRID = Grid(
    width=100,
    height=60,
    crs="EPSG:4326",
    srid=4326,
    transform=(0.001, 0, 39.2, 0, -0.1 / 60, -5.7),
    ground_m_per_px=(110.0, 184.0),
    bands=[1, 2, 3],
    stretch=None,
    observed="2018-04-30T00:00:00Z",
)
PIXEL = "POLYGON ((10.00 20.50, 30.00 20.50, 30.00 40.00, 10.00 20.50))"


def rows(*pairs, confidences=(0.1, 0.2, 0.7)):
    """Batch of buildings from (lon lat, pixel) WKT."""
    return Rows(
        shapely.from_wkt([pixel for _, pixel in pairs]),
        shapely.from_wkt([geo for geo, _ in pairs]),
        np.tile([confidences], (len(pairs), 1)),
    )


def write_lines(path, *lines):
    path.write_text("\n".join([HEADER, *lines]) + "\n")
    return path


def line(number=1, confidences="0.1,0.2,0.7", geo=GEO8, pixel=PIXEL):
    return f'{number},{confidences},"{geo}","{pixel}"'


def check(path):
    return validate_csv(path, bounds_lonlat=BOUNDS, width=100, height=60)


def test_the_challenges_header():
    assert ",".join(columns()) == HEADER


def test_exact_bytes_and_ids_through_batches(tmp_path):
    path = tmp_path / "result.csv"
    batches = [rows((GEO, PIXEL)), rows(), rows((GEO, PIXEL), confidences=(1, 0, 0))]
    assert write_csv(path, iter(batches)) == 2
    assert path.read_bytes().decode().split("\n") == [
        HEADER,
        f'1,0.100000,0.200000,0.700000,"{GEO8}","{PIXEL}"',
        f'2,1.000000,0.000000,0.000000,"{GEO8}","{PIXEL}"',
        "",
    ]
    assert check(path) == []


def test_without_buildings_the_header_alone(tmp_path):
    path = tmp_path / "result.csv"
    assert write_csv(path, []) == 0
    assert path.read_text() == HEADER + "\n"
    assert check(path) == []
    assert read_csv(path).probabilities.shape == (0, 3)


def test_other_categories(tmp_path):
    path = tmp_path / "result.csv"
    write_csv(path, [rows((GEO, PIXEL), confidences=(0.4,))], categories=["building"])
    assert path.read_text().startswith("building_id,conf_building,coords_geo,coords_pixel\n")
    assert validate_csv(path, ["building"]) == []
    assert read_csv(path, ["building"]).probabilities.tolist() == [[0.4]]
    with pytest.raises(ArtifactError, match="header"):
        read_csv(path)


def test_holes_are_kept(tmp_path):
    path = tmp_path / "result.csv"
    ring = shapely.box(0, 0, 10, 10) - shapely.box(3, 3, 6, 6)
    write_csv(path, [Rows([ring], [ring], np.array([[0.1, 0.1, 0.5]]))])
    back = read_csv(path)
    assert shapely.equals(back.polygons_px[0], ring)
    assert len(back.polygons_lonlat[0].interiors) == 1


@pytest.mark.parametrize("speck", [shapely.box(0, 0, 0.001, 0.001), shapely.Polygon()])
def test_a_polygon_too_small_to_write_is_refused(tmp_path, speck):
    with pytest.raises(ArtifactError, match="a polygon vanishes at 2 decimals"):
        write_csv(
            tmp_path / "result.csv",
            [rows((GEO, PIXEL)), Rows([speck], shapely.from_wkt([GEO]), np.array([[0.1, 0.1, 0.5]]))],
        )


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.floats(0, 900), st.floats(0, 900), st.floats(0.05, 90), st.floats(0.05, 90), st.floats(0, 3)
        ),
        max_size=8,
    ),
    st.integers(0, 2**32 - 1),
)
def test_what_is_written_is_valid_and_comes_back(tmp_path_factory, boxes, seed):
    path = tmp_path_factory.getbasetemp() / "round_trip.csv"
    # Rotated boxes with a thin spur: rounding tempts them to cross themselves.
    shapes = [
        shapely.affinity.rotate(
            shapely.box(x, y, x + w, y + h) | shapely.box(x, y, x + 2 * w, y + 0.02), turn, use_radians=True
        )
        for x, y, w, h, turn in boxes
    ]
    polygons_px = np.array([shape for shape in shapes if shape.geom_type == "Polygon"], dtype=object)
    lonlat = shapely.transform(polygons_px, lambda xy: np.c_[39 + xy[:, 0] * 6e-7, -5 - xy[:, 1] * 6e-7])
    probabilities = np.random.default_rng(seed).dirichlet([1, 1, 1], len(polygons_px))
    write_csv(path, [Rows(polygons_px, lonlat, probabilities)])
    assert validate_csv(path) == []
    back = read_csv(path)
    assert np.abs(back.probabilities - probabilities).max(initial=0) <= 5.1e-7
    # The spur may go, it is thinner than a decimal; what goes is never more than its area.
    lost = shapely.area(shapely.symmetric_difference(back.polygons_lonlat, lonlat))
    assert (lost < 6e-7**2 * 0.03 * shapely.length(polygons_px)).all()
    lost = shapely.area(shapely.symmetric_difference(back.polygons_px, polygons_px))
    assert (lost < 0.03 * shapely.length(polygons_px)).all()


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (line(number=2), "building_id does not count up from 1"),
        (line(confidences="0.1,1.2,0.7"), "conf_unfinished lies outside 0 to 1"),
        (line(confidences="0.1,nan,0.7"), "conf_unfinished is not a number"),
        (line(confidences="high,0.2,0.7"), "conf_foundation is not a number"),
        (line(confidences="0.2,0.7"), "a row of 5 instead of 6 fields"),
        (line(geo="somewhere"), "coords_geo is not WKT"),
        (line(geo="POINT (39.21000000 -5.75000000)"), "coords_geo is not a POLYGON with coordinates"),
        (line(geo="POLYGON EMPTY"), "coords_geo is not a POLYGON with coordinates"),
        (
            line(geo=GEO8.replace(", 39.21000000 -5.75000000)", ")")),
            "coords_geo has a ring that is not closed",
        ),
        (line(geo=GEO8.replace("-5.74000000", "nan")), "coords_geo has coordinates that are not finite"),
        (line(geo=GEO), "coords_geo has numbers of less than 7 decimals"),
        (
            line(
                geo="POLYGON ((39.21000000 -5.75000000, 39.22000000 -5.74000000, "
                "39.22000000 -5.75000000, 39.21000000 -5.74000000, 39.21000000 -5.75000000))"
            ),
            "coords_geo is not a valid polygon (Self-intersection)",
        ),
        (
            line(
                geo="POLYGON ((-5.75000000 39.21000000, -5.75000000 39.22000000, "
                "-5.74000000 39.22000000, -5.75000000 39.21000000))"
            ),
            "coords_geo has lat lon swapped, lon is first",
        ),
        (line(geo=GEO8.replace("39.2", "38.2")), "coords_geo lies outside the image"),
        (line(geo=GEO8.replace("39.21000000", "39.19999000")), "coords_geo lies outside the image"),
        (line(pixel=PIXEL.replace("30.00", "101.00")), "coords_pixel lies outside the image"),
        (
            line(pixel="POLYGON ((20.00 70.00, 20.00 90.00, 40.00 90.00, 20.00 70.00))"),
            "coords_pixel has x y swapped, the column is first",
        ),
    ],
)
def test_each_fault_is_named_with_its_line(tmp_path, bad, problem):
    assert check(write_lines(tmp_path / "result.csv", bad)) == [f"result.csv, line 2: {problem}"]


def test_swapped_axes_show_without_an_image_where_they_can(tmp_path):
    corners = "5.1000000 120.0000000, 5.2000000 120.0000000, 5.2000000 120.2000000, 5.1000000 120.0000000"
    geo = f"POLYGON (({corners}))"
    problems = validate_csv(write_lines(tmp_path / "result.csv", line(geo=geo)))
    assert problems == ["result.csv, line 2: coords_geo has lat lon swapped, lon is first"]


def test_repeated_faults_are_told_once(tmp_path):
    path = write_lines(tmp_path / "result.csv", *[line(number, "0,0,2") for number in range(1, 7)])
    assert check(path) == ["result.csv, lines 2, 3, 4 and 3 more: conf_completed lies outside 0 to 1"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "not the header of a submission"),
        (b"building_id,conf_completed\n", "not the header of a submission"),
        (b"\xff\xfe\x00", "not a CSV in UTF-8"),
        (HEADER.encode() + b'\n1,0,0,1,"POLYGON', "not a CSV in UTF-8"),
        (None, "cannot be read, No such file or directory"),
    ],
)
def test_files_that_are_no_submission(tmp_path, content, problem):
    path = tmp_path / "result.csv"
    if content is not None:
        path.write_bytes(content)
    assert len(validate_csv(path)) == 1
    assert problem in validate_csv(path)[0]
    with pytest.raises(ArtifactError, match=problem):
        read_csv(path)


@pytest.mark.parametrize("bad", [line(confidences="a,b,c"), line(confidences="1"), line(geo="here")])
def test_rows_that_cannot_be_read_name_their_line(tmp_path, bad):
    with pytest.raises(ArtifactError, match="line 3: row"):
        read_csv(write_lines(tmp_path / "result.csv", line(), bad))


def test_rows_longer_than_the_parsers_default_limit(tmp_path):
    csv.field_size_limit(131_072)
    path = tmp_path / "result.csv"
    round_one = shapely.Point(39.25, -5.75).buffer(0.04, quad_segs=2000)
    write_csv(path, [Rows([round_one], [round_one], np.array([[0, 0, 1]]))])
    assert len(path.read_text()) > 131_072
    assert validate_csv(path) == []


def test_the_zip_repeats_itself(tmp_path):
    first, second = tmp_path / "grid_059.csv", tmp_path / "grid_066.csv"
    write_csv(first, [rows((GEO, PIXEL))])
    write_csv(second, [])
    pack_submission({"b": second, "a": first}, tmp_path / "one.zip")
    pack_submission({"a": first, "b": second}, tmp_path / "two.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        assert archive.namelist() == ["a.csv", "b.csv"]
        assert {info.external_attr >> 16 for info in archive.infolist()} == {0o644}
        assert archive.read("a.csv") == first.read_bytes()


def test_a_faulty_csv_is_not_packed(tmp_path):
    bad = write_lines(tmp_path / "result.csv", line(confidences="0,0,2"))
    with pytest.raises(ArtifactError, match="conf_completed lies outside 0 to 1"):
        submit({"a": bad}, {"a": "a"}, {"a": GRID}, tmp_path / "out.zip", CATEGORIES)
    assert not (tmp_path / "out.zip").exists()


def test_an_image_beyond_the_range_of_degrees_takes_no_building_along(tmp_path):
    beyond = write_lines(tmp_path / "result.csv", line(geo=GEO8.replace("39.", "199.")))
    grid = GRID.model_copy(update={"transform": (0.001, 0, 199.2, 0, -0.1 / 60, -5.7)})
    with pytest.raises(ArtifactError, match="coords_geo lies outside the range of degrees"):
        submit({"a": beyond}, {"a": "a"}, {"a": grid}, tmp_path / "out.zip", CATEGORIES)


def test_a_csv_is_read_once_to_be_checked_and_once_to_be_packed(tmp_path, monkeypatch):
    good, opened = write_lines(tmp_path / "good.csv", line(geo=GEO8)), list[object]()

    def look(path, *given, **options):
        opened.append(path)
        return open(path, *given, **options)

    monkeypatch.setattr("pipeline.submission.open", look, raising=False)
    submit({"a": good}, {"a": "b"}, {"a": GRID}, tmp_path / "out.zip", CATEGORIES)
    assert opened == [good, good]
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert archive.read("b.csv") == good.read_bytes()
