"""TrainMaskRCNN: from training pairs to a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import orjson
import rasterio

from models.recipe import Recipe
from pipeline.errors import ArtifactError, SettingsError
from pipeline.evaluate import pool, score_image
from pipeline.evidence import TileSample
from pipeline.held_out import item_polygon
from pipeline.schema import TileItems
from pipeline.settings import Training
from pipeline.steps import Progress
from pipeline.thresholds import choose_thresholds
from pipeline.tiling import split_by_area
from pipeline.vectorize import masks_to_polygons

if TYPE_CHECKING:
    from models.predict import Predictor

Pair = tuple[Path, str]
"""Folder of CutTiles and tile id."""


def train_network(
    folders: Sequence[Path],
    categories: tuple[str, ...],
    training: Training,
    target: Path,
    progress: Progress,
) -> dict[str, int]:
    """Writes weights.h5 and history.json; goes on where a killed training stopped.

    Args:
        folders: of CutTiles, one per training image.
        categories: names in the order of the labels.
        training: the settings.
        target: existing folder of this network.
        progress: told after every few steps.

    Returns:
        Number of tiles learnt from and of tiles held out.
    """
    from models.tiles import TrainingTile
    from models.train import train

    recipe = training.rules(Recipe)
    learnt, held_out = split_pairs(folders, training.validation_images, training.validation_share)
    learn, check = (
        [
            TrainingTile(folder / "tiles" / f"{tile}.tif", folder / "items" / f"{tile}.json")
            for folder, tile in side
        ]
        for side in (learnt, held_out)
    )
    score = _scorer(held_out, categories, recipe) if held_out else None
    train(learn, check, categories, recipe, target, score, progress)
    return {"training_tiles": len(learnt), "validation_tiles": len(held_out)}


def split_pairs(
    folders: Sequence[Path], held_out_images: Sequence[str], share: float
) -> tuple[list[Pair], list[Pair]]:
    """Pairs to learn from and pairs held out, which have no pixel in common.

    Held out are the images named, or where none is named a strip of every image.

    Raises:
        SettingsError: an image to hold out is not among the training images, or all are held out.
    """
    sides: tuple[list[Pair], list[Pair]] = ([], [])
    missing = set(held_out_images)
    for folder in folders:
        content = orjson.loads((folder / "pairs.json").read_bytes())
        names, windows = list(content["windows"]), list(content["windows"].values())
        everything, nothing = np.arange(len(names)), np.arange(0)
        if not held_out_images:
            indices = split_by_area(np.array(windows, dtype=np.int64).reshape(-1, 4), share)
        elif content["image_id"] in held_out_images:
            indices = (nothing, everything)
        else:
            indices = (everything, nothing)
        missing.discard(content["image_id"])
        for side, chosen in zip(sides, indices, strict=True):
            side.extend((folder, names[index]) for index in chosen)
    if missing or not sides[0]:
        raise SettingsError(
            "held out are images that are not learnt from" if missing else "nothing is left to learn from",
            where="[Training] validation_images",
            found=sorted(missing or held_out_images),
            remedy="Name some, but not all, of the training images.",
        )
    return sides


def tile_samples(predictor: Predictor, pairs: Sequence[Pair], recipe: Recipe) -> Iterator[TileSample]:
    """What the network finds in each tile beside what is there, in tile pixels."""
    categories = predictor.categories
    for folder, tile in pairs:
        with rasterio.open(folder / "tiles" / f"{tile}.tif") as src:
            (prediction,) = predictor.predict(src.read()[None])
        polygons = masks_to_polygons(prediction.masks, prediction.boxes)
        drawn = np.array([polygon is not None for polygon in polygons], dtype=bool)
        truths, known, ignored = _truth(folder / "items" / f"{tile}.json", categories, recipe)
        yield TileSample(polygons[drawn], prediction.probabilities[drawn], truths, known, ignored)


def read_tile_items(path: Path) -> TileItems:
    """The items of one tile.

    Raises:
        ArtifactError: the file is missing, damaged, or of another version.
    """
    try:
        return TileItems.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ArtifactError(
            "not the items of a tile", where=path, remedy="Delete its folder and run again."
        ) from error


def _truth(
    path: Path, categories: Sequence[str], recipe: Recipe
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Buildings that should be found, their categories, and items nobody is asked to find."""
    content = read_tile_items(path)
    polygons = np.empty(len(content.items), dtype=object)
    polygons[:] = [item_polygon(item) for item in content.items]
    asked = np.array(
        [
            item.category is not None and item.visible_share >= recipe.min_visible_share
            for item in content.items
        ],
        dtype=bool,
    )
    known = [categories.index(item.category) for item in content.items if item.category is not None]
    indices = np.full(len(content.items), -1, dtype=np.int64)
    indices[[item.category is not None for item in content.items]] = known
    return polygons[asked], indices[asked], polygons[~asked]


def _scorer(
    pairs: Sequence[Pair], categories: Sequence[str], recipe: Recipe
) -> Callable[[Predictor], dict[str, float]]:
    """A function that scores a network on the held-out tiles at the thresholds that suit it best.

    Each tile counts as an image of its own; `score` is the mean of mean F1 and F1 of all buildings,
    so that a network that finds buildings is preferred before it can tell their conditions apart.
    """

    def score(predictor: Predictor) -> dict[str, float]:
        samples = list(tile_samples(predictor, pairs, recipe))
        thresholds = choose_thresholds(samples, categories)
        limits = np.array([thresholds[name] for name in categories])
        scores = []
        for sample in samples:
            best = sample.probabilities.argmax(axis=1)
            kept = sample.probabilities.max(axis=1, initial=0.0) >= limits[best]
            scores.append(
                score_image(
                    sample.polygons[kept],
                    sample.probabilities[kept],
                    sample.truth_polygons,
                    sample.truth_categories,
                    categories,
                )
            )
        pooled = pool(scores).pooled
        return {
            "score": (pooled.mean_f1 + pooled.all_f1) / 2,
            "mean_f1": pooled.mean_f1,
            "all_f1": pooled.all_f1,
        }

    return score
