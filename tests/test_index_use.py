"""PostGIS answers for the items of tiles by its index: a search of all labels per tile takes hours."""

import geopandas
import numpy as np
import pytest
import shapely
from sqlalchemy import create_engine, text

from pipeline.stores import MIN_VISIBLE_SHARE
from pipeline.stores.postgis import PostGISStore
from sql import read_sql

CRS = "EPSG:32737"


def labels(count, seed):
    corners = np.random.default_rng(seed).uniform(0, 20_000, (count, 2))
    boxes = shapely.box(corners[:, 0], corners[:, 1], corners[:, 0] + 10, corners[:, 1] + 10)
    numbers = {"label_id": np.arange(count), "source_row": np.arange(count)}
    return geopandas.GeoDataFrame(numbers | {"category": None}, geometry=boxes, crs=CRS)


@pytest.mark.postgis
def test_items_are_found_in_the_index(postgis_url):
    store = PostGISStore(postgis_url)
    for seed, image in enumerate(("index_use", "beside_it")):
        store.replace_labels(image, "d", labels(5_000, seed), {})
    low = np.arange(0, 19_000, 500.0)
    tiles = [shapely.box(x, y, x + 600, y + 600) for y in low for x in low]
    given = {"image_id": "index_use", "srid": 32737, "min_visible_share": MIN_VISIBLE_SHARE}
    given["wkbs"] = shapely.to_wkb(tiles).tolist()
    with create_engine(postgis_url.replace("postgresql:", "postgresql+psycopg2:")).connect() as connection:
        plan = connection.execute(text("EXPLAIN " + read_sql("items_in_tiles.sql")), given).scalars().all()
    text_of_plan = "\n".join(plan)
    assert "labels_geom_idx" in text_of_plan, text_of_plan
