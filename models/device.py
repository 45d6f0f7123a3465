"""Where a network computes, and with what numbers."""

from __future__ import annotations

import torch

from models.errors import DeviceError
from models.recipe import Precision

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(device: str) -> torch.device:
    """Return the device of that name; `auto` is a GPU where there is one, else the CPU.

    Raises:
        DeviceError: there is none of that name here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise DeviceError("unknown device", found=device, remedy="Use auto, cpu, cuda or cuda:<n>") from None
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise DeviceError("no such GPU here", found=device, remedy="Use auto or cpu")
    return chosen


def choose_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """Return what the convolutions compute with; `auto` is what the device multiplies fastest.

    That is half precision on a GPU, and bfloat16 on a CPU that has instructions for it.

    Raises:
        DeviceError: the precision has no such name.
    """
    if precision == "auto":
        if device.type != "cuda":
            return torch.bfloat16 if _has_bfloat16() else torch.float32
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    if precision not in _DTYPES:
        raise DeviceError("unknown precision", found=precision, remedy=f"Use auto, {', '.join(_DTYPES)}")
    return _DTYPES[precision]


def _has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16; others emulate it, several times slower than float32."""
    if not hasattr(torch.cpu, "get_capabilities"):  # older torch cannot tell
        return False
    known = torch.cpu.get_capabilities()
    return any(known.get(name) for name in ("avx512_bf16", "amx_bf16"))
