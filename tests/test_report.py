"""The report page: what it tells, that nothing in it can bite, and that a real browser is content with it."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import shapely
from PIL import Image

from pipeline import report
from pipeline.coverage import Coverage
from pipeline.evaluate import score_image
from pipeline.report import ReportContext, render_report
from pipeline.seam_score import find_seams, score_seams
from pipeline.training_curves import Chart, Curve, TrainingCurves

CATEGORIES = ("foundation", "unfinished", "completed")
CHROMIUM = Path("/usr/bin/chromium")
TWO_TILES = [(0, 0, 120, 100), (80, 0, 120, 100)]
"""Their seam is x = 100: of the truths and buildings of `scored`, the one at 120 touches what they share."""
HOSTILE = "<script>document.title='bitten'</script>\"'&"


def overview(kind="JPEG"):
    picture = io.BytesIO()
    Image.new("RGB", (200, 100), (90, 120, 80)).save(picture, kind)
    return picture.getvalue()


def boxes(*corners):
    return np.array([shapely.box(x, y, x + 12, y + 8) for x, y in corners], dtype=object)


def record(task="AggregateImage", **changes):
    values = {
        "task": task,
        "digest": "0123abcd",
        "settings": {"Aggregation": {"min_area_m2": "2.0"}},
        "inputs": {"TileImage": "feed0001"},
        "counts": {"buildings": 1200},
        "revision": "0f3c2b1",
        "versions": {"shapely": "2.2.0"},
        "host": {"cores": 16},
        "started": "2026-11-20T12:00:00+00:00",
        "seconds": 90.0,
        "peak_memory_mib": 2048.0,
    }
    return SimpleNamespace(**values | changes)


def learnt(epochs):
    """A loss that falls from 4 by a half every epoch."""
    losses = [(number, 8 / 2**number) for number in range(1, epochs + 1)]
    chart = Chart("loss", 5.0, [Curve("on training tiles", losses), Curve("on held-out tiles", losses[-1:])])
    return TrainingCurves(epochs, 75.0, (epochs, 0.812), [chart])


@pytest.fixture
def plain():
    """Three buildings and no labels."""
    return ReportContext(
        image_id="grid_042",
        categories=CATEGORIES,
        overview=overview(),
        overview_width=200,
        overview_height=100,
        ground_m_per_overview_px=1.5,
        polygons=boxes((10, 10), (60, 20), (120, 60)),
        building_categories=np.array([2, 0, 2]),
        confidences=np.array([0.93, 0.61, 0.5]),
        areas_m2=np.array([216.0, 100.0, 120.0]),
        facts={"CRS": "EPSG:32737"},
        thresholds={"completed": 0.4},
        training=learnt(epochs=3),
        records=[record("InferShard"), record("InferShard"), record()],
        attribution="Imagery: COLA, CC-BY-4.0",
    )


@pytest.fixture
def scored(plain):
    """The three buildings are right, of the wrong category and false; the last two labels are missed."""
    truths = boxes((10, 11), (60, 20), (150, 10), (170, 80))
    truth_categories = np.array([2, 1, 0, -1])
    probabilities = np.array([[0.0, 0.0, 0.93], [0.61, 0.0, 0.0], [0.0, 0.0, 0.5]])
    score = score_image(plain.polygons, probabilities, truths, truth_categories, CATEGORIES)
    return replace(
        plain,
        truth_polygons=truths,
        truth_categories=truth_categories,
        score=score,
        seams=seam_score(plain.polygons, truths, score, TWO_TILES),
        coverage=Coverage(uncovered_px=0, uncovered_share=0),
    )


def seam_score(polygons, truths, score, windows):
    return score_seams(polygons, truths, score.matches, find_seams(windows), (10.0, 10.0))


def empty(context):
    nothing = np.empty(0)
    return replace(
        context, polygons=[], building_categories=np.empty(0, int), confidences=nothing, areas_m2=nothing
    )


class Outline(HTMLParser):
    """Every tag closed in its turn; attributes and text kept."""

    void = frozenset({"meta", "input", "br"})

    def __init__(self, page):
        super().__init__()
        self.open, self.attributes, self.text = [], [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.attributes += [(tag, name, value) for name, value in attributes]
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.attributes += [(tag, name, value) for name, value in attributes]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.text.append(data.strip())

    @property
    def words(self):
        return " ".join(filter(None, self.text))


def titles(page):
    return re.findall(r"<title>((?:Building|Label) .*?)</title>", page)


def test_tells_what_was_found(plain):
    outline = Outline(render_report(plain))
    assert outline.open == []
    assert "grid_042" in outline.words
    assert "completed 2 66.7 % 336 m² 168 m²" in outline.words
    assert "all buildings 3 100.0 % 436 m² 120 m²" in outline.words
    assert "this image came without labels" in outline.words
    assert "Imagery: COLA, CC-BY-4.0" in outline.words
    assert "How good it is" not in outline.words and "Seams" not in outline.words


def test_tells_how_good_it_is(scored):
    outline = Outline(render_report(scored))
    assert f"mean {scored.score.mean_f1:.3f}" in outline.words
    assert "completed 0.500 1.000 0.667 1 1 0" in outline.words
    assert "all buildings 0.667 0.500 0.571 2 1 2" in outline.words
    assert "1 of the 2 buildings found have the wrong category" in outline.words


def test_tells_what_the_seams_cost(scored):
    words = Outline(render_report(scored)).words
    assert "near seams 0.000 0.000 0.000 0 1 0 0 0" in words
    assert "away from seams 1.000 0.500 0.667 2 0 2 0 0" in words
    assert "1.00 km of seams: 0 duplicates (0.00 per km), 0 split buildings (0.00 per km)." in words
    assert "Every valid pixel lies in a tile." in words


def test_tells_of_an_image_without_seams_and_of_ground_without_a_tile(scored):
    seams = seam_score(scored.polygons, scored.truth_polygons, scored.score, TWO_TILES[:1])
    left_out = Coverage(uncovered_px=8_000, uncovered_share=0.4)
    words = Outline(render_report(replace(scored, seams=seams, coverage=left_out))).words
    assert "No two tiles meet" in words and "near seams" not in words
    assert "8,000 valid pixels (40.00%) lie in no tile" in words


def test_a_report_older_than_the_seams_has_no_such_part(scored):
    outline = Outline(render_report(replace(scored, seams=None, coverage=None)))
    assert outline.open == [] and "Seams" not in outline.words


def test_tells_what_became_of_each_building_and_label(scored):
    assert sorted(titles(render_report(scored))) == [
        "Building 1: completed 0.93, found",
        "Building 2: foundation 0.61, wrong category",
        "Building 3: completed 0.50, no such building labelled",
        "Label 1: completed, found",
        "Label 2: unfinished, wrong category",
        "Label 3: foundation, missed",
        "Label 4: unknown, missed",
    ]


def test_buildings_outside_the_judgement_are_drawn_without_one(scored):
    judged = np.array([False, True, True])
    score = score_image(
        scored.polygons[judged],
        np.array([[0.61, 0, 0], [0, 0, 0.5]]),
        scored.truth_polygons,
        scored.truth_categories,
        CATEGORIES,
    )
    told = titles(render_report(replace(scored, score=score, judged=judged)))
    assert "Building 1: completed 0.93" in told
    assert "Building 2: foundation 0.61, wrong category" in told
    assert "Building 3: completed 0.50, no such building labelled" in told
    assert "Label 1: completed, missed" in told


def test_tells_what_made_it(plain):
    outline = Outline(render_report(plain))
    assert (
        "InferShard 2 3 min 0 s 2.0 GiB 2026-11-20 12:00 0123abcd buildings 2 400"
        in outline.words.replace("\N{NARROW NO-BREAK SPACE}", " ")
    )
    for said in ("min_area_m2 2.0", "TileImage feed0001", "Revision 0f3c2b1", "shapely 2.2.0", "cores 16"):
        assert said in outline.words


def test_tells_how_the_network_was_learnt(plain):
    page = render_report(plain)
    assert "3 epochs in 1 min 15 s" in Outline(page).words and "score 0.812" in page
    assert 'points="0.0,14.4 100.0,43.2 200.0,57.6"' in page
    assert 'points="0.0,14.4"' in render_report(replace(plain, training=learnt(epochs=1)))
    assert "How the network was learnt" not in render_report(replace(plain, training=None))


def test_without_buildings(scored):
    outline = Outline(
        render_report(empty(replace(scored, score=None, truth_polygons=None, truth_categories=None)))
    )
    assert outline.open == []
    assert "No building was found in this image." in outline.words


def test_without_buildings_but_with_labels(scored):
    score = score_image([], np.empty((0, 3)), scored.truth_polygons, scored.truth_categories, CATEGORIES)
    told = titles(render_report(empty(replace(scored, score=score))))
    assert len(told) == 4
    assert all(title.endswith("missed") for title in told)


def test_without_anything_known(plain):
    page = render_report(
        replace(plain, records=(), facts={}, thresholds={}, attribution="", ground_m_per_overview_px=0)
    )
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
    context = replace(scored, truth_polygons=truths, truth_categories=np.full(5, 1), score=None)
    page = render_report(context)
    assert [title for title in titles(page) if title.startswith("Label")] == [
        "Label 1: unfinished",
        "Label 2: unfinished",
        "Label 5: unfinished",
    ]
    drawn = dict(re.findall(r'<path d="([^"]*)"><title>(Label \d)', page))
    assert {label: path.count("Z") for path, label in drawn.items()} == {
        "Label 1": 1,
        "Label 2": 2,
        "Label 5": 2,
    }


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
    assert "document.title=" not in page.replace("document.title=&#39;", "")
    outline = Outline(page)
    assert outline.open == []
    assert outline.words.count("document.title='bitten'") >= 8
    assert not [value for _, name, value in outline.attributes if name.startswith("on")]


def test_nothing_is_asked_of_a_network(scored):
    page = render_report(scored)
    outline = Outline(page)
    for tag, name, value in outline.attributes:
        if name in ("src", "href", "action", "data", "srcset"):
            assert value.startswith(("data:image/", "#")), (tag, name, value[:60])
    assert "url(" not in page
    assert "@import" not in page
    assert "default-src 'none'" in page


def test_the_same_context_gives_the_same_page(scored):
    assert render_report(scored) == render_report(scored)


def test_png_overviews_are_told_apart(plain):
    assert "data:image/png;base64," in render_report(replace(plain, overview=overview("PNG")))
    assert "data:image/jpeg;base64," in render_report(plain)


def test_many_buildings_stay_light(plain):
    n = 30_000
    rng = np.random.default_rng(0)
    x, y = rng.random((2, n)) * [[1900], [900]]
    circles = shapely.buffer(shapely.points(x, y), 5, quad_segs=16)
    context = replace(
        plain,
        polygons=circles,
        building_categories=rng.integers(0, 3, n),
        confidences=rng.random(n),
        areas_m2=np.full(n, 78.0),
    )
    page = render_report(context)
    assert len(page) < n * 150
    assert titles(page) == []
    assert len(re.findall("<path", page)) < 30
    assert not re.search(r' d="[^"]*\d\.\d\d', page)


@pytest.mark.parametrize(
    ("ground_m_per_px", "length"), [(1.0, 50), (0.0372, 1), (0.1, 5), (0.09, 2), (12.5, 500), (0.001, 0.05)]
)
def test_the_scale_bar_is_round_and_true(plain, ground_m_per_px, length):
    page = render_report(replace(plain, ground_m_per_overview_px=ground_m_per_px))
    share, told = re.search(r'id="bar".*style="width: ([\d.]+)%">([\d.]+) m<', page).groups()
    assert float(told) == length
    assert float(share) / 100 * 200 * ground_m_per_px == pytest.approx(length, rel=1e-3)
    assert 10 < float(share) <= 25


def test_lines_of_categories_differ_in_colour_and_dashes():
    assert len({colour for colour, _ in report.LINES}) == len({dashes for _, dashes in report.LINES})
    assert len(report.LINES) >= len(CATEGORIES)


PROBE = """<script>
const seen = (name) => getComputedStyle(document.querySelector(name)).display !== "none";
const scene = document.getElementById("scene");
const before = scene.getAttribute("viewBox");
document.querySelector("[data-zoom]").click();
scene.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowLeft" }));
const zoomed = scene.getAttribute("viewBox"), bar = document.getElementById("bar").textContent;
const shown = [seen("#scene .predicted.c2"), seen("#scene .labelled.c2")];
document.getElementById("show-labelled").click();
shown.push(seen("#scene .predicted.c2"), seen("#scene .labelled.c2"));
document.getElementById("only-mistakes").click();
shown.push(seen("#scene .predicted.right"), seen("#scene .predicted.false"));
document.getElementById("show-c0").click();
shown.push(seen("#scene .predicted.c0"), seen("#scene .predicted.false"));
const fits = document.documentElement.scrollWidth <= innerWidth;
document.body.dataset.probe = JSON.stringify({ before, zoomed, bar, shown, fits });
</script></body>"""


CHROMIUM_FLAGS = """
--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync
--disable-background-networking --disable-component-update --disable-default-apps
--enable-logging=stderr --virtual-time-budget=2000
"""


def browse(page: str, folder: Path, *flags: str):
    """DOM after loading, console lines, and the addresses that the page asked for."""
    if not CHROMIUM.exists():
        pytest.skip("no Chromium at /usr/bin/chromium")
    path, log, profile = folder / "page.html", folder / "net.json", folder / "profile"
    path.write_text(page, encoding="utf-8")
    command = [str(CHROMIUM), *CHROMIUM_FLAGS.split(), "--host-resolver-rules=MAP * ~NOTFOUND"]
    command += [f"--user-data-dir={profile}", f"--log-net-log={log}", *flags, "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    shutil.rmtree(profile, ignore_errors=True)
    assert done.returncode == 0, done.stderr[-2000:]
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    events = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
    # The browser's own errands, its updates and accounts, have no origin.
    asked = {event["url"] for event in events if event.get("initiator", "not an origin") != "not an origin"}
    return done.stdout, console, asked


@pytest.mark.parametrize("flags", [(), ("--window-size=500,900", "--blink-settings=preferredColorScheme=0")])
def test_a_browser_is_content(scored, tmp_path, flags):
    page = render_report(scored).replace("</body>", PROBE)
    dom, console, asked = browse(page, tmp_path, *flags)
    assert console == []
    assert asked == set()
    probe = json.loads(unescape(re.search(r'data-probe="([^"]*)"', dom)[1]))
    assert probe["before"] == "0 0 200 100"
    assert probe["zoomed"].split()[2:] == ["125", "62.5"]
    assert probe["bar"] == "20 m"
    assert probe["shown"] == [True, True, True, False, False, True, False, True]
    assert probe["fits"]


def test_the_browser_would_have_said_so(plain, tmp_path):
    bad = '<img src="https://example.org/a.png"><script>nowhere()</script></body>'
    page = render_report(plain).replace("</body>", bad)
    _, console, asked = browse(page, tmp_path)
    assert any("example.org" in line and "Content Security Policy" in line for line in console)
    assert any("nowhere is not defined" in line for line in console)
    assert asked == set()
    _, _, asked = browse(page.replace("Content-Security-Policy", "nothing"), tmp_path)
    assert asked == {"https://example.org/a.png"}
