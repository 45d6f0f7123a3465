"""Writers of files that nobody should have to read: damaged, lying or hostile ones."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
import h5py
import numpy as np
import rasterio
import shapely
import torch
from affine import Affine
from rasterio.control import GroundControlPoint

PLACE = Affine(0.15, 0, 532_800, 0, -0.15, 9_366_900)
CRS = "EPSG:32737"
Writer = Callable[[Path], None]


def content(data: bytes | str) -> Writer:
    """A file of these bytes."""

    def write(path: Path) -> None:
        path.write_bytes(data.encode() if isinstance(data, str) else data)

    return write


def sparse(start: str, size: int) -> Writer:
    """A file that begins so and goes on with zeros, of which the disk holds none."""

    def write(path: Path) -> None:
        path.write_text(start)
        os.truncate(path, size)

    return write


def folder(path: Path) -> None:
    """A folder in the place of a file."""
    path.mkdir()


def raster(damage: Callable[[bytearray], object] | None = None, **options: Any) -> Writer:
    """A GeoTIFF of 64 x 64 px with these options, then damaged as bytes."""

    def write(path: Path) -> None:
        profile = {"driver": "GTiff", "width": 64, "height": 64, "count": 3, "dtype": "uint8"}
        profile |= {"crs": CRS, "transform": PLACE} | options
        profile = {key: value for key, value in profile.items() if value is not None}
        with rasterio.open(path, "w", **profile) as dst:
            shape = (profile["count"], min(profile["height"], 512), min(profile["width"], 512))
            noise = np.random.default_rng(1).integers(0, 255, shape)
            window = rasterio.windows.Window(0, 0, shape[2], shape[1])
            dst.write(noise.astype(profile["dtype"]), window=window)
            if profile.get("photometric") == "palette":
                dst.write_colormap(1, {0: (255, 0, 0), 1: (0, 0, 255)})
        if damage:
            data = bytearray(path.read_bytes())
            damage(data)
            path.write_bytes(data)

    return write


def truncated(data: bytearray) -> None:
    """Cuts the second half off."""
    del data[len(data) // 2 :]


def garbled(data: bytearray) -> None:
    """Fills the middle third with one byte."""
    third = len(data) // 3
    data[third : 2 * third] = b"\x55" * third


def ground_control_points(path: Path) -> None:
    """A raster placed by points alone."""
    points = [GroundControlPoint(0, 0, 39.3, -5.7), GroundControlPoint(64, 64, 39.4, -5.8)]
    with rasterio.open(
        path, "w", driver="GTiff", width=64, height=64, count=3, dtype="uint8", gcps=points, crs="EPSG:4326"
    ) as dst:
        dst.write(np.zeros((3, 64, 64), dtype=np.uint8))


def tiff(tags: dict[int, tuple[int, list[int]]], data: bytes = b"", loop: bool = False) -> Writer:
    """A TIFF of exactly these tags: number to (type, values), whatever they claim; `data` begins at byte 8.

    Source: TIFF 6.0, section 2.
    """

    def write(path: Path) -> None:
        sizes = {1: "B", 3: "H", 4: "I", 12: "d"}
        start = 8 + len(data) + len(data) % 2
        behind, entries = b"", b""
        room = start + 2 + 12 * len(tags) + 4
        for number, (kind, values) in sorted(tags.items()):
            packed = struct.pack(f"<{len(values)}{sizes[kind]}", *values)
            if len(packed) > 4:
                entries += struct.pack("<HHII", number, kind, len(values), room + len(behind))
                behind += packed + b"\0" * (len(packed) % 2)
            else:
                entries += struct.pack("<HHI", number, kind, len(values)) + packed.ljust(4, b"\0")
        directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", start if loop else 0)
        header = struct.pack("<2sHI", b"II", 42, start)
        path.write_bytes(header + data.ljust(start - 8, b"\0") + directory + behind)

    return write


def claims(
    width: int, height: int, bands: int = 3, rows_per_strip: int = 1, tile: int = 0, data: bytes = b""
) -> Writer:
    """A TIFF of a few bytes that claims to be this large: one deflated strip, or a tile of `tile` pixels."""
    size = [max(1, len(data))]
    strip = {273: (4, [8]), 278: (4, [rows_per_strip]), 279: (4, size)}
    blocks = {322: (4, [tile]), 323: (4, [tile]), 324: (4, [8]), 325: (4, size)} if tile else strip
    return tiff(
        blocks
        | {
            256: (4, [width]),
            257: (4, [height]),
            258: (3, [8] * min(bands, 60_000)),
            259: (3, [8]),
            262: (3, [2]),
            277: (3, [min(bands, 65_535)]),
            33550: (12, [0.15, 0.15, 0.0]),
            33922: (12, [0.0, 0.0, 0.0, 532_800.0, 9_366_900.0, 0.0]),
            34735: (3, [1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32737]),
        },
        data,
    )


def bomb(side: int) -> Writer:
    """A TIFF whose one block unpacks to the square of `side`, from a thousandth of that."""
    packer, packed = zlib.compressobj(9), b""
    for _ in range(side):
        packed += packer.compress(b"\0" * 3 * side)
    return claims(side, side, tile=side, data=packed + packer.flush())


def vrt(source: str, size: int = 64, extra: str = "", band: str = "") -> str:
    """The text of a virtual raster."""
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{number}" {band}>{extra}'
        f'<SimpleSource><SourceFilename relativeToVRT="0">{source}</SourceFilename><SourceBand>1</SourceBand>'
        f'<SrcRect xOff="0" yOff="0" xSize="{size}" ySize="{size}"/>'
        f'<DstRect xOff="0" yOff="0" xSize="{size}" ySize="{size}"/></SimpleSource></VRTRasterBand>'
        for number in (1, 2, 3)
    )
    return (
        f'<VRTDataset rasterXSize="{size}" rasterYSize="{size}"><SRS>{CRS}</SRS>'
        f"<GeoTransform>532800, 0.15, 0, 9366900, 0, -0.15</GeoTransform>{bands}</VRTDataset>"
    )


def python_vrt(module_writes: str) -> str:
    """A virtual raster with a Python function that would leave a file behind."""
    code = (
        "<PixelFunctionType>paint</PixelFunctionType><PixelFunctionLanguage>Python</PixelFunctionLanguage>"
        f"<PixelFunctionCode><![CDATA[\nopen('{module_writes}', 'w').write('in')\n"
        "def paint(in_ar, out_ar, *args, **kwargs):\n    out_ar[:] = 1\n]]></PixelFunctionCode>"
    )
    return vrt("scene_042.tif", extra=code, band='subClass="VRTDerivedRasterBand"')


def collection(*features: Any, **members: Any) -> str:
    """A GeoJSON feature collection."""
    return json.dumps({"type": "FeatureCollection", "features": list(features), **members})


def label(coordinates: Any, kind: str = "Polygon", **properties: Any) -> dict[str, Any]:
    """A GeoJSON feature."""
    properties = properties or {"condition": "Complete"}
    return {
        "type": "Feature",
        "properties": properties,
        "geometry": {"type": kind, "coordinates": coordinates},
    }


def circle(vertices: int) -> Writer:
    """A GeoPackage with one building of so many corners, in the middle of the sample scene."""

    def write(path: Path) -> None:
        angle = np.linspace(0, 2 * np.pi, vertices)
        x, y = PLACE @ (120, 120)
        ring = np.column_stack([x + 10 * np.cos(angle), y + 10 * np.sin(angle)])
        frame = gpd.GeoDataFrame({"condition": ["Complete"]}, geometry=[shapely.Polygon(ring)], crs=CRS)
        frame.to_file(path, driver="GPKG")

    return write


def layers(*names: str) -> Writer:
    """A GeoPackage with a layer of one building under each name."""

    def write(path: Path) -> None:
        frame = gpd.GeoDataFrame({"condition": ["Complete"]}, geometry=[shapely.box(0, 0, 1, 1)], crs=CRS)
        for name in names:
            frame.to_file(path, driver="GPKG", layer=name)

    return write


def shapefile_without_crs(path: Path) -> None:
    """A Shapefile without .prj."""
    frame = gpd.GeoDataFrame({"condition": ["Complete"]}, geometry=[shapely.box(0, 0, 1, 1)], crs=CRS)
    frame.to_file(path)
    path.with_suffix(".prj").unlink()


def hdf5(change: Callable[[h5py.File], object], source: Path | None = None) -> Writer:
    """An HDF5 file, or a copy of good weights, changed."""

    def write(path: Path) -> None:
        if source is not None:
            path.write_bytes(source.read_bytes())
        with h5py.File(path, "a") as file:
            change(file)

    return write


class Executed:
    """An object whose unpickling leaves a file behind."""

    def __init__(self, trace: str):
        self.trace = trace

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.trace}",)


def pickled(trace: str) -> Writer:
    """What torch.load runs where nothing forbids it."""

    def write(path: Path) -> None:
        torch.save({"weight": Executed(trace)}, path)

    return write


def bare_pickle(trace: str) -> Writer:
    """The same without torch's archive around it."""
    return content(pickle.dumps({"weight": Executed(trace)}))
