"""Luigi's own settings where a workspace says nothing: a failed build exits non-zero, and logs stay readable.

Luigi reads them after it has imported the module named by `--module`, so that a wheel without a
luigi.cfg behaves like a checkout. What a workspace's luigi.cfg or the command line says stands.
"""

from __future__ import annotations

import configparser

from pipeline.unparsed import as_mistake

try:
    from luigi.configuration import get_config
except (configparser.Error, UnicodeDecodeError) as error:  # luigi reads the file while it is imported
    raise as_mistake(error) from error

DEFAULTS = {
    "core": {"log_level": "INFO", "no_lock": "true"},
    "retcode": {
        "already_running": "10",
        "missing_data": "20",
        "not_run": "25",
        "task_failed": "30",
        "scheduling_error": "35",
        "unhandled_exception": "40",
    },
    "resources": {"gpu": "1"},
    "worker": {"check_unfulfilled_deps": "false"},
}
"""Exit codes by the worst thing that happened; one task at a time on a GPU. Luigi's own lock, files of one
user in /tmp that another cannot write, is left alone: two runs at a time do no harm here. Tasks look at their
inputs themselves, and end in one line; luigi would try a task whose inputs another run has replaced again
and again, without a pause."""


def set_defaults() -> None:
    """Fills in what the configuration leaves open."""
    config = get_config()
    for section, values in DEFAULTS.items():
        for key, value in values.items():
            if not config.has_option(section, key):
                config.set(section, key, value)
