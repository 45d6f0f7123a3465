"""Takes docs/pictures/review_label_studio.jpg: a task of a round, as a real Label Studio shows it.

python docs/review_picture.py ROUND_FOLDER [TASK]

Needs Chromium and `make label-studio`. Starts a server of its own, makes the round's project on it as
ReviewRound does, and photographs a task (from 0) with its proposals, behind a proxy that has logged in.
"""

from __future__ import annotations

import http.cookiejar
import http.server
import os
import re
import sys
import tempfile
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from browser import photograph
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import label_studio  # noqa: E402

from pipeline.steps.labeling_server import upload_round  # noqa: E402

PICTURE = ROOT / "docs" / "pictures" / "review_label_studio.jpg"
SIZE = 1500, 900


def main() -> None:
    """Takes the picture."""
    folder, task = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    if label_studio.python() is None:
        raise SystemExit("no Label Studio here: make label-studio")
    sys.path.extend(map(str, label_studio.VENV.glob("lib/python3*/site-packages")))
    with tempfile.TemporaryDirectory() as data, label_studio.label_studio_server(Path(data)) as server:
        os.environ["LABEL_STUDIO_API_KEY"] = server.token
        project = upload_round(folder, server.url, "village, round 1")
        with logged_in(server) as address:
            page = f"{address}/projects/{project}/data?task={first_task(server, project) + task}"
            shown = photograph(page, *SIZE)
    width = SIZE[0] * 4 // 5
    shown = shown.resize((width, width * SIZE[1] // SIZE[0]), Image.Resampling.LANCZOS)
    shown.save(PICTURE, quality=80, optimize=True)


def first_task(server: label_studio.Server, project: int) -> int:
    """Id of the first task of a project."""
    asked = urllib.request.Request(
        f"{server.url}/api/tasks?project={project}&page_size=1",
        headers={"Authorization": f"Token {server.token}"},
    )
    with urllib.request.urlopen(asked) as answer:
        return int(re.search(rb'"id":\s*(\d+)', answer.read())[1])


@contextmanager
def logged_in(server: label_studio.Server) -> Iterator[str]:
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


if __name__ == "__main__":
    main()
