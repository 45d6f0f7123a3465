"""A labelled village that a review may begin with at once: what is proposed is what was drawn."""

from __future__ import annotations

from pathlib import Path

from pipeline.sample import SceneSpec, write_scene

SETTINGS = """
[Tiling]
tile_size = 416
overlap = 0

[Training]
images = ["scene_007"]
network = maskrcnn_small
epochs = 1
tiles_per_epoch = 1
batch_size = 1
device = cpu

[Inference]
shards = 1
batch_size = 1
workers = 0
device = cpu

[Aggregation]
score_thresholds = {"foundation": 1.0, "unfinished": 1.0, "completed": 1.0}

[Review]
budget = 2
random_share = 0.5
"""


def village_under_review(folder: Path) -> Path:
    """A workspace with one labelled image to review; its network finds nothing that is sure enough."""
    workspace = folder / "village"
    for kind in ("images", "labels"):
        (workspace / "input" / "review" / kind).mkdir(parents=True)
    given = workspace / "input" / "review"
    spec = SceneSpec(width=832, height=832, seed=7, collar=0)
    write_scene(spec, given / "images" / "scene_007.tif", given / "labels" / "scene_007.geojson")
    (workspace / "luigi.cfg").write_text(SETTINGS)
    return workspace
