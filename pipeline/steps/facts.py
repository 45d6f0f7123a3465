"""What an image is and what the settings make of it, told before anything is run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.cost import Cost, Rates, expected_cost
from pipeline.inference import InferenceRules
from pipeline.raster import Imagery, TiledImage, read_header
from pipeline.schema import TileIndex
from pipeline.settings import Inference, Tiling, Training
from pipeline.steps import Progress, silent
from pipeline.steps.cost import rates_here
from pipeline.steps.tiles import look_at_image
from pipeline.tiling import TilingRules


@dataclass(frozen=True)
class ImageFacts:
    """An image's place on the ground, and its tiles under the settings."""

    index: TileIndex
    valid_share: float
    """Of the image's pixels, 0 to 1."""
    cost: Cost
    """Of mapping it with a network that is learnt already."""
    measured: bool
    """Whether the cost is at this machine's rates, or at those of one ordinary core without a GPU."""

    def table(self) -> str:
        """The facts as lines of text."""
        grid, index = self.index.grid, self.index
        cm = [100 * side for side in grid.ground_m_per_px]
        km2 = grid.width * grid.height * grid.ground_m_per_px[0] * grid.ground_m_per_px[1] / 1e6
        crs = grid.crs if grid.srid else "without an EPSG code"
        facts = {
            "size": f"{grid.width:,} x {grid.height:,} px, {km2:.3g} km2",
            "resolution": f"{cm[0]:.2f} x {cm[1]:.2f} cm per px on the ground",
            "crs": crs,
            "bands": f"{grid.bands}{'' if grid.stretch is None else ', stretched'}",
            "date": grid.date,
            "tiles": f"{len(index.tiles):,} of {index.tile_size} px with {index.overlap} px overlap, "
            f"{index.empty_tiles:,} empty ones left out",
            "valid": f"{self.valid_share:.0%} of the pixels",
            "to map": f"{self.cost.sentence} on {'this machine' if self.measured else 'one core'}, "
            "its network learnt already",
        }
        return "\n".join(f"{name:<11}{text}" for name, text in facts.items())


def image_facts(
    image_id: str,
    source: Path | str,
    imagery: Imagery,
    tiling: Tiling,
    inference: Inference,
    training: Training,
    measure: tuple[str, ...] = (),
    progress: Progress = silent,
) -> ImageFacts:
    """The facts of an image; reads its header, and what tells valid pixels from collars.

    Args:
        image_id: the image's name.
        source: path or URL.
        imagery: how it is read.
        tiling: how it is cut.
        inference: how the network is run.
        training: which network.
        measure: names of the categories, to measure this machine's rates; empty for an ordinary core's.
        progress: told while valid pixels are looked for.

    Raises:
        SourceError, RasterError: it cannot be read.
        SettingsError: the tiling does not fit it.
    """
    index, valid_share = look_at_image(image_id, source, imagery, tiling, progress)
    # Where the imagery is seen at another resolution, it is that which is cut into tiles.
    header = replace(read_header(source, imagery), width=index.grid.width, height=index.grid.height)
    rates = rates_here(TiledImage(index, source, imagery), training.network, measure) if measure else Rates()
    cost = expected_cost(
        header,
        TilingRules(index.tile_size, index.overlap, tiling.min_valid_share),
        inference.rules(InferenceRules),
        imagery,
        training.network,
        rates,
        len(index.tiles) / (len(index.tiles) + index.empty_tiles),
    )
    return ImageFacts(index, valid_share, cost, bool(measure))
