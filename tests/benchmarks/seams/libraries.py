"""What libraries from the registry make of the detections of overlapping tiles.

Each is called the way its own sliced inference calls it and with its own defaults, on polygons or
masks where it takes them. Most know categories and keep two of them apart.
"""

from __future__ import annotations

import time

import cv2
import geopandas as gpd
import numpy as np
import psycopg2
import psycopg2.extras
import shapely
import supervision as sv
from sahi.postprocess.backends import resolve_backend
from sahi.postprocess.combine import GreedyNMMPostprocess, NMMPostprocess, PostprocessPredictions
from sahi.prediction import ObjectPrediction
from supervision.detection.compact_mask import CompactMask

from pipeline.polygons import largest_parts
from pipeline.seams import Detections
from tests.benchmarks.seams.peers import Peer
from tests.postgis import Server

resolve_backend()  # looks for torch once, which is no part of merging


def sahi(name: str, postprocess: type[PostprocessPredictions], which: str) -> Peer:
    """One of SAHI's rules with the defaults of its `get_sliced_prediction`."""
    rule = postprocess(match_metric="IOS", match_threshold=0.5, class_agnostic=False)
    how = f"as in get_sliced_prediction: {which} of one category by box IoS >= 0.5, polygons united"
    return Peer(name, how, lambda predictions, _: rule(predictions), _predictions, _segmentations)


def _predictions(detections: Detections, windows: np.ndarray) -> list[ObjectPrediction]:
    """SAHI's form: a COCO segmentation each, which has no holes, in the frame of the image."""
    width, height = (windows[:, :2] + windows[:, 2:]).max(axis=0).tolist()
    outlines = shapely.get_exterior_ring(detections.polygons)
    scores, categories = detections.probabilities.max(axis=1), detections.probabilities.argmax(axis=1)
    return [
        ObjectPrediction(
            segmentation=[shapely.get_coordinates(outline)[:-1].ravel().tolist()],
            category_id=category,
            score=score,
            full_shape=[height, width],
        )
        for outline, score, category in zip(outlines, scores.tolist(), categories.tolist(), strict=True)
    ]


def _segmentations(merged: list[ObjectPrediction]) -> np.ndarray:
    """The outline of each of SAHI's predictions, of several parts the largest."""
    shapes = np.array([_area_of(prediction.mask.segmentation) for prediction in merged], dtype=object)
    return largest_parts(shapes)


def _area_of(rings: list[list[float]]) -> shapely.Geometry:
    return shapely.union_all(
        shapely.make_valid([shapely.Polygon(np.reshape(ring, (-1, 2))) for ring in rings])
    )


def supervision_nmm() -> Peer:
    """supervision's merging with its defaults, on its compact masks: dense ones of an image fit no memory."""
    how = "Detections.with_nmm: compact masks of IoU >= 0.5 of one category"
    return Peer("supervision NMM", how, lambda masks, _: masks.with_nmm(), _masks, _outlines,
                bears=700)  # fmt: skip


def _masks(detections: Detections, windows: np.ndarray) -> sv.Detections:
    """supervision's form: a run-length mask each, in whole pixels."""
    width, height = (windows[:, :2] + windows[:, 2:]).max(axis=0).tolist()
    bounds = shapely.bounds(detections.polygons)
    corners = np.floor(bounds[:, :2]).astype(int)
    sizes = np.ceil(bounds[:, 2:]).astype(int) - corners + 1
    masks = []
    for polygon, corner, (w, h) in zip(detections.polygons, corners, sizes.tolist(), strict=True):
        crop = np.zeros((1, h, w), np.uint8)
        outline = np.rint(shapely.get_coordinates(polygon.exterior) - corner).astype(np.int32)
        cv2.fillPoly(crop[0], [outline], 1)
        mask = CompactMask.from_dense(crop.astype(bool), np.array([[0, 0, w - 1, h - 1]]), (h, w))
        masks.append(mask.with_offset(*corner.tolist(), new_image_shape=(height, width)))
    return sv.Detections(
        xyxy=bounds,
        mask=CompactMask.merge(masks),
        confidence=detections.probabilities.max(axis=1),
        class_id=detections.probabilities.argmax(axis=1),
    )


def _outlines(merged: sv.Detections) -> np.ndarray:
    """The outline of each of supervision's masks, of several parts the largest."""
    shapes = []
    for index, offset in enumerate(merged.mask.offsets):
        rings = [ring + offset for ring in sv.mask_to_polygons(merged.mask.crop(index))]
        shapes.append(_area_of([ring.ravel() for ring in rings if len(ring) > 2]))
    return largest_parts(np.array(shapes, dtype=object))


def dissolve() -> Peer:
    """geopandas' union of everything, taken apart again."""
    return Peer(
        "geopandas dissolve",
        "dissolve().explode(): the connected parts of the union of everything",
        lambda frame, _: frame.dissolve().explode(ignore_index=True),
        lambda detections, _: gpd.GeoDataFrame(geometry=detections.polygons),
        lambda frame: frame.geometry.to_numpy(),
    )


SELF_JOIN = """
SELECT ST_AsBinary(weaker.polygon) FROM detections AS weaker WHERE NOT EXISTS (
    SELECT FROM detections AS stronger
    WHERE ST_Intersects(weaker.polygon, stronger.polygon) AND weaker.tile <> stronger.tile
      AND (stronger.score, stronger.id) > (weaker.score, weaker.id)
      AND ST_Area(ST_Intersection(weaker.polygon, stronger.polygon))
          > 0.5 * least(ST_Area(weaker.polygon), ST_Area(stronger.polygon)))
"""


def postgis_self_join(server: Server) -> Peer:
    """A rule in one statement, in a database that holds the detections in an indexed table."""

    def load(detections: Detections, _windows: np.ndarray) -> psycopg2.extensions.connection:
        connection = psycopg2.connect(server.url, passfile=str(server.passfile))
        scores, shapes = detections.probabilities.max(axis=1), shapely.to_wkb(detections.polygons)
        rows = zip(detections.tiles.tolist(), scores.tolist(), shapes.tolist(), strict=True)
        table = "CREATE TEMPORARY TABLE detections (id serial, tile int, score float, polygon geometry)"
        with connection.cursor() as cursor:
            cursor.execute(table)
            psycopg2.extras.execute_values(
                cursor,
                "INSERT INTO detections (tile, score, polygon) VALUES %s",
                rows,
                template="(%s, %s, ST_GeomFromWKB(%s))",
                page_size=1000,
            )
            cursor.execute("CREATE INDEX ON detections USING gist (polygon)")
            cursor.execute("ANALYZE detections")
        return connection

    def join(connection: psycopg2.extensions.connection, _windows: np.ndarray) -> list[tuple[memoryview]]:
        with connection, connection.cursor() as cursor:
            cursor.execute(SELF_JOIN)
            return cursor.fetchall()

    def read(rows: list[tuple[memoryview]]) -> np.ndarray:
        return shapely.from_wkb(np.array([bytes(shape) for (shape,) in rows], dtype=object))

    how = "drops what shares over half of the smaller with a more probable one of another tile, in SQL"
    # The server works in a process of its own, so its time is the wall's.
    return Peer("PostGIS self-join", how, join, load, read, time.perf_counter)


def postgis_version(server: Server) -> str:
    """The version of a server's PostGIS."""
    with (
        psycopg2.connect(server.url, passfile=str(server.passfile)) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("SELECT postgis_lib_version()")
        (version,) = cursor.fetchone()
    connection.close()
    return version


LIBRARIES = [
    sahi("SAHI GreedyNMM", GreedyNMMPostprocess, "each with the strongest"),
    sahi("SAHI NMM", NMMPostprocess, "chains"),
    supervision_nmm(),
    dissolve(),
]
"""Those that need no server."""
