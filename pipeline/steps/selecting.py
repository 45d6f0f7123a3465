"""SelectTiles: from what networks found in the images to the tiles that people look at."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import shapely

from pipeline.frames import window_boxes
from pipeline.raster import TiledImage
from pipeline.review.records import Queue, QueuedTile
from pipeline.review.rules import ReviewRules
from pipeline.review.selection import Candidate, choose_for_review
from pipeline.review.uncertainty import TileFindings, tile_uncertainties
from pipeline.schema import Tile, Window
from pipeline.steps import Progress
from pipeline.steps.detection_rows import outlines_px, read_detections
from pipeline.steps.pairs import shares_on

if TYPE_CHECKING:
    from models.predict import Predictor

REVIEWED_SHARE = 0.5
"""Share of a tile on reviewed ground from which it is not looked at again."""


class Reviewable(NamedTuple):
    """An image whose tiles may be looked at."""

    image: TiledImage
    detections: Path
    """Folder with one JSON per tile."""
    doubts: np.ndarray
    """float64[t], what other networks add to the uncertainty of its tiles."""
    reviewed: Sequence[Window]
    """Ground that people have looked at."""
    held_out: Sequence[Window]
    """Ground that no network learns from: looked at by chance only."""


def select_tiles(
    images: Iterable[Reviewable],
    round_number: int,
    rules: ReviewRules,
    predictor: Predictor | None,
    progress: Progress,
) -> Queue:
    """The tiles of a round.

    Args:
        images: whose tiles may be looked at.
        round_number: of the review, from 1.
        rules: how many, and how they are chosen.
        predictor: the network whose backbone says how tiles differ; None leaves difference out.
        progress: told after every image and tile read.
    """
    places: list[tuple[Reviewable, Tile]] = []
    candidates: list[Candidate] = []
    for one in images:
        index, uncertainties = one.image.index, _uncertainties(one)
        open_ = shares_on(index.tiles, window_boxes(one.reviewed)) < REVIEWED_SHARE
        held_out = shares_on(index.tiles, window_boxes(one.held_out)) > 0
        for place in np.flatnonzero(open_).tolist():
            tile = index.tiles[place]
            doubt = 0.0 if held_out[place] else float(uncertainties[place])
            places.append((one, tile))
            candidates.append(Candidate(index.image_id, tile.window, doubt))
        progress(0.5, f"{index.image_id}: {int(open_.sum())} tiles to choose from")

    def embed(chosen: Sequence[int]) -> np.ndarray:
        assert predictor is not None
        return _embeddings([places[place] for place in chosen], predictor, progress)

    chosen = choose_for_review(candidates, rules, round_number, embed if predictor else None)
    return Queue(
        round=round_number,
        candidates=len(candidates),
        tiles=[
            QueuedTile(
                image_id=places[one.place][0].image.index.image_id,
                tile_id=places[one.place][1].tile_id,
                window=places[one.place][1].window,
                uncertainty=round(candidates[one.place].uncertainty, 6),
                reason="random" if one.by_chance else "uncertain",
            )
            for one in chosen
        ],
    )


def _uncertainties(one: Reviewable) -> np.ndarray:
    findings = [_findings(one.detections, tile) for tile in one.image.index.tiles]
    return tile_uncertainties(findings) + one.doubts


def _findings(detections: Path, tile: Tile) -> TileFindings:
    content = read_detections(detections / f"{tile.tile_id}.json")
    outlines = outlines_px(content)
    drawn = ~shapely.is_missing(outlines)
    rows = np.array([one.scores for one in content.detections], dtype=np.float64)
    unsure = np.array([one.ambiguity or 0.0 for one in content.detections], dtype=np.float64)
    rows = rows.reshape(-1, len(content.categories))
    return TileFindings(tile.window, outlines[drawn], rows[drawn], unsure[drawn])


def _embeddings(
    places: Sequence[tuple[Reviewable, Tile]], predictor: Predictor, progress: Progress
) -> np.ndarray:
    """float32[n, d] of these tiles, read one at a time."""
    rows: dict[int, np.ndarray] = {}
    by_image: dict[str, list[int]] = {}
    for number, (one, _) in enumerate(places):
        by_image.setdefault(one.image.index.image_id, []).append(number)
    for numbers in by_image.values():
        with places[numbers[0]][0].image.open() as raster:
            for number in numbers:
                pixels = np.moveaxis(raster.read(places[number][1].window), -1, 0)
                rows[number] = predictor.embed(np.ascontiguousarray(pixels)[None])[0]
                progress(0.5 + 0.5 * len(rows) / len(places), f"tile {len(rows)}/{len(places)} compared")
    return np.stack([rows[number] for number in range(len(places))])
