"""What GDAL may reach while it reads a file: that file, and what its user named in it, but no network.

GDAL opens by content, not by name: a GeoJSON may name its CRS by an address, a virtual raster may hold Python
or sources on the web, and either may come under another file's ending. So files are looked at before GDAL
is, and while it reads local ones every request goes to a port on which nobody listens.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

from pipeline.errors import LabelError, RasterError

NO_NETWORK: dict[str, str] = {
    "GDAL_HTTP_PROXY": "127.0.0.1:1",
    "GDAL_HTTP_CONNECTTIMEOUT": "2",
    "CPL_VSIL_CURL_ALLOWED_FILENAME": "none",
}
"""GDAL's options that keep it from the network."""
NO_CODE: dict[str, str] = {"GDAL_VRT_ENABLE_PYTHON": "NO"}
"""GDAL's options that keep it from running what a file holds."""

MAX_TEXT_BYTES = 2**30
"""Size above which a label file of text is refused: a million buildings take half of it."""
_BINARY = {".gpkg": b"SQLite format 3\0", ".fgb": b"fgb", ".shp": b"\x00\x00\x27\x0a"}
_TEXT = (".geojson", ".json")
_ELSEWHERE = ("://", "/vsi")
_SOURCES = ("SourceFilename", "SourceDataset")


def check_label_file(path: Path) -> None:
    """Refuses a label file that is not what its ending says, or too large to be read whole.

    Raises:
        LabelError: it is.
    """
    suffix = path.suffix.lower()
    with path.open("rb") as file:
        start = file.read(4096)
    told = "not a readable label file: its content is not that of a {} file"
    if suffix in _BINARY and not start.startswith(_BINARY[suffix]):
        raise LabelError(told.format(suffix), where=path, found=start[:12], remedy="Save the labels again.")
    if suffix in _TEXT and not start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):
        raise LabelError(told.format(suffix), where=path, found=start[:12], remedy="Save the labels again.")
    if b"<OGRVRTDataSource" in start:
        raise LabelError(
            "not a readable label file: it names others", where=path, remedy="Name the file itself."
        )
    size = path.stat().st_size
    if suffix in _TEXT and size > MAX_TEXT_BYTES:
        raise LabelError(
            f"larger than {MAX_TEXT_BYTES / 2**20:,.0f} MiB of text",
            where=path,
            found=size,
            remedy="Save it as GeoPackage or FlatGeobuf.",
        )


def check_raster_file(path: Path) -> None:
    """Refuses a virtual raster under another ending, and one whose sources lie on the web.

    Raises:
        RasterError: it is.
    """
    with path.open("rb") as file:
        virtual = b"<VRTDataset" in file.read(4096)
    if not virtual:
        return
    if path.suffix.lower() != ".vrt":
        raise RasterError(
            "a virtual raster under another ending", where=path, remedy="Rename it to .vrt if you trust it."
        )
    for name in vrt_sources(path):
        if any(mark in name for mark in _ELSEWHERE):
            raise RasterError(
                "names a source that is no file of this machine",
                where=path,
                found=name,
                remedy="Fetch it, or list its address in a catalogue ([Storage] catalogue).",
            )


def vrt_sources(path: Path) -> list[str]:
    """Names of a virtual raster's sources, those beside it with its folder.

    Raises:
        RasterError: it is no readable XML.
    """
    try:
        nodes = [node for node in ElementTree.parse(path).iter() if node.tag in _SOURCES]
    except (ElementTree.ParseError, OSError, ValueError) as error:
        raise RasterError(
            f"not a readable VRT: {error}", where=path, remedy="Build the VRT again."
        ) from error
    names = [(node.text or "", node.get("relativeToVRT") == "1") for node in nodes]
    folder = path.resolve().parent  # GDAL follows a link to the VRT before it looks beside it
    return [
        str(folder / name) if beside and not any(mark in name for mark in _ELSEWHERE) else name
        for name, beside in names
    ]
