"""A predictor without a network: each bright region of an image is a completed building."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from models.predict import Prediction
from pipeline.inference import InferenceRules
from pipeline.steps.detections import Detector
from pipeline.vectorize import VectorizeRules

CATEGORIES = ("foundation", "unfinished", "completed")
BRIGHT = 180


class BrightRoofs:
    """Like a network, it needs an edge in sight: what fills the image to the brim is no building to it."""

    name, digest, categories, device = "bright_roofs", "0" * 64, CATEGORIES, torch.device("cpu")

    def predict(self, images: np.ndarray) -> list[Prediction]:
        return [self._look(image.min(axis=0) > BRIGHT) for image in images]

    def _look(self, bright: np.ndarray) -> Prediction:
        regions, _ = ndimage.label(bright)
        boxes, masks = np.empty((0, 4)), np.empty((0, 28, 28))
        for number, (rows, columns) in enumerate(ndimage.find_objects(regions), start=1):
            region = regions[rows, columns] == number
            if region.sum() < 0.98 * bright.size:
                y, x = ((np.arange(28) + 0.5)[None] / 28 * np.array(region.shape)[:, None]).astype(int)
                boxes = np.vstack([boxes, [columns.start, rows.start, columns.stop, rows.stop]])
                masks = np.concatenate([masks, region[None, y][:, :, x].astype(float)])
        probabilities = np.tile([0.02, 0.08, 0.9], (len(boxes), 1))
        return Prediction(boxes, probabilities.max(axis=1, initial=0), probabilities, masks)


def bright_detector(**rules) -> Detector:
    rules = {"workers": 0, **rules}
    detector = Detector(Path("none.h5"), CATEGORIES, InferenceRules(**rules), VectorizeRules())
    detector.predictor = BrightRoofs()
    return detector
