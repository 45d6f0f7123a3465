"""Downloads from a real server that breaks off, changes its file, and lies about it."""

from __future__ import annotations

import hashlib
import http.server
import os
import re
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin
from warm import run_warm

from pipeline.catalogue import Entry
from pipeline.errors import RasterError, SourceError
from pipeline.fetch import FetchRules, fetch
from pipeline.steps.fetching import fetch_image

HASTY = FetchRules(attempts=2, first_wait_s=0.01, timeout_s=5)


@dataclass
class Host:
    """What the server serves, how it fails, and what it was asked for."""

    content: bytes = b""
    version: str = '"one"'
    breaks_after: list[int] = field(default_factory=list)
    """Bytes after which the coming answers break off, one per answer."""
    statuses: list[int] = field(default_factory=list)
    """Statuses of the coming answers."""
    resumes: bool = True
    part: Callable[[int], slice] = lambda first: slice(first, None)
    """What of the file a partial answer holds, by the byte from which on it was asked for."""
    asked: list[str] = field(default_factory=list)
    """Range of every request."""
    address: str = ""


@pytest.fixture
def host():
    state = Host()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            wanted = self.headers.get("Range", "")
            state.asked.append(wanted)
            if state.statuses:
                return self.send_error(state.statuses.pop(0))
            same = self.headers.get("If-Range") == state.version
            match = re.fullmatch(r"bytes=(\d+)-", wanted) if state.resumes and same else None
            first = int(match[1]) if match else 0
            if match and first >= len(state.content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(state.content)}")
                self.send_header("Content-Length", "0")
                return self.end_headers()
            size, held = len(state.content), state.part(first) if match else slice(None)
            body = state.content[held]
            self.send_response(206 if match else 200)
            if match:
                last = min(held.stop or size, size) - 1
                self.send_header("Content-Range", f"bytes {held.start}-{last}/{size}")
            self.send_header("Content-Length", str(len(body)))
            if state.version:
                self.send_header("ETag", state.version)
            self.end_headers()
            self.wfile.write(body[: state.breaks_after.pop(0)] if state.breaks_after else body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        state.address = f"http://127.0.0.1:{server.server_address[1]}/a.tif"
        yield state
        server.shutdown()


@pytest.fixture
def content():
    return np.random.default_rng(0).bytes(300_000)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_it_goes_on_where_the_connection_broke(host, content, tmp_path):
    host.content, host.breaks_after = content, [100_000, 50_000]
    target = tmp_path / "images" / "a.tif"
    told = []
    assert fetch(host.address, target, rules=HASTY, progress=lambda *now: told.append(now)) == 300_000
    assert target.read_bytes() == content
    assert host.asked == ["", "bytes=100000-", "bytes=150000-"]
    assert told[-1] == (300_000, 300_000)
    assert names(target.parent) == ["a.tif"]


@pytest.mark.parametrize(
    "part, asked",
    [
        (lambda first: slice(0, None), ["bytes=100000-"]),
        (lambda first: slice(first // 2, None), ["bytes=100000-", ""]),
        (lambda first: slice(first, first + 150_000), ["bytes=100000-", "bytes=250000-"]),
    ],
    ids=["from the start", "from elsewhere", "not to the end"],
)
def test_an_answer_with_another_part_than_asked_for_damages_nothing(host, content, tmp_path, part, asked):
    host.content, host.breaks_after, host.part = content, [100_000], part
    rules = FetchRules(attempts=3, first_wait_s=0.01, timeout_s=5)
    assert fetch(host.address, tmp_path / "a.tif", rules=rules) == 300_000
    assert (tmp_path / "a.tif").read_bytes() == content
    assert host.asked == ["", *asked]


def test_it_gives_up_when_nothing_comes_and_goes_on_the_next_time(host, content, tmp_path):
    host.content, host.breaks_after = content, [70_000, 0, 0, 0]
    target = tmp_path / "a.tif"
    with pytest.raises(SourceError, match=r"broke off 2 times after 70,000 bytes.*Run it again"):
        fetch(host.address, target, rules=HASTY)
    assert not target.exists()
    host.breaks_after, host.asked = [], []
    fetch(host.address, target, rules=HASTY)
    assert target.read_bytes() == content and host.asked == ["bytes=70000-"]


def test_a_file_that_changed_meanwhile_is_fetched_anew(host, content, tmp_path):
    host.content, host.breaks_after = content, [70_000, 0, 0, 0]
    with pytest.raises(SourceError):
        fetch(host.address, tmp_path / "a.tif", rules=HASTY)
    host.content, host.version, host.breaks_after = content[::-1], '"two"', []
    fetch(host.address, tmp_path / "a.tif", rules=HASTY)
    assert (tmp_path / "a.tif").read_bytes() == content[::-1]


@pytest.mark.parametrize("version", ["", 'W/"weak"'])
def test_without_a_strong_version_nothing_is_glued_together(host, content, tmp_path, version):
    host.content, host.version, host.breaks_after = content, version, [70_000]
    fetch(host.address, tmp_path / "a.tif", rules=HASTY)
    assert (tmp_path / "a.tif").read_bytes() == content and host.asked == ["", ""]


def test_a_server_that_cannot_resume_is_asked_from_the_start(host, content, tmp_path):
    host.content, host.resumes, host.breaks_after = content, False, [70_000]
    fetch(host.address, tmp_path / "a.tif", rules=HASTY)
    assert (tmp_path / "a.tif").read_bytes() == content


def test_a_part_that_is_whole_already_is_taken(host, content, tmp_path):
    host.content = content
    (tmp_path / ".a.tif.part").write_bytes(content)
    (tmp_path / ".a.tif.part.version").write_text(host.version)
    fetch(host.address, tmp_path / "a.tif", rules=HASTY)
    assert (tmp_path / "a.tif").read_bytes() == content and host.asked == ["bytes=300000-"]
    assert names(tmp_path) == ["a.tif"]


def test_a_busy_server_is_asked_again_and_a_missing_file_is_not(host, content, tmp_path):
    host.content, host.statuses = content, [503]
    fetch(host.address, tmp_path / "a.tif", rules=HASTY)
    assert (tmp_path / "a.tif").read_bytes() == content
    host.statuses, host.asked = [404, 404], []
    with pytest.raises(SourceError, match=r"a\.tif: the server answers 404"):
        fetch(host.address, tmp_path / "b.tif", rules=HASTY)
    assert len(host.asked) == 1 and names(tmp_path) == ["a.tif"]


def test_a_file_of_another_digest_is_refused_and_the_old_one_stays(host, content, tmp_path):
    host.content = content
    target = tmp_path / "a.tif"
    target.write_bytes(b"old")
    with pytest.raises(SourceError, match="SHA-256 should be 00"):
        fetch(host.address, target, sha256="00", rules=HASTY)
    assert target.read_bytes() == b"old" and names(tmp_path) == ["a.tif"]
    fetch(host.address, target, sha256=hashlib.sha256(content).hexdigest().upper(), rules=HASTY)
    assert target.read_bytes() == content


def opened(path):
    """How often this process has a file open."""
    return [os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()].count(str(path))


@pytest.mark.parametrize(("sha256", "asked"), [("", 1), ("00", 2)], ids=["whole", "refused"])
def test_of_two_downloads_at_once_the_second_waits_for_the_first(host, content, tmp_path, sha256, asked):
    host.content = content
    target, sizes = tmp_path / "a.tif", []
    second = threading.Thread(target=lambda: sizes.append(fetch(host.address, target, rules=HASTY)))

    def begin_another(*_):
        second.start()
        while second.is_alive() and opened(tmp_path / ".a.tif.part") < 3:
            time.sleep(0.01)

    refused = pytest.raises(SourceError, match="SHA-256") if sha256 else nullcontext()
    with refused:
        fetch(host.address, target, sha256=sha256, rules=HASTY, progress=begin_another)
    second.join(30)
    assert sizes == [300_000] and target.read_bytes() == content
    assert host.asked == [""] * asked and names(tmp_path) == ["a.tif"]


def test_a_part_that_others_wrote_to_is_fetched_anew(host, content, tmp_path):
    host.content, told = content, []

    def write_beside(*_):
        if not told:
            with open(tmp_path / ".a.tif.part", "ab") as part:
                part.write(b"more")
        told.append(1)

    assert fetch(host.address, tmp_path / "a.tif", rules=HASTY, progress=write_beside) == 300_000
    assert (tmp_path / "a.tif").read_bytes() == content and host.asked == ["", ""]


def test_a_disk_that_is_full_under_a_download_is_one_line(host, content, tmp_path):
    host.content = content
    (tmp_path / "images.csv").write_text(f"image_id,split,url\na,test,{host.address}\n")
    (tmp_path / "luigi.cfg").write_text("[Storage]\ncatalogue = images.csv\n")
    images = tmp_path / "input" / "test" / "images"
    images.mkdir(parents=True)
    (images / ".a.tif.part").symlink_to("/dev/full")
    done = run_warm(tmp_path, "FetchImage", "--image-id", "a", "--local-scheduler")
    assert done.returncode > 0 and "Traceback" not in done.stdout, done.stdout
    assert "FetchImage" in done.stdout and "the disk is full" in done.stdout


def test_no_server_is_one_line(tmp_path):
    with pytest.raises(SourceError, match=r"broke off 2 times after 0 bytes: .*refused"):
        fetch("http://127.0.0.1:9/a.tif", tmp_path / "a.tif", rules=HASTY)


def test_an_image_of_another_size_or_none_at_all_is_refused(host, tmp_path):
    path = tmp_path / "made.tif"
    profile = {"driver": "GTiff", "width": 64, "height": 48, "count": 3, "dtype": "uint8"}
    with rasterio.open(path, "w", crs="EPSG:32737", transform=from_origin(0, 0, 1, 1), **profile) as made:
        made.write(np.ones((3, 48, 64), np.uint8))
    host.content = path.read_bytes()
    target, told = tmp_path / "images" / "a.tif", []
    with pytest.raises(RasterError, match="not the image of 60 x 48 px"):
        fetch_image(Entry("a", "test", host.address, size=(60, 48)), target, lambda *now: told.append(now))
    assert not target.exists()
    fetch_image(Entry("a", "test", host.address, size=(64, 48)), target, lambda *now: told.append(now))
    assert target.read_bytes() == host.content and told[-1][0] == 1.0
    host.content = b"an error page"
    host.version = '"two"'
    with pytest.raises(RasterError, match="cannot be opened as an image"):
        fetch_image(Entry("a", "test", host.address), tmp_path / "b.tif", lambda *_: None)
