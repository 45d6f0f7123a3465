"""Labels to 20,000 tiles: which label lies in which tile, and clipped to it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import geopandas
import numpy as np
import shapely
from sqlalchemy import create_engine, text

from pipeline.clipping import clip_to_boxes
from pipeline.frames import window_boxes
from pipeline.stores.postgis import PostGISStore
from pipeline.tiling import TilingRules, tile_windows
from tests.benchmarks.rows import Row, exponent, interleaved
from tests.postgis import ServerError, postgis_server

STAGE = "labels to 20k tiles"
TILES_A_SIDE, SAMPLE = 142, 20
CRS = "EPSG:32737"

PER_TILE = """
SELECT label_id, ST_Intersection(ST_MakeValid(geom), tile) FROM jengo.labels,
(SELECT ST_GeomFromWKB(:wkb, 32737) AS tile) AS one
WHERE ST_Intersects(ST_MakeValid(geom), tile) AND image_id = 'bench'
"""
"""The 2018 way: repairing inside the predicate hides the geometry from its index."""


def scene(labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Polygons of eight corners, 50 to 200 px across, and the tiles of a square image."""
    side = 768 * TILES_A_SIDE + 200
    rng = np.random.default_rng(0)
    tiles = window_boxes([window for _, _, window in tile_windows(side, side, TilingRules())])
    angle = np.linspace(0, 2 * np.pi, 9)[:-1]
    radius = rng.uniform(25, 100, (labels, 1, 1)) * rng.uniform(0.7, 1, (labels, 8, 1))
    corners = rng.uniform(0, side, (labels, 1, 2)) + radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return shapely.polygons(corners), tiles


def by_tree(polygons: np.ndarray, tiles: np.ndarray) -> float:
    """An STRtree and an intersection per pair; the area that lies in tiles."""
    tile, polygon = shapely.STRtree(polygons).query(tiles, predicate="intersects")
    return float(shapely.area(shapely.intersection(polygons[polygon], tiles[tile])).sum())


def by_overlay(polygons: np.ndarray, tiles: np.ndarray) -> float:
    """geopandas.overlay."""
    frames = (geopandas.GeoDataFrame(geometry=shapes, crs=CRS) for shapes in (polygons, tiles))
    return float(geopandas.overlay(*frames, how="intersection").area.sum())


def ours(polygons: np.ndarray, tiles: np.ndarray) -> float:
    """As the GeoPackage store clips."""
    return float(shapely.area(clip_to_boxes(polygons, tiles).parts).sum())


def rows() -> Iterator[Row]:
    """100,000 labels beside every peer, a million for the growth."""
    polygons, tiles = scene(100_000)
    areas = [way(polygons, tiles) for way in (ours, by_tree)]
    if abs(areas[0] / areas[1] - 1) > 1e-9:
        raise AssertionError(f"areas differ: {areas}")
    took = interleaved(
        {
            "ours": lambda: ours(polygons, tiles),
            "STRtree": lambda: by_tree(polygons, tiles),
            "overlay": lambda: by_overlay(polygons, tiles),
        }
    )
    million = scene(1_000_000)
    grown = exponent([1e5, 1e6], [took["ours"], interleaved({"ours": lambda: ours(*million)}, 1)["ours"]])
    name = f"{STAGE}, 100k"
    yield Row(name, "shapely STRtree + intersection", took["ours"], took["STRtree"], "s", 0.5, grown, 1.1)
    yield Row(name, "geopandas.overlay", took["ours"], took["overlay"], "s", 0.5)
    yield from _beside_postgis(name, polygons, tiles, took["ours"])


def _beside_postgis(name: str, polygons: np.ndarray, tiles: np.ndarray, ours_s: float) -> Iterator[Row]:
    """The store's one statement, and a statement per tile, told from a sample of tiles; both wall clock."""
    try:
        with postgis_server() as server:
            os.environ["PGPASSFILE"] = str(server.passfile)
            labels = geopandas.GeoDataFrame(
                {
                    "label_id": np.arange(len(polygons)),
                    "source_row": np.arange(len(polygons)),
                    "category": None,
                },
                geometry=polygons,
                crs=CRS,
            )
            frame = geopandas.GeoDataFrame({"tile_id": range(len(tiles))}, geometry=tiles, crs=CRS)
            store = PostGISStore(server.url)
            store.replace_labels("bench", "one", labels, {})
            started = time.perf_counter()
            store.items_in_tiles("bench", frame, "one")
            set_join_s = time.perf_counter() - started
            started = time.perf_counter()
            url = server.url.replace("postgresql://", "postgresql+psycopg2://")
            with create_engine(url).connect() as connection:
                for tile in tiles[:: len(tiles) // SAMPLE][:SAMPLE]:
                    connection.execute(text(PER_TILE), {"wkb": shapely.to_wkb(tile)}).all()
            per_tile_s = (time.perf_counter() - started) / SAMPLE * len(tiles)
    except ServerError as error:
        yield Row(name, "PostGIS", skipped=str(error)[:90])
        return
    yield Row(name, "PostGIS, our set join in one statement", ours_s, set_join_s, "s")
    yield Row(name, f"PostGIS, a statement per tile ({SAMPLE} run)", ours_s, per_tile_s, "s", 1 / 1000)
    yield Row(f"{name}, in PostGIS", "PostGIS, a statement per tile", set_join_s, per_tile_s, "s", 1 / 100)
