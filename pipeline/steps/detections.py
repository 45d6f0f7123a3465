"""InferShard: from an image's windows through the network to one JSON per tile.

Three things go on at once: the network computes a batch, the last ones are drawn and written, and a
thread reads the next ones, unless the network computes on all of a CPU's cores.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from pipeline.atomic import scratch_folder
from pipeline.errors import SettingsError
from pipeline.inference import READ_AHEAD, InferenceRules
from pipeline.raster import TiledImage, is_remote
from pipeline.schema import CoarseTile, Grid, ModelTag, Tile
from pipeline.steps import Progress
from pipeline.steps.drawing import Draughtsman, Found, Seen, find, get_ready, tile_path
from pipeline.steps.reading import Batches
from pipeline.tiling import in_panels
from pipeline.vectorize import VectorizeRules

if TYPE_CHECKING:
    from models.predict import Predictor


class Detector:
    """A network, loaded when it is first needed, and how what it sees becomes detections.

    Args:
        weights: of the network.
        categories: the names that it must know, in the order of the settings.
        rules: how it is run.
        outlines: how its masks become polygons.

    Attributes:
        counts: of what was made so far: `detections` written, and left out of them or cut back, see
            `pipeline.inference.clip_to_ground`, `on_nodata` and `clipped`.
    """

    def __init__(
        self, weights: Path, categories: tuple[str, ...], rules: InferenceRules, outlines: VectorizeRules
    ):
        self.weights, self.categories, self.rules, self.outlines = weights, categories, rules, outlines
        self.counts = Counter(detections=0, on_nodata=0, clipped=0)

    @cached_property
    def predictor(self) -> Predictor:
        """The network.

        Raises:
            SettingsError: its categories are not those of the settings.
        """
        from models.predict import Predictor

        rules = self.rules
        predictor = Predictor(
            self.weights,
            device=rules.device,
            precision=rules.precision,
            score_threshold=rules.score_threshold,
            nms_iou=rules.nms_iou,
            detections_per_tile=rules.detections_per_tile,
            proposals_per_tile=rules.proposals_per_tile,
            compile=rules.compile,
        )
        if predictor.categories != self.categories:
            raise SettingsError(
                "the network knows other categories than [Labels] categories",
                where=self.weights,
                found=predictor.categories,
                remedy=f"Use weights trained for {', '.join(self.categories)}, or change the setting.",
            )
        return predictor

    @property
    def is_on_gpu(self) -> bool:
        """Whether the network will compute on a GPU."""
        from models.device import choose_device

        return choose_device(self.rules.device).type == "cuda"

    def reads_ahead(self, source: Path | str) -> bool:
        """Whether an image is read while the network computes, and not in between.

        Beside a network on all of a CPU's cores, a reader of a file takes it longer than reading would.
        """
        import torch

        is_core_free = torch.get_num_threads() < len(os.sched_getaffinity(0))
        return self.is_on_gpu or is_remote(source) or is_core_free

    def detect(
        self,
        image_id: str,
        grid: Grid,
        tiles: Sequence[Tile | CoarseTile],
        images: np.ndarray,
        grounds: Sequence[shapely.MultiPolygon | None],
    ) -> Iterator[dict[str, Any]]:
        """The artifact of each tile, as `pipeline.inference.tile_detections` makes it.

        Args:
            image_id: the image.
            grid: its frame.
            tiles: of one size.
            images: uint8[n, 3, h, w], their pixels; fewer than their windows' where they were shrunk.
            grounds: valid ground of each in tile pixels, None where all of it is valid.
        """
        height, width = images.shape[2:]
        draughtsman = self.draughtsman(image_id, grid)
        yield from draughtsman.draw(tiles, self.look(images), (height, width), grounds, self.counts)

    def look(self, images: np.ndarray) -> list[Seen]:
        """What the network finds in every view of each image, the views of one image side by side."""
        from models.views import VIEWS, bring_back, show

        views, (height, width) = VIEWS[self.rules.views], images.shape[2:]
        looks = [
            [bring_back(found, view, height, width) for found in self.predictor.predict(show(images, view))]
            for view in views
        ]
        return [
            Seen(prediction.boxes, prediction.probabilities, prediction.masks)
            for tile in zip(*looks, strict=True)
            for prediction in tile
        ]

    def find(self, images: np.ndarray) -> list[Found]:
        """What is found in each of uint8[n, 3, h, w] images, in its pixels, all its views together."""
        height, width = images.shape[2:]
        return find(self.look(images), (height, width), (width, height), len(images), self.outlines)

    def draughtsman(self, image_id: str, grid: Grid) -> Draughtsman:
        """What turns looks into artifacts."""
        model = _tag(self.predictor.name, self.predictor.digest).model_dump()
        return Draughtsman(image_id, grid, self.categories, model, self.rules, self.outlines)


def tag_of(weights: Path) -> ModelTag:
    """What detections call the network of a weights file.

    Raises:
        WeightsError: the file is missing, damaged, of another format, or no weights at all.
    """
    from models.weights import read_metadata, weights_digest

    return _tag(read_metadata(weights).network, weights_digest(weights))


def _tag(network: str, digest: str) -> ModelTag:
    return ModelTag(name=network, weights=digest[:12])


def infer_tiles(
    image: TiledImage,
    run: slice,
    detector: Detector,
    folder: Path,
    progress: Progress,
) -> dict[str, int | float]:
    """Writes <tile_id>.json for every tile of a run that has none yet.

    A batch of which a tile is missing is inferred whole: a network's last digits depend on which tiles it
    sees together, and a resumed shard must not differ from an unbroken one.

    Args:
        image: what is looked at.
        run: which of its tiles, in the order to read them (`in_panels`).
        detector: the network.
        folder: an existing folder to write into.
        progress: told after every batch.

    Returns:
        Counts of what was done, as integers; and where something was, how fast, as floats: see `_Clock`.
    """
    tiles, size = in_panels(image.index.tiles)[run], detector.rules.batch_size
    batches = [tiles[start : start + size] for start in range(0, len(tiles), size)]
    todo = [batch for batch in batches if not all(tile_path(folder, tile).exists() for tile in batch)]
    inferred = sum(map(len, todo))
    counts: dict[str, int | float] = {"tiles": len(tiles), "inferred": inferred}
    if not todo:
        return counts | detector.counts
    line = _Line(detector, image, folder)
    for done, speed in line.run(todo):
        share = (len(tiles) - inferred + done) / len(tiles)
        progress(share, f"tile {len(tiles) - inferred + done}/{len(tiles)}, {speed:.1f} tiles/s")
    return counts | detector.counts | line.clock.report()


class _Clock:
    """Where the time of a shard goes; its parts overlap, so that together they exceed the whole."""

    def __init__(self) -> None:
        self.started, self.tiles, self.pixels = time.perf_counter(), 0, 0
        self.read_s = self.wait_s = self.network_s = self.draw_s = 0.0
        self.device_mib = 0.0

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.perf_counter() - self.started

    def report(self) -> dict[str, float]:
        """Speed, the share of time that the network waited for tiles, seconds by part, a GPU's memory."""
        seconds = self.seconds
        told = {
            "tiles_per_s": self.tiles / seconds,
            "megapixels_per_s": self.pixels / 1e6 / seconds,
            "data_wait_share": self.wait_s / seconds,
            "read_s": self.read_s,
            "network_s": self.network_s,
            "draw_s": self.draw_s,
        }
        if self.device_mib:
            told["device_mib"] = self.device_mib
        return {name: round(value, 3) for name, value in told.items()}


class _Line:
    """The production line of a shard: reading, network, drawing."""

    def __init__(self, detector: Detector, image: TiledImage, folder: Path):
        self.detector, self.image, self.folder, self.clock = detector, image, folder, _Clock()

    def run(self, todo: Sequence[Sequence[Tile]]) -> Iterator[tuple[int, float]]:
        """Infers batches; yields tiles written so far, and per second, after each."""
        detector, clock, on_gpu = self.detector, self.clock, self.detector.is_on_gpu
        ahead = detector.rules.workers if detector.reads_ahead(self.image.source) else 0
        reading = Batches(self.image, todo, ahead, pinned=on_gpu)
        with (
            scratch_folder(self.folder) as scratch,
            _writers(detector.rules.writers if on_gpu else 0) as writers,
            reading as batches,
        ):
            # Writers start, and the first tiles are read, while the network is loaded.
            draughtsman = detector.draughtsman(self.image.index.image_id, self.image.grid)
            clock.started = time.perf_counter()
            drawn: deque[tuple[int, Future]] = deque()
            waited = time.perf_counter()
            for batch in batches:
                looked = time.perf_counter()
                seen = detector.look(batch.images)
                clock.wait_s += looked - waited
                clock.read_s += batch.seconds
                clock.network_s += time.perf_counter() - looked
                clock.pixels += batch.images[:, 0].size
                _, _, height, width = batch.images.shape
                job = (scratch, batch.tiles, seen, (height, width), batch.grounds)
                drawn.append((len(batch.tiles), writers.submit(draughtsman.write, *job)))
                # What is drawn waits in line, but not without end.
                while drawn and (drawn[0][1].done() or len(drawn) > READ_AHEAD + detector.rules.writers):
                    yield self._finish(*drawn.popleft())
                waited = time.perf_counter()
            while drawn:
                yield self._finish(*drawn.popleft())
        if on_gpu:
            import torch

            clock.device_mib = torch.cuda.max_memory_allocated(detector.predictor.device) / 2**20

    def _finish(self, tiles: int, drawn: Future) -> tuple[int, float]:
        counts, seconds = drawn.result()
        self.detector.counts.update(counts)
        self.clock.draw_s += seconds
        self.clock.tiles += tiles
        return self.clock.tiles, self.clock.tiles / self.clock.seconds


def _writers(processes: int) -> Executor:
    """Who draws and writes: so many processes, or for 0 a thread of this one."""
    if not processes:
        return ThreadPoolExecutor(1, "drawing")
    # Not forked: this process holds a GPU and threads.
    writers = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"))
    for _ in range(processes):
        writers.submit(get_ready)
    return writers
