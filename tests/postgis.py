"""A PostGIS server of our own for tests and trials, from Debian's packages, gone when it is done.

    python tests/postgis.py serve        run until Ctrl-C
    python tests/postgis.py start DIR    run in the background, its cluster in DIR
    python tests/postgis.py url DIR      print the URL of the one in DIR
    python tests/postgis.py stop DIR     stop it; DIR stays

It listens on a free port of 127.0.0.1 alone. The URL holds no password: PGPASSFILE is to name the
file `pgpass` of its folder. The cluster that Debian may run on port 5432 is never touched.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROLE = DATABASE = "jengo"
SUPERUSER = "postgres"

# Speed over durability: the cluster lives no longer than its tests.
OPTIONS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "30",
}


class Server(NamedTuple):
    """A running server: URL of its database for the role that owns it, and the file with its passwords."""

    url: str
    passfile: Path

    def url_of(self, database: str, role: str = ROLE) -> str:
        """The URL of another database or role."""
        return self.url.replace(f"//{ROLE}@", f"//{role}@").removesuffix(f"/{DATABASE}") + f"/{database}"


class ServerError(RuntimeError):
    """The server did not start; the message ends with its log."""


def binaries() -> Path | None:
    """The folder of the newest PostgreSQL server that has PostGIS; None where there is none."""
    versions = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if (path / "initdb").exists()]
    versions.sort(key=lambda path: float(path.parent.name), reverse=True)
    if initdb := shutil.which("initdb"):
        versions.append(Path(initdb).resolve().parent)
    return next((path for path in versions if _has_postgis(path)), None)


def _has_postgis(binaries: Path) -> bool:
    """Whether the server in this folder can create the extension: it may be installed without."""
    try:
        shared = subprocess.run(
            [binaries / "pg_config", "--sharedir"], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        # Debian packs pg_config apart from the server.
        shared = f"/usr/share/postgresql/{binaries.parent.name}"
    return (Path(shared) / "extension" / "postgis.control").exists()


class Cluster:
    """A server in a temporary folder that can be killed and started again; `close` stops and deletes it."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="jengo-postgis-"))
        try:
            self.process, self.server = _start(self._folder, detached=False)
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    def kill(self) -> None:
        """SIGKILL to the server; its processes notice and end."""
        self.process.kill()
        self.process.wait(30)

    def start(self) -> None:
        """The same server once more, on what it left on the disk."""
        bin_folder, log = binaries(), self._folder / "log"
        assert bin_folder is not None
        port = port_of(self.server.url)
        for _ in range(50):  # until the last process of the killed server has let go of its memory
            with log.open("ab") as output:
                self.process = subprocess.Popen(self.process.args, stdout=output, stderr=output, cwd="/")
            try:
                _await_ready(bin_folder, port, self.process, log)
            except ServerError:
                time.sleep(0.2)
            else:
                return
        raise ServerError(f"it does not come back: {log.read_text()[-1000:]}")

    def close(self) -> None:
        """Ends it at once, without a checkpoint: nothing of it is kept."""
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(30)
        shutil.rmtree(self._folder, ignore_errors=True)


def port_of(url: str) -> int:
    """The port in a URL of `Server`."""
    return int(url.rpartition(":")[2].partition("/")[0])


@contextmanager
def postgis_server() -> Iterator[Server]:
    """A server in a temporary folder, stopped and deleted at the end of the block."""
    cluster = Cluster()
    try:
        yield cluster.server
    finally:
        cluster.close()


def _start(folder: Path, detached: bool) -> tuple[subprocess.Popen, Server]:
    bin_folder = binaries()
    if bin_folder is None:
        raise ServerError("no PostgreSQL server here: python tests/postgis.py install")
    folder.mkdir(parents=True, exist_ok=True)
    data, log, passfile = folder / "data", folder / "log", folder / "pgpass"
    if data.exists():
        raise ServerError(f"{data} exists: give a new folder")
    port = _free_port()
    password = secrets.token_urlsafe(16)
    _write_secret(passfile, f"127.0.0.1:{port}:*:*:{password}\n")
    secret = folder / "password"
    _write_secret(secret, password)
    _hand_over(folder, secret)
    initdb = [bin_folder / "initdb", "-D", data, "-U", SUPERUSER, "-A", "scram-sha-256", f"--pwfile={secret}"]
    _run([*_as_server_user(), *initdb, "-E", "UTF8", "--locale=C", "--no-sync"])
    secret.unlink()
    settings = [part for name, value in OPTIONS.items() for part in ("-c", f"{name}={value}")]
    command = [
        *_as_server_user(dies_with_us=not detached),
        bin_folder / "postgres",
        "-D",
        data,
        "-p",
        str(port),
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*map(str, command), *settings], stdout=output, stderr=output, cwd="/", start_new_session=detached
        )
    try:
        _await_ready(bin_folder, port, process, log)
        environment = os.environ | {"PGPASSFILE": str(passfile)}
        for database, sql in (
            ("postgres", f"CREATE ROLE {ROLE} LOGIN PASSWORD '{password}'"),
            ("postgres", f"CREATE DATABASE {DATABASE} OWNER {ROLE}"),
            (DATABASE, "CREATE EXTENSION postgis"),
        ):
            psql = [
                bin_folder / "psql",
                "-h",
                "127.0.0.1",
                "-p",
                str(port),
                "-U",
                SUPERUSER,
                "-w",
                "-X",
                "-q",
            ]
            _run([*psql, "-d", database, "-c", sql], env=environment)
    except BaseException:
        _stop(folder)
        process.wait(30)
        raise
    server = Server(f"postgresql://{ROLE}@127.0.0.1:{port}/{DATABASE}", passfile)
    (folder / "url").write_text(server.url)
    return process, server


def _stop(folder: Path) -> None:
    pid_file = folder / "data" / "postmaster.pid"
    if not pid_file.exists():
        return
    pid = int(pid_file.read_text().split()[0])
    os.kill(pid, signal.SIGINT)
    for _ in range(300):
        if not pid_file.exists():
            return
        time.sleep(0.1)
    raise ServerError(f"process {pid} does not stop")


def _await_ready(bin_folder: Path, port: int, process: subprocess.Popen, log: Path) -> None:
    for _ in range(300):
        if process.poll() is not None:
            raise ServerError(f"the server ended at once: {log.read_text()[-1000:]}")
        probe = [bin_folder / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
        if subprocess.run(probe, check=False).returncode == 0:
            return
        time.sleep(0.1)
    raise ServerError(f"the server is not ready after 30 s: {log.read_text()[-1000:]}")


def _as_server_user(dies_with_us: bool = False) -> list[str]:
    """The command that runs another as the user `postgres` where we are root, which PostgreSQL refuses."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return ["runuser", "-u", SUPERUSER, "--"] if os.geteuid() == 0 else []
    command = [setpriv]
    if os.geteuid() == 0:
        command += [f"--reuid={SUPERUSER}", f"--regid={SUPERUSER}", "--init-groups"]
    if dies_with_us:
        # A test run that is killed takes its server along.
        command += ["--pdeathsig", "INT"]
    return command if len(command) > 1 else []


def _hand_over(*paths: Path) -> None:
    if os.geteuid() == 0:
        owner = pwd.getpwnam(SUPERUSER)
        for path in paths:
            os.chown(path, owner.pw_uid, owner.pw_gid)


def _write_secret(path: Path, text: str) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _run(command: list, **options) -> None:
    result = subprocess.run(
        [str(part) for part in command], cwd="/", capture_output=True, text=True, check=False, **options
    )
    if result.returncode:
        raise ServerError(result.stderr.strip())


def _serve() -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with postgis_server() as server:
        print(f"export PGPASSFILE={server.passfile} JENGO_DATABASE_URL={server.url}", flush=True)
        try:
            signal.pause()
        except KeyboardInterrupt:
            print("stopping")


def main(arguments: list[str]) -> None:
    """Runs one command of the module's docstring."""
    match arguments:
        case ["serve"]:
            _serve()
        case ["start", folder]:
            print(_start(Path(folder).absolute(), detached=True)[1].url)
        case ["url", folder]:
            print((Path(folder) / "url").read_text())
        case ["stop", folder]:
            _stop(Path(folder))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ServerError as error:
        sys.exit(str(error))
