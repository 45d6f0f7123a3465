"""The challenge's metric a second time, as plainly as it can be said: a yardstick for the pipeline's own.

It imports nothing of the pipeline and trades speed for being read at a glance::

    python tests/independent_metric.py result.csv labels.geojson [image.tif]

Without the image labels count as they are drawn, as for the challenge's scorer. With it they count as far as
the image shows them: cut at its edge, and left out where less than 0.3 of one is inside. What lies mostly on
those left out, and matches no other label, is no false alarm.
"""

from __future__ import annotations

import csv
import json
import sys

import rasterio
import rasterio.warp
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


def read_outline(path: str) -> shapely.Polygon:
    """What an image covers, in lon/lat: points along its edge, close enough to follow its curves there."""
    with rasterio.open(path) as image:
        steps = [step / 100 for step in range(100)]
        edge = [(t, 0) for t in steps] + [(1, t) for t in steps]
        edge += [(1 - t, 1) for t in steps] + [(0, 1 - t) for t in steps]
        places = [image.transform @ (x * image.width, y * image.height) for x, y in edge]
        lonlat = rasterio.warp.transform(image.crs, "OGC:CRS84", *zip(*places, strict=True))
    return shapely.Polygon(zip(*lonlat, strict=True))


def cut(truths: list, outline: shapely.Polygon) -> tuple[list, list]:
    """Labels as far as an image shows them, and what is shown of those that it hardly shows."""
    asked, ignored = [], []
    for name, truth in truths:
        area = truth if truth.is_valid else truth.envelope
        shown = area.intersection(outline)
        if truth.is_empty or shown.area >= 0.9999 * area.area:
            asked.append((name, truth))
        elif shown.area >= 0.3 * area.area:
            asked.append((name, shown if truth.is_valid else truth))
        elif shown.area > 0:
            ignored.append(shown)
    return asked, ignored


def excused(polygon, asked: list, ignored: list) -> bool:
    """Whether a proposal lies mostly on labels left out, and matches none that is asked for."""
    polygon = polygon if polygon.is_valid else polygon.buffer(0)
    if polygon.intersection(shapely.union_all(ignored)).area <= polygon.area / 2:
        return False
    return not any(iou(polygon, truth) > 0.5 for _, truth in asked)


def iou(polygon, truth) -> float:
    """Intersection over union of a valid polygon and a truth; 0 for an invalid one."""
    if not truth.is_valid or not polygon.intersects(truth):
        return 0.0
    shared = polygon.intersection(truth).area
    return shared / (polygon.area + truth.area - shared)


def count(proposals: list, truths: list) -> dict:
    """Outcomes of one walk over proposals and truths of one class, or of all."""
    free = list(truths)
    hits = false_alarms = 0
    for _, _, polygon in sorted(proposals, key=lambda proposal: -proposal[1]):
        if not polygon.is_valid:
            polygon = polygon.buffer(0)
        best, best_iou = None, 0.0
        for number, (_, truth) in enumerate(free):
            if iou(polygon, truth) > best_iou:
                best, best_iou = number, iou(polygon, truth)
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


def score(csv_path: str, labels_path: str, image_path: str = "") -> dict:
    """The metric of one image as a JSON object."""
    proposals, truths = read_proposals(csv_path), read_truths(labels_path)
    if image_path:
        truths, ignored = cut(truths, read_outline(image_path))
        proposals = [one for one in proposals if not excused(one[2], truths, ignored)]
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
    if len(sys.argv) not in (3, 4):
        sys.exit("usage: python tests/independent_metric.py RESULT.csv LABELS.geojson [IMAGE.tif]")
    json.dump(score(*sys.argv[1:]), sys.stdout, indent=2)
    sys.stdout.write("\n")
