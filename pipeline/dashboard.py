"""Luigi's scheduler with its web page, as `luigid` starts it, and with what luigid leaves off by default.

State and the history of tasks lie in the workspace's `work/`, so that they outlive the process; figures
for Prometheus are at `/metrics`. What luigi.cfg says of any of it stands.
"""

from __future__ import annotations

import logging
from importlib.util import find_spec

import luigi.server
from luigi.configuration import get_config

from pipeline.errors import SettingsError, SourceError
from pipeline.targets import Workspace

logger = logging.getLogger("luigi")


def set_server_defaults(workspace: Workspace, history: str | None = None) -> None:
    """Fills in what the configuration leaves open: where the server keeps what it knows.

    Args:
        workspace: whose `work/` holds `scheduler.pickle` and `history.db`.
        history: SQLAlchemy URL of the database of the history; None: as configured, else that file.
    """
    config, work = get_config(), workspace.root / "work"
    if history:
        config.set("task_history", "db_connection", history)
    defaults = {
        "scheduler": {
            "state_path": str(work / "scheduler.pickle"),
            "record_task_history": "true",
            # A worker that was killed is gone from the page after a minute, a failed task is tried again
            # only when a run asks for it.
            "worker_disconnect_delay": "60",
            **({"metrics_collector": "prometheus"} if find_spec("prometheus_client") else {}),
        },
        "task_history": {"db_connection": f"sqlite:///{work / 'history.db'}"},
    }
    for section, values in defaults.items():
        for key, value in values.items():
            if not config.has_option(section, key):
                config.set(section, key, value)


def serve(
    workspace: Workspace, *, address: str = "127.0.0.1", port: int = 8082, history: str | None = None
) -> None:
    """Serves until the process is asked to end.

    Raises:
        SourceError: the port is taken.
        SettingsError: the database of the history cannot be used.
    """
    from sqlalchemy.exc import SQLAlchemyError

    set_server_defaults(workspace, history)
    (workspace.root / "work").mkdir(parents=True, exist_ok=True)
    _spare_the_upgrade()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s: %(message)s")
    logger.info("http://%s:%d shows every run that is started with --dashboard; Ctrl-C ends", address, port)
    try:
        luigi.server.run(api_port=port, address=address)
    except OSError as error:
        raise SourceError(
            f"cannot be served from: {error.strerror}",
            where=f"{address}:{port}",
            remedy="Choose another --port, or use the dashboard that is there.",
        ) from error
    except SQLAlchemyError as error:
        raise SettingsError(
            f"the history cannot be kept: {str(error).splitlines()[0]}",
            where="[task_history] db_connection",
            remedy="Check the URL, or leave it out for a file in work/.",
        ) from error


def _spare_the_upgrade() -> None:
    """Leaves out luigi's upgrade of histories that luigi before 2.7 wrote.

    Its statements are plain strings, which SQLAlchemy 2 refuses: with SQLite luigid 3.8 does not start.
    """
    from luigi import db_task_history

    db_task_history._upgrade_schema = lambda engine: None
