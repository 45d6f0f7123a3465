"""The HDF5 file of a network's weights and what is known about them.

One dataset per entry of the network's state dict, named as there, in the group `state_dict`; all else
as attributes of the file (JSON where they hold structure)::

    format_version  network  arguments  categories  recipe  data_digest  epoch  metrics
    created  versions

Reading executes nothing that the file brings along, follows no link out of it, and refuses what is
not exactly the network it says it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from models.atomic import atomic_file
from models.errors import WeightsError
from models.maskrcnn import MaskRCNN, build

FORMAT_VERSION = 1
"""Raised whenever the file changes in a way that an older reader would misread."""

_UNREADABLE = (OSError, RuntimeError, LookupError, ValueError, TypeError)
_MAX_BYTES = 4 * 2**30
_REMEDY = "Train anew, or name another weights file"


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("torch", "torchvision", "h5py", "numpy")}


@dataclass(frozen=True)
class WeightsMetadata:
    """What is known about weights."""

    network: str
    """One of `models.recipe.NETWORKS`."""
    arguments: Mapping[str, Any]
    """What `models.maskrcnn.build` was given beside name and categories."""
    categories: tuple[str, ...]
    """In the order of their labels."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """The fields of the `Recipe` they were trained by; empty where unknown."""
    data_digest: str = ""
    """SHA-256 of the training tiles; empty where unknown."""
    epoch: int = 0
    """Epochs they were trained for."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """What validation measured after that epoch."""
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    """When they were written, ISO 8601 in UTC."""
    versions: Mapping[str, str] = field(default_factory=_versions)
    """Library → version that wrote them."""


def write_weights(path: Path, model: MaskRCNN, metadata: WeightsMetadata) -> None:
    """Write a network's weights, whole or not at all.

    Args:
        path: the `.h5` file.
        model: the network.
        metadata: what is known about it.
    """
    with atomic_file(path) as part, h5py.File(part, "w") as dst:
        dst.attrs["format_version"] = FORMAT_VERSION
        for name, value in asdict(metadata).items():
            dst.attrs[name] = value if isinstance(value, (str, int)) else json.dumps(value)
        group = dst.create_group("state_dict")
        for name, tensor in model.state_dict().items():
            group.create_dataset(name, data=tensor.detach().cpu().numpy())


def read_weights(path: Path) -> tuple[WeightsMetadata, dict[str, torch.Tensor]]:
    """Return what is known about weights, and the weights by name.

    Raises:
        WeightsError: the file is missing, damaged, of another format, or no weights at all.
    """
    with _opened(path) as src:
        metadata = _read_metadata(path, src)
        _check_size(path, src)
        arrays = {name: _dataset(path, src, name)[()] for name in src["state_dict"]}
    return metadata, {name: torch.from_numpy(np.asarray(array)) for name, array in arrays.items()}


def read_metadata(path: Path) -> WeightsMetadata:
    """Return what is known about weights, without reading them.

    Raises:
        WeightsError: the file is missing, damaged, of another format, or no weights at all.
    """
    with _opened(path) as src:
        return _read_metadata(path, src)


def build_from_weights(path: Path, categories: tuple[str, ...] | None = None) -> MaskRCNN:
    """Return the network of a weights file, with its weights, in evaluation mode.

    Args:
        path: the `.h5` file.
        categories: what the network must tell apart, in this order; None for whatever it does.

    Raises:
        WeightsError: the file is not weights, or of other categories, or does not fit its network.
    """
    metadata = read_metadata(path)
    if categories is not None and metadata.categories != tuple(categories):
        raise WeightsError(
            f"weights of other categories than {', '.join(categories)}",
            where=path,
            found=metadata.categories,
            remedy=_REMEDY,
        )
    model = build(metadata.network, metadata.categories, **metadata.arguments)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    with _opened(path) as src:
        # Shapes are compared before a weight is read, so that no file can ask for more memory
        # than its network has.
        found = {name: _dataset(path, src, name).shape for name in src["state_dict"]}
    if odd := sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)):
        raise WeightsError(
            f"does not fit {metadata.network} at {odd[0]} and {len(odd) - 1} more: its shape is"
            f" {wanted.get(odd[0])}",
            where=path,
            found=found.get(odd[0]),
            remedy=_REMEDY,
        )
    model.load_state_dict(read_weights(path)[1])
    return model.eval()


def weights_digest(path: Path) -> str:
    """Return the SHA-256 of what decides a network's output, in hexadecimal.

    That is its architecture, its categories and its weights; the day they were written is not part of
    it, so a training that is repeated to the same weights has the same digest.

    Raises:
        WeightsError: the file is missing, damaged, of another format, or no weights at all.
    """
    with _opened(path) as src:
        metadata = _read_metadata(path, src)
        _check_size(path, src)
        network = [metadata.network, metadata.arguments, metadata.categories]
        digest = hashlib.sha256(json.dumps(network, sort_keys=True).encode())
        for name in sorted(src["state_dict"]):
            array = np.ascontiguousarray(_dataset(path, src, name)[()])
            digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
            digest.update(array.tobytes())
    return digest.hexdigest()


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    """Yield the file to be read; what HDF5 finds wrong on the way is a WeightsError."""
    if not path.is_file():
        raise WeightsError("no such weights file", where=path, remedy=_REMEDY)
    try:
        with h5py.File(path, "r") as src:
            yield src
    except _UNREADABLE as error:
        raise WeightsError("not an HDF5 file, or a damaged one", where=path, remedy=_REMEDY) from error


def _read_metadata(path: Path, src: h5py.File) -> WeightsMetadata:
    found = src.attrs.get("format_version")
    if found != FORMAT_VERSION:
        raise WeightsError(
            f"not weights of format version {FORMAT_VERSION}", where=path, found=found, remedy=_REMEDY
        )
    try:
        values = {
            name: src.attrs[name]
            if name in ("network", "data_digest", "created")
            else json.loads(src.attrs[name])
            for name in WeightsMetadata.__dataclass_fields__
            if name != "epoch"
        }
        if not isinstance(src.get("state_dict"), h5py.Group):
            raise KeyError("state_dict")
        if not isinstance(values["arguments"], dict):
            raise TypeError("arguments are no object")
        return WeightsMetadata(
            **(values | {"categories": tuple(values["categories"]), "epoch": int(src.attrs["epoch"])})
        )
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(f"damaged metadata: {error}", where=path, remedy=_REMEDY) from error


def _check_size(path: Path, src: h5py.File) -> None:
    """Refuse weights that unpack to more than any network here has: packed, they may hide in a few bytes."""
    size = sum(_dataset(path, src, name).nbytes for name in src["state_dict"])
    if size > _MAX_BYTES:
        raise WeightsError(
            f"claims more than {_MAX_BYTES / 2**30:.0f} GiB of weights",
            where=path,
            found=size,
            remedy=_REMEDY,
        )


def _dataset(path: Path, src: h5py.File, name: str) -> h5py.Dataset:
    group = src["state_dict"]
    # HDF5 can link to, or store its bytes in, any other file of the machine.
    inside = isinstance(group.get(name, getlink=True), h5py.HardLink)
    entry = group[name] if inside else None
    if (
        not isinstance(entry, h5py.Dataset)
        or entry.is_virtual
        or entry.external
        or entry.dtype.kind not in "fiu"
    ):
        raise WeightsError(f"{name} is not plain numbers inside the file", where=path, remedy=_REMEDY)
    return entry
