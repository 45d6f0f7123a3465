"""The challenge's metric a second time, as plainly as it can be said: a yardstick for the pipeline's own.

It imports nothing of the pipeline and trades speed for being read at a glance::

    python tests/independent_metric.py result.csv labels.geojson
"""

from __future__ import annotations

import csv
import json
import sys

import shapely
import shapely.geometry

CONDITIONS = {"Foundation": "foundation", "Incomplete": "unfinished", "Complete": "completed"}


def read_proposals(path: str) -> list[tuple[str, float, object]]:
    """Rows of a submission as (class, confidence, polygon)."""
    csv.field_size_limit(2**31 - 1)
    proposals = []
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            best, confidence = None, -1.0
            for name in CONDITIONS.values():
                if float(row["conf_" + name]) > confidence:
                    best, confidence = name, float(row["conf_" + name])
            proposals.append((best, confidence, shapely.from_wkt(row["coords_geo"])))
    return proposals


def read_truths(path: str) -> list[tuple[str | None, object]]:
    """Labels as (class or None, polygon)."""
    with open(path, encoding="utf-8") as file:
        features = json.load(file)["features"]
    return [
        (CONDITIONS.get(feature["properties"]["condition"]), shapely.geometry.shape(feature["geometry"]))
        for feature in features
        if feature["geometry"] is not None
    ]


def count(proposals: list, truths: list) -> dict:
    """Outcomes of one walk over proposals and truths of one class, or of all."""
    free = list(truths)
    hits = false_alarms = 0
    for _, _, polygon in sorted(proposals, key=lambda proposal: -proposal[1]):
        if not polygon.is_valid:
            polygon = polygon.buffer(0)
        best, best_iou = None, 0.0
        for number, (_, truth) in enumerate(free):
            if not truth.is_valid or not polygon.intersects(truth):
                continue
            shared = polygon.intersection(truth).area
            iou = shared / (polygon.area + truth.area - shared)
            if iou > best_iou:
                best, best_iou = number, iou
        if best is not None and best_iou > 0.5:
            hits += 1
            del free[best]
        else:
            false_alarms += 1
    precision = hits / (hits + false_alarms) if hits + false_alarms else 0.0
    recall = hits / (hits + len(free)) if hits + len(free) else 0.0
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return {
        "true_positives": hits,
        "false_positives": false_alarms,
        "false_negatives": len(free),
        "precision": precision,
        "recall": recall,
        "f1": f1,
    }


def score(csv_path: str, labels_path: str) -> dict:
    """The metric of one image as a JSON object."""
    proposals, truths = read_proposals(csv_path), read_truths(labels_path)
    categories = {
        name: count([p for p in proposals if p[0] == name], [t for t in truths if t[0] == name])
        for name in CONDITIONS.values()
    }
    together = count(proposals, truths)
    return {
        "mean_f1": sum(counts["f1"] for counts in categories.values()) / len(categories),
        "all_f1": together["f1"],
        "categories": categories,
        "all_buildings": together,
    }


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python tests/independent_metric.py RESULT.csv LABELS.geojson")
    json.dump(score(sys.argv[1], sys.argv[2]), sys.stdout, indent=2)
    sys.stdout.write("\n")
