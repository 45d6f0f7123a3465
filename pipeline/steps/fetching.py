"""FetchImage: an image of the catalogue becomes a file of the workspace."""

from __future__ import annotations

from pathlib import Path

from pipeline.catalogue import Entry
from pipeline.errors import RasterError
from pipeline.fetch import fetch
from pipeline.raster import image_size
from pipeline.steps import Progress


def fetch_image(entry: Entry, target: Path, progress: Progress) -> int:
    """Downloads an image and checks what the catalogue knows of it; returns its size in bytes.

    Args:
        entry: the image.
        target: where the file goes.
        progress: told after every MiB.

    Raises:
        SourceError: it cannot be fetched, or is not the file that the catalogue lists.
        RasterError: what came is no image, or one of another size.
    """

    def told(there: int, size: int | None) -> None:
        share = there / size if size else 0.0
        progress(share, f"{there / 2**20:,.0f} of {size / 2**20:,.0f} MiB" if size else f"{there:,} bytes")

    def check(part: Path) -> None:
        found = image_size(part)
        if entry.size is not None and found != entry.size:
            raise RasterError(
                "not the image of {} x {} px that the catalogue lists".format(*entry.size),
                where=entry.url,
                found=found,
                remedy="Correct the address or the size in the catalogue.",
            )

    return fetch(entry.url, target, sha256=entry.sha256, check=check, progress=told)
