"""The numbers of a round: what people did to what was proposed, and what it says of the networks.

Edit distance is told three ways, since none stands for the others: vertices that were moved, added or taken
away; IoU of the outline before and after; and the Hausdorff distance between the two, on the ground.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from statistics import fmean, median
from typing import Any, NamedTuple

import numpy as np
import shapely
from pydantic import Field

from pipeline.review.deciding import Agreement, Verdict
from pipeline.schema import Artifact, Versioned

CONFIDENCE_BINS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
SAME_VERTEX_PX = 0.05
"""Distance up to which a vertex is where it was."""
UNKNOWN_SOURCE = "unknown"


class Change(NamedTuple):
    """What became of one proposal, or that a building was added."""

    image_id: str
    tile_id: str
    person: str
    source: str
    """Network, person or file that the proposal is from; the person for an added building."""
    is_model: bool
    score: float
    """NaN where a person drew it."""
    before: str | None
    after: str | None
    """Category before and after."""
    status: str
    vertices: int
    """Moved, added or taken away."""
    iou: float
    hausdorff_m: float
    seconds: float


class Tally(Artifact):
    """Proposals of one kind and what became of them; ratios that are undefined are None."""

    proposals: int
    accepted: int
    reclassified: int
    """Given another category, with another outline or without."""
    edited: int
    """Given another outline."""
    rejected: int
    acceptance_rate: float | None
    """Left as they were, over all."""
    false_positive_rate: float | None
    """Rejected, over all."""
    mean_vertices: float | None
    """Vertices changed, per edited proposal."""
    mean_iou: float | None
    """Outline before and after, over edited proposals."""
    mean_hausdorff_m: float | None
    """The same as a distance on the ground."""
    seconds_per_building: float | None
    """Where the tool records it: median over proposals."""


class RoundNumbers(Versioned):
    """What people did in a round (`review/round_<n>/numbers.json`)."""

    round: int = Field(ge=1)
    tiles: int
    """Looked at."""
    people: list[str]
    seconds_per_tile: float | None
    """Median, where the tool records it."""
    seconds_per_building: float | None
    """Time of the tiles over the buildings decided in them."""
    everything: Tally
    models: dict[str, Tally]
    """By network, `<name>/<weights digest>`."""
    categories: dict[str, Tally]
    """By proposed category, of networks' proposals."""
    confidences: dict[str, Tally]
    """By confidence bin, of networks' proposals."""
    added: int
    """Buildings that nobody had proposed."""
    missed_rate: float | None
    """Added, over all buildings that are there."""
    class_changes: dict[str, dict[str, int]]
    """Category proposed to category decided, of what was not rejected; `unknown` for none."""
    agreement_f1: float | None
    """Mean F1 of all buildings between two people on the same tile; 1 on one that both find empty."""

    def table(self) -> str:
        """The numbers as lines of text."""
        lines = [f"{self.tiles} tiles looked at by {', '.join(self.people) or 'nobody'}"]
        lines.append(f"{'':<28}{'n':>6}{'as it was':>11}{'edited':>8}{'class':>7}{'rejected':>10}{'IoU':>7}")
        rows = {"everything": self.everything, **self.models, **self.categories, **self.confidences}
        for name, tally in rows.items():
            iou = "" if tally.mean_iou is None else f"{tally.mean_iou:.2f}"
            counts = f"{tally.proposals:>6}{tally.accepted:>11}{tally.edited:>8}{tally.reclassified:>7}"
            lines.append(f"{name[:27]:<28}{counts}{tally.rejected:>10}{iou:>7}")
        lines.append(f"{self.added} added that nobody had proposed")
        return "\n".join(lines)


class RoundsReport(Versioned):
    """All rounds beside each other (`review/round_<n>/report.json`)."""

    numbers: list[RoundNumbers]
    """Of the rounds that came back."""
    held_out: dict[str, dict[str, float]]
    """By round, `mean_f1` and `all_f1` of its network, on the same held-out ground and labels."""

    def table(self) -> str:
        """Scores and rates by round, as lines of text."""
        lines = [f"{'round':>6}{'mean F1':>9}{'all F1':>8}"]
        for number, scores in self.held_out.items():
            lines.append(f"{number:>6}{scores['mean_f1']:>9.3f}{scores['all_f1']:>8.3f}")
        return "\n".join(lines)


def changes_of(
    verdicts: Iterable[Verdict], rows: Mapping[int, Mapping[str, Any]], m_per_px: float
) -> list[Change]:
    """What became of the proposals of one image.

    Args:
        verdicts: on them; those that only kept a proposal are no changes.
        rows: proposals by row id: model, source, category, score and polygon_px.
        m_per_px: ground length of a pixel.
    """
    changes = []
    for verdict in verdicts:
        if verdict.status == "kept":
            continue
        row = rows.get(verdict.row_id)
        vertices, iou, hausdorff = 0, 1.0, 0.0
        if row is not None and verdict.status == "edited":
            vertices = vertices_changed(row["polygon_px"], verdict.polygon_px)
            iou = _iou(row["polygon_px"], verdict.polygon_px)
            hausdorff = m_per_px * float(shapely.hausdorff_distance(row["polygon_px"], verdict.polygon_px))
        model = row["model"] if row is not None and isinstance(row["model"], str) else None
        changes.append(
            Change(
                verdict.review.image_id,
                verdict.review.tile_id,
                verdict.review.person,
                verdict.review.person if row is None else (model or row["source"]),
                model is not None,
                math.nan if row is None else row["score"],
                None if row is None else row["category"],
                verdict.category,
                verdict.status,
                vertices,
                iou,
                hausdorff,
                verdict.seconds,
            )
        )
    return changes


def vertices_changed(before: shapely.Polygon, after: shapely.Polygon) -> int:
    """Vertices moved, added or taken away: the larger count of those on one side without a twin."""
    one, other = (
        np.concatenate([shapely.get_coordinates(ring)[:-1] for ring in shapely.get_rings(polygon)])
        for polygon in (before, after)
    )
    apart = np.linalg.norm(one[:, None] - other[None], axis=2) > SAME_VERTEX_PX
    return int(max(apart.all(axis=1).sum(), apart.all(axis=0).sum()))


def _iou(one: shapely.Polygon, other: shapely.Polygon) -> float:
    joint = shapely.union(one, other).area
    return shapely.intersection(one, other).area / joint if joint else 0.0


def tally(changes: Sequence[Change]) -> Tally:
    """Counts and means of proposals."""
    counts = {status: sum(one.status == status for one in changes) for status in _STATUSES}
    renamed = sum(one.status != "rejected" and one.before != one.after for one in changes)
    edited = [one for one in changes if one.status == "edited"]
    seconds = [one.seconds for one in changes if not math.isnan(one.seconds)]
    n = len(changes)
    return Tally(
        proposals=n,
        **counts,
        reclassified=renamed,
        acceptance_rate=counts["accepted"] / n if n else None,
        false_positive_rate=counts["rejected"] / n if n else None,
        mean_vertices=fmean(one.vertices for one in edited) if edited else None,
        mean_iou=fmean(one.iou for one in edited) if edited else None,
        mean_hausdorff_m=fmean(one.hausdorff_m for one in edited) if edited else None,
        seconds_per_building=median(seconds) if seconds else None,
    )


_STATUSES = ("accepted", "edited", "rejected")


def number_round(
    round_number: int,
    changes: Sequence[Change],
    tile_seconds: Sequence[float],
    people: Iterable[str],
    agreements: Sequence[Agreement],
    categories: Sequence[str],
) -> RoundNumbers:
    """The numbers of a round.

    Args:
        round_number: which one.
        changes: of all images.
        tile_seconds: time spent on each tile that was looked at, NaN where nobody counted.
        people: who looked.
        agreements: between people who looked at the same tile.
        categories: names in order.
    """
    proposed = [one for one in changes if one.status != "added"]
    models = [one for one in proposed if one.is_model]
    added, there = len(changes) - len(proposed), sum(one.status != "rejected" for one in changes)
    timed = [seconds for seconds in tile_seconds if not math.isnan(seconds)]
    bins = list(pairwise(CONFIDENCE_BINS))
    return RoundNumbers(
        round=round_number,
        tiles=len(tile_seconds),
        people=sorted(set(people)),
        seconds_per_tile=median(timed) if timed else None,
        seconds_per_building=sum(timed) / len(changes) if timed and changes else None,
        everything=tally(proposed),
        models={name: tally([one for one in models if one.source == name]) for name in _sources(models)},
        categories={name: tally([one for one in models if one.before == name]) for name in categories},
        confidences={
            f"{low:.1f} to {high:.1f}": tally([one for one in models if _within(one.score, low, high)])
            for low, high in bins
        },
        added=added,
        missed_rate=added / there if there else None,
        class_changes=_class_changes(proposed),
        agreement_f1=fmean(one.f1 for one in agreements) if agreements else None,
    )


def _sources(changes: Sequence[Change]) -> list[str]:
    return sorted({one.source for one in changes})


def _within(score: float, low: float, high: float) -> bool:
    return low <= score < high or (score == high == CONFIDENCE_BINS[-1])


def _class_changes(changes: Sequence[Change]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for one in changes:
        if one.status != "rejected":
            row = counts.setdefault(one.before or UNKNOWN_SOURCE, {})
            after = one.after or UNKNOWN_SOURCE
            row[after] = row.get(after, 0) + 1
    return counts
