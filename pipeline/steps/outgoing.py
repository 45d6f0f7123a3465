"""ExportReview: a round's tiles as chips, a GeoPackage per image, a Label Studio project and COCO."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import geopandas
import numpy as np
import orjson
import shapely
from PIL import Image
from rasterio.transform import Affine

from pipeline.raster import Imagery, Raster
from pipeline.review.coco import coco_dataset
from pipeline.review.label_studio import labeling_config, labeling_task
from pipeline.review.proposals import pixels_of, shown_in
from pipeline.review.qgis import write_qgis
from pipeline.review.records import QueuedTile, Round, Shown
from pipeline.schema import Grid
from pipeline.steps import Progress

JPEG_QUALITY = 92


class Proposed(NamedTuple):
    """What people are shown of one image."""

    source: Path | str
    rows: geopandas.GeoDataFrame
    """Of the version of the proposals."""


def export_round(
    round_: Round, images: Mapping[str, Proposed], imagery: Imagery, folder: Path, progress: Progress
) -> None:
    """Writes everything that goes out into an existing folder.

    `round.json`, what it is; `qgis/<image>.gpkg`; `chips/<image>__<tile>.jpg` with a world file each;
    `label_studio/config.xml` and `tasks.json`, chips included; `coco/instances.json`; `returned/`, empty.

    Args:
        round_: the round.
        images: by image id.
        imagery: how images are read.
        folder: where to.
        progress: told after every tile.
    """
    for name in ("qgis", "chips", "label_studio", "coco", "returned"):
        (folder / name).mkdir()
    shown: dict[str, list[Shown]] = {}
    tasks: dict[str, dict[str, Any]] = {}
    for image_id, (source, rows) in images.items():
        grid, tiles = round_.grids[image_id], [tile for tile in round_.tiles if tile.image_id == image_id]
        tree = shapely.STRtree(pixels_of(rows, grid))
        if tiles:
            path = folder / "qgis" / f"{image_id}.gpkg"
            write_qgis(path, round_.round, image_id, grid, rows, tiles, round_.categories)
        with Raster(source, grid, imagery) as raster:
            for tile in tiles:
                chip = _jpeg(raster.read(tile.window))
                _write_chip(folder / "chips" / f"{tile.name}.jpg", chip, tile, grid)
                shown[tile.name] = shown_in(tile.window, rows, tree)
                picture = "data:image/jpeg;base64," + base64.b64encode(chip).decode()
                tasks[tile.name] = labeling_task(tile, shown[tile.name], picture)
                progress(len(shown) / len(round_.tiles), f"tile {len(shown)}/{len(round_.tiles)}")
    listed = [tasks[tile.name] for tile in round_.tiles]
    (folder / "label_studio" / "config.xml").write_text(labeling_config(round_.categories))
    (folder / "label_studio" / "tasks.json").write_bytes(orjson.dumps(listed))
    dataset = coco_dataset(round_.tiles, shown, round_.categories)
    (folder / "coco" / "instances.json").write_bytes(orjson.dumps(dataset))
    (folder / "round.json").write_text(round_.model_dump_json(indent=1))


def _jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _write_chip(path: Path, chip: bytes, tile: QueuedTile, grid: Grid) -> None:
    """The chip, and beside it the way to the map: a world file, and the CRS."""
    path.write_bytes(chip)
    a, b, c, d, e, f = _corner(tile, grid)
    path.with_suffix(".jgw").write_text("".join(f"{number!r}\n" for number in (a, d, b, e, c, f)))
    path.with_suffix(".prj").write_text(grid.crs)


def _corner(tile: QueuedTile, grid: Grid) -> tuple[float, ...]:
    """The transform of a chip whose origin is the centre of its first pixel, as world files have it."""
    shift = Affine.translation(tile.window.col_off + 0.5, tile.window.row_off + 0.5)
    return tuple(Affine(*grid.transform) * shift)[:6]
