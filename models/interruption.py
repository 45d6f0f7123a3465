"""Being asked to stop: SIGTERM as a question, not as an end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def termination_noticed() -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether this process was sent SIGTERM since the block began.

    Inside the block the signal does nothing else; afterwards it does what it did before. Python
    delivers signals to the main thread alone: in another one nothing changes, and nothing is noticed.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = signal.signal(signal.SIGTERM, lambda _number, _frame: asked.set())
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGTERM, before)


def leave_termination_to_parent(_worker: int) -> None:
    """Ignore SIGTERM in a process that reads ahead: sent to all at once, it is the parent that answers."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
