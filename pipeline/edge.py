"""Labels at the edge of an image: what of them it shows, and which of them nobody is asked to find.

A map ends where its image ends. Held against the whole of a label that reaches beyond, the best outline
there could be would be a miss and a false alarm. So labels are cut to the image before anything is judged by
them, as they are cut to the tiles that are learnt from.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import shapely

from pipeline.matching import overlapping_pairs, valid_polygons
from pipeline.polygons import areas_on, polygonal
from pipeline.schema import Artifact

MIN_SHOWN_SHARE = 0.3
"""Share of a label inside the image below which nobody is asked to find it. That of `[Training]
min_visible_share`, but fixed: networks are compared by the same labels, whatever they learnt from."""

_ROUNDING = 1e-6


class EdgeCounts(Artifact):
    """Labels that the image does not show whole."""

    outside_image: int
    """Left out: the image shows nothing of them."""
    barely_shown: int
    """Left out: it shows less than 0.3 of their area. What is found of them is no false alarm."""
    cut: int
    """Judged by the part that it shows."""

    @property
    def sentence(self) -> str:
        """What became of them; empty where there are none."""
        told = {
            "outside the image and left out": self.outside_image,
            "almost outside and left out": self.barely_shown,
            "cut to the image": self.cut,
        }
        parts = [f"{count:,} {words}" for words, count in told.items() if count]
        return f"Labels at the image's edge: {', '.join(parts)}." if parts else ""


class Shown(NamedTuple):
    """Labels as an image shows them."""

    polygons: np.ndarray
    """object[m], cut to the image's outline; one that lies inside, or is invalid, is as it was drawn."""
    shares: np.ndarray
    """float64[m], share of each label's area inside the image, 0 to 1; of an invalid one that of its box."""

    @property
    def asked(self) -> np.ndarray:
        """bool[m], the labels that somebody is asked to find."""
        return self.shares >= MIN_SHOWN_SHARE

    @property
    def ignored(self) -> np.ndarray:
        """object[i], what is shown of the labels that nobody is asked to find."""
        return self.polygons[(self.shares > 0) & ~self.asked]

    @property
    def counts(self) -> EdgeCounts:
        """How many are not shown whole."""
        return EdgeCounts(
            outside_image=int(np.count_nonzero(self.shares == 0)),
            barely_shown=len(self.ignored),
            cut=int(np.count_nonzero(self.asked & (self.shares < 1))),
        )

    def excuses(self, polygons) -> np.ndarray:
        """bool[n], which proposals lie mostly on ignored labels and match none that is asked for.

        Args:
            polygons: object[n], in the frame of the labels.
        """
        excused = np.zeros(len(polygons), dtype=bool)
        if len(ignored := valid_polygons(self.ignored)):
            found = valid_polygons(polygons)
            rows = np.flatnonzero(areas_on(found, ignored) > shapely.area(found) / 2)
            excused[rows] = True
            excused[rows[overlapping_pairs(found[rows], self.polygons[self.asked]).proposals]] = False
        return excused


def cut_to_image(labels, outline: shapely.Polygon) -> Shown:
    """What an image shows of labels.

    Args:
        labels: object[m] of any geometry, as drawn; None and what is empty lie nowhere, and stay.
        outline: of the image, valid, same frame.
    """
    polygons = np.array(labels, dtype=object)
    crossed = ~shapely.is_valid(polygons)
    placed = polygons.copy()
    placed[crossed] = shapely.envelope(polygons[crossed])
    shapely.prepare(outline)
    there = ~(shapely.is_missing(placed) | shapely.is_empty(placed))
    apart = shapely.disjoint(outline, placed)
    across = np.flatnonzero(there & ~apart & ~shapely.covers(outline, placed))
    parts, areas = polygonal(shapely.intersection(placed[across], outline)), shapely.area(placed[across])
    shares = np.where(there & apart, 0.0, 1.0)
    shares[across] = np.divide(shapely.area(parts), areas, out=np.ones(len(across)), where=areas > 0)
    shares[shares > 1 - _ROUNDING] = 1.0
    cut = (shares[across] < 1) & ~crossed[across]
    polygons[across[cut]] = parts[cut]
    return Shown(polygons, shares)
