"""The errors a user of `models` can cause, each one line long and with its remedy.

::

    Mistake
    └── ModelError
        ├── WeightsError      a weights file that is missing, damaged or of another network
        ├── DatasetError      a training tile that cannot be read as asked
        ├── DeviceError       a device or precision that this machine does not have
        ├── TrainingError     a training that cannot begin, go on or be resumed
        └── PredictionError   images that cannot be predicted as asked

`pipeline.errors` is the branch for map space.
"""

from __future__ import annotations


class Mistake(Exception):  # noqa: N818 (it names what it is)
    """A user's mistake in one line: what, where, found value, what to do.

    Args:
        what: the fault as a sentence without its full stop.
        where: the file, tile or knob it was found in.
        found: the value found, shown with `repr`; None when there is none to show.
        remedy: the sentence that tells what to do about it.
    """

    def __init__(self, what: str, *, where: object = None, found: object = None, remedy: str = ""):
        self.what, self.where, self.found, self.remedy = what, where, found, remedy
        # All arguments reach `args`, so that the error survives pickling between processes.
        super().__init__(what, where, found, remedy)

    def __reduce__(self):
        return _rebuild, (type(self), self.what, self.where, self.found, self.remedy)

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where is not None else ""
        value = f" (found {self.found!r})" if self.found is not None else ""
        remedy = f". {self.remedy}" if self.remedy else ""
        return f"{place}{self.what}{value}{remedy}"


def _rebuild(kind, what, where, found, remedy):
    return kind(what, where=where, found=found, remedy=remedy)


class ModelError(Mistake):
    """A user's mistake in pixel space."""


class WeightsError(ModelError):
    """A weights file that is missing, damaged or of another network."""


class DatasetError(ModelError):
    """A training tile that cannot be read as asked."""


class DeviceError(ModelError):
    """A device or precision that this machine does not have."""


class TrainingError(ModelError):
    """A training that cannot begin, go on or be resumed."""


class PredictionError(ModelError):
    """Images that cannot be predicted as asked."""
