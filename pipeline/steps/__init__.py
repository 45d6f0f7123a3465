"""What each task does between reading and writing, one module per artifact, in the graph's order.

A step opens the doors (rasters, label files, networks), calls the pure modules and returns or writes
one artifact. It knows settings but no task, and no friendly path: tasks decide where things lie.
"""

from collections.abc import Callable

Progress = Callable[[float, str], None]
"""Called with the share done (0 to 1) and what is being done."""


def silent(_share: float, _doing: str) -> None:
    """Progress that nobody listens to."""
