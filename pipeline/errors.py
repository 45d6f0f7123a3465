"""The errors a user can cause, each one line long and with its remedy.

::

    PipelineError
    ├── SettingsError    a setting, parameter or image id that cannot be honoured
    ├── SourceError      an input file that is missing or cannot be found
    ├── RasterError      an image that cannot be read as asked
    ├── LabelError       a label file that cannot be read as asked
    ├── StoreError       a label store that is unreachable or not what it should be
    ├── ArtifactError    one of the pipeline's own files that is damaged or of another version
    └── MachineError     a disk, a permission or memory that the work needs

`models.errors` has the branch for pixel space and the root of both, `Mistake`.
"""

from __future__ import annotations

from models.errors import Mistake


class PipelineError(Mistake):
    """A user's mistake in map space or in the graph."""


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

    passing = False
    """Whether it may be gone in a moment, as while a server restarts."""


class ArtifactError(PipelineError):
    """One of the pipeline's own files that is damaged or of another version."""


class MachineError(PipelineError):
    """A disk, a permission or memory that the work needs and the machine does not give."""
