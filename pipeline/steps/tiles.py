"""TileImage: from an image's header and validity to its tiles."""

from __future__ import annotations

from pathlib import Path

from pipeline.raster import Imagery, Raster, read_grid
from pipeline.schema import TileIndex, Window
from pipeline.settings import Tiling
from pipeline.steps import Progress
from pipeline.tiling import TilingRules, build_tile_index, parse_size, tile_windows


def tile_image(
    image_id: str, source: Path | str, imagery: Imagery, tiling: Tiling, progress: Progress
) -> TileIndex:
    """The tiles of an image that hold valid pixels; reads at most its overviews where it has some."""
    return look_at_image(image_id, source, imagery, tiling, progress)[0]


def look_at_image(
    image_id: str, source: Path | str, imagery: Imagery, tiling: Tiling, progress: Progress
) -> tuple[TileIndex, float]:
    """As `tile_image`, and the share of the whole image's pixels that are valid, 0 to 1."""
    grid = read_grid(source, imagery)
    rules = TilingRules(
        tile_size=parse_size(tiling.tile_size, grid.ground_m_per_px),
        overlap=parse_size(tiling.overlap, grid.ground_m_per_px),
        min_valid_share=tiling.min_valid_share,
    )
    windows = tile_windows(grid.width, grid.height, rules)

    def looked(share: float) -> None:
        progress(share, f"looking for valid pixels in {len(windows)} tiles: {share:.0%}")

    whole = Window(0, 0, grid.width, grid.height)
    with Raster(source, grid, imagery) as raster:
        shares = raster.valid_shares([*(window for _, _, window in windows), whole], looked)
    return build_tile_index(image_id, grid, rules, shares[:-1]), float(shares[-1])
