"""Images → boxes, masks and the probability of every category."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from models.allocation import keep_freed_memory
from models.compiling import CompiledBackbone
from models.device import choose_device, choose_dtype
from models.errors import PredictionError
from models.maskrcnn import MaskRCNN
from models.memory import free_mib, tiles_that_fit
from models.recipe import Precision
from models.weights import build_from_weights, weights_digest

logger = logging.getLogger(__name__)


class Prediction(NamedTuple):
    """What was found in one image; numpy, on the CPU, by falling probability of being any category."""

    boxes: np.ndarray
    """float32[d,4], x1 y1 x2 y2, tile px."""
    scores: np.ndarray
    """float32[d], the largest of a detection's probabilities, 0 to 1."""
    probabilities: np.ndarray
    """float32[d,k], by category; a row's rest to 1 is the probability of background."""
    masks: np.ndarray
    """float32[d,28,28], probability inside the box of belonging to an item of the best category;
    cell (row, column) is centred at x1 + (column + 0.5) / 28 * (x2 - x1), y alike."""


class Predictor:
    """A network ready to predict, loaded once.

    Args:
        weights: a weights file, or a network in memory (whose `digest` is then empty).
        device: `cpu`, `cuda`, `cuda:<n>`, or `auto`: a GPU where there is one.
        precision: `float32`, `bfloat16`, `float16`, or `auto`, see `models.device.choose_dtype`.
        score_threshold: score up to which a detection is dropped, 0 to 1.
        nms_iou: IoU of two boxes above which the less probable one is dropped, whatever their
            categories, 0 to 1.
        detections_per_tile: most detections kept of one image.
        channels_last: whether images lie in memory pixel by pixel.
        proposals_per_tile: most proposals that the heads look at in one image, 0 for the network's own.
        compile: whether the backbone is compiled at the first batch, see `models.compiling`; the rest of
            the network, whose shapes change, stays as it is.

    Raises:
        WeightsError: the file is not weights of a known network.
        DeviceError: there is no such device or precision, or no compiler.
    """

    def __init__(
        self,
        weights: Path | MaskRCNN,
        device: str = "auto",
        precision: Precision = "auto",
        *,
        score_threshold: float = 0.05,
        nms_iou: float = 0.5,
        detections_per_tile: int = 100,
        channels_last: bool = True,
        proposals_per_tile: int = 0,
        compile: bool = False,
    ):
        self.device = choose_device(device)
        self.dtype = choose_dtype(precision, self.device)
        if self.device.type == "cpu":
            keep_freed_memory()
        if isinstance(weights, torch.nn.Module):
            self._model, self.digest = weights, ""
        else:
            self._model, self.digest = build_from_weights(weights), weights_digest(weights)
        self.name, self.categories = self._model.network, self._model.categories
        self._model.to(
            self.device, memory_format=torch.channels_last if channels_last else torch.preserve_format
        )
        heads = self._model.roi_heads
        heads.score_thresh, heads.nms_thresh = score_threshold, nms_iou
        heads.detections_per_img = detections_per_tile
        if proposals_per_tile:
            limits = self._model.rpn._pre_nms_top_n, self._model.rpn._post_nms_top_n
            for limit in limits:
                limit["testing"] = min(proposals_per_tile, limit["testing"])
        self._compiled = CompiledBackbone(self._model.backbone, self.device) if compile else None
        if self._compiled is not None:
            self._model.backbone = self._compiled
        self._batch_limit: int | None = None
        self._memory_asked = False

    def predict(self, images: np.ndarray) -> list[Prediction]:
        """Return what is found in each of uint8[n,3,h,w] images of one size.

        Where memory does not suffice for all at once they are taken in halves, and that size is kept.

        Raises:
            PredictionError: the images are of another type or shape, or one alone exceeds memory.
        """
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise PredictionError("images must be uint8[n,3,h,w]", found=(str(images.dtype), images.shape))
        self._fit_memory(images.shape)
        predictions: list[Prediction] = []
        while len(predictions) < len(images):
            batch = images[len(predictions) :][: self._batch_limit]
            try:
                predictions += self._predict_batch(batch)
                continue
            except torch.OutOfMemoryError as error:
                if len(batch) == 1:
                    raise PredictionError(
                        "one image alone exceeds the memory",
                        where=self.device,
                        found=images.shape[2:],
                        remedy="Use smaller tiles, another device, or free its memory",
                    ) from error
                self._batch_limit = (len(batch) + 1) // 2
                logger.warning(
                    "out of memory with %d images, going on with %d", len(batch), self._batch_limit
                )
            if self._compiled is not None:
                self._compiled.forget_batches()
            # Only here is the error gone, and with it the tensors that its traceback held.
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        return predictions

    def _fit_memory(self, shape: tuple[int, ...]) -> None:
        """Looks once whether so many images fit: a CPU out of memory ends the process, without a word."""
        if self._memory_asked or not shape[0]:
            return
        self._memory_asked = True
        free = free_mib(self.device)
        room = None if free is None else tiles_that_fit(self.name, shape[2] * shape[3], free)
        if room is not None and room < shape[0]:
            self._batch_limit = room
            logger.warning("%.0f MiB are free: %d images at a time, not %d", free, room, shape[0])

    @torch.inference_mode()
    def embed(self, images: np.ndarray) -> np.ndarray:
        """Return what the backbone says of each of uint8[n,3,h,w] images, float32[n,d].

        The mean over the image of every map of the pyramid: images of alike ground lie near each other.
        """
        self._model.eval()
        tensors = [image.to(self.device) for image in torch.from_numpy(np.ascontiguousarray(images))]
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            maps = self._model.backbone(self._model.transform(tensors)[0].tensors)
        means = [level.float().mean(dim=(2, 3)) for level in maps.values()]
        return torch.cat(means, dim=1).cpu().numpy()

    @torch.inference_mode()
    def _predict_batch(self, batch: np.ndarray) -> list[Prediction]:
        images = torch.from_numpy(np.ascontiguousarray(batch))
        images = images.to(self.device, non_blocking=images.is_pinned())
        self._model.eval()
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            results = self._model(list(images))
        # One transfer for each kind of array, not for each tile: every one makes a GPU wait.
        counts = np.cumsum([len(result["scores"]) for result in results])[:-1]
        arrays = [
            np.split(torch.cat([result[name] for result in results]).float().cpu().numpy(), counts)
            for name in ("boxes", "scores", "probabilities", "masks")
        ]
        return [
            Prediction(boxes, scores, probabilities, masks[:, 0])
            for boxes, scores, probabilities, masks in zip(*arrays, strict=True)
        ]
