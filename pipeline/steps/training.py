"""TrainMaskRCNN: from training pairs to a network."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from models.recipe import Recipe
from models.tiles import TrainingTile, read_image
from pipeline.errors import ArtifactError
from pipeline.evidence import TileSample
from pipeline.held_out import item_polygon
from pipeline.schema import Item, PairIndex, TileItems, Versioned, Window
from pipeline.settings import Training
from pipeline.split import split_pairs
from pipeline.steps import Progress
from pipeline.thresholds import ThresholdRules, choose_thresholds, evidence_of, expected_scores
from pipeline.vectorize import masks_to_polygons

if TYPE_CHECKING:
    from models.predict import Predictor

FoundPair = tuple[Path, str]
"""Folder of CutTiles and tile id."""
Kind = TypeVar("Kind", bound=Versioned)


def train_network(
    folders: Sequence[Path],
    categories: tuple[str, ...],
    training: Training,
    held_out_images: Sequence[str],
    target: Path,
    progress: Progress,
) -> dict[str, int]:
    """Writes weights.h5 and history.json; goes on where a killed training stopped, until `end_training`.

    Args:
        folders: of CutTiles, one per training image.
        categories: names in the order of the labels.
        training: the settings.
        held_out_images: images held out whole; none for a part of each.
        target: existing folder of this network.
        progress: told after every few steps.

    Returns:
        Number of tiles learnt from and of tiles held out.
    """
    from models.train import train

    recipe = training.rules(Recipe)
    learnt, held_out = read_sides(folders, held_out_images, training.validation_share)
    learn, check = (
        [
            TrainingTile(folder / "tiles" / f"{tile}.tif", folder / "items" / f"{tile}.json", weight)
            for (folder, tile), weight in zip(side, _weights(side, training.reviewed_weight), strict=True)
        ]
        for side in (learnt, held_out)
    )
    score = _scorer(held_out, categories, recipe) if held_out else None
    train(learn, check, categories, recipe, target, score, progress, keep_checkpoint=True)
    return {"training_tiles": len(learnt), "validation_tiles": len(held_out)}


def end_training(target: Path) -> None:
    """Removes what a training goes on from, once all that it made is recorded."""
    from models.run import forget

    forget(target)


def read_sides(
    folders: Sequence[Path], held_out_images: Sequence[str], share: float
) -> tuple[list[FoundPair], list[FoundPair]]:
    """Pairs to learn from and pairs held out, which have no pixel and no building in common.

    Args:
        folders: of CutTiles, one per training image.
        held_out_images: images held out whole; none for a part of each.
        share: that part, 0 to 1.

    Raises:
        SettingsError: an image to hold out is not among the training images, or all are held out.
        ArtifactError: an index is damaged.
    """
    images = [_read(PairIndex, folder / "pairs.json") for folder in folders]
    learnt, held_out = list[FoundPair](), list[FoundPair]()
    for folder, image, sides in zip(
        folders, images, split_pairs(images, held_out_images, share), strict=True
    ):
        learnt += [(folder, image.pairs[index].tile_id) for index in sides.learnt]
        held_out += [(folder, image.pairs[index].tile_id) for index in sides.held_out]
    return learnt, held_out


def pairs_on(folders: Sequence[Path], ground: Mapping[str, Collection[Window]]) -> list[FoundPair]:
    """Pairs whose tile is one of these windows, given by image; of folders of CutTiles."""
    found = list[FoundPair]()
    for folder in folders:
        image = _read(PairIndex, folder / "pairs.json")
        windows = set(ground.get(image.image_id, ()))
        found += [(folder, pair.tile_id) for pair in image.pairs if pair.window in windows]
    return found


def held_out_ground(
    folders: Sequence[Path], held_out_images: Sequence[str], share: float
) -> dict[str, list[Window]]:
    """By image, the windows of the tiles that `read_sides` holds out, and ground that was so before."""
    held_out = set(read_sides(folders, held_out_images, share)[1])
    ground: dict[str, list[Window]] = {}
    for folder in folders:
        image = _read(PairIndex, folder / "pairs.json")
        windows = {pair.window for pair in image.pairs if (folder, pair.tile_id) in held_out}
        ground[image.image_id] = sorted(windows | set(image.held_out or ()))
    return ground


def _weights(pairs: Sequence[FoundPair], reviewed_weight: float) -> list[float]:
    """How often each tile is to be shown: more where people have looked at it, by how much of it."""
    indexes = {folder: _read(PairIndex, folder / "pairs.json") for folder in dict(pairs)}
    shares = {
        (folder, pair.tile_id): pair.reviewed_share
        for folder, index in indexes.items()
        for pair in index.pairs
    }
    return [1.0 + (reviewed_weight - 1.0) * shares[pair] for pair in pairs]


def tile_samples(predictor: Predictor, pairs: Sequence[FoundPair], recipe: Recipe) -> Iterator[TileSample]:
    """What the network finds in each tile beside what is there, in tile pixels."""
    categories = predictor.categories
    for folder, tile in pairs:
        (prediction,) = predictor.predict(read_image(folder / "tiles" / f"{tile}.tif")[None])
        polygons = masks_to_polygons(prediction.masks, prediction.boxes)
        drawn = np.array([polygon is not None for polygon in polygons], dtype=bool)
        truths, known, ignored = _truth(read_tile_items(folder, tile).items, categories, recipe)
        yield TileSample(polygons[drawn], prediction.probabilities[drawn], truths, known, ignored)


def read_tile_items(folder: Path, tile: str) -> TileItems:
    """The items of one tile.

    Raises:
        ArtifactError: the file is missing, damaged, or of another version.
    """
    return _read(TileItems, folder / "items" / f"{tile}.json")


def _read(kind: type[Kind], path: Path) -> Kind:
    try:
        return kind.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ArtifactError(
            "training pairs that cannot be read",
            where=path,
            found=str(error).splitlines()[0],
            remedy="Delete their folder and run again.",
        ) from error


def _truth(
    items: Sequence[Item], categories: Sequence[str], recipe: Recipe
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Buildings that should be found, their categories (-1 where unknown), and those too little visible."""
    polygons = np.empty(len(items), dtype=object)
    polygons[:] = [item_polygon(item) for item in items]
    asked = np.array([item.visible_share >= recipe.min_visible_share for item in items], dtype=bool)
    known = [-1 if item.category is None else categories.index(item.category) for item in items]
    return polygons[asked], np.array(known, dtype=np.int64)[asked], polygons[~asked]


def _scorer(
    pairs: Sequence[FoundPair], categories: Sequence[str], recipe: Recipe
) -> Callable[[Predictor], dict[str, float]]:
    """A function that scores a network on the held-out tiles at the thresholds that suit it best.

    Each tile counts as an image of its own; `score` is the mean of mean F1 and F1 of all buildings,
    so that a network that finds buildings is preferred before it can tell their conditions apart.
    Detections of items that nobody is asked to find count neither way.
    """
    rules = ThresholdRules(resamples=0)

    def score(predictor: Predictor) -> dict[str, float]:
        samples = list(tile_samples(predictor, pairs, recipe))
        limits = np.array(list(choose_thresholds(samples, categories, rules).values()))
        evidence = evidence_of(samples, len(categories), rules)
        mean_f1, all_f1 = (estimate.value for estimate in expected_scores(evidence, limits, rules))
        return {"score": (mean_f1 + all_f1) / 2, "mean_f1": mean_f1, "all_f1": all_f1}

    return score
