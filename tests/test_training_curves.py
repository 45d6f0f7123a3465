"""How a network was learnt, from its history to the page."""

import json

import pytest

from pipeline.errors import ArtifactError
from pipeline.training_curves import read_training_curves, training_curves


def epoch(number, score=None):
    metrics = {} if score is None else {"score": score, "mean_f1": score - 0.1, "all_f1": score + 0.1}
    losses = {"loss_mask": 1.0, "loss_classifier": 3.0 / number}
    held_out = {} if score is None else {"loss_mask": 2.5}
    return {
        "epoch": number,
        "losses": losses,
        "learning_rate": 0.002 / number,
        "validation_losses": held_out,
        "metrics": metrics,
        "data_wait_share": 0.01,
        "seconds": 30.0,
    }


def test_curves_tell_what_every_epoch_brought():
    curves = training_curves([epoch(1), epoch(2, 0.5), epoch(3, 0.7), epoch(4, 0.7)])
    assert (curves.epochs, curves.seconds, curves.best) == (4, 120.0, (4, 0.7))
    loss, score, rate = curves.charts
    assert [curve.points for curve in loss.curves] == [
        [(1, 4.0), (2, 2.5), (3, 2.0), (4, 1.75)],
        [(2, 2.5), (3, 2.5), (4, 2.5)],
    ]
    assert [(curve.name, curve.points[0]) for curve in score.curves] == [
        ("mean F1", (2, 0.4)),
        ("F1 of all buildings", (2, 0.6)),
    ]
    assert [chart.top for chart in curves.charts] == [5, 1, 0.002]
    assert rate.curves[0].points[-1] == (4, 0.0005)


def test_without_held_out_ground_there_is_nothing_to_score():
    curves = training_curves([epoch(1)])
    assert curves.best is None and [chart.title for chart in curves.charts] == ["loss", "learning rate"]
    assert len(curves.charts[0].curves) == 1


def test_no_history_and_none_yet(tmp_path):
    assert read_training_curves(tmp_path / "history.json") is None
    assert training_curves([]) is None


@pytest.mark.parametrize("content", ["{", "[1]", '[{"epoch": 1}]', '{"a": 1}'])
def test_what_is_no_history_is_refused(tmp_path, content):
    path = tmp_path / "history.json"
    path.write_text(content)
    with pytest.raises(ArtifactError, match="not the history of a training"):
        read_training_curves(path)


def test_the_file_is_read_as_it_is_written(tmp_path):
    path = tmp_path / "history.json"
    path.write_text(json.dumps([epoch(1, 0.5)]))
    assert read_training_curves(path) == training_curves([epoch(1, 0.5)])
