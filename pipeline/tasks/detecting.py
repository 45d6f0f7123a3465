"""From a network to what it finds: what an image's tiles show, and what coarser windows add."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import luigi

from pipeline import settings
from pipeline.errors import SettingsError
from pipeline.inference import InferenceRules
from pipeline.large import LargeRules
from pipeline.schema import DETECTIONS_VERSION
from pipeline.seams import MergeRules
from pipeline.steps.detections import Detector, infer_tiles
from pipeline.steps.drawing import tile_path
from pipeline.steps.large import infer_large
from pipeline.tasks.gpu import GpuStep
from pipeline.tasks.learning import TileImage, TrainMaskRCNN
from pipeline.tasks.parameters import Number
from pipeline.tasks.sources import SourceWeights
from pipeline.tasks.step import ImageStep, Step, digests
from pipeline.tiling import in_panels, shard_slices
from pipeline.vectorize import VectorizeRules

logger = logging.getLogger("luigi-interface")


def told(counts: Mapping[str, int | float]) -> str:
    """Counts and what was measured as a line of the log.

    >>> told({"tiles": 6, "on_nodata": 2, "tiles_per_s": 0.51})
    'tiles 6, on nodata 2, tiles per s 0.51'
    """
    return ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in counts.items())


def network() -> TrainMaskRCNN | SourceWeights:
    """The task whose weights inference uses: given ones, else those learnt here."""
    return SourceWeights() if settings.Inference().weights else TrainMaskRCNN()


def detector() -> Detector:
    """The network as the settings want it run."""
    return Detector(
        network().weights,
        settings.Labels().names,
        settings.Inference().rules(InferenceRules),
        settings.Outlines().rules(VectorizeRules),
    )


class InferShard(GpuStep, ImageStep):
    """One JSON of detections per tile, for a run of neighbouring tiles, and a manifest that closes it."""

    shard = Number(description="Which run of tiles, from 0.")
    sections = (settings.Inference, settings.Outlines, settings.Labels)

    @property
    def tiles(self) -> TileImage:
        """The tiles of the image, of which this shard takes its run."""
        return TileImage(image_id=self.image_id)

    def requires(self) -> list[Step]:
        """Tiles and weights."""
        return [self.tiles, network()]

    @property
    def inputs(self) -> Mapping[str, Any]:
        """Tiles and weights; and the version of what is made of them, which no older reader knows."""
        return digests(*self.deps()) | {"schema_version": str(DETECTIONS_VERSION)}

    @property
    def detections(self) -> Path:
        """Folder of the image's per-tile JSON, shared by its shards."""
        return self.folder("detections")

    def output(self) -> luigi.LocalTarget:
        """The manifest, named by what the shards' borders depend on."""
        inference = settings.Inference()
        name = f"shard_{self.shard}_of_{inference.shards}_by_{inference.batch_size}.manifest.json"
        return luigi.LocalTarget(str(self.detections / name))

    def run(self) -> None:
        """Infers the tiles that have no JSON yet."""
        inference = settings.Inference()
        if not 0 <= self.shard < inference.shards:
            raise SettingsError(
                f"there are {inference.shards} shards, counted from 0",
                where=self,
                found=self.shard,
                remedy="Ask for one of them, or raise [Inference] shards.",
            )
        # Once: a digest looks at every input, which is nothing for a task and too much for each of its tiles.
        image, folder = self.tiles.tiled, self.detections
        run = shard_slices(len(image.index.tiles), inference.shards, inference.batch_size)[self.shard]
        made = [tile_path(folder, tile) for tile in in_panels(image.index.tiles)[run]]
        with self.finishing(Path(self.output().path), lambda: made) as counts:
            counts |= infer_tiles(image, run, detector(), folder, self.progress)
        logger.info("%s: %s", self, told(counts))


def shards_of(image_id: str) -> list[InferShard]:
    """All detections of an image's tiles."""
    return [InferShard(image_id=image_id, shard=shard) for shard in range(settings.Inference().shards)]


class InferLarge(GpuStep, ImageStep):
    """Detections of buildings that no tile sees whole, on coarser windows; in the graph where wanted."""

    sections = (settings.LargeBuildings,)

    @property
    def shards(self) -> list[InferShard]:
        """All detections of the image's tiles."""
        return shards_of(self.image_id)

    def requires(self) -> list[Step]:
        """Tiles, weights and every shard."""
        return [*self.shards[0].requires(), *self.shards]

    @property
    def inputs(self) -> Mapping[str, Any]:
        """The detections; and the rules that join them, but not what of them is published."""
        merging = asdict(settings.Aggregation().rules(MergeRules))
        return digests(self.shards[0]) | {"merging": settings.digest(merging)}

    @property
    def detections(self) -> Path:
        """Folder of the JSON per coarser window, and of their index."""
        return self.folder("large")

    def output(self) -> luigi.LocalTarget:
        """The manifest."""
        return luigi.LocalTarget(str(self.detections / "manifest.json"))

    def run(self) -> None:
        """Finds the buildings that no tile sees whole, and looks at them from further away."""
        with self.finishing(Path(self.output().path), lambda: self.detections.glob("[!m]*.json")) as counts:
            counts |= infer_large(
                self.shards[0].tiles.tiled,
                self.shards[0].detections,
                detector(),
                settings.LargeBuildings().rules(LargeRules),
                settings.Aggregation().rules(MergeRules),
                self.detections,
                self.progress,
            )
        logger.info("%s: %s", self, told(counts))
