"""Memory that a network on a CPU frees stays with its process.

Every layer makes maps of tens of MiB and frees them. glibc gives blocks of that size back to the system
and asks for them anew, and the system clears each page again before it is used.
"""

from __future__ import annotations

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Of glibc's <malloc.h>."""
_LARGE, _LARGEST_ONCE = 1 << 30, 1 << 25
"""Bytes up to which blocks come from the heap; the second is the most that older versions allow."""
_NEVER = (1 << 31) - 1


def keep_freed_memory() -> None:
    """Tell this process's allocator to keep what is freed; where it is not glibc's nothing changes.

    What the process needs at most stays the same; it keeps that until it ends.

    Source: mallopt(3).
    """
    if not _is_glibc():
        return
    mallopt = ctypes.CDLL(None).mallopt
    # In this order: with the second alone, every large block would be given back.
    if mallopt(_M_MMAP_THRESHOLD, _LARGE) or mallopt(_M_MMAP_THRESHOLD, _LARGEST_ONCE):
        mallopt(_M_TRIM_THRESHOLD, _NEVER)


def give_back_freed_memory() -> None:
    """Give what this process has freed and kept back to the system, so that it counts as free.

    Source: malloc_trim(3).
    """
    if _is_glibc():
        ctypes.CDLL(None).malloc_trim(0)


def _is_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"
