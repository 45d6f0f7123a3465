"""Image, labels and results as an Item of a SpatioTemporal Asset Catalog."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pystac
import shapely
from pystac.extensions.projection import ProjectionExtension

from pipeline.schema import DateSource

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
EARLIEST, LATEST = datetime(1900, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
"""Between which an image was taken of which nobody knows when: an Item has to name a time or two."""


def stac_item(
    image_id: str,
    footprint_lonlat: shapely.Geometry,
    observed: tuple[str, DateSource],
    gsd_m: float,
    crs: str,
    shape: tuple[int, int],
    transform: Sequence[float],
    assets: Mapping[str, str],
    counts: Mapping[str, Any],
    categories: Sequence[str],
    *,
    is_cog: bool,
) -> dict[str, Any]:
    """The Item as a JSON object, valid by the STAC core and its projection extension.

    Args:
        image_id: the Item's id.
        footprint_lonlat: what the image covers, degrees.
        observed: when it was taken, ISO 8601, and who says so. Of an image that does not, `datetime` is null,
            the time it was taken in ends when its file changed, and so says `updated` of the asset `image`.
        gsd_m: ground length of a pixel in metres.
        crs: of the image, 'EPSG:<code>' or WKT 2.
        shape: rows and columns of the image's file.
        transform: of the image's file, (a, b, c, d, e, f) in rasterio's order.
        assets: path relative to the Item, or URL, by name.
        counts: what was found, by name; `jengo:` is put before each.
        categories: the k names.
        is_cog: whether the asset `image` is a cloud-optimized GeoTIFF, of which clients read parts.
    """
    covered = shapely.orient_polygons(shapely.transform(footprint_lonlat, lambda xy: xy.round(8)))
    item = pystac.Item(
        id=image_id,
        geometry=shapely.geometry.mapping(covered),
        bbox=shapely.bounds(covered).tolist(),
        **_times(*observed),
        properties={"gsd": round(gsd_m, 6), "jengo:crs": crs, "jengo:categories": list(categories)}
        | {f"jengo:{name}": value for name, value in counts.items()},
    )
    has_code = crs.startswith("EPSG:")
    ProjectionExtension.ext(item, add_if_missing=True).apply(
        code=crs if has_code else None,
        wkt2=None if has_code else crs,
        shape=list(shape),
        transform=list(transform),
    )
    for name, href in assets.items():
        ending = "." + href.rpartition(".")[2].lower()
        kind = pystac.MediaType.COG if is_cog and name == "image" else MEDIA_TYPES.get(ending)
        told = {"updated": observed[0]} if name == "image" and observed[1] == "file" else None
        roles = ROLES.get(name, ["data"])
        item.add_asset(name, pystac.Asset(href=href, media_type=kind, roles=roles, extra_fields=told))
    return item.to_dict(include_self_link=False, transform_hrefs=False)


def _times(date: str, source: DateSource) -> dict[str, Any]:
    """The time fields of an Item, which claim no more than is known."""
    if source == "image":
        return {"datetime": datetime.fromisoformat(date)}
    last = datetime.fromisoformat(date) if source == "file" else LATEST
    return {"datetime": None, "start_datetime": EARLIEST, "end_datetime": last}
