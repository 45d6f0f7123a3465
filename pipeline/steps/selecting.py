"""SelectTiles: from what networks found in the images to the tiles that people look at."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import shapely

from pipeline.frames import window_boxes
from pipeline.raster import Imagery, Raster
from pipeline.review.records import Queue, QueuedTile
from pipeline.review.rules import ReviewRules
from pipeline.review.selection import Candidate, choose_for_review
from pipeline.review.uncertainty import TileFindings, tile_uncertainties
from pipeline.schema import Tile, TileIndex, Window
from pipeline.steps import Progress
from pipeline.steps.detection_rows import outlines_px, read_detections
from pipeline.steps.pairs import shares_on

if TYPE_CHECKING:
    from models.predict import Predictor

REVIEWED_SHARE = 0.5
"""Share of a tile on reviewed ground from which it is not looked at again."""


class Reviewable(NamedTuple):
    """An image whose tiles may be looked at."""

    tiles: TileIndex
    source: Path | str
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
    imagery: Imagery,
    predictor: Predictor | None,
    progress: Progress,
) -> Queue:
    """The tiles of a round.

    Args:
        images: whose tiles may be looked at.
        round_number: of the review, from 1.
        rules: how many, and how they are chosen.
        imagery: how images are read.
        predictor: the network whose backbone says how tiles differ; None leaves difference out.
        progress: told after every image and tile read.
    """
    places: list[tuple[Reviewable, Tile]] = []
    candidates: list[Candidate] = []
    for image in images:
        uncertainties = _uncertainties(image)
        open_ = shares_on(image.tiles.tiles, window_boxes(image.reviewed)) < REVIEWED_SHARE
        held_out = shares_on(image.tiles.tiles, window_boxes(image.held_out)) > 0
        for place in np.flatnonzero(open_).tolist():
            tile = image.tiles.tiles[place]
            doubt = 0.0 if held_out[place] else float(uncertainties[place])
            places.append((image, tile))
            candidates.append(Candidate(image.tiles.image_id, tile.window, doubt))
        progress(0.5, f"{image.tiles.image_id}: {int(open_.sum())} tiles to choose from")

    def embed(chosen: Sequence[int]) -> np.ndarray:
        assert predictor is not None
        return _embeddings([places[place] for place in chosen], predictor, imagery, progress)

    chosen = choose_for_review(candidates, rules, round_number, embed if predictor else None)
    return Queue(
        round=round_number,
        candidates=len(candidates),
        tiles=[
            QueuedTile(
                image_id=places[one.place][0].tiles.image_id,
                tile_id=places[one.place][1].tile_id,
                window=places[one.place][1].window,
                uncertainty=round(candidates[one.place].uncertainty, 6),
                reason="random" if one.by_chance else "uncertain",
            )
            for one in chosen
        ],
    )


def _uncertainties(image: Reviewable) -> np.ndarray:
    findings = [_findings(image, tile) for tile in image.tiles.tiles]
    return tile_uncertainties(findings) + image.doubts


def _findings(image: Reviewable, tile: Tile) -> TileFindings:
    content = read_detections(image.detections / f"{tile.tile_id}.json")
    outlines = outlines_px(content)
    drawn = ~shapely.is_missing(outlines)
    rows = np.array([one.scores for one in content.detections], dtype=np.float64)
    unsure = np.array([one.ambiguity or 0.0 for one in content.detections], dtype=np.float64)
    rows = rows.reshape(-1, len(content.categories))
    return TileFindings(tile.window, outlines[drawn], rows[drawn], unsure[drawn])


def _embeddings(
    places: Sequence[tuple[Reviewable, Tile]], predictor: Predictor, imagery: Imagery, progress: Progress
) -> np.ndarray:
    """float32[n, d] of these tiles, read one at a time."""
    rows: dict[int, np.ndarray] = {}
    by_image: dict[str, list[int]] = {}
    for number, (image, _) in enumerate(places):
        by_image.setdefault(image.tiles.image_id, []).append(number)
    for numbers in by_image.values():
        image = places[numbers[0]][0]
        with Raster(image.source, image.tiles.grid, imagery) as raster:
            for number in numbers:
                pixels = np.moveaxis(raster.read(places[number][1].window), -1, 0)
                rows[number] = predictor.embed(np.ascontiguousarray(pixels)[None])[0]
                progress(0.5 + 0.5 * len(rows) / len(places), f"tile {len(rows)}/{len(places)} compared")
    return np.stack([rows[number] for number in range(len(places))])
