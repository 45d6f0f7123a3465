"""How thresholds are best chosen on little ground: chosen on some painted scenes, judged on all others.

    python -m tests.benchmarks.bench_thresholds WEIGHTS [--scenes 24]

WEIGHTS is a network learnt on painted scenes (after `make demo`: demo/work/networks/*/weights.h5).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import shapely

from models.predict import Predictor
from pipeline.calibration import true_labels
from pipeline.evidence import Evidence, Outcomes, TileSample, outcomes
from pipeline.frames import window_box
from pipeline.inference import InferenceRules
from pipeline.sample import SceneSpec, paint_scene
from pipeline.seams import Detections, merge
from pipeline.temperature import fit_temperature, temper
from pipeline.thresholds import ThresholdRules, choose_cut, evidence_of
from pipeline.tiling import TilingRules, tile_windows
from pipeline.vectorize import VectorizeRules, masks_to_polygons

RULES = ThresholdRules()
TILES = TilingRules(tile_size=512, overlap=128)
BATCH = 5
FIRST_SEED = 100
"""Apart from every seed of the demo."""
MIN_AREA_M2 = 4.0


def best(judged: Outcomes) -> float:
    """The threshold that is best where it is chosen."""
    return choose_cut(judged, ThresholdRules(resamples=0)).threshold.value


def steady(judged: Outcomes) -> float:
    """Ours."""
    return choose_cut(judged, RULES).threshold.value


CHOICES: Mapping[str, Callable[[Outcomes], float]] = {
    "best where chosen": best,
    "nearest to half of it, within doubt": steady,
    "0.5 for all": lambda _: 0.5,
}


def scene(predictor: Predictor, seed: int) -> TileSample:
    """A painted scene through the network and the merger, beside its buildings."""
    spec = SceneSpec(seed=seed)
    painted = paint_scene(spec)
    windows = [window for _, _, window in tile_windows(spec.width, spec.height, TILES)]
    found = []
    for start in range(0, len(windows), BATCH):
        batch = windows[start : start + BATCH]
        images = np.stack(
            [painted.image[w.row_off : w.row_off + w.height, w.col_off : w.col_off + w.width] for w in batch]
        )
        predictions = predictor.predict(np.moveaxis(images, 3, 1))
        for number, (window, prediction) in enumerate(zip(batch, predictions, strict=True), start=start):
            polygons = masks_to_polygons(prediction.masks, prediction.boxes, VectorizeRules())
            drawn = np.array([polygon is not None for polygon in polygons], dtype=bool)
            corner = shapely.get_coordinates(window_box(window)).min(axis=0)
            found.append(
                Detections(
                    shapely.transform(polygons[drawn], lambda xy, corner=corner: xy + corner),
                    prediction.probabilities[drawn].astype(np.float64),
                    np.full(drawn.sum(), number, dtype=np.int64),
                )
            )
    buildings = merge(Detections.concatenate(found), np.array(windows, dtype=np.int64))
    published = shapely.area(buildings.polygons) * spec.metres_per_pixel**2 >= MIN_AREA_M2
    return TileSample(
        buildings.polygons[published],
        buildings.probabilities[published],
        painted.buildings,
        np.array([predictor.categories.index(name) for name in painted.categories]),
        np.empty(0, dtype=object),
    )


def judge(evidence: Evidence, temperature: float, thresholds: np.ndarray) -> tuple[float, float]:
    """Mean F1 and F1 of all buildings at thresholds by category."""
    probabilities = temper(evidence.probabilities, temperature)
    kept = probabilities.max(axis=1) >= thresholds[probabilities.argmax(axis=1)]
    by_category, together = outcomes(evidence._replace(probabilities=probabilities), kept)
    f1 = [2 * one.hits.sum() / (len(one.hits) + one.truths.sum()) for one in [*by_category, together]]
    return float(np.mean(f1[:-1])), float(f1[-1])


def trials(samples: Sequence[TileSample], k: int, number: int) -> Iterator[np.ndarray]:
    """float64[choices, 2] for every `number` scenes that thresholds and temperature are chosen on."""
    alone = [evidence_of([sample], k, RULES) for sample in samples]
    for start in range(0, len(samples) - number + 1, number):
        chosen_on = evidence_of(samples[start : start + number], k, RULES)
        temperature = fit_temperature(chosen_on.probabilities, true_labels(chosen_on))
        tempered = chosen_on._replace(probabilities=temper(chosen_on.probabilities, temperature))
        by_category, _ = outcomes(tempered)
        others = [*alone[:start], *alone[start + number :]]
        yield np.array(
            [
                np.mean(
                    [
                        judge(one, temperature, np.array([choose(mine) for mine in by_category]))
                        for one in others
                    ],
                    axis=0,
                )
                for choose in CHOICES.values()
            ]
        )


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("weights", type=Path)
    parser.add_argument("--scenes", type=int, default=24)
    given = parser.parse_args()
    predictor = Predictor(given.weights, device="cpu", detections_per_tile=InferenceRules.detections_per_tile)
    samples = []
    for seed in range(FIRST_SEED, FIRST_SEED + given.scenes):
        samples.append(scene(predictor, seed))
        print(f"scene {seed}: {len(samples[-1].polygons)} buildings", file=sys.stderr, flush=True)
    print("| chosen on | threshold | mean F1 elsewhere | all | gain in mean F1 | in all |")
    print("|---|---|---|---|---|---|")
    for number in (1, 2, 4, 8):
        scores = np.array(list(trials(samples, len(predictor.categories), number)))
        gains = scores - scores[:, :1]
        spread = 1.96 * gains.std(axis=0, ddof=1) / np.sqrt(len(gains))
        for row, name in enumerate(CHOICES):
            cells = [f"{scores[:, row, column].mean():.4f}" for column in (0, 1)]
            cells += [f"{gains[:, row, column].mean():+.4f} ± {spread[row, column]:.4f}" for column in (0, 1)]
            print(f"| {number} scenes | {name} | {' | '.join(cells if row else [*cells[:2], '', ''])} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
