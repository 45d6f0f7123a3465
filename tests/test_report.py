"""The report page: what it tells, and that nothing in it can bite or grow without bound."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import shapely
from report_contexts import (
    CATEGORIES,
    HOSTILE,
    TWO_TILES,
    Outline,
    boxes,
    embedded,
    failing_context,
    learnt,
    picture,
    plain_context,
    record,
    scored_context,
    seam_score,
)

from pipeline.coverage import Coverage
from pipeline.evaluate import score_image
from pipeline.report import MAX_PAGE_MIB, build_pyramid, cards, charts, render_report, vectors
from pipeline.report.gallery import KINDS, SHOWN
from pipeline.report.pyramid import IMAGERY_BYTES
from pipeline.styles import LINES
from pipeline.temperature import Reliability, ReliabilityBin
from pipeline.verdicts import judge


@pytest.fixture
def plain():
    return plain_context()


@pytest.fixture
def scored():
    return scored_context()


def outcomes_of(page):
    """Category and outcome of every building and label of the map."""
    told = []
    for layer in ("found", "labelled"):
        for feature in (embedded(page, layer) or {"features": []})["features"]:
            part = feature["properties"]
            told.append(f"{layer} {part['id']}: {part['c']} {part['o']}".strip())
    return told


def test_tells_what_was_found(plain):
    outline = Outline(render_report(plain))
    assert outline.open == []
    assert "grid_042" in outline.words
    assert "completed 2 66.7 % 336 m² 168 m²" in outline.words
    assert "all buildings 3 100.0 % 436 m² 120 m²" in outline.words
    assert "this image came without labels" in outline.words
    assert "Imagery: COLA, CC-BY-4.0" in outline.words
    assert "How good it is" not in outline.words and "near seams" not in outline.words


def test_the_map_holds_buildings_in_image_pixels(plain):
    page = render_report(plain)
    first = embedded(page, "found")["features"][0]
    assert first["properties"] == {"id": 1, "c": 2, "p": 0.93, "a": 216.0, "o": ""}
    assert shapely.equals(shapely.geometry.shape(first["geometry"]), plain.polygons_px[0])
    scene = embedded(page, "scene")
    assert (scene["width"], scene["height"], scene["factor"], scene["levels"]) == (200, 100, 1.0, 1)
    assert list(embedded(page, "tiles")) == ["0/0/0"]
    assert embedded(page, "labelled") is None


def test_tells_how_good_it_is(scored):
    outline = Outline(render_report(scored))
    assert f"mean {scored.score.mean_f1:.3f}" in outline.words
    assert "completed 0.500 1.000 0.667 1 1 0" in outline.words
    assert "all buildings 0.667 0.500 0.571 2 1 2" in outline.words
    assert "1 of the 2 buildings found have the wrong category" in outline.words
    assert "unfinished 1 0 0 0" in outline.words, "one labelled unfinished, taken for a foundation"
    assert "nothing 0 0 1" in outline.words, "one completed building where nothing is labelled"
    assert "50 to 200 m²" in outline.words


def test_a_report_older_than_its_parts_has_none_of_them(scored):
    outline = Outline(render_report(replace(scored, seams=None, coverage=None, metrics=None, curves=())))
    assert outline.open == [] and "Seams" not in outline.words and "By size" not in outline.words


def test_tells_what_the_seams_cost(scored):
    words = Outline(render_report(scored)).words
    assert "near seams 0.000 0.000 0.000 0 1 0 0 0" in words
    assert "away from seams 1.000 0.500 0.667 2 0 2 0 0" in words
    assert "1.00 km of seams: 0 duplicates (0.00 per km), 0 split buildings (0.00 per km)." in words
    assert "Every valid pixel lies in a tile." in words


def test_tells_of_an_image_without_seams_and_of_ground_without_a_tile(scored):
    seams = seam_score(scored.polygons_px, scored.truth_polygons_px, scored.score, TWO_TILES[:1])
    left_out = Coverage(uncovered_px=8_000, uncovered_share=0.4)
    words = Outline(render_report(replace(scored, seams=seams, coverage=left_out))).words
    assert "No two tiles meet" in words and "near seams" not in words
    assert "8,000 valid pixels (40.00%) lie in no tile" in words
    assert "Cover all ground" in words


def test_tells_what_became_of_each_building_and_label(scored):
    assert outcomes_of(render_report(scored)) == [
        "found 1: 2 right",
        "found 2: 0 mistaken",
        "found 3: 2 false",
        "labelled 1: 2 right",
        "labelled 2: 1 mistaken",
        "labelled 3: 0 missed",
        "labelled 4: -1 missed",
    ]


def test_buildings_outside_the_judgement_are_drawn_without_one(scored):
    judged = np.array([False, True, True])
    score = score_image(
        scored.polygons_px[judged],
        np.array([[0.61, 0, 0], [0, 0, 0.5]]),
        scored.truth_polygons_px,
        scored.truth_categories,
        CATEGORIES,
    )
    found, labelled = judge(scored.polygons_px, scored.truth_polygons_px, score.matches, judged)
    told = outcomes_of(render_report(replace(scored, score=score, found=found, labelled=labelled)))
    assert told[:4] == [
        "found 1: 2",
        "found 2: 0 mistaken",
        "found 3: 2 false",
        "labelled 1: 2 missed",
    ]


def test_shows_the_mistakes_from_near(scored):
    page = render_report(scored)
    words = Outline(page).words
    assert "False positives (1): 1 where nothing is labelled" in words
    assert "False negatives (2): 2 where nothing was found." in words
    assert (
        "False alarms (1) " in words and "Building 3 completed 0.50, nothing labelled here, 120 m²" in words
    )
    assert "Misses (2) " in words and "Label 3 labelled foundation, 216 m²" in words
    assert "Label 4 labelled unknown" in words
    assert "Wrong categories (1) " in words and "Building 2 foundation 0.61, labelled unfinished" in words
    assert "Least sure (3) " in words
    assert page.count("data:image/jpeg") == 1 + 1 + 2 + 1 + 3 + page.count("`data:image/jpeg")


def test_tells_why_a_building_is_false_and_a_label_missed():
    page = render_report(failing_context())
    words = Outline(page).words
    assert (
        "False positives (4): 1 where nothing is labelled, 1 with too small an overlap, 1 on a label" in words
    )
    assert "False negatives (5): 1 where nothing was found, 1 with too small an overlap, 1 on a bui" in words
    for told in (
        "False alarms (1) Found where nothing is labelled; the surest first.",
        "Overlap too small (1)",
        "Building 2 completed 0.80, IoU 0.33 with label 1, 100 m²",
        "Building 4 completed 0.60, IoU 0.60 with label 2, which building 3 took, 60 m²",
        "Misses (1) Labelled, and nothing found there; the largest first. Label 3 labelled completed, ",
        "Label 5 labelled completed, IoU 0.90 with building 5, which took label 4, ",
        "Invalid labels (1 of 2)",
        "Label 6 labelled completed, self-intersection",
        "Building 6 completed 0.40, on label 6, which is invalid, 100 m²",
    ):
        assert told in words, told
    assert outcomes_of(page)[:4] == [
        "found 1: 2 false",
        "found 2: 2 inexact",
        "found 3: 2 right",
        "found 4: 2 repeated",
    ]


def test_pictures_show_all_outlines_within(monkeypatch):
    page = render_report(failing_context())
    (card,) = re.findall(r'<svg[^>]*aria-label="Building 2: [^"]*0\.33.*?</svg>', page, re.DOTALL)[:1]
    drawn = re.findall(r'<path class="(\w+) ?(\w*)" d="([^"]*)"', card)
    assert [kind for kind, *_ in drawn] == ["filled", "casing", "labelled", "beside", "casing", "predicted"]
    outlines = {kind: path.count("M") for kind, _, path in drawn}
    assert outlines == {"filled": 1, "casing": 1, "labelled": 4, "beside": 5, "predicted": 1}, "within 96 px"
    monkeypatch.setattr(cards, "BESIDE", 2)
    assert render_report(failing_context()).count("M") < page.count("M")


def test_tells_what_made_it(plain):
    outline = Outline(render_report(plain))
    assert (
        "InferShard 2 3 min 0 s 2.0 GiB 2026-11-20 12:00 0123abcd buildings 2 400"
        in outline.words.replace("\N{NARROW NO-BREAK SPACE}", " ")
    )
    learnt_from = [record("CutTiles", digest=str(n), inputs={"TileImage": f"feed{n}"}) for n in range(3)]
    words = Outline(render_report(replace(plain, records=learnt_from))).words
    assert "0 and 2 more" in words and "TileImage feed0 feed1 feed2" in words
    for said in ("min_area_m2 2.0", "TileImage feed0001", "Revision 0f3c2b1", "shapely 2.2.0", "cores 16"):
        assert said in outline.words


def test_tells_how_the_network_was_learnt(plain):
    page = render_report(plain)
    assert "3 epochs in 1 min 15 s" in Outline(page).words and "score 0.812" in page
    assert 'points="34,57.2 170,123.6 306,156.8"' in page
    once = render_report(replace(plain, training=learnt(epochs=1)))
    assert "1 epoch in" in Outline(once).words
    assert "How the network was trained" not in render_report(replace(plain, training=None, calibration=None))


def test_a_curve_of_one_point_is_seen_also_where_two_meet(plain):
    # The first is a spot, the second a ring around it.
    once = render_report(replace(plain, training=learnt(epochs=1), calibration=None))
    spot = '<circle class="spot" cx="34.0" cy="57.2" r="3"><title>on training tiles</title>'
    ring = '<circle class="ring" cx="34.0" cy="57.2" r="6"><title>on held-out tiles</title>'
    assert spot in once and ring in once and ".ring { fill: none;" in once
    # Told by the key too.
    assert once.count('<circle class="spot"') == once.count('<circle class="ring"') == 2
    later = render_report(replace(plain, calibration=None))
    assert '<circle class="ring" cx="306.0" cy="156.8"' in later, "scored once, after the third epoch"


def test_of_few_detections_a_reliability_diagram_makes_no_zigzag():
    accuracies, counts = [0.0, 1.0, 0.5, 0.0, 0.9, 0.8, 1.0], [2, 1, 2, 1, 10, 30, 100]
    bins = [
        ReliabilityBin(low=0, high=1, count=n, confidence=0.1 * i + 0.3, accuracy=share)
        for i, (n, share) in enumerate(zip(counts, accuracies, strict=True))
    ]
    points = charts.reliability_points(
        Reliability(detections=sum(counts), expected_error=0.1, log_loss=0.5, bins=bins)
    )
    assert [point["count"] for point in points] == [2, 4, 40, 100]
    assert [point["accuracy"] for point in points] == pytest.approx([0, 0.5, 0.825, 1])
    assert [point["confidence"] for point in points] == pytest.approx([0.3, 0.5, 0.775, 0.9])
    assert charts.reliability_points(Reliability(detections=0, expected_error=0, log_loss=0, bins=[])) == []


def test_reliability_diagrams_tell_how_many_detections_a_dot_stands_for(plain, scored):
    page = render_report(scored)
    assert Outline(page).words.count("Reliability diagram") == 1
    assert "2 of confidence 0.55, 0 % right; 1 of confidence 0.93, 100 % right" in page
    held_out = render_report(replace(plain, training=None))
    assert "<title>as published: 200 of confidence" in held_out
    assert "200 detections, the larger a dot the more." in Outline(held_out).words


def test_tells_whether_confidences_come_true_before_and_after_the_temperature(plain):
    page = render_report(replace(plain, training=None))
    made = plain.calibration
    assert made.before.expected_error > 0.4 > 0.2 > made.after.expected_error
    words = Outline(page).words
    assert f"as the network gave them, off by {made.before.expected_error:.3f}" in words
    assert f"as published, off by {made.after.expected_error:.3f}" in words
    assert "As calibrated: foundation 0.50" in words and "100 held-out buildings" in words
    blind = made.model_copy(update={"truths": 0})
    words = Outline(render_report(replace(plain, calibration=blind))).words
    assert "come true on held-out ground" not in words and "No held-out ground" in words


def empty(context):
    nothing = np.empty(0)
    return replace(
        context, polygons_px=[], building_categories=np.empty(0, int), confidences=nothing, areas_m2=nothing
    )


def test_without_buildings(plain):
    outline = Outline(render_report(empty(plain)))
    assert outline.open == []
    assert "No building was found in this image." in outline.words
    unsure = replace(plain, records=[record(counts={"merged": 277, "buildings": 0})])
    words = Outline(render_report(empty(unsure))).words
    assert "No building was found in this image: of 277 possible ones none is as sure as" in words


def test_without_buildings_but_with_labels(scored):
    truths = scored.truth_polygons_px
    score = score_image([], np.empty((0, 3)), truths, scored.truth_categories, CATEGORIES)
    found, labelled = judge([], truths, score.matches)
    changed = replace(scored, score=score, found=found, labelled=labelled, galleries=(), curves=())
    told = outcomes_of(render_report(empty(changed)))
    assert len(told) == 4
    assert all(title.endswith("missed") for title in told)


def test_without_anything_known(plain):
    context = replace(
        plain, records=(), facts={}, thresholds={}, attribution="", ground_m_per_px=(0, 0), pyramid=None
    )
    page = render_report(context)
    assert Outline(page).open == []
    assert "What made it" not in page


@pytest.mark.parametrize("n", [1, 2, 9])
def test_any_number_of_categories(plain, n):
    names = [f"kind {index}" for index in range(n)]
    context = replace(plain, categories=names, building_categories=np.array([0, n - 1, 0]), thresholds={})
    words = Outline(render_report(context)).words
    assert all(name in words for name in names)


def test_odd_labels_are_drawn_where_they_can_be(scored):
    bow_tie = shapely.Polygon([(0, 0), (20, 20), (20, 0), (0, 20)])
    two = shapely.MultiPolygon(list(boxes((30, 30), (70, 70))))
    holed = shapely.box(100, 10, 140, 50) - shapely.box(110, 20, 130, 40)
    truths = np.array([bow_tie, two, None, shapely.Polygon(), holed], dtype=object)
    context = replace(
        scored,
        truth_polygons_px=truths,
        truth_categories=np.full(5, 1),
        score=None,
        found=None,
        labelled=None,
        galleries=(),
    )
    drawn = embedded(render_report(context), "labelled")["features"]
    assert [feature["properties"]["id"] for feature in drawn] == [1, 2, 5]
    assert [feature["geometry"]["type"] for feature in drawn] == ["Polygon", "MultiPolygon", "Polygon"]
    assert len(drawn[2]["geometry"]["coordinates"]) == 2


def test_nothing_of_outside_is_taken_as_markup(scored):
    context = replace(
        scored,
        image_id=HOSTILE,
        categories=(HOSTILE, "unfinished", "completed"),
        attribution=HOSTILE,
        facts={HOSTILE: HOSTILE},
        thresholds={HOSTILE: 0.5},
        score=None,
        records=[
            record(HOSTILE, settings={HOSTILE: {HOSTILE: HOSTILE}}, digest=HOSTILE, counts={HOSTILE: 1})
        ],
    )
    page = render_report(context)
    assert "<script>document" not in page
    outline = Outline(page)
    assert outline.open == []
    assert outline.words.count("document.title='bitten'") >= 8
    assert not [value for _, name, value in outline.attributes if name.startswith("on")]
    assert embedded(page, "scene")["styles"]["c0"]["name"] == HOSTILE


def test_nothing_is_asked_of_a_network(scored):
    page = render_report(scored)
    outline = Outline(page)
    for tag, name, value in outline.attributes:
        if name in ("src", "href", "action", "data", "srcset"):
            assert value.startswith(("data:image/", "#")), (tag, name, value[:60])
    assert "url(" not in "".join(re.findall("<style>.*?</style>", page, re.DOTALL))
    assert "@import" not in page and "sourceMappingURL" not in page
    assert "default-src 'none'" in page


def test_the_map_library_comes_with_its_licence(plain):
    page = render_report(plain)
    assert "BSD 2-Clause License" in page and "Volodymyr Agafonkin" in page


def test_the_same_context_gives_the_same_page(scored):
    assert render_report(scored) == render_report(scored_context())


def test_png_overviews_are_told_apart(plain):
    assert "data:image/png;base64," in render_report(replace(plain, overview=picture("PNG")))


def test_many_buildings_stay_light(plain, monkeypatch):
    monkeypatch.setattr(vectors, "VECTOR_BYTES", 2**18)
    n = 4_000
    rng = np.random.default_rng(0)
    x, y = rng.random((2, n)) * [[19000], [9000]]
    context = replace(
        plain,
        width=20_000,
        height=10_000,
        polygons_px=shapely.buffer(shapely.points(x, y), rng.uniform(20, 60, n), quad_segs=3),
        building_categories=rng.integers(0, 3, n),
        confidences=rng.random(n),
        areas_m2=np.full(n, 78.0),
        pyramid=None,
    )
    page = render_report(context)
    layer = embedded(page, "found")["features"]
    assert len(page) < 2**20
    assert "largest of 4\N{NARROW NO-BREAK SPACE}000 buildings" in page
    assert 1000 < len(layer) < n
    areas = shapely.area(context.polygons_px)
    drawn = [feature["properties"]["id"] - 1 for feature in layer]
    assert areas[drawn].min() >= np.delete(areas, drawn).max()
    assert f"{n:,}".replace(",", "\N{NARROW NO-BREAK SPACE}") in Outline(page).words


def test_what_the_map_cannot_show_is_not_written(monkeypatch):
    monkeypatch.setattr(vectors, "VECTOR_BYTES", 2**14)
    monkeypatch.setattr(vectors, "_AT_ONCE", 50)
    left = np.arange(0, 20_000, 10)
    squares, written = shapely.box(left, 0, left + 1 + left % 7, 9), []

    def properties(row):
        written.append(row)
        return {"id": row}

    layer = vectors.map_layer(squares, properties, 1.0)
    assert layer.total == len(squares) == 2000
    assert 50 < len(layer.rows) < 200 and len(written) == len(layer.rows) + 1
    assert [part["properties"]["id"] for part in json.loads(layer.geojson)["features"]] == list(layer.rows)


def test_no_page_outgrows_its_bound(scored, monkeypatch):
    """Imagery of noise, the worst for JPEG, and outlines beyond their bound."""
    noise = np.random.default_rng(0).integers(0, 255, (4096, 4096, 3), dtype=np.uint8)
    pyramid = build_pyramid(noise, 8.0)
    assert pyramid.levels == 4 and pyramid.factor == 16.0, "the sharpest level does not fit"
    assert sum(map(len, pyramid.tiles.values())) < IMAGERY_BYTES
    worst = IMAGERY_BYTES * 4 / 3 + 2 * vectors.VECTOR_BYTES  # of the map
    worst += vectors.VECTOR_BYTES  # once more as paths of the overview
    worst += len(render_report(scored)) + 2 * 2**20  # everything else, with an overview of 1600 px
    worst += (len(KINDS) + 1) * SHOWN * 60_000  # galleries of noise
    assert worst < MAX_PAGE_MIB * 2**20


def test_a_pyramid_halves_until_one_tile_holds_all():
    image = np.random.default_rng(1).integers(0, 255, (600, 1100, 3), dtype=np.uint8)
    image[:256, :256] = 7
    pyramid = build_pyramid(image, 2.5)
    assert (pyramid.levels, pyramid.factor) == (4, 2.5)
    names = set(pyramid.tiles)
    assert "0/0/0" not in names, "of one colour"
    assert {"0/4/2", "1/2/1", "2/1/0", "3/0/0"} <= names and len(names) == 14 + 6 + 2 + 1


@pytest.mark.parametrize(
    ("ground_m_per_px", "length"), [(1.0, 50), (0.0372, 1), (0.1, 5), (0.09, 2), (12.5, 500), (0.001, 0.05)]
)
def test_the_scale_bar_is_round_and_true(plain, ground_m_per_px, length):
    page = render_report(replace(plain, ground_m_per_px=(ground_m_per_px, 1)))
    told = next(words for words in Outline(page).text if words.endswith(" m") and words[0].isdigit())
    share = float(page.partition('id="bar" style="width: ')[2].partition("%")[0])
    assert float(told[:-2]) == length
    assert share / 100 * 200 * ground_m_per_px == pytest.approx(length, rel=1e-3)
    assert 10 < share <= 25


def test_lines_of_categories_differ_in_colour_and_dashes():
    assert len({colour for colour, _ in LINES}) == len({dashes for _, dashes in LINES})
    assert len(LINES) >= len(CATEGORIES)


def test_says_what_to_do_next(plain, scored):
    words = Outline(render_report(plain)).words
    assert "Find out how good this map is" in words and "input/test/labels/grid_042.geojson" in words
    few = [record("TrainMaskRCNN", counts={"training_tiles": 12})]
    words = Outline(render_report(replace(scored, records=few))).words
    exported = record("ExportImage", counts={"review": 27}, files={"a.gpkg": 397312, "a.pmtiles": 2**21})
    told = Outline(render_report(replace(scored, records=[exported]))).words
    assert "the labels and 27 points to review" in told
    assert "Files beside this page a.gpkg 388 KiB a.pmtiles 2 MiB" in told
    assert "Label more of this image" in words, "four labels tell nothing"
    assert "The network learnt from 12 tiles" in words
    counts = scored.score.all_buildings.model_copy(
        update={"true_positives": 60, "false_negatives": 40, "precision": 0.9, "recall": 0.6}
    )
    words = Outline(
        render_report(replace(scored, score=scored.score.model_copy(update={"all_buildings": counts})))
    ).words
    assert "Publish more" in words and "Publish less" not in words and "Label more of this image" not in words
