"""A page in a real headless Chromium: its DOM, its console, and the addresses it asks for."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = """
--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync
--disable-background-networking --disable-component-update --disable-default-apps
--enable-logging=stderr --virtual-time-budget=4000 --host-resolver-rules=MAP*~NOTFOUND
"""


class Visit(NamedTuple):
    """What a browser says of a page after loading."""

    dom: str
    console: list[str]
    asked: set[str]
    """Addresses the page itself asked for."""


def browse(page: str, folder: Path, *flags: str) -> Visit:
    """Loads a page; skips the test where there is no Chromium."""
    if not CHROMIUM.exists():
        pytest.skip("no Chromium at /usr/bin/chromium: make system, as root on Debian")
    path, log, profile = folder / "page.html", folder / "net.json", folder / "profile"
    path.write_text(page, encoding="utf-8")
    command = [str(CHROMIUM), *(flag.replace("*~", " * ~") for flag in FLAGS.split())]
    command += [f"--user-data-dir={profile}", f"--log-net-log={log}", *flags, "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    shutil.rmtree(profile, ignore_errors=True)
    assert done.returncode == 0, done.stderr[-2000:]
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    events = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
    # The browser's own errands, its updates and accounts, have no origin.
    asked = {event["url"] for event in events if event.get("initiator", "not an origin") != "not an origin"}
    return Visit(done.stdout, console, asked)
