"""Image, labels and results as an Item of a SpatioTemporal Asset Catalog."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import pystac
import shapely

MEDIA_TYPES = {
    ".tif": pystac.MediaType.GEOTIFF,
    ".tiff": pystac.MediaType.GEOTIFF,
    ".jp2": pystac.MediaType.JPEG2000,
    ".geojson": pystac.MediaType.GEOJSON,
    ".gpkg": pystac.MediaType.GEOPACKAGE,
    ".parquet": pystac.MediaType.PARQUET,
    ".fgb": pystac.MediaType.FLATGEOBUF,
    ".csv": "text/csv",
    ".html": pystac.MediaType.HTML,
    ".json": pystac.MediaType.JSON,
    ".shp": "application/vnd.shp",
    ".pmtiles": "application/vnd.pmtiles",
    ".mbtiles": "application/vnd.sqlite3",
    ".qgs": "application/x-qgis-project",
}
"""By ending; others have none."""
ROLES: dict[str, list[str]] = {"image": ["visual"], "labels": ["labels"], "report": ["metadata"]}
"""By the asset's name; all others are data."""


def stac_item(
    image_id: str,
    footprint_lonlat: shapely.Geometry,
    observed: str,
    gsd_m: float,
    crs: str,
    assets: Mapping[str, str],
    counts: Mapping[str, Any],
    categories: Sequence[str],
    *,
    is_cog: bool,
) -> dict[str, Any]:
    """The Item as a JSON object, valid by the STAC core.

    Args:
        image_id: the Item's id.
        footprint_lonlat: what the image covers, degrees.
        observed: when it was taken, ISO 8601.
        gsd_m: ground length of a pixel in metres.
        crs: of the image.
        assets: path relative to the Item, or URL, by name.
        counts: what was found, by name; `jengo:` is put before each.
        categories: the k names.
        is_cog: whether the asset `image` is a cloud-optimized GeoTIFF, of which clients read parts.
    """
    item = pystac.Item(
        id=image_id,
        geometry=shapely.geometry.mapping(footprint_lonlat),
        bbox=[round(value, 8) for value in shapely.bounds(footprint_lonlat).tolist()],
        datetime=datetime.fromisoformat(observed),
        properties={"gsd": round(gsd_m, 6), "jengo:crs": crs, "jengo:categories": list(categories)}
        | {f"jengo:{name}": value for name, value in counts.items()},
    )
    for name, href in assets.items():
        ending = "." + href.rpartition(".")[2].lower()
        kind = pystac.MediaType.COG if is_cog and name == "image" else MEDIA_TYPES.get(ending)
        item.add_asset(name, pystac.Asset(href=href, media_type=kind, roles=ROLES.get(name, ["data"])))
    return item.to_dict(include_self_link=False, transform_hrefs=False)
