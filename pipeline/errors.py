"""The errors a user can cause, each one line long and with its remedy.

::

    PipelineError
    ├── SettingsError    a setting, parameter or image id that cannot be honoured
    ├── SourceError      an input file that is missing or cannot be found
    ├── RasterError      an image that cannot be read as asked
    ├── LabelError       a label file that cannot be read as asked
    ├── StoreError       a label store that is unreachable or not what it should be
    └── ArtifactError    one of the pipeline's own files that is damaged or of another version

`models` has the same family for pixel space in `models.errors`.
"""

from __future__ import annotations


class PipelineError(Exception):
    """A user's mistake in one line: what, where, found value, what to do.

    Args:
        what: the fault as a sentence without its full stop.
        where: the file, image, tile or setting it was found in.
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


class SettingsError(PipelineError):
    """A setting, parameter or image id that cannot be honoured."""


class SourceError(PipelineError):
    """An input file that is missing or cannot be found."""


class RasterError(PipelineError):
    """An image that cannot be read as asked."""


class LabelError(PipelineError):
    """A label file that cannot be read as asked."""


class StoreError(PipelineError):
    """A label store that is unreachable or not what it should be."""


class ArtifactError(PipelineError):
    """One of the pipeline's own files that is damaged or of another version."""
