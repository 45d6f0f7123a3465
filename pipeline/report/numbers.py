"""Numbers as people read them."""

from __future__ import annotations


def thousands(number: float) -> str:
    """A whole number with narrow spaces between its thousands."""
    return f"{number:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def area(m2: float | None) -> str:
    """Square metres, or hectares where there are many; a dash for None."""
    if m2 is None:
        return "\N{EN DASH}"
    return f"{m2 / 10_000:,.1f} ha" if m2 >= 100_000 else f"{thousands(m2)} m²"


def duration(seconds: float) -> str:
    """Seconds, minutes, or hours."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min {int(seconds % 60)} s"


def memory(mib: float) -> str:
    """MiB, or GiB from 1024 of them."""
    return f"{mib / 1024:.1f} GiB" if mib >= 1024 else f"{mib:.0f} MiB"


def file_size(size: int) -> str:
    """Bytes as KiB, or MiB from 1024 of them."""
    return memory(size / 2**20) if size >= 2**20 else f"{-(-size // 1024):,} KiB"


def share(value: float | None) -> str:
    """Three decimals; a dash for None."""
    return "\N{EN DASH}" if value is None else f"{value:.3f}"


FILTERS = {
    "thousands": thousands,
    "area": area,
    "duration": duration,
    "memory": memory,
    "file_size": file_size,
    "share": share,
}
"""By their names in the layout."""
