"""What a run tells of itself: how long it will take, in a terminal, in a log, and in luigid's page."""

from __future__ import annotations

import codecs
import inspect
import json
import os
import pty
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

import pipeline
from pipeline.pace import Pace, in_words
from pipeline.tasks.step import Step

ROOT = Path(__file__).parents[1]
PAGE = "static/visualiser/index.html"
TASKS = """
import time
from pathlib import Path
import luigi
from pipeline.errors import LabelError
from pipeline.tasks.step import Step

class Slow(Step):
    name = luigi.Parameter()
    parts = luigi.IntParameter(default=30)
    wait = luigi.Parameter(default="", significant=False)

    def output(self):
        return luigi.LocalTarget(f"work/{self.name}/run.json")

    def run(self):
        with self.making(Path(f"work/{self.name}")):
            for part in range(1, self.parts + 1):
                self.progress(part / self.parts, f"tile {part}/{self.parts}, 12.0 tiles/s")
                time.sleep(0.05)
                while self.wait and part == self.parts // 2 and not Path(self.wait).exists():
                    self.progress(part / self.parts, f"tile {part}/{self.parts}, 12.0 tiles/s")
                    time.sleep(0.6)

class Bad(Step):
    def output(self):
        return luigi.LocalTarget("work/bad/run.json")

    def run(self):
        with self.making(Path("work/bad")):
            self.progress(0.3, "cleaning labels")
            raise LabelError("no attribute 'state'", where="houses.shp", remedy="Name one.")

class All(luigi.WrapperTask):
    wait = luigi.Parameter(default="", significant=False)

    def requires(self):
        return [Slow("a", wait=self.wait), Slow("b"), Slow("c"), Bad()]
"""


def test_pace_foretells_from_what_is_done_here():
    pace = Pace()
    assert pace.left(0.5, 100.0) is None, "a resumed task begins where it was left"
    assert pace.left(0.6, 101.0) is None, "too soon to tell"
    assert pace.left(0.75, 110.0) == pytest.approx(10.0)
    assert pace.left(1.0, 120.0) is None


def test_pace_forgets_what_was_long_ago_and_begins_anew_with_another_part():
    pace = Pace()
    for minute in range(60):
        left = pace.left(minute / 1000, 60.0 * minute)
    for minute in range(60, 80):
        left = pace.left(0.06 + (minute - 59) / 100, 60.0 * minute)
    assert left == pytest.approx((1 - 0.26) * 100 * 60, rel=0.01), "the rate is that of the last minutes"
    assert pace.left(0.1, 60.0 * 80) is None
    assert pace.left(0.2, 60.0 * 81) == pytest.approx(8 * 60)


@pytest.mark.parametrize(("seconds", "words"), [(0, "0 s"), (89, "89 s"), (5_340, "89 min"), (7_200, "2 h")])
def test_durations_in_words(seconds, words):
    assert in_words(seconds) == words


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with tasks that take their time."""
    (tmp_path / "slow.py").write_text(TASKS)
    return tmp_path


def luigi_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "luigi", "--module", "slow", "All", *arguments]


def environment(folder: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": f"{ROOT}:{folder}", "TERM": "xterm", "COLUMNS": "100", "LINES": "40"}


class Screen:
    """A terminal, as far as bars and log lines need one."""

    def __init__(self) -> None:
        self.rows, self.row, self.col = [""], 0, 0
        self.begun = ""

    def feed(self, text: str) -> None:
        text, begun = re.fullmatch(r"(.*?)(\x1b\[?\d*)?", self.begun + text, re.DOTALL).groups()
        self.begun = begun or ""
        for part in re.findall(r"\x1b\[\d*[A-Z]|[\r\n]|[^\x1b\r\n]+", text):
            if part == "\r":
                self.col = 0
            elif part == "\n":
                self.row += 1
                self.rows += [""] * (self.row + 1 - len(self.rows))
            elif part == "\x1b[A":
                self.row -= 1
            elif part == "\x1b[J":
                self.rows[self.row] = self.rows[self.row][: self.col]
                del self.rows[self.row + 1 :]
            else:
                assert not part.startswith("\x1b"), part
                before = self.rows[self.row].ljust(self.col)
                self.rows[self.row] = before[: self.col] + part + before[self.col + len(part) :]
                self.col += len(part)


def written(terminal: int) -> Iterator[str]:
    """What is written to a terminal until nobody has it open any more; then it is closed."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    while True:
        try:
            yield decoder.decode(os.read(terminal, 65536))
        except OSError:
            return os.close(terminal)


def test_a_terminal_shows_one_bar_for_each_task_and_whole_log_lines(folder):
    screen, seen = Screen(), set()
    main, other = pty.openpty()
    command = luigi_command("--local-scheduler", "--workers", "3")
    process = subprocess.Popen(command, cwd=folder, env=environment(folder), stdout=other, stderr=other)
    os.close(other)
    for text in written(main):
        screen.feed(text)
        bars = [row for row in screen.rows if "%|" in row]
        names = [re.match(r"Slow \w|Bad", row)[0] for row in bars]
        assert len(names) == len(set(names)), bars
        seen |= {(name, len(names)) for name in names}
    process.wait(60)
    assert {name for name, _ in seen} >= {"Slow a", "Slow b", "Slow c"}
    assert max(count for _, count in seen) >= 2, "several at a time"
    log = [row.strip() for row in screen.rows if "[pid" in row]
    assert all(re.match(r"(INFO|ERROR): \[pid", row) for row in log) and len(log) >= 8, log
    assert not [row for row in screen.rows if "%|" in row], "no bar is left behind"


BARS_AND_LINES = """
import logging, os
import pipeline
from pipeline.bars import Bar

logger = logging.getLogger("luigi-interface")
logger.addHandler(logging.StreamHandler())
drawing = os.fork()
while not drawing:
    bar = Bar("Slow a")
    bar.show(0.5, "tile 15/30")
    bar.close()
for number in range(1000):
    logger.error("line %d", number)
os.kill(drawing, 9)
"""


def test_no_bar_is_drawn_into_a_line_of_the_log(tmp_path):
    screen = Screen()
    main, other = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", BARS_AND_LINES],
        cwd=tmp_path,
        env=environment(tmp_path),
        stdout=other,
        stderr=other,
    )
    os.close(other)
    for text in written(main):
        screen.feed(text)
    assert process.wait(60) == 0
    log = [row.strip() for row in screen.rows if "line" in row]
    assert log == [f"line {number}" for number in range(1000)]


def test_a_log_is_quiet(folder):
    done = subprocess.run(
        luigi_command("--local-scheduler"),
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert "tile" not in done.stdout and "%|" not in done.stdout and "\r" not in done.stdout
    assert "\x1b" not in done.stdout and "no attribute 'state'" in done.stdout


@pytest.fixture
def dashboard(folder):
    """The address of a real `jengo dashboard`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "jengo", "dashboard", "--port", str(port)]
    with open(folder / "dashboard.log", "w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment(folder), stderr=log)
    address = f"http://127.0.0.1:{port}"
    for _ in range(600):
        try:
            urllib.request.urlopen(f"{address}/api/resource_list")
            break
        except OSError:
            time.sleep(0.1)
    yield address
    process.terminate()
    process.wait(20)


def asked(address: str, method: str, **data) -> dict:
    """What luigid answers its own page."""
    query = urllib.parse.urlencode({"data": json.dumps(data)})
    with urllib.request.urlopen(f"{address}/api/{method}?{query}") as answer:
        return json.load(answer)["response"]


def test_the_dashboard_tells_the_truth(folder, dashboard):
    port = dashboard.rpartition(":")[2]
    command = luigi_command("--scheduler-port", port, "--workers", "2", "--wait", "go")
    process = subprocess.Popen(command, cwd=folder, env=environment(folder), stderr=subprocess.DEVNULL)
    try:
        running = wait_for(dashboard, "RUNNING", lambda task: "left" in (task["status_message"] or ""))
        assert running["progress_percentage"] == 50
        assert re.fullmatch(r"tile 15/30, 12.0 tiles/s, \d+ s left", running["status_message"])
        failed = wait_for(dashboard, "FAILED", lambda task: True)
        cause = "houses.shp: no attribute 'state'. Name one."
        assert failed["status_message"] == f"failed: {cause}"
        # Behind the red task; luigi's page strips the quotation marks.
        assert json.loads(asked(dashboard, "fetch_error", task_id=failed["taskId"])["error"]) == cause
        seen_in_browser(dashboard, folder)
    finally:
        (folder / "go").touch()
        process.wait(60)
    wait_for(dashboard, "DONE", lambda task: task["name"] == "Slow" and task["params"]["name"] == "a")
    with urllib.request.urlopen(f"{dashboard}/metrics") as answer:
        assert 'luigi_task_done_total{family="Slow"} 3.0' in answer.read().decode()
    with urllib.request.urlopen(f"{dashboard}/history") as answer:
        assert "Slow" in answer.read().decode()
    with sqlite3.connect(folder / "work" / "history.db") as history:
        query = "SELECT name, event_name FROM tasks JOIN task_events ON tasks.id = task_events.task_id"
        events = set(history.execute(query))
    assert {("Slow", "DONE"), ("Slow", "RUNNING"), ("Bad", "FAILED")} <= events


def wait_for(address: str, status: str, wanted) -> dict:
    """The first task of a status that is as wanted."""
    for _ in range(600):
        for name, task in asked(address, "task_list", status=status, upstream_status="").items():
            if wanted(task):
                return task | {"taskId": name}
        time.sleep(0.1)
    raise AssertionError(f"no such {status} task")


def seen_in_browser(address: str, folder: Path) -> None:
    """The page of the workers shows the bar, and that of the tasks the failure."""
    if not (browser := shutil.which("chromium")):
        pytest.skip("no Chromium on this machine: make system, as root on Debian")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=10000", "--dump-dom"]
    page = subprocess.run(
        [browser, *flags, f"--user-data-dir={folder / 'browser'}", f"{address}/{PAGE}#tab=workers"],
        capture_output=True,
        text=True,
        timeout=120,
    ).stdout
    bars = re.findall(r'taskProgressBar[^>]*aria-valuenow="([\d.]+)"', page)
    assert "50" in bars, "the running task's bar"
    assert re.search(r"FAILED TASKS</span>\s*<span[^>]*>1<", page, flags=re.IGNORECASE), (
        "the failure is counted"
    )


def test_a_port_that_is_taken_is_one_line(folder, dashboard):
    done = subprocess.run(
        [sys.executable, "-m", "jengo", "dashboard", "--port", dashboard.rpartition(":")[2]],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(
        f"jengo: {dashboard.removeprefix('http://')}: cannot be served"
    )


def test_every_task_that_works_tells_how_far_it_is():
    """Sources only say what is missing, and a round's parts tell it themselves."""
    tasks = [getattr(pipeline, name) for name in pipeline.__all__]
    working = [task for task in tasks if issubclass(task, Step) and "run" in vars(task)]
    silent = {task.__name__ for task in working if "self.progress" not in inspect.getsource(task.run)}
    assert silent == {"SourceImage", "SourceLabels", "SourceWeights", "ReviewRound"}
