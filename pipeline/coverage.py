"""Whether the tiles left valid ground out.

With `min_valid_share` at 0, every valid pixel of an image must lie in a tile. Above 0, tiles that hold
fewer valid pixels are left out on purpose, and what of them no neighbour covers shows here. Only ground
that no tile covers has to be looked at, and an image whose tiles are all there leaves none.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from pipeline.schema import Artifact, Window


class Coverage(Artifact):
    """Valid ground that lies in no tile."""

    uncovered_px: int = Field(ge=0)
    """Pixels, valid by the rule and at the resolution that chose the tiles."""
    uncovered_share: float = Field(ge=0, le=1)
    """Of the image's valid pixels."""

    @property
    def sentence(self) -> str:
        """Whether any valid ground was left out, in words."""
        if not self.uncovered_px:
            return "Every valid pixel lies in a tile."
        return (
            f"{self.uncovered_px:,} valid pixels ({self.uncovered_share:.2%}) lie in no tile; "
            "[Tiling] min_valid_share says which tiles are left out."
        )


def untiled_windows(windows: np.ndarray | Sequence[Window], width: int, height: int) -> np.ndarray:
    """The ground in no window, as rectangles that share no pixel, int64[g, 4] like `windows`.

    Args:
        windows: int64[t, 4] of col_off, row_off, width, height in image pixels, inside the image.
        width: columns of the image.
        height: rows of the image.
    """
    boxes = np.asarray(windows, dtype=np.int64).reshape(-1, 4)
    (x1, y1), (x2, y2) = boxes[:, :2].T, (boxes[:, :2] + boxes[:, 2:]).T
    xs, ys = np.unique(np.r_[0, x1, x2, width]), np.unique(np.r_[0, y1, y2, height])
    # Between neighbouring edges nothing changes: one cell each, and a tile counts from its first cell on.
    tiles = np.zeros((len(ys), len(xs)), dtype=np.int64)
    for rows, columns, count in ((y1, x1, 1), (y1, x2, -1), (y2, x1, -1), (y2, x2, 1)):
        np.add.at(tiles, (np.searchsorted(ys, rows), np.searchsorted(xs, columns)), count)
    bare = tiles.cumsum(axis=0).cumsum(axis=1)[:-1, :-1] == 0
    steps = np.diff(np.pad(bare, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    row, first = np.nonzero(steps == 1)
    _, last = np.nonzero(steps == -1)
    return np.column_stack([xs[first], ys[row], xs[last] - xs[first], ys[row + 1] - ys[row]])
