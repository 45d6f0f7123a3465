"""What every epoch brought as TensorBoard events, where the `tensorboard` package is installed."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any


def write_events(folder: Path, record: Mapping[str, Any]) -> None:
    """Add an epoch to the events in a folder; does nothing where TensorBoard is not installed.

    Args:
        folder: `tensorboard --logdir` reads it.
        record: of one epoch, as in `history.json`; its numbers, and those of its groups, become scalars.
    """
    if find_spec("tensorboard") is None:
        return
    from torch.utils.tensorboard import SummaryWriter

    epoch = record["epoch"]
    # An epoch that is done over after a crash takes the place of what was written of it.
    with SummaryWriter(str(folder), purge_step=epoch) as events:
        for name, value in record.items():
            group = value if isinstance(value, Mapping) else {"": value}
            for part, number in group.items():
                events.add_scalar(f"{name}/{part}".rstrip("/"), number, epoch)
