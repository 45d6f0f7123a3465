"""A real Label Studio server for a test: SQLite, on loopback, telemetry off, in an environment of its own.

Its pins and ours do not agree, so it never shares our environment: `make label-studio` makes one in
.venv/label-studio, and LABEL_STUDIO_VENV may name another.
"""

from __future__ import annotations

import http.cookiejar
import http.server
import os
import re
import secrets
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

VENV = Path(os.environ.get("LABEL_STUDIO_VENV") or Path(__file__).parents[1] / ".venv" / "label-studio")
SECONDS_TO_START = 1200
"""The first start makes the tables of a new database: a minute and a half of one core."""


class Server(NamedTuple):
    """A running server."""

    url: str
    token: str
    user: str
    password: str


def python() -> Path | None:
    """The Python that can import label_studio_sdk; None where Label Studio is not installed."""
    path = VENV / "bin" / "python"
    return path if (VENV / "bin" / "label-studio").exists() and path.exists() else None


@contextmanager
def label_studio_server(folder: Path) -> Iterator[Server]:
    """A server whose database lies in `folder`, stopped at the end of the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = Server(
        f"http://127.0.0.1:{port}", secrets.token_hex(20), "amina@example.org", secrets.token_hex(10)
    )
    environment = os.environ | {
        "LABEL_STUDIO_BASE_DATA_DIR": str(folder),
        "DJANGO_DB": "sqlite",
        "SECRET_KEY": secrets.token_hex(20),
        "COLLECT_ANALYTICS": "false",
        "LATEST_VERSION_CHECK": "false",
        "SENTRY_RATE": "0",
        "FRONTEND_SENTRY_RATE": "0",
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
    }
    environment.pop("PYTHONPATH", None)
    command = [VENV / "bin" / "label-studio", "start", "--no-browser", "--internal-host", "127.0.0.1"]
    command += ["--port", str(port), "--username", server.user, "--password", server.password]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*map(str, command), "--user-token", server.token],
            env=environment,
            cwd=folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        _await_ready(server.url, process, folder / "log")
        yield server
    finally:
        # The server has a child that watches it: the whole session ends.
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(20)


def _await_ready(url: str, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"Label Studio ended at once: {log.read_text()[-2000:]}")
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    raise RuntimeError(f"Label Studio is not ready: {log.read_text()[-2000:]}")


def first_task(server: Server, project: int) -> int:
    """Id of the first task of a project."""
    asked = urllib.request.Request(
        f"{server.url}/api/tasks?project={project}&page_size=1",
        headers={"Authorization": f"Token {server.token}"},
    )
    with urllib.request.urlopen(asked) as answer:
        return int(re.search(rb'"id":\s*(\d+)', answer.read())[1])


@contextmanager
def logged_in(server: Server) -> Iterator[str]:
    """Address of a proxy that a person has logged in through."""
    jar = http.cookiejar.CookieJar()
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))
    login = f"{server.url}/user/login/"
    page = opener.open(login).read().decode()
    fields = {
        "csrfmiddlewaretoken": re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)[1],
        "email": server.user,
        "password": server.password,
    }
    opener.open(
        urllib.request.Request(login, urllib.parse.urlencode(fields).encode(), headers={"Referer": login})
    ).read()

    class Proxy(http.server.BaseHTTPRequestHandler):
        """Hands requests on with the session's cookies."""

        def do_GET(self) -> None:
            size = int(self.headers.get("Content-Length", 0))
            body = self.rfile.read(size) if size else None
            headers = {"Referer": login, "Content-Type": self.headers.get("Content-Type", "text/plain")}
            headers["X-CSRFToken"] = next((one.value for one in jar if one.name == "csrftoken"), "") or ""
            asked = urllib.request.Request(f"{server.url}{self.path}", body, headers, method=self.command)
            try:
                answer = opener.open(asked)
            except urllib.error.HTTPError as error:
                answer = error
            content = answer.read()
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.headers.get("Content-Type", ""))
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_POST(self) -> None:
            self.do_GET()

        def do_PATCH(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{proxy.server_address[1]}"
        proxy.shutdown()
