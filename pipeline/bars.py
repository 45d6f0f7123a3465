"""Progress bars in a terminal, one line for each task that runs; nothing where nobody looks.

Tasks of several workers run in processes of their own. Each takes the first free line by a lock on a
byte of one file per terminal, so that no two draw on the same line, and all draw under tqdm's lock,
which they share. A file or a pipe gets no bar.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import IO

from tqdm import tqdm

MOST_LINES = 32
_CLEAR_BELOW = "\r\x1b[J"

# Made here, before luigi forks: the processes of all workers then share it.
tqdm.get_lock()


def in_terminal() -> bool:
    """Whether somebody looks at stderr."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


class Bar:
    """A line at the foot of the terminal, from the first `show` to `close`.

    Args:
        name: what it is the progress of.
    """

    def __init__(self, name: str):
        columns, rows = shutil.get_terminal_size()
        self._lines: IO[str] = open(_lines_file(), "a+")  # noqa: SIM115 (held as long as the line)
        self._bar = tqdm(
            total=100.0,
            desc=name,
            position=_free_line(self._lines),
            leave=False,
            ncols=columns,
            nrows=rows,
            file=sys.stderr,
            bar_format="{desc} {percentage:3.0f}%|{bar:20}| {postfix}",
        )

    def show(self, fraction: float, text: str) -> None:
        """Draws how far it is, 0 to 1, and what is being done; at most ten times a second."""
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(100 * fraction - self._bar.n)

    def close(self) -> None:
        """Takes the line away."""
        self._bar.close()
        self._lines.close()


def _lines_file() -> Path:
    terminal = os.ttyname(sys.stderr.fileno()).replace("/", "-")
    return Path(tempfile.gettempdir()) / f"jengo-bars-{os.getuid()}{terminal}"


def _free_line(lines: IO[str]) -> int:
    """The first line that no other process holds; it is this one's until the file is closed."""
    for line in range(MOST_LINES):
        try:
            fcntl.lockf(lines, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, line)
        except OSError:
            continue
        return line
    return MOST_LINES


class LoggerAboveBars(logging.Logger):
    """Takes the bars away until a record is written, in all processes; each comes back when it next moves."""

    def callHandlers(self, record: logging.LogRecord) -> None:  # noqa: N802 (its name in logging)
        """Hands the record to all handlers, as any logger does, with the bars taken away."""
        if not in_terminal():
            return super().callHandlers(record)
        with tqdm.get_lock():
            sys.stderr.write(_CLEAR_BELOW)
            sys.stderr.flush()
            super().callHandlers(record)
