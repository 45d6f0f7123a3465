"""Weights from the web, taken only with the digest that was asked for."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlsplit

import torch

from models.atomic import atomic_file
from models.errors import WeightsError


def download(url: str) -> Path:
    """Return the local copy of a file, kept beside what torchvision fetches (`TORCH_HOME`).

    Args:
        url: `scheme://...#sha256=<64 hexadecimal digits>`; a copy with that digest is not fetched again.

    Raises:
        WeightsError: the URL has no digest, cannot be read, or leads to another file.
    """
    address, _, fragment = url.partition("#")
    digest = re.fullmatch(r"sha256=([0-9a-f]{64})", fragment)
    if digest is None:
        raise WeightsError(
            "no digest of the file",
            where=url,
            remedy="Add #sha256=<64 hexadecimal digits>, as sha256sum prints them",
        )
    wanted, name = digest[1], Path(urlsplit(address).path)
    path = cached(f"{name.stem}-{wanted[:16]}{name.suffix}")
    if not path.exists() or _sha256(path) != wanted:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as part:
            _fetch(address, wanted, part)
    return path


def cached(name: str) -> Path:
    """Return where a fetched file of that name lies, or would lie: torchvision's place (`TORCH_HOME`)."""
    return Path(torch.hub.get_dir()) / "checkpoints" / name


def _fetch(address: str, wanted: str, path: Path) -> None:
    try:
        torch.hub.download_url_to_file(address, str(path), progress=False)
    except (URLError, OSError, ValueError) as error:
        raise WeightsError(
            f"cannot fetch {address}: {error}",
            remedy="Download it elsewhere and name the file as initial weights",
        ) from error
    if (found := _sha256(path)) != wanted:
        raise WeightsError(
            "another file than was asked for",
            where=address,
            found=found,
            remedy="Name the digest of the file you trust",
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
