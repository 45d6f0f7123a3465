"""TileImage: from an image's header and validity to its tiles."""

from __future__ import annotations

from pathlib import Path

from pipeline.raster import Imagery, Raster, read_grid
from pipeline.schema import TileIndex
from pipeline.settings import Tiling
from pipeline.steps import Progress
from pipeline.tiling import TilingRules, build_tile_index, parse_size, tile_windows


def tile_image(
    image_id: str, source: Path | str, imagery: Imagery, tiling: Tiling, progress: Progress
) -> TileIndex:
    """The tiles of an image that hold valid pixels; reads at most its overviews where it has some."""
    grid = read_grid(source, imagery)
    rules = TilingRules(
        tile_size=parse_size(tiling.tile_size, grid.ground_m_per_px),
        overlap=parse_size(tiling.overlap, grid.ground_m_per_px),
        min_valid_share=tiling.min_valid_share,
    )
    windows = tile_windows(grid.width, grid.height, rules)

    def looked(share: float) -> None:
        progress(share, f"looking for valid pixels in {len(windows)} tiles: {share:.0%}")

    with Raster(source, grid, imagery) as raster:
        valid_shares = raster.valid_shares([window for _, _, window in windows], looked)
    return build_tile_index(image_id, grid, rules, valid_shares)
