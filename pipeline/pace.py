"""How long something will still take, told from how far it says it is."""

from __future__ import annotations

from collections import deque

MEMORY_S = 300.0
"""How far back the rate looks, in seconds: far enough to be calm, near enough to notice a change."""
SOONEST_S = 2.0
"""Seconds before which nothing is foretold."""


class Pace:
    """The rate of one piece of work, over the last minutes of what it told of itself."""

    def __init__(self) -> None:
        self._told: deque[tuple[float, float]] = deque()

    def left(self, fraction: float, now: float) -> float | None:
        """Seconds until all is done at the present rate; None while nobody can know.

        A piece of work that resumes begins above 0: only what is done here and now counts. One that
        falls back has begun another part, and is watched anew.

        Args:
            fraction: share that is done, 0 to 1.
            now: seconds of a clock that never goes back.
        """
        if self._told and fraction < self._told[-1][1]:
            self._told.clear()
        self._told.append((now, fraction))
        while len(self._told) > 2 and now - self._told[1][0] > MEMORY_S:
            self._told.popleft()
        since, before = self._told[0]
        if fraction >= 1 or fraction <= before or now - since < SOONEST_S:
            return None
        return (1 - fraction) * (now - since) / (fraction - before)


def in_words(seconds: float) -> str:
    """A duration as people say it.

    >>> in_words(8), in_words(200), in_words(7_900), in_words(200_000)
    ('8 s', '3 min', '2 h 12 min', '2 d 8 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{hours // 24} d {hours % 24} h"
