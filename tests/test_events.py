import pytest

from models import events
from models.events import write_events

RECORD = {"epoch": 2, "losses": {"loss_mask": 0.5}, "metrics": {}, "seconds": 3.0}


def test_epochs_become_scalars(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for epoch, loss in ((1, 0.9), (2, 0.7), (2, 0.5)):
        write_events(tmp_path, RECORD | {"epoch": epoch, "losses": {"loss_mask": loss}})
    written = EventAccumulator(str(tmp_path)).Reload()
    assert set(written.Tags()["scalars"]) == {"epoch", "losses/loss_mask", "seconds"}
    assert [(event.step, event.value) for event in written.Scalars("losses/loss_mask")] == [
        (1, pytest.approx(0.9)),
        (2, pytest.approx(0.5)),
    ]


def test_nothing_is_written_without_tensorboard(tmp_path, monkeypatch):
    monkeypatch.setattr(events, "find_spec", {"tensorboard": None}.get)
    write_events(tmp_path / "events", RECORD)
    assert not (tmp_path / "events").exists()
