"""What to do next: what the numbers of an image say, as sentences a person can act on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from pipeline.report.context import ReportContext

APART = 0.08
"""Precision and recall further apart than this are worth a word; shares."""
SEAM_COST = 0.03
"""F1 lost at the seams from which they are worth a word."""
ENOUGH_TRUTHS = 20
"""Labels below which no number of theirs is worth a word."""
CALIBRATED = 0.1
"""Expected calibration error below which confidences may be taken at their word."""
FEW_TILES = 100
"""Training tiles below which more labels are the first thing to try."""
SAID = 5
"""Pieces of advice at most."""


class Advice(NamedTuple):
    """One thing to do."""

    title: str
    text: str
    setting: str = ""
    """A line of luigi.cfg or a path, as it is written; '' for none."""


def advise(context: ReportContext) -> list[Advice]:
    """At most `SAID` pieces of advice, the most useful first."""
    found = [*_labels(context), *_quality(context), *_learning(context), *_hand_over(context)]
    return found[:SAID]


def _labels(context: ReportContext) -> Iterator[Advice]:
    if context.score is None:
        yield Advice(
            "Find out how good this map is",
            "Draw the buildings of this image, or of a part of it, and run the same command: this page then "
            "tells precision and recall, and shows the mistakes.",
            f"input/test/labels/{context.image_id}.geojson",
        )
    unsure = int(np.count_nonzero(np.asarray(context.confidences) < 0.5))
    if context.score is None and unsure:
        yield Advice(
            f"Look at the {unsure:,} buildings below a confidence of 0.5",
            "Move the slider of the map; what is wrong there is worth most as a new training label.",
        )
    if context.coverage is not None and context.coverage.uncovered_px:
        yield Advice(
            "Cover all ground",
            f"{100 * context.coverage.uncovered_share:.1f} % of the valid ground lies in no tile.",
            "[Tiling] min_valid_share = 0",
        )


def _quality(context: ReportContext) -> Iterator[Advice]:
    score, metrics = context.score, context.metrics
    if score is None:
        return
    everything = score.all_buildings
    if everything.true_positives + everything.false_negatives < ENOUGH_TRUTHS:
        yield Advice(
            "Label more of this image",
            f"{everything.true_positives + everything.false_negatives} labels are too few to tell one result "
            "from another.",
        )
        return
    if everything.precision - everything.recall > APART:
        yield Advice(
            "Publish more",
            f"{everything.false_negatives:,} misses outnumber {everything.false_positives:,} false alarms: "
            "a lower threshold would find more of them, if the network saw them at all.",
            "[Aggregation] score_thresholds",
        )
    if everything.recall - everything.precision > APART:
        yield Advice(
            "Publish less",
            f"{everything.false_positives:,} false alarms outnumber {everything.false_negatives:,} misses: "
            "a higher threshold would drop the least sure.",
            "[Aggregation] score_thresholds",
        )
    if metrics is not None and (swap := _worst_swap(metrics.confusion.matched, metrics.confusion.categories)):
        yield swap
    if metrics is not None:
        yield from _sizes(context)
    seams = context.seams
    if seams and seams.seam_km and seams.interior.counts.f1 - seams.zone.counts.f1 > SEAM_COST:
        yield Advice(
            "Let tiles overlap more",
            f"F1 is {seams.zone.counts.f1:.2f} near seams and {seams.interior.counts.f1:.2f} away from them.",
            "[Tiling] overlap",
        )
    if metrics is not None and metrics.reliability.expected_error > CALIBRATED:
        yield Advice(
            "Take confidences with care",
            f"They are off by {metrics.reliability.expected_error:.2f} on average; more held-out ground "
            "calibrates them better.",
            "[Training] validation_share",
        )


def _worst_swap(matched: list[list[int]], categories: list[str]) -> Advice | None:
    """The pair of categories most often taken for one another, where that is more than a rare slip."""
    table = np.array(matched).reshape(len(categories), len(categories))
    off = table - np.diag(np.diag(table))
    row, column = np.unravel_index(int(off.argmax()), off.shape) if off.size else (0, 0)
    count, present = (int(off[row, column]), int(table[row].sum())) if off.size else (0, 0)
    if count < 3 or count / present < 0.1:
        return None
    return Advice(
        f"Teach it the difference between {categories[row]} and {categories[column]}",
        f"{count:,} of {present:,} {categories[row]} buildings were taken for {categories[column]}: label "
        "more of them, or check that labels agree on what is which.",
    )


def _sizes(context: ReportContext) -> Iterator[Advice]:
    assert context.metrics is not None and context.score is not None
    classes = [
        size
        for size in context.metrics.sizes
        if size.counts.true_positives + size.counts.false_negatives >= ENOUGH_TRUTHS
    ]
    if not classes:
        return
    worst = min(classes, key=lambda size: size.counts.recall)
    if context.score.all_buildings.recall - worst.counts.recall > APART:
        small = worst.from_m2 == 0
        yield Advice(
            f"Look at the {'small' if small else 'large' if worst.to_m2 is None else 'middle-sized'} ones",
            f"Of buildings {'below' if small else 'from'} {worst.to_m2 if small else worst.from_m2:g} m² "
            f"only {100 * worst.counts.recall:.0f} % are found. "
            + (
                "Several views of each tile find more of them, and take longer."
                if small
                else "Coarser windows see whole what a tile cuts."
            ),
            "[Inference] views" if small else "[LargeBuildings] refine = true",
        )


def _learning(context: ReportContext) -> Iterator[Advice]:
    tiles = [
        record.counts["training_tiles"] for record in context.records if "training_tiles" in record.counts
    ]
    if tiles and tiles[-1] < FEW_TILES:
        yield Advice(
            "Label more ground",
            f"The network learnt from {tiles[-1]:,} tiles. Another labelled image, best one that looks "
            "unlike the others, brings more than any setting.",
            "input/training/",
        )


def _hand_over(context: ReportContext) -> Iterator[Advice]:
    points = next((record.counts["review"] for record in context.records if "review" in record.counts), 0)
    if len(context.polygons_px):
        yield Advice(
            "Open it in QGIS",
            "The project opens the map over the image, with the tiles, the labels and "
            + (f"{points:,} points" if points else "nothing")
            + " to review: each tells why it is one, and is ticked off as done.",
            f"{context.image_id}.qgs",
        )
