"""What choosing tiles by doubt is worth: rounds of review with a scripted reviewer, beside tiles by chance.

python -m tests.benchmarks.bench_review [--regions 24] [--repetitions 4]

Painted villages are cut into tiles. In every round a learner names candidates (the buildings, and as many
places without one) as foundation, unfinished, completed or nothing; tiles are chosen by `choose_for_review`,
by doubt or by chance alone; a scripted reviewer tells the truth about them; the learner begins anew with all
that was told so far. The metric is the challenge's, on villages that are never chosen from. The learner is a
small perceptron on colours and textures, not Mask R-CNN, so that dozens of repetitions take minutes: the
figures say what the choice is worth, not how good a network is.

A region is a set of villages of its own. Repetitions in one region share its villages, and tell little of
the next: means are taken by region, and the spread and the interval (Student's t) are those of the regions.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

import numpy as np
import scipy.stats
import shapely
import torch
from rasterio.features import geometry_mask
from rasterio.transform import Affine

from pipeline.evaluate import pool, score_image
from pipeline.review.rules import ReviewRules
from pipeline.review.selection import Candidate, choose_for_review
from pipeline.review.uncertainty import TileFindings, tile_uncertainties
from pipeline.sample import SceneSpec, paint_scene
from pipeline.schema import Window

CATEGORIES = ("foundation", "unfinished", "completed")
NOTHING = len(CATEGORIES)
SIDE, TILE, METRES_PER_PIXEL = 512, 128, 0.15
POOL, HELD_OUT = 6, 6
"""Villages of a region that tiles are chosen from, and that are held out."""
ROUNDS, FIRST, BUDGET = 3, 4, 4
RANDOM_SHARE = 0.25
REGIONS, REPETITIONS = 5, 4


class Tile(NamedTuple):
    """Candidates whose centre lies in a tile."""

    scene: int
    window: Window
    polygons: np.ndarray
    """object[n], image pixels."""
    features: np.ndarray
    """float64[n, d]."""
    truth: np.ndarray
    """int64[n], category by index, or `NOTHING`."""


def tiles_of(seed: int) -> list[Tile]:
    """The tiles of a painted village that hold a candidate."""
    scene = paint_scene(
        SceneSpec(width=SIDE, height=SIDE, seed=seed, collar=0, metres_per_pixel=METRES_PER_PIXEL)
    )
    nowhere = _places_without(scene.buildings, np.random.default_rng(seed))
    polygons = np.concatenate([scene.buildings, nowhere])
    known = [CATEGORIES.index(name) for name in scene.categories] + [NOTHING] * len(nowhere)
    truth = np.array(known, dtype=np.int64)
    features = np.array([_look(scene.image, polygon) for polygon in polygons])
    centres = shapely.get_coordinates(shapely.centroid(polygons))
    cells = np.clip(centres // TILE, 0, SIDE // TILE - 1).astype(int)
    found = []
    for row in range(SIDE // TILE):
        for column in range(SIDE // TILE):
            mine = np.flatnonzero((cells == (column, row)).all(axis=1))
            window = Window(TILE * column, TILE * row, TILE, TILE)
            if len(mine):
                found.append(Tile(seed, window, polygons[mine], features[mine], truth[mine]))
    return found


def _places_without(buildings: np.ndarray, chance: np.random.Generator) -> np.ndarray:
    """As many rectangles of the buildings' sizes that touch none of them."""
    tree, places = shapely.STRtree(buildings), []
    for building in np.tile(buildings, 20):
        left, top, right, bottom = building.bounds
        x, y = chance.uniform(0, SIDE - (right - left)), chance.uniform(0, SIDE - (bottom - top))
        place = shapely.box(x, y, x + right - left, y + bottom - top)
        if len(places) < len(buildings) and not len(tree.query(place, predicate="intersects")):
            places.append(place)
    return np.array(places, dtype=object)


def _look(image: np.ndarray, polygon: shapely.Polygon) -> np.ndarray:
    """Colours inside and around, textures, size and shape."""
    left, top, right, bottom = polygon.buffer(6).bounds
    x, y = max(0, int(left)), max(0, int(top))
    part = image[y : int(bottom) + 1, x : int(right) + 1].astype(float) / 255
    inside = ~geometry_mask([polygon], part.shape[:2], Affine.translation(x, y), all_touched=True)
    pixels, around = part[inside], part[~inside]
    edges = (
        np.abs(np.diff(part.mean(axis=2), axis=0)).mean() + np.abs(np.diff(part.mean(axis=2), axis=1)).mean()
    )
    compactness = 4 * np.pi * polygon.area / polygon.length**2
    return np.concatenate(
        [
            pixels.mean(axis=0),
            pixels.std(axis=0),
            around.mean(axis=0),
            [edges, np.log(polygon.area), compactness],
        ]
    )


class Learner:
    """A perceptron with one hidden layer, learnt from nothing on what was told.

    Args:
        features: float64[n, d].
        truth: int64[n].
        seed: of its first weights.
    """

    def __init__(self, features: np.ndarray, truth: np.ndarray, seed: int):
        self._centre, self._spread = features.mean(axis=0), features.std(axis=0) + 1e-6
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._net = torch.nn.Sequential(
                torch.nn.Linear(features.shape[1], 24), torch.nn.Tanh(), torch.nn.Linear(24, NOTHING + 1)
            )
        optimizer = torch.optim.AdamW(self._net.parameters(), lr=0.02, weight_decay=0.05)
        given, wanted = self._tensor(features), torch.from_numpy(truth)
        for _ in range(200):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(self._net(given), wanted).backward()
            optimizer.step()

    def _tensor(self, features: np.ndarray) -> torch.Tensor:
        return torch.from_numpy((features - self._centre) / self._spread).float()

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """float64[n, 4], of each category and of nothing."""
        with torch.inference_mode():
            return torch.softmax(self._net(self._tensor(features)), dim=1).numpy().astype(np.float64)


def scores(learner: Learner, tiles: list[Tile]) -> tuple[float, float]:
    """Mean F1 and F1 of all buildings, by the challenge's scorer."""
    judged = []
    for tile in tiles:
        probabilities = learner.probabilities(tile.features)
        kept, there = probabilities.argmax(axis=1) != NOTHING, tile.truth != NOTHING
        polygons, truths = tile.polygons[kept], tile.polygons[there]
        found = score_image(polygons, probabilities[kept, :NOTHING], truths, tile.truth[there], CATEGORIES)
        judged.append(found)
    pooled = pool(judged)
    return pooled.mean_f1, pooled.all_f1


def rounds(
    tiles: list[Tile], held_out: list[Tile], seed: int, by_doubt: bool
) -> Iterator[tuple[float, float]]:
    """The metric after the first tiles, and after each round."""
    told = np.random.default_rng(seed).permutation(len(tiles))[:FIRST].tolist()
    for number in range(1, ROUNDS + 2):
        features = np.concatenate([tiles[place].features for place in told])
        learner = Learner(features, np.concatenate([tiles[place].truth for place in told]), seed)
        yield scores(learner, held_out)
        told += _choose(learner, tiles, told, 100 * seed + number, by_doubt)


def _choose(learner: Learner, tiles: list[Tile], told: list[int], seed: int, by_doubt: bool) -> list[int]:
    left = [place for place in range(len(tiles)) if place not in told]
    findings = [
        TileFindings(
            tiles[place].window,
            tiles[place].polygons,
            learner.probabilities(tiles[place].features)[:, :NOTHING],
        )
        for place in left
    ]
    # Tiles of different villages are no neighbours: each is told apart from the others.
    doubts = [float(tile_uncertainties([found])[0]) for found in findings]
    candidates = [
        Candidate(str(tiles[place].scene), tiles[place].window, doubt)
        for place, doubt in zip(left, doubts, strict=True)
    ]
    embeddings = np.array([tiles[place].features.mean(axis=0) for place in left])
    rules = ReviewRules(budget=BUDGET, random_share=RANDOM_SHARE if by_doubt else 1.0, diversity=4)
    chosen = choose_for_review(candidates, rules, seed, lambda places: embeddings[list(places)])
    return [left[one.place] for one in chosen]


def simulate(regions: int = REGIONS, repetitions: int = REPETITIONS) -> dict[str, np.ndarray]:
    """Mean F1 and F1 of all buildings by how tiles are chosen: float64[regions, rounds + 1, 2]."""
    found: dict[str, list[np.ndarray]] = {"doubt": [], "chance": []}
    for region in range(1, regions + 1):
        villages = [tiles_of(100 * region + number) for number in range(POOL + HELD_OUT)]
        tiles, held_out = (list(chain.from_iterable(side)) for side in (villages[:POOL], villages[POOL:]))
        for name, values in found.items():
            seeds = range(100 * region, 100 * region + repetitions)
            runs = [list(rounds(tiles, held_out, seed, name == "doubt")) for seed in seeds]
            values.append(np.mean(runs, axis=0))
    return {name: np.array(values) for name, values in found.items()}


def table(found: dict[str, np.ndarray]) -> str:
    """Mean and standard deviation over the regions by round, and what doubt gains."""
    lines = [f"{'tiles':<8}{'chosen by':<12}{'mean F1':>16}{'all F1':>16}"]
    for number in range(ROUNDS + 1):
        for name, values in found.items():
            told = FIRST + BUDGET * number
            columns = [
                f"{values[:, number, column].mean():.3f} ± {values[:, number, column].std(ddof=1):.3f}"
                for column in range(2)
            ]
            lines.append(f"{told:<8}{name:<12}{columns[0]:>16}{columns[1]:>16}")
    gains = found["doubt"] - found["chance"]
    wide = scipy.stats.t.ppf(0.975, len(gains) - 1) / np.sqrt(len(gains))
    mean, sure = gains.mean(axis=0), wide * gains.std(axis=0, ddof=1)
    for number in range(1, ROUNDS + 1):
        told = ", ".join(
            f"{name} {mean[number, column]:+.3f} ± {sure[number, column]:.3f}"
            for column, name in enumerate(("mean F1", "all F1"))
        )
        lines.append(f"gained by doubt after {number} rounds, with 95 % interval: {told}")
    return "\n".join(lines)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--regions", type=int, default=24)
    parser.add_argument("--repetitions", type=int, default=4)
    asked = parser.parse_args()
    print(table(simulate(asked.regions, asked.repetitions)))


if __name__ == "__main__":
    main()
