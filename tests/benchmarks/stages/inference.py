"""Inference end to end: a COG on disk to per-tile JSON, beside the bare network on tiles in memory."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from models.maskrcnn import build
from models.predict import Predictor
from pipeline.cost import expected_cost
from pipeline.inference import InferenceRules
from pipeline.raster import Imagery, Raster, TiledImage, read_grid, read_header
from pipeline.schema import TileIndex
from pipeline.steps.cost import measured_rates
from pipeline.steps.detections import Detector, infer_tiles
from pipeline.steps.drawing import Seen
from pipeline.tiling import TilingRules, build_tile_index, tile_windows
from pipeline.vectorize import VectorizeRules
from tests.benchmarks.network_masks import look
from tests.benchmarks.rows import Row
from tests.benchmarks.seams.scenes import typical
from tests.benchmarks.stages.imagery import write_jpeg

CATEGORIES = ("foundation", "unfinished", "completed")
NETWORK, SIDE, BATCH = "maskrcnn_small", 2048, 4
RULES = TilingRules(tile_size=512, overlap=128)
ROUNDS = 9
LIMIT = 20
"""Detections per tile, as in a village; random weights would find as many as they may."""


class _Learnt(Detector):
    """A network of random weights whose masks are as rough as those of one that learnt.

    Its own are noise, and noise has outlines that are three times as long to draw as a building's.
    """

    masks: np.ndarray
    """float32[LIMIT, 28, 28]."""

    def look(self, images: np.ndarray) -> list[Seen]:
        """What the network finds, with other masks."""
        return [found._replace(masks=self.masks[: len(found.masks)]) for found in super().look(images)]


def _detector(predictor: Predictor) -> Detector:
    rules = InferenceRules(batch_size=BATCH, device=str(predictor.device), detections_per_tile=LIMIT)
    detector = _Learnt(Path("none.h5"), CATEGORIES, rules, VectorizeRules())
    detector.predictor = predictor
    detector.masks = np.concatenate([seen.masks for seen in look(typical(300), 8)])[:LIMIT]
    return detector


def rows() -> Iterator[Row]:
    """On this machine's CPU, all its cores; the cost that was expected; and what needs a GPU."""
    torch.manual_seed(0)
    predictor = Predictor(build(NETWORK, CATEGORIES), "cpu", detections_per_tile=LIMIT)
    with tempfile.TemporaryDirectory() as name:
        path = write_jpeg(Path(name) / "image.tif", SIDE)
        grid = read_grid(path)
        windows = tile_windows(grid.width, grid.height, RULES)
        index = build_tile_index("bench", grid, RULES, np.ones(len(windows)))
        with Raster(path, grid) as raster:
            tiles = np.stack([np.moveaxis(raster.read(tile.window), -1, 0) for tile in index.tiles])
        predictor.predict(tiles[:BATCH])
        detector = _detector(predictor)
        rates = measured_rates(TiledImage(index, path), detector)
        bare, whole = np.array([
            (_wall(lambda: _look(predictor, tiles)), _shard(index, slice(None), path, detector, folder))
            for folder in (Path(name) / str(turn) for turn in range(ROUNDS))
        ]).T / len(index.tiles)  # fmt: skip
        stage = f"inference end to end, CPU, {NETWORK}, 512 px tiles"
        # Of each pair by itself: a machine's speed changes more from round to round than what is asked.
        theirs, times_theirs = float(np.median(bare)), float(np.median(whole / bare))
        ours = theirs * times_theirs
        yield Row(stage, "the bare network on tiles in memory", ours, theirs, "s per tile", 1 / 0.95)
        cost = expected_cost(
            read_header(path), RULES, detector.rules, Imagery(), NETWORK, rates
        ).seconds["InferShard"] - rates.start_s  # fmt: skip
        taken = ours * len(index.tiles)
        off = max(cost, taken) / min(cost, taken)
        yield Row("expected time of inference, off by the factor", "1", off, 1.0, "", 1.25)
    yield from gpu_rows()


def _look(predictor: Predictor, tiles: np.ndarray) -> None:
    for start in range(0, len(tiles), BATCH):
        predictor.predict(tiles[start : start + BATCH])


def _wall(work) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def gpu_rows() -> Iterator[Row]:
    """What only a GPU can tell: the large network on tiles of 1024 px."""
    stage = "inference end to end, GPU, maskrcnn_resnet50_fpn_v2, 1024 px tiles"
    asked = {
        "the bare network, tensors on the GPU": 1 / 0.9,
        "torchvision with its own postprocessing, a plain loop": 1 / 3,
    }
    if not torch.cuda.is_available():
        for peer, target in asked.items():
            yield Row(stage, peer, target=target, skipped="no GPU on this machine; never measured so far")
        return
    torch.manual_seed(0)
    predictor = Predictor(build("maskrcnn_resnet50_fpn_v2", CATEGORIES), "cuda", detections_per_tile=LIMIT)
    rules = TilingRules()
    with tempfile.TemporaryDirectory() as name:
        path = write_jpeg(Path(name) / "image.tif", 8 * SIDE)
        grid = read_grid(path)
        windows = tile_windows(grid.width, grid.height, rules)
        index = build_tile_index("bench", grid, rules, np.ones(len(windows)))
        with Raster(path, grid) as raster:
            tiles = [np.moveaxis(raster.read(tile.window), -1, 0) for tile in index.tiles[: 8 * BATCH]]
        batches = [np.stack(tiles[at : at + BATCH]) for at in range(0, len(tiles), BATCH)]
        predictor.predict(batches[0])
        on_gpu = [torch.from_numpy(batch).cuda() for batch in batches]
        theirs = {
            "the bare network, tensors on the GPU": _wall(lambda: _bare(predictor, on_gpu)) / len(tiles),
            "torchvision with its own postprocessing, a plain loop": _plain_loop(tiles) / len(tiles),
        }
        # Without the seconds in which processes start: a shard of a large image takes minutes.
        few, whole = 8 * BATCH, len(index.tiles)
        detector = _detector(predictor)
        seconds = [_shard(index, slice(end), path, detector, Path(name) / str(end)) for end in (few, whole)]
        ours = (seconds[1] - seconds[0]) / (whole - few)
    for peer, target in asked.items():
        yield Row(stage, peer, ours * 1e3, theirs[peer] * 1e3, "ms per tile", target)


def _shard(index: TileIndex, run: slice, image: Path, detector: Detector, folder: Path) -> float:
    """Wall seconds of inferring a run of tiles."""
    folder.mkdir()
    return _wall(
        lambda: infer_tiles(TiledImage(index, image), run, detector, folder, lambda share, text: None)
    )


def _bare(predictor: Predictor, batches: list[torch.Tensor]) -> None:
    with torch.inference_mode(), torch.autocast("cuda", predictor.dtype):
        for batch in batches:
            predictor._model(list(batch))
    torch.cuda.synchronize()


def _plain_loop(tiles: list[np.ndarray]) -> float:
    """Wall seconds of torchvision's network as it comes, tile by tile, its pasted masks traced by OpenCV."""
    import cv2
    from torchvision.models.detection import maskrcnn_resnet50_fpn_v2

    network = maskrcnn_resnet50_fpn_v2(
        weights=None, weights_backbone=None, num_classes=4, box_detections_per_img=LIMIT
    )
    network.cuda().eval()

    def loop() -> None:
        for tile in tiles:
            with torch.inference_mode():
                (found,) = network([torch.from_numpy(tile).cuda().float() / 255])
            for mask in (found["masks"][:, 0] >= 0.5).byte().cpu().numpy():
                cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)

    network([torch.from_numpy(tiles[0]).cuda().float() / 255])
    return _wall(loop)
