"""Luigi's log without tracebacks for what is a user's to mend.

A `Mistake` says in one line what is wrong, where, and what to do; the stack
below it would only hide that. So does Luigi of a parameter that is missing. Every other exception keeps
its traceback.
"""

from __future__ import annotations

import logging

from luigi.parameter import ParameterException

from models.errors import Mistake
from pipeline.bars import LoggerAboveBars

_NAMES = ("pipeline.errors.", "models.errors.")


class OneLineErrors(logging.Filter):
    """Replaces the traceback of a user's mistake by its message, in every record that passes."""

    def filter(self, record: logging.LogRecord) -> bool:
        """True: no record is dropped."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, (Mistake, ParameterException)):
            record.msg, record.args = f"{record.getMessage().strip()}: {error}", ()
            record.exc_info = record.exc_text = None
        elif "Traceback (most recent call last)" in (message := record.getMessage()):
            # Errors of complete() and requires() reach luigi's log as text.
            before, _, trace = message.partition("Traceback (most recent call last)")
            last = trace.strip().splitlines()[-1]
            if last.startswith(_NAMES):
                record.msg, record.args = f"{before.strip()} {last.partition(': ')[2]}", ()
        return True


def shorten_errors() -> None:
    """Makes the logger that Luigi reports through tell mistakes in one line, above the bars."""
    logger = logging.getLogger("luigi-interface")
    logger.__class__ = LoggerAboveBars
    if not any(isinstance(present, OneLineErrors) for present in logger.filters):
        logger.addFilter(OneLineErrors())
