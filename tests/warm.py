"""The command line in processes that start warm: forked from one that has the heavy packages loaded.

A `luigi` process spends seconds on importing before it reads its arguments. Tests that need hundreds of
them fork from a server that has imported what decides nothing: each is a process of its own, with its own
folder, environment, limits and exit code, that goes the way of `luigi --module pipeline ...` from there.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

PRELOADED = (
    "pipeline", "models.predict", "models.train", "luigi.cmdline", "pytest", "torch.utils.data",
    "torchvision.models.detection", "rasterio", "geopandas", "pyarrow.parquet", "h5py", "geoalchemy2",
    "psycopg2", "scipy.ndimage", "scipy.optimize", "PIL.Image",
)  # fmt: skip


class Done(NamedTuple):
    """A process that has ended, as `subprocess.run` would tell of it."""

    returncode: int
    """Negative: the signal that ended it."""
    stdout: str
    """What it wrote to stdout and stderr."""


class Running:
    """A `luigi --module pipeline` process of this checkout.

    Args:
        workspace: the folder it runs in.
        arguments: of the command line, behind `--module pipeline`.
        memory_mib: address space it may take beyond what it starts with; None for any.
        environment: variables that differ from ours.
        prepare: called in the process before anything else, with `prepared`; a function of a module.
        prepared: its arguments.
    """

    def __init__(
        self,
        workspace: Path,
        *arguments: str,
        memory_mib: int | None = None,
        environment: Mapping[str, str] | None = None,
        prepare: Any = None,
        prepared: Sequence[Any] = (),
        log: Path | None = None,
    ):
        self.log = log or workspace / f"log-{time.monotonic_ns()}.txt"
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(PRELOADED))
        options = (workspace, arguments, self.log, memory_mib, dict(environment or {}), prepare, prepared)
        self.process: BaseProcess = context.Process(target=_run, args=options)
        self.process.start()

    def kill(self) -> None:
        """SIGKILL to it and to the processes it has started."""
        assert self.process.pid is not None
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            self.process.kill()

    def wait(self, timeout: float = 600) -> Done:
        """How it ended; it is killed and reported as -9 where it does not end in time."""
        self.process.join(timeout)
        if self.process.is_alive():
            self.kill()
            self.process.join()
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        self.log.unlink(missing_ok=True)
        code = self.process.exitcode
        assert code is not None
        return Done(code, text)


def run_warm(workspace: Path, *arguments: str, timeout: float = 600, **options: Any) -> Done:
    """A finished process: see `Running`."""
    return Running(workspace, *arguments, **options).wait(timeout)


def _run(workspace, arguments, log, memory_mib, environment, prepare, prepared) -> None:
    os.setpgid(0, 0)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    os.environ.update(environment)
    os.chdir(workspace)
    sys.path.insert(0, str(Path(__file__).parents[1]))
    if memory_mib is not None:
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + memory_mib * 2**20,) * 2)
    if prepare is not None:
        prepare(*prepared)
    from luigi.cmdline import luigi_run
    from luigi.configuration.cfg_parser import LuigiConfigParser

    from pipeline.defaults import set_defaults

    LuigiConfigParser._instance = None
    set_defaults()
    luigi_run(["--module", "pipeline", *arguments])
