"""Label files as people save them, in any vector format that GDAL reads."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import geopandas as gpd
import pyogrio
import shapely

from pipeline.confinement import NO_NETWORK, check_label_file
from pipeline.errors import LabelError, SourceError
from pipeline.frames import reproject
from pipeline.polygons import polygonal
from pipeline.untouched import untouched

MAX_CORNERS = 1_000_000
"""Most corners of a row: a building has tens, a hall with a ragged outline thousands."""


def read_label_file(path: Path | str) -> gpd.GeoDataFrame:
    """The rows of a label file as they are, in file order, index 0 to n-1.

    Args:
        path: of any vector format that GDAL reads, with one spatial layer. GeoJSON without a CRS is
            longitude, latitude.

    Raises:
        SourceError: the file is not there.
        LabelError: it cannot be read, has no or several spatial layers, or no CRS.
    """
    if not Path(path).is_file():
        raise SourceError("file not found", where=path, remedy="Check the name and the workspace.")
    check_label_file(Path(path))
    with _alone(), untouched(path) as quiet:
        frame = _read(path, quiet)
    _check_corners(frame, path)
    if frame.crs is None:
        raise LabelError(
            "no CRS", where=path, remedy="State it, for example with a .prj file beside a Shapefile."
        )
    return frame.reset_index(drop=True)


def _read(path: Path | str, quiet: Path) -> gpd.GeoDataFrame:
    """The one layer of `quiet`, which is the file that errors call `path`, or its copy."""
    try:
        layers = [name for name, kind in pyogrio.list_layers(quiet) if kind is not None]
        if len(layers) != 1:
            raise LabelError(
                f"{len(layers)} layers with geometry instead of one",
                where=path,
                found=layers,
                remedy="Save the labels as a file of their own.",
            )
        with warnings.catch_warnings():
            # GDAL warns about each odd ring; clean_labels accounts for every one of them.
            warnings.simplefilter("ignore", RuntimeWarning)
            return pyogrio.read_dataframe(quiet, layer=layers[0], on_invalid="fix")
    except UnicodeDecodeError as error:
        raise LabelError("text is not UTF-8", where=path, remedy="Save the file as UTF-8.") from error
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, ValueError) as error:
        raise LabelError(
            f"not a readable label file: {' '.join(str(error).split())}",
            where=path,
            remedy="Save it again as GeoJSON, GeoPackage, FlatGeobuf or Shapefile.",
        ) from error


@contextmanager
def _alone() -> Iterator[None]:
    """GDAL without the network: a GeoJSON may name its CRS by an address, which GDAL would ask."""
    pyogrio.set_gdal_config_options(NO_NETWORK)
    try:
        yield
    finally:
        pyogrio.set_gdal_config_options(dict.fromkeys(NO_NETWORK))


def _check_corners(frame: gpd.GeoDataFrame, path: Path | str) -> None:
    corners = shapely.get_num_coordinates(frame.geometry.to_numpy())
    if corners.max(initial=0) > MAX_CORNERS:
        raise LabelError(
            f"row {corners.argmax()} has more than {MAX_CORNERS:,} corners",
            where=path,
            found=int(corners.max()),
            remedy="Simplify it.",
        )


def read_area(path: Path | str, crs: Any) -> shapely.Geometry:
    """The ground on which an image's labels are complete, as one Polygon or MultiPolygon in `crs`.

    Raises:
        SourceError: the file is not there.
        LabelError: as `read_label_file`, or it holds no polygon.
    """
    frame = read_label_file(path)
    drawn = frame.geometry[frame.geom_type.isin(["Polygon", "MultiPolygon"])]
    placed = shapely.make_valid(reproject(drawn, frame.crs, crs, where=path))
    area = shapely.union_all(polygonal(placed))
    if not area.area:
        raise LabelError("no polygon", where=path, remedy="Draw the labelled area, or remove the file.")
    return area
