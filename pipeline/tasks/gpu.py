"""What steps share that run a network."""

from __future__ import annotations

from typing import ClassVar

from pipeline import settings
from pipeline.tasks.step import Step


class GpuStep(Step):
    """A step that runs a network: where it may use a GPU, as many at once as `[resources] gpu` says."""

    runs_by: ClassVar[type[settings.Training | settings.Inference]] = settings.Inference
    """The settings that name the device."""

    @property
    def resources(self) -> dict[str, int]:  # type: ignore[override]
        """One GPU where one may be used."""
        return {} if self.runs_by().device == "cpu" else {"gpu": 1}
