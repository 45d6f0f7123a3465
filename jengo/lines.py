"""The luigi command lines behind `jengo run` and `jengo dashboard`."""

from __future__ import annotations

import difflib
import json
import shlex
import socket
from collections.abc import Sequence

from luigi.cmdline_parser import CmdlineParser

import pipeline
from pipeline import settings
from pipeline.errors import SettingsError, SourceError
from pipeline.tasks import SourceImage


def luigi_line(
    task: str,
    images: Sequence[str],
    *,
    given: Sequence[str] = (),
    workers: int = 1,
    dashboard: bool = False,
    port: int | None = None,
) -> list[str]:
    """Arguments of `luigi` that run a task for images.

    >>> luigi_line("ReportImage", ["flight_02"])
    ['--module', 'pipeline', 'ReportImage', '--image-id', 'flight_02', '--local-scheduler']

    Args:
        task: one that takes an image id; `ReportImage` becomes `ReportImages` for more than one.
        images: their ids.
        given: settings as `Section.knob=value`.
        workers: tasks at a time.
        dashboard: whether the run is to be seen in luigid, or schedules itself.
        port: of luigid; None for that of luigi.cfg.

    Raises:
        SettingsError: no such task; a setting is not of that form or unknown; several images for a task
            of one.
    """
    if task not in _tasks_of_an_image():
        raise SettingsError(
            "no task of an image", where="--task", found=task, remedy=_known(task, _tasks_of_an_image())
        )
    if len(images) == 1:
        which = [task, "--image-id", images[0]]
    elif task == "ReportImage":
        which = ["ReportImages", "--image-ids", json.dumps(list(images))]
    else:
        raise SettingsError(
            "takes one image", where=f"--task {task}", found=list(images), remedy="Run it once for each."
        )
    options = [part for setting in given for part in _option(setting)]
    options += ["--workers", str(workers)] if workers != 1 else []
    options += [] if dashboard else ["--local-scheduler"]
    options += ["--scheduler-port", str(port)] if dashboard and port else []
    return ["--module", "pipeline", *which, *options]


def as_typed(arguments: Sequence[str]) -> str:
    """The line as one would type it."""
    return shlex.join(["luigi", *arguments])


def check_images(images: Sequence[str], arguments: Sequence[str]) -> None:
    """Nothing, where every image is there for luigi with these arguments.

    Raises:
        SettingsError: an argument or setting cannot be honoured; an image id is none.
        SourceError: there is no such image.
    """
    with CmdlineParser.global_instance(list(arguments)):
        settings.check_all()
        for image_id in images:
            _ = SourceImage(image_id=image_id).source


def _option(setting: str) -> list[str]:
    """`Tiling.tile_size=512` as luigi's option."""
    place, equals, value = setting.partition("=")
    section, _, knob = place.strip().partition(".")
    known = {kind.get_task_family(): dict(kind.get_params()) for kind in settings.ALL}
    knob = knob.replace("-", "_")
    if not equals or knob not in known.get(section, {}):
        named = [f"{name}.{one}" for name, knobs in known.items() for one in knobs]
        close = difflib.get_close_matches(f"{section}.{knob}", named, n=1)
        form = "Write Section.knob=value, as in Tiling.tile_size=512; docs/settings.md lists them."
        remedy = f"Did you mean {close[0]}?" if equals and close else form
        raise SettingsError("not a setting", where="--set", found=setting, remedy=remedy)
    return [f"--{section}-{knob.replace('_', '-')}", value.strip()]


def _tasks_of_an_image() -> list[str]:
    tasks = {name: getattr(pipeline, name) for name in pipeline.__all__}
    return [name for name, task in tasks.items() if "image_id" in dict(task.get_params())]


def _known(given: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(given, names, n=1)
    return f"Did you mean {close[0]}?" if close else f"There are {', '.join(names)}."


def check_scheduler(host: str, port: int) -> None:
    """Nothing, where a scheduler answers there.

    Raises:
        SourceError: nothing does.
    """
    try:
        with socket.create_connection((host, port), timeout=2):
            return
    except OSError as error:
        raise SourceError(
            f"no dashboard answers: {error.strerror or error}",
            where=f"{host}:{port}",
            remedy="Start one in another terminal: jengo dashboard.",
        ) from error
