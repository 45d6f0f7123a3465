"""A user's mistake is one line in the log; anything else keeps its traceback."""

import logging
import traceback

import pytest

from models.errors import TrainingError
from pipeline.errors import RasterError, SettingsError
from pipeline.logs import OneLineErrors


@pytest.fixture
def log(caplog):
    logger = logging.getLogger("trial")
    logger.addFilter(OneLineErrors())
    yield logger, caplog
    logger.filters.clear()


@pytest.mark.parametrize(
    "error", [RasterError("no CRS", where="a.tif", remedy="Give it one."), TrainingError("x")]
)
def test_mistakes_lose_their_traceback(log, error):
    logger, caplog = log
    try:
        raise error
    except type(error):
        logger.exception("[pid %s] failed    %s", 1, "TileImage(image_id=a)")
    assert caplog.text.count("\n") == 1 and "Traceback" not in caplog.text
    assert str(error) in caplog.text and "TileImage(image_id=a)" in caplog.text


def test_bugs_keep_theirs(log):
    logger, caplog = log
    try:
        raise ValueError("oops")
    except ValueError:
        logger.exception("failed")
    assert "Traceback" in caplog.text and "oops" in caplog.text


def test_tracebacks_as_text_are_shortened_too(log):
    logger, caplog = log
    try:
        raise SettingsError("unknown setting", where="[Tiling]", found="tilesize", remedy="Did you mean it?")
    except SettingsError:
        logger.warning("Will not run X due to error in deps() method:\n%s", traceback.format_exc())
    assert "Traceback" not in caplog.text and "Did you mean it?" in caplog.text
