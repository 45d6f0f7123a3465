"""What the tests of the page tell it: a small image with three buildings, with and without labels."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import shapely
from PIL import Image

from pipeline.calibration import Calibration, CalibrationRules, calibrate
from pipeline.coverage import Coverage
from pipeline.evaluate import score_image
from pipeline.evidence import TileSample
from pipeline.matching import overlapping_pairs
from pipeline.metrics import MetricRules, measure_image, precision_recall
from pipeline.report import Picture, ReportContext, build_pyramid, choose_galleries
from pipeline.seam_score import find_seams, score_seams
from pipeline.thresholds import ThresholdRules
from pipeline.training_curves import Chart, Curve, TrainingCurves
from pipeline.verdicts import judge

CATEGORIES = ("foundation", "unfinished", "completed")
TWO_TILES = [(0, 0, 120, 100), (80, 0, 120, 100)]
"""Their seam is x = 100: of the truths and buildings of `scored`, the one at 120 touches what they share."""
HOSTILE = "<script>document.title='bitten'</script>\"'&"


def picture(kind="JPEG", width=200, height=100) -> Picture:
    content = io.BytesIO()
    Image.new("RGB", (width, height), (90, 120, 80)).save(content, kind)
    return Picture(content.getvalue(), width, height)


def boxes(*corners):
    return np.array([shapely.box(x, y, x + 12, y + 8) for x, y in corners], dtype=object)


def record(task="AggregateImage", **changes):
    values = {
        "task": task,
        "digest": "0123abcd",
        "settings": {"Aggregation": {"min_area_m2": "2.0"}},
        "inputs": {"TileImage": "feed0001"},
        "counts": {"buildings": 1200},
        "files": {},
        "revision": "0f3c2b1",
        "versions": {"shapely": "2.2.0"},
        "host": {"cores": 16},
        "started": "2026-11-20T12:00:00+00:00",
        "seconds": 90.0,
        "peak_memory_mib": 2048.0,
    }
    return SimpleNamespace(**values | changes)


def learnt(epochs: int) -> TrainingCurves:
    """A loss that falls from 4 by a half every epoch."""
    losses = [(number, 8 / 2**number) for number in range(1, epochs + 1)]
    chart = Chart("loss", 5.0, [Curve("on training tiles", losses), Curve("on held-out tiles", losses[-1:])])
    return TrainingCurves(epochs, 75.0, (epochs, 0.812), [chart])


def too_sure() -> Calibration:
    """A network whose every detection is sure, and half of them right."""
    found = np.array([shapely.box(x, 0, x + 10, 10) for x in range(0, 4000, 20)])
    sure = np.tile([0.0, 0.0, 0.95], (len(found), 1))
    truth = TileSample(found, sure, found[::2], np.full(100, 2), found[:0])
    return calibrate([truth], CATEGORIES, ThresholdRules(), CalibrationRules(), tiles=1, weights="0123")


def plain_context(**changes) -> ReportContext:
    """Three buildings and no labels, on 200 x 100 px of 1.5 m."""
    imagery = np.random.default_rng(0).integers(0, 255, (100, 200, 3), dtype=np.uint8)
    values = dict(
        image_id="grid_042",
        categories=CATEGORIES,
        width=200,
        height=100,
        overview=picture(),
        ground_m_per_px=(1.5, 1.5),
        polygons_px=boxes((10, 10), (60, 20), (120, 60)),
        building_categories=np.array([2, 0, 2]),
        confidences=np.array([0.93, 0.61, 0.5]),
        areas_m2=np.array([216.0, 100.0, 120.0]),
        pyramid=build_pyramid(imagery, 1.0),
        facts={"CRS": "EPSG:32737"},
        thresholds={"completed": 0.4},
        training=learnt(epochs=3),
        calibration=too_sure(),
        records=[record("InferShard"), record("InferShard"), record()],
        attribution="Imagery: COLA, CC-BY-4.0",
    )
    return ReportContext(**values | changes)


def scored_context(**changes) -> ReportContext:
    """The three buildings are right, of the wrong category and false; the last two labels are missed."""
    plain = plain_context()
    truths = boxes((10, 11), (60, 20), (150, 10), (170, 80))
    known = np.array([2, 1, 0, -1])
    probabilities = np.array([[0.0, 0.0, 0.93], [0.61, 0.0, 0.0], [0.0, 0.0, 0.5]])
    score = score_image(plain.polygons_px, probabilities, truths, known, CATEGORIES)
    found, labelled = judge(plain.polygons_px, truths, score.matches)
    given = dict(
        truth_polygons_px=truths,
        truth_categories=known,
        score=score,
        found=found,
        labelled=labelled,
        seams=seam_score(plain.polygons_px, truths, score, TWO_TILES),
        coverage=Coverage(uncovered_px=0, uncovered_share=0),
        metrics=measure_image(
            plain.polygons_px, probabilities, truths, known, CATEGORIES, score.matches, MetricRules()
        ),
        curves=precision_recall(
            overlapping_pairs(plain.polygons_px, truths), probabilities, known, CATEGORIES
        ),
        galleries=galleries(plain, truths, found, labelled),
    )
    return replace(plain, **given | changes)


def galleries(context: ReportContext, truths, found, labelled):
    """The galleries of buildings and labels, with pictures of nothing."""
    chosen = choose_galleries(
        context.polygons_px, context.confidences, truths, found, labelled, (context.width, context.height)
    )
    return [
        gallery._replace(
            crops=[crop._replace(picture=picture(width=96, height=96)) for crop in gallery.crops]
        )
        for gallery in chosen
    ]


def failing_context() -> ReportContext:
    """Every failure once: false, half of a label, found again; missed, labelled again, crossed, empty."""
    plain = plain_context()
    found = np.array([shapely.box(x, 10, x + 10, 20) for x in (0, 30, 60, 64, 90, 120)], dtype=object)
    found[3] = shapely.box(64, 10, 70, 20)
    truths = np.array([shapely.box(x, 10, x + 10, 20) for x in (25, 60, 150, 90, 90)], dtype=object)
    truths[4] = shapely.box(90, 10, 99, 20)
    crossed = shapely.Polygon([(120, 10), (130, 20), (130, 10), (120, 20)])
    truths = np.array([*truths, crossed, shapely.Polygon()], dtype=object)
    known, confidences = np.full(len(truths), 2), np.linspace(0.9, 0.4, len(found))
    probabilities = np.column_stack([np.zeros((len(found), 2)), confidences])
    score = score_image(found, probabilities, truths, known, CATEGORIES)
    of_found, of_truths = judge(found, truths, score.matches)
    plain = replace(
        plain,
        polygons_px=found,
        building_categories=np.full(len(found), 2),
        confidences=confidences,
        areas_m2=shapely.area(found),
        truth_polygons_px=truths,
        truth_categories=known,
        score=score,
        found=of_found,
        labelled=of_truths,
    )
    return replace(plain, galleries=galleries(plain, truths, of_found, of_truths))


def seam_score(polygons, truths, score, windows):
    return score_seams(polygons, truths, score.matches, find_seams(windows), (10.0, 10.0))


class Outline(HTMLParser):
    """Every tag closed in its turn; attributes and text kept."""

    void: ClassVar[frozenset[str]] = frozenset({"meta", "input", "br"})

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


def embedded(page: str, name: str):
    """What a page holds for its map: `scene`, `tiles`, `found`, or `labelled`; None where it holds none."""
    inside = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', page, re.DOTALL)
    return json.loads(inside[1]) if inside else None
