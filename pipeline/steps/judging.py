"""How the networks of several rounds do on the same held-out ground, by the same labels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import geopandas
import numpy as np
import shapely

from pipeline.edge import cut_to_image
from pipeline.evaluate import ImageScore, pool, score_image
from pipeline.frames import crs_to_px, px_to_crs, reproject, window_box, window_boxes
from pipeline.labels import category_indices, read_label_file
from pipeline.polygons import stand_on
from pipeline.review.ensemble import ModelBuildings, fuse_models
from pipeline.review.proposals import pixels_of
from pipeline.schema import Grid, Window
from pipeline.seams import MergeRules
from pipeline.settings import Labels
from pipeline.stores.versions import Version, VersionStore, row_frame


class Truth(NamedTuple):
    """The labels of an image that networks are judged by."""

    grid: Grid
    labels: Path
    ground: Sequence[Window]
    """Where; empty for the whole image."""


def score_versions(
    versions: Mapping[str, str], truths: Mapping[str, Truth], store: VersionStore, settings: Labels
) -> dict[str, float]:
    """Mean F1 and F1 of all buildings, pooled over images.

    Args:
        versions: by image, the version of a network's buildings.
        truths: by image; images without one are left out.
        store: holds the versions.
        settings: that name categories and conditions.
    """
    scores = [
        _score(store.read(image_id, name), truths[image_id], settings)
        for image_id, name in sorted(versions.items())
        if image_id in truths
    ]
    pooled = pool(scores)
    return {"mean_f1": pooled.mean_f1, "all_f1": pooled.all_f1}


def _score(rows: geopandas.GeoDataFrame, truth: Truth, settings: Labels) -> ImageScore:
    frame = read_label_file(truth.labels)
    known = category_indices(frame, settings.label_rules(), where=truth.labels)
    drawn = ~shapely.is_missing(frame.geometry.values)
    placed = reproject(frame.geometry.values[drawn], frame.crs, truth.grid.crs, where=truth.labels)
    polygons, probabilities = pixels_of(rows, truth.grid), probabilities_of(rows, settings.names)
    image = window_box((0, 0, truth.grid.width, truth.grid.height))
    shown = cut_to_image(crs_to_px(placed, truth.grid.transform), image)
    labels, known = shown.polygons[shown.asked], known[drawn][shown.asked]
    judged = ~shown.excuses(polygons)
    polygons, probabilities = polygons[judged], probabilities[judged]
    if truth.ground:
        ground = shapely.union_all(window_boxes(truth.ground))
        mine, theirs = (stand_on(side, ground) for side in (polygons, labels))
        polygons, probabilities = polygons[mine], probabilities[mine]
        labels, known = labels[theirs], known[theirs]
    return score_image(polygons, probabilities, labels, known, settings.names)


def probabilities_of(rows: geopandas.GeoDataFrame, categories: Sequence[str]) -> np.ndarray:
    """float64[n, k] of rows of networks' buildings."""
    told = [json.loads(text) if isinstance(text, str) else {} for text in rows["scores"]]
    listed = [[float(one.get(name, 0.0)) for name in categories] for one in told]
    return np.array(listed, dtype=np.float64).reshape(len(rows), len(categories))


def fuse_versions(
    image_id: str,
    names: Sequence[str],
    version: Version,
    store: VersionStore,
    grid: Grid,
    categories: Sequence[str],
    rules: MergeRules,
) -> None:
    """Keeps the buildings of several networks' versions as one, each row with the networks that saw it.

    Args:
        image_id: the image.
        names: of the versions to fuse.
        version: what they are kept as.
        store: holds them.
        grid: the image's frame.
        categories: names in order.
        rules: how they are joined.
    """
    models = []
    for name in names:
        rows = store.read(image_id, name)
        tag = rows["model"][0] if len(rows) else name
        models.append(ModelBuildings(tag, pixels_of(rows, grid), probabilities_of(rows, categories)))
    polygons, probabilities, tags = fuse_models(models, grid.width, grid.height, rules)
    fused = row_frame(
        px_to_crs(polygons, grid.transform),
        grid.crs,
        category=[categories[place] for place in probabilities.argmax(axis=1)] if len(polygons) else [],
        score=probabilities.max(axis=1, initial=0.0),
        scores=[json.dumps(dict(zip(categories, row, strict=True))) for row in probabilities.tolist()],
        model=tags,
        round=version.round,
        made_at=version.made_at,
    )
    store.add(image_id, version, fused)
