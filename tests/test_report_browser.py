"""The report page in a real browser: no complaint, no request, a map that obeys, and no barrier."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path

import pytest
from chromium import browse
from report_contexts import plain_context, scored_context

from pipeline.report import render_report

AXE = Path(__file__).with_name("axe") / "axe.min.js"
VIEWS = {
    "desktop": ("--window-size=1280,1000",),
    "phone": ("--window-size=500,900",),
    "dark": ("--blink-settings=preferredColorScheme=0",),
}

PROBE = """<script>
const form = document.querySelector("#map form"), count = () => document.getElementById("count").textContent;
const map = window.jengo.map, told = { counts: [count()] };
const set = (name, value) => {
  const field = form.elements[name];
  if (typeof value === "boolean") field.checked = value; else field.value = value;
  form.dispatchEvent(new Event("input", { bubbles: true }));
  return new Promise((done) => setTimeout(() => done(told.counts.push(count())), 60));
};
const shown = (pane) => ["display", "clipPath"].map((what) => map.getPane(pane)?.style[what] ?? null);
(async () => {
  await set("confidence", 0.6);
  await set("c0", false);
  await set("confidence", 0);
  await set("c0", true);
  if (form.elements.show) {
    await set("mistakes", true);
    await set("mistakes", false);
    await set("show", "found");
    told.found = [shown("labels"), shown("buildings")];
    await set("show", "compare");
    told.compare = [shown("labels"), shown("buildings")];
    await set("show", "both");
    document.querySelector("[data-x]").click();
    const centre = map.getCenter(), bounds = map.getBounds();
    told.flown = [centre.lng, centre.lat, bounds.getEast() - bounds.getWest()];
  }
  const building = Object.values(map._layers).find((layer) => layer.feature?.properties.p);
  building.fire("click", { latlng: building.getBounds().getCenter() }, true);
  told.popup = document.querySelector(".leaflet-popup-content").textContent;
  told.tiles = document.querySelectorAll("#leaflet img").length;
  told.fits = document.documentElement.scrollWidth <= innerWidth;
  document.body.dataset.probe = JSON.stringify(told);
})();
</script></body>"""


def probed(dom: str, name: str = "probe"):
    return json.loads(unescape(re.search(rf'data-{name}="([^"]*)"', dom)[1]))


@pytest.mark.parametrize("view", VIEWS)
def test_a_browser_is_content(tmp_path, view):
    page = render_report(scored_context()).replace("</body>", PROBE)
    dom, console, asked = browse(page, tmp_path, *VIEWS[view])
    assert console == []
    assert asked == set()
    told = probed(dom)
    assert told["counts"][:7] == [
        "3 of 3 buildings, 4 of 4 labels",
        "2 of 3 buildings, 4 of 4 labels",
        "1 of 3 buildings, 3 of 4 labels",
        "2 of 3 buildings, 3 of 4 labels",
        "3 of 3 buildings, 4 of 4 labels",
        "2 of 3 buildings, 3 of 4 labels",
        "3 of 3 buildings, 4 of 4 labels",
    ]
    assert told["found"] == [["none", ""], ["", ""]]
    (labels, clip), (buildings, other) = told["compare"]
    assert labels == buildings == "" and clip.startswith("polygon(") and other.startswith("polygon(")
    assert clip != other
    x, y, across = told["flown"]
    assert (round(x), round(y)) == (126, 64) and across < 600, "the false alarm, from near"
    assert re.fullmatch(r"Building \d: \w+ 0\.\d\d, \d+ m², [\w ]+", told["popup"])
    assert told["tiles"] >= 1
    assert told["fits"]


def test_an_image_without_labels_has_a_map_too(tmp_path):
    dom, console, asked = browse(render_report(plain_context()).replace("</body>", PROBE), tmp_path)
    assert (console, asked) == ([], set())
    told = probed(dom)
    assert told["counts"] == [f"{n} of 3 buildings" for n in (3, 2, 1, 2, 3)]
    assert re.fullmatch(r"Building \d: \w+ 0\.\d\d, \d+ m²", told["popup"])


def test_the_browser_would_have_said_so(tmp_path):
    bad = '<img src="https://example.org/a.png"><script>nowhere()</script></body>'
    page = render_report(plain_context()).replace("</body>", bad)
    _, console, asked = browse(page, tmp_path)
    assert any("example.org" in line and "Content Security Policy" in line for line in console)
    assert any("nowhere is not defined" in line for line in console)
    assert asked == set()
    _, _, asked = browse(page.replace("Content-Security-Policy", "nothing"), tmp_path)
    assert asked == {"https://example.org/a.png"}


def barriers(page: str, folder: Path, *flags: str) -> list[tuple[str, str, list[str]]]:
    """What axe-core finds serious or worse: rule, impact, and the elements."""
    check = """<script>axe.run(document, { resultTypes: ["violations"] }).then(({ violations }) => {
      document.body.dataset.axe = JSON.stringify(violations.map(({ id, impact, nodes }) =>
        [id, impact, nodes.map(({ html }) => html.slice(0, 160))]));
    });</script></body>"""
    page = page.replace("</body>", f"<script>{AXE.read_text()}</script>{check}")
    dom, _, _ = browse(page, folder, *flags, "--virtual-time-budget=20000")
    return [tuple(found) for found in probed(dom, "axe") if found[1] in ("serious", "critical")]


@pytest.mark.parametrize("view", VIEWS)
def test_nobody_meets_a_barrier(tmp_path, view):
    assert barriers(render_report(scored_context()), tmp_path, *VIEWS[view]) == []


def test_axe_would_have_said_so(tmp_path):
    page = render_report(plain_context()).replace("</main>", '<img src="data:image/gif;base64,"></main>')
    assert [found[0] for found in barriers(page, tmp_path)] == ["image-alt"]
