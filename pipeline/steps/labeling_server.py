"""Label Studio as a server: a round becomes a project, and its annotations come back.

The package label-studio-sdk is asked for when it is needed: the files of a round go in and out without it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import orjson

from pipeline.errors import SettingsError, SourceError

API_KEY = "LABEL_STUDIO_API_KEY"
"""Environment variable with the key: never a setting, which records would keep."""


def upload_round(folder: Path, url: str, title: str) -> int:
    """Makes a Label Studio project of an exported round; returns the project's id.

    Args:
        folder: of the round.
        url: of the server; the key comes from the environment's LABEL_STUDIO_API_KEY.
        title: of the project.

    Raises:
        SettingsError: there is no key, or the package label-studio-sdk is not installed.
        SourceError: the server cannot be reached or refuses.
    """
    client = _client(url)
    config = (folder / "label_studio" / "config.xml").read_text()
    tasks = orjson.loads((folder / "label_studio" / "tasks.json").read_bytes())
    try:
        project = client.projects.create(title=title, label_config=config)
        client.projects.import_tasks(id=project.id, request=tasks)
    except _failures() as error:
        raise _refused(url, error) from error
    return int(project.id)


def annotated(url: str, project: int) -> str:
    """Which tasks of a project are annotated, how often, and when last; '' where none is.

    Raises:
        SettingsError, SourceError: as `upload_round`.
    """
    client = _client(url)
    try:
        asked = client.tasks.list(project=project, include="id,total_annotations,updated_at")
        told = [(task.id, task.total_annotations, str(task.updated_at)) for task in asked]
    except _failures() as error:
        raise _refused(url, error) from error
    done = sorted(one for one in told if one[1])
    return orjson.dumps(done).decode() if done else ""


def download_reviews(url: str, project: int) -> list[dict[str, Any]]:
    """The annotated tasks of a project, as its JSON export holds them.

    Raises:
        SettingsError, SourceError: as `upload_round`.
    """
    client = _client(url)
    try:
        tasks = list(client.projects.exports.as_json(project))
        people = {user.id: user.email for user in client.users.list()}
    except _failures() as error:
        raise _refused(url, error) from error
    for annotation in (one for task in tasks for one in task["annotations"]):
        # The export names people by number alone.
        by = annotation.get("completed_by")
        if by in people:
            annotation["completed_by"] = {"id": by, "email": people[by]}
    return tasks


def _client(url: str) -> Any:
    if not os.environ.get(API_KEY):
        raise SettingsError(
            "no key for Label Studio",
            where="[Review] label_studio_url",
            found=url,
            remedy=f"Put your access token into the environment's {API_KEY}.",
        )
    try:
        from label_studio_sdk import LabelStudio
    except ImportError as error:
        raise SettingsError(
            "label-studio-sdk is not installed",
            where="[Review] label_studio_url",
            found=url,
            remedy="Install it (pip install label-studio-sdk), or leave the setting empty.",
        ) from error
    return LabelStudio(base_url=url, api_key=os.environ[API_KEY])


def _failures() -> tuple[type[Exception], ...]:
    """What the package raises when the server does not answer, or not as asked."""
    from httpx import HTTPError
    from label_studio_sdk.core.api_error import ApiError

    return HTTPError, ApiError


def _refused(url: str, error: Exception) -> SourceError:
    return SourceError(
        f"Label Studio does not answer as asked: {' '.join(str(error).split())[:300]}",
        where=url,
        remedy="Check that the server runs and the key is valid, or import the files by hand.",
    )
