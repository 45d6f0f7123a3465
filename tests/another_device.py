"""A device that is not the CPU, on a machine without one.

Tensors there say that they lie on torch's `meta` device and keep their values aside, on the CPU, where
everything is computed. As on a GPU, an operation that mixes them with the CPU's own tensors is an error, and
so is reading them without fetching them first; and what is asked of it is counted. What it cannot show is
time, and half precision: there is no autocast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

NAME = "meta"
"""Of the device, where torch asks for one."""

_FREE = {"aten::_to_copy", "aten::copy_", "aten::index", "aten::index_put_", "aten::_index_put_impl_"}
"""What may take tensors of both sides: copies, and rows and values of the CPU, as on a GPU."""
_ANSWERS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::masked_select"}
"""What cannot be answered before everything asked until then is computed; so are fetches."""


class _Away(torch.Tensor):
    """A tensor on the device."""

    held: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls: type[_Away], held: torch.Tensor) -> _Away:
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset()}
        with torch.inference_mode(False):
            made = cls._make_wrapper_subclass(cls, held.size(), **layout, dtype=held.dtype, device=NAME)
        made.held = held
        return made

    def tolist(self) -> list:
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


class Device(TorchDispatchMode):
    """Computes what has to do with the device, and leaves alone what has not.

    Attributes:
        operations: that the device was asked for.
        waits: those of them whose answer the caller had to wait for, as it would for a GPU.
    """

    operations = 0
    waits = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        if any(isinstance(leaf, torch.Tensor) for leaf in leaves):
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        if _is_away(kwargs.get("device")) or any(isinstance(leaf, _Away) for leaf in leaves):
            self._count(func, args, kwargs)
            return _compute(func, args, kwargs)
        return func(*args, **kwargs)

    def _count(self, func: Any, args: Any, kwargs: dict[str, Any]) -> None:
        name, wanted = func._schema.name, kwargs.get("device")
        is_fetched = name == "aten::_to_copy" and wanted is not None and not _is_away(wanted)
        rows = args[1] if name.startswith("aten::index") and isinstance(args[1], (list, tuple)) else ()
        by_mask = any(isinstance(row, torch.Tensor) and row.dtype == torch.bool for row in rows)
        self.operations += 1
        self.waits += name in _ANSWERS or is_fetched or by_mask


def _is_away(device: Any) -> bool:
    return device is not None and torch.device(device).type == NAME


def _compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    away = [tensor for tensor in tensors if isinstance(tensor, _Away)]
    name, wanted = func._schema.name, kwargs.get("device")
    mixed = len(away) < len([tensor for tensor in tensors if tensor.dim() or isinstance(tensor, _Away)])
    if away and mixed and name not in _FREE:
        raise RuntimeError(f"{name}: tensors on both devices, of {[tuple(each.shape) for each in tensors]}")
    if wanted is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    made = func(*tree_map(_held, args), **tree_map(_held, kwargs))
    if name == "aten::copy_":
        return args[0]
    if not (_is_away(wanted) if wanted is not None else away):
        return made
    # What is changed in place stays the same tensor.
    known = {id(tensor.held): tensor for tensor in away}

    def sent(value: Any) -> Any:
        if type(value) is not torch.Tensor:
            return value
        return known[id(value)] if id(value) in known else _Away(value)

    return tree_map(sent, made)


def _held(value: Any) -> Any:
    return value.held if isinstance(value, _Away) else value


def _fetched(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """torch.tensor and torch.as_tensor, which make nothing on `meta`: made here, then sent there."""

    def made(data: Any, *args: Any, device: Any = None, **kwargs: Any) -> torch.Tensor:
        if not _is_away(device):
            return make(data, *args, device=device, **kwargs)
        return make(data, *args, **kwargs).to(device)

    return made


class _Chance(torch.Generator):
    def __new__(cls, device: Any = "cpu") -> torch.Generator:  # type: ignore[misc]
        return _GENERATOR() if _is_away(device) else _GENERATOR(device)


def _autocast(device_type: str, *args: Any, **kwargs: Any) -> Any:
    return nullcontext() if device_type == NAME else _AUTOCAST(device_type, *args, **kwargs)


_GENERATOR, _AUTOCAST = torch.Generator, torch.autocast


@contextmanager
def another_device() -> Iterator[Device]:
    """Yields a device, `NAME`, that is there until the end."""
    with pytest.MonkeyPatch.context() as patch, Device() as device:
        for name in ("tensor", "as_tensor"):
            patch.setattr(torch, name, _fetched(getattr(torch, name)))
        patch.setattr(torch, "Generator", _Chance)
        patch.setattr(torch, "autocast", _autocast)
        yield device
