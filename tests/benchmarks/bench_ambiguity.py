"""What tells that an outline is off: the mask's ambiguity, beside the score and the entropy.

python -m tests.benchmarks.bench_ambiguity DETECTIONS IMAGE LABELS [--edge-px 4]

DETECTIONS is the folder that InferShard has filled for the image, LABELS a label file that is right. Of every
detection that finds a building (IoU above .3) and does not touch its tile's edge, the rank correlation of
each measure with the error of the outline, 1 - IoU; the last line is that of the ambiguity when what score
and size tell has been taken out of both (partial correlation of ranks).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import geopandas
import numpy as np
import shapely
from scipy.stats import rankdata, spearmanr

from pipeline.errors import ArtifactError
from pipeline.frames import crs_to_px
from pipeline.matching import valid_polygons
from pipeline.raster import read_grid
from pipeline.review.uncertainty import differences, entropies
from pipeline.steps.detection_rows import outlines_px, read_detections

FOUND_IOU = 0.3


def measured(detections: Path, image: Path, labels: Path, edge_px: float) -> dict[str, np.ndarray]:
    """By measure, float64[n] of the detections that find a building; `error` among them."""
    grid = read_grid(image)
    frame = geopandas.read_file(labels).to_crs(grid.crs)
    truth = valid_polygons(crs_to_px(frame.geometry.values, grid.transform))
    columns: dict[str, list[np.ndarray]] = {}
    for path in sorted(detections.glob("r*.json")):
        content = read_detections(path)
        if not content.detections:
            continue
        outlines = valid_polygons(outlines_px(content))
        window = shapely.box(*content.window[:2], *np.add(content.window[:2], content.window[2:]))
        scores = np.array([one.scores for one in content.detections])
        ambiguities = np.array([one.ambiguity for one in content.detections], dtype=np.float64)
        error = differences(outlines, truth, FOUND_IOU)
        kept = (error < 1) & shapely.covers(window.buffer(-edge_px), outlines) & ~np.isnan(ambiguities)
        told = {
            "error": error,
            "ambiguity": ambiguities,
            "1 - score": 1 - scores.max(axis=1),
            "entropy": entropies(scores),
            "smallness": -shapely.area(outlines),
        }
        for name, values in told.items():
            columns.setdefault(name, []).append(values[kept])
    if not columns:
        raise ArtifactError("no detections of tiles", where=detections)
    return {name: np.concatenate(parts) for name, parts in columns.items()}


def table(found: dict[str, np.ndarray]) -> str:
    """A line per measure."""
    error = found["error"]
    lines = [f"{len(error)} detections; rank correlation with the outline's error"]
    for name in ("ambiguity", "entropy", "1 - score", "smallness"):
        lines.append(f"{name:<36}{spearmanr(found[name], error).statistic:>6.2f}")
    known = np.column_stack([np.ones(len(error)), rankdata(found["1 - score"]), rankdata(found["smallness"])])
    rest = [
        ranks - known @ np.linalg.lstsq(known, ranks, rcond=None)[0]
        for ranks in (rankdata(found["ambiguity"]), rankdata(error))
    ]
    lines.append(f"{'ambiguity, given score and size':<36}{np.corrcoef(*rest)[0, 1]:>6.2f}")
    return "\n".join(lines)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("detections", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--edge-px", type=float, default=4.0)
    given = parser.parse_args()
    print(table(measured(given.detections, given.image, given.labels, given.edge_px)))


if __name__ == "__main__":
    main()
