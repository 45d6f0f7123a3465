"""Hard negatives: tiles without items in which a network finds some all the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.predict import Predictor
from models.tiles import TrainingTile, read_image

SURE = 0.5
"""Score from which a detection counts."""


def false_positives(predictor: Predictor, tiles: Sequence[TrainingTile], empty: np.ndarray) -> np.ndarray:
    """Return how many buildings are found in each tile where none is, int64[n]; 0 in tiles with items.

    Args:
        predictor: the network as it is now.
        tiles: n tiles.
        empty: bool[n], which of them have no items.
    """
    found = np.zeros(len(tiles), dtype=np.int64)
    for row in np.flatnonzero(empty).tolist():
        (prediction,) = predictor.predict(read_image(tiles[row].image)[None])
        found[row] = (prediction.scores >= SURE).sum()
    return found
