"""The ceiling: the best that the challenge's scorer would give a perfect network on these labels.

Labels are judged as they are drawn, so their faults cost even a network that makes none: an empty or
crossed polygon can never be found, of a building drawn twice one drawing is missed, a building of unknown
condition is a false positive in whatever category it is put, and where all labels lie beside their
buildings, outlines on the buildings overlap them less.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import shapely

from pipeline.edge import cut_to_image
from pipeline.evaluate import Score, score_image
from pipeline.schema import Artifact


class Ceiling(Artifact):
    """The metric of networks that make no mistakes, by what they are taken to know."""

    labels: int
    """As drawn, cut to the image; rows without a geometry are none, nor what hardly reaches into it."""
    copied: Score
    """Of every valid label handed back as it was drawn, duplicates included: nothing scores higher."""
    perfect: Score
    """Of every building once, as the cleaned labels draw it."""
    on_the_ground: Score | None
    """Of every building once, where the image shows it; None where labels are not shifted."""

    @property
    def best(self) -> Score:
        """What a perfect network can reach: it draws where the image shows."""
        return self.on_the_ground or self.perfect


def find_ceiling(
    drawn: np.ndarray,
    drawn_categories: np.ndarray,
    buildings: np.ndarray,
    building_categories: np.ndarray,
    categories: Sequence[str],
    shift: tuple[float, float] | None,
    outline: shapely.Polygon,
) -> Ceiling:
    """The ceiling of one image's labels.

    Args:
        drawn: object[m], the labels as drawn, any planar frame.
        drawn_categories: int64[m], index into `categories`, -1 where unknown.
        buildings: object[n] of valid polygons, the cleaned labels, same frame.
        building_categories: int64[n], as `drawn_categories`.
        categories: the k names.
        shift: the way from the labels to the buildings on the image, same frame; None for none.
        outline: of the image, same frame: neither labels nor maps reach beyond it.
    """
    there = ~shapely.is_missing(drawn)
    labels = cut_to_image(drawn[there], outline)
    truths, known = labels.polygons[labels.asked], drawn_categories[there][labels.asked]

    def score(polygons: np.ndarray, chosen: np.ndarray) -> Score:
        shown = cut_to_image(polygons, outline)
        judged = shown.asked & ~labels.excuses(shown.polygons)
        certain = _certain(chosen[judged], len(categories))
        found = score_image(shown.polygons[judged], certain, truths, known, categories)
        return Score.of(found.categories, found.all_buildings)

    valid = shapely.is_valid(truths) & (np.nan_to_num(shapely.area(truths)) > 0)
    moved = None
    if shift is not None:
        moved = score(shapely.transform(buildings, lambda xy: xy + shift), building_categories)
    return Ceiling(
        labels=len(truths),
        copied=score(truths[valid], known[valid]),
        perfect=score(buildings, building_categories),
        on_the_ground=moved,
    )


def _certain(chosen: np.ndarray, k: int) -> np.ndarray:
    """float64[n, k], all confidence on what is known; what is not known goes to the most frequent."""
    known = chosen[chosen >= 0]
    usual = int(np.bincount(known, minlength=k).argmax()) if len(known) else 0
    return np.eye(k)[np.where(chosen >= 0, chosen, usual)]
