"""A web server on loopback that serves a folder in ranges, as the hosts of cloud-optimised GeoTIFFs do."""

from __future__ import annotations

import functools
import http.server
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Served:
    """Where a folder is served, what was sent of it, and which answers are to break off."""

    address: str = ""
    sent: int = 0
    """Bytes of all answers to requests for ranges."""
    ranges: list[str] = field(default_factory=list)
    """Paths of these requests and what they asked for."""
    breaks_after: dict[str, int] = field(default_factory=dict)
    """Path to the bytes after which the next answer with the whole file breaks off."""
    broken_ranges: int = 0
    """Answers to requests for ranges that are yet to break off halfway."""
    away: int = 0
    """Requests, from the next broken answer on, that are yet to be told that nothing is there."""
    errors: int = 0
    """Answers that say what is wrong."""


class _Handler(http.server.SimpleHTTPRequestHandler):
    def __init__(self, *args, served: Served, **kwargs):
        self.served = served
        super().__init__(*args, **kwargs)

    def do_HEAD(self):
        if not self._is_away():
            super().do_HEAD()

    def _is_away(self) -> bool:
        if self.served.broken_ranges or not self.served.away:
            return False
        self.served.away -= 1
        self.send_error(404)
        return True

    def do_GET(self):
        if self._is_away():
            return None
        path = Path(self.translate_path(self.path))
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not path.is_file() or asked is None:
            return super().do_GET()
        content = path.read_bytes()
        first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        if self.served.broken_ranges:
            self.served.broken_ranges -= 1
            self.wfile.write(content[first : first + (last - first) // 2])
            self.close_connection = True
            return None
        self.wfile.write(content[first : last + 1])
        self.served.sent += last - first + 1
        self.served.ranges.append(f"{self.path} {asked[0]}")

    def send_error(self, *args, **kwargs):
        self.served.errors += 1
        super().send_error(*args, **kwargs)

    def copyfile(self, source, outputfile):
        outputfile.write(source.read(self.served.breaks_after.pop(self.path, -1)))

    def log_message(self, *_):
        pass


@contextmanager
def serving(folder: Path) -> Iterator[Served]:
    """The folder on a free port of loopback, while the block runs."""
    served = Served()
    handler = functools.partial(_Handler, directory=folder, served=served)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        served.address = f"http://127.0.0.1:{server.server_address[1]}"
        yield served
        server.shutdown()
