"""What a run depends on goes away under it: a database, a disk's content, a web server, the scheduler.

What comes back in seconds is waited for; the rest ends in one line, and the same command completes once it is
there again.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import kills
import postgis
import psycopg2
import pyogrio
import pytest
from kills import GRAPH, Village
from range_server import serving
from warm import Running, run_warm

from pipeline.errors import StoreError
from pipeline.stores import database
from pipeline.stores.postgis import PostGISStore

pytestmark = pytest.mark.timeout(900)
LOAD = ("LoadLabels", *GRAPH[1:])
KILLS = 12


@pytest.fixture(scope="module")
def village(tmp_path_factory) -> Village:
    """A workspace in which the graph has run undisturbed."""
    return kills.undisturbed(tmp_path_factory.mktemp("outages"))


@pytest.fixture
def cluster(monkeypatch) -> Iterator[postgis.Cluster]:
    """A database of this test alone."""
    if postgis.binaries() is None:
        pytest.skip("no PostGIS on this machine: make system, as root on Debian")
    cluster = postgis.Cluster()
    monkeypatch.setenv("PGPASSFILE", str(cluster.server.passfile))
    yield cluster
    cluster.close()


@contextmanager
def locked(cluster: postgis.Cluster) -> Iterator[None]:
    """The labels' tables, held by somebody else."""
    connection = psycopg2.connect(cluster.server.url)
    connection.cursor().execute("LOCK TABLE jengo.label_sets IN ACCESS EXCLUSIVE MODE")
    try:
        yield
    finally:
        connection.close()


def waiting(cluster: postgis.Cluster) -> list[int]:
    """The server's processes that wait for a lock, once there is one."""
    admin = cluster.server.url_of("postgres", "postgres")
    query = "SELECT pid FROM pg_stat_activity WHERE application_name = 'jengo' AND wait_event_type = 'Lock'"
    for _ in range(600):
        with psycopg2.connect(admin) as connection, connection.cursor() as cursor:
            cursor.execute(query)
            if found := [row[0] for row in cursor.fetchall()]:
                return found
        time.sleep(0.1)
    raise AssertionError("nobody waits")


def there(cluster: postgis.Cluster) -> dict[str, str]:
    """What tells a process of its own where the database is."""
    return {"JENGO_DATABASE_URL": cluster.server.url, "PGPASSFILE": str(cluster.server.passfile)}


def edited(village: Village, tmp_path: Path, cluster: postgis.Cluster) -> Path:
    """A workspace whose labels are in the database, and then edited: loading them is next."""
    workspace = kills.copy(village.inputs, tmp_path / "village")
    done = run_warm(workspace, *LOAD, environment=there(cluster))
    assert done.returncode == 0, done.stdout
    labels = workspace / "input/test/labels/scene_042.geojson"
    labels.write_text(labels.read_text().replace("Complete", "Incomplete", 1))
    return workspace


def rows_of(cluster: postgis.Cluster) -> list[tuple]:
    """The label rows that the database holds."""
    with psycopg2.connect(cluster.server.url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT image_id, label_id, category, ST_AsText(geom) FROM jengo.labels ORDER BY 1, 2")
        return cursor.fetchall()


@pytest.mark.postgis
def test_a_database_that_dies_in_the_middle_of_a_load_is_waited_for(village, cluster, tmp_path):
    workspace = edited(village, tmp_path, cluster)
    before = rows_of(cluster)
    with locked(cluster):
        run = Running(workspace, *LOAD, environment=there(cluster))
        waiting(cluster)
        cluster.kill()
    cluster.start()
    done = run.wait()
    assert done.returncode == 0, done.stdout
    after = rows_of(cluster)
    assert len(after) == len(before) and after != before
    assert (
        run_warm(workspace, *LOAD, environment=there(cluster)).returncode == 0 and rows_of(cluster) == after
    )


@pytest.mark.postgis
def test_a_database_that_stays_away_is_one_line_and_loses_nothing(village, cluster, tmp_path):
    workspace = edited(village, tmp_path, cluster)
    before = rows_of(cluster)
    with locked(cluster):
        run = Running(workspace, *LOAD, environment=there(cluster))
        waiting(cluster)
        cluster.kill()
    done = run.wait()
    assert done.returncode > 0 and "Traceback" not in done.stdout, done.stdout
    assert "Check that the server runs" in done.stdout
    at_start = run_warm(workspace, *LOAD, environment=there(cluster))
    assert at_start.returncode > 0 and "Check that the server runs" in at_start.stdout
    assert "Traceback" not in at_start.stdout
    cluster.start()
    assert rows_of(cluster) == before
    done = run_warm(workspace, *LOAD, environment=there(cluster))
    assert done.returncode == 0 and rows_of(cluster) != before, done.stdout


@pytest.mark.postgis
@pytest.mark.parametrize(
    ("frozen", "says"),
    [(False, "statement timeout.*pg_stat_activity"), (True, "has not answered for.*frozen")],
)
def test_a_database_that_is_slow_or_frozen_is_given_up(village, cluster, tmp_path, monkeypatch, frozen, says):
    monkeypatch.setattr(database, "ANSWER_S", 2.0)
    monkeypatch.setattr(database, "_FROZEN_S", 1.0)
    edited(village, tmp_path, cluster)
    store, told = PostGISStore(cluster.server.url), []

    def load() -> None:
        with pytest.raises(StoreError, match=says) as error:
            store.is_current("scene_042", "x")
        told.append(error)

    with locked(cluster):
        thread = threading.Thread(target=load)
        thread.start()
        processes = waiting(cluster)
        for pid in processes if frozen else ():
            os.kill(pid, signal.SIGSTOP)
        thread.join(60)
        for pid in processes if frozen else ():
            os.kill(pid, signal.SIGCONT)
    assert told
    assert not store.is_current("scene_042", "x")


def test_an_image_that_breaks_off_is_one_line_and_mended_it_is_mapped_as_ever(village, tmp_path):
    workspace = kills.copy(village.inputs, tmp_path / "village")
    image = workspace / "input/test/images/scene_042.tif"
    whole, age = image.read_bytes(), image.stat()
    image.write_bytes(whole[: len(whole) // 2])
    done = run_warm(workspace, *GRAPH)
    assert done.returncode > 0 and "Traceback" not in done.stdout, done.stdout
    assert "scene_042.tif" in done.stdout
    assert not list(workspace.glob("output/scene_042.*"))
    image.write_bytes(whole)
    os.utime(image, ns=(age.st_atime_ns, age.st_mtime_ns))
    assert list(kills.differences(village, workspace)) == []


def test_a_web_server_that_breaks_off_is_asked_again_and_one_that_is_gone_is_one_line(village, tmp_path):
    workspace = kills.copy(village.inputs, tmp_path / "village")
    image = workspace / "input/test/images/scene_042.tif"
    hosted = tmp_path / "host"
    hosted.mkdir()
    shutil.move(image, hosted / image.name)
    settings = (workspace / "luigi.cfg").read_text()
    with serving(hosted) as host:
        (workspace / "images.csv").write_text(
            f"image_id,split,url\nscene_042,test,{host.address}/scene_042.tif\n"
        )
        (workspace / "luigi.cfg").write_text(f"[Storage]\ncatalogue = images.csv\n{settings}")
        host.broken_ranges = 2
        done = run_warm(workspace, "AggregateImage", *GRAPH[1:])
        assert done.returncode == 0, done.stdout
        assert host.broken_ranges == 0
    csv = workspace / "output/scene_042.csv"
    assert csv.read_bytes() == (village.undisturbed / "output/scene_042.csv").read_bytes()
    shutil.rmtree(workspace / "work" / "scene_042")
    csv.unlink()
    gone = run_warm(workspace, "AggregateImage", *GRAPH[1:])
    assert gone.returncode > 0 and "Traceback" not in gone.stdout, gone.stdout
    assert "scene_042" in gone.stdout


@contextmanager
def scheduler(workspace: Path, port: int) -> Iterator[subprocess.Popen]:
    """A luigid with its page, as `jengo dashboard` serves it."""
    with open(workspace.parent / "luigid.log", "ab") as log:
        command = [sys.executable, "-m", "jengo", "dashboard", "--port", str(port)]
        process = subprocess.Popen(command, cwd=workspace, stdout=log, stderr=log)
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api/resource_list")
                break
            except OSError:
                time.sleep(0.1)
        yield process
    finally:
        process.kill()
        process.wait(30)


def free_port() -> int:
    """A port of loopback that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_scheduler_that_restarts_loses_no_work(village, tmp_path, how):
    workspace = kills.copy(village.inputs, tmp_path / "village")
    port = free_port()
    graph = (*GRAPH[:-1], "--scheduler-port", str(port))
    with scheduler(workspace, port) as first:
        run = Running(workspace, *graph, log=tmp_path / "run.log")
        for _ in range(1200):
            if list(workspace.glob("work/networks/*/checkpoint*")):
                break
            time.sleep(0.05)
        assert run.process.is_alive()
        first.send_signal(how)
        first.wait(30)
    with scheduler(workspace, port):
        done = run.wait()
        assert "Traceback" not in done.stdout, done.stdout
        if done.returncode:
            done = run_warm(workspace, *graph)
            assert done.returncode == 0, done.stdout
    assert list(kills.differences(village, workspace)) == []
    assert pyogrio.read_info(workspace / "output/scene_042.gpkg", layer="buildings")["features"]


@pytest.mark.slow
def test_of_four_workers_one_is_killed_every_few_seconds_and_all_is_made(village, tmp_path):
    workspace = kills.copy(village.inputs, tmp_path / "village")
    with (workspace / "luigi.cfg").open("a") as settings:
        settings.write("[scheduler]\nworker_disconnect_delay = 4\nretry_delay = 1\n")
        settings.write("[worker]\nkeep_alive = true\n")
    port, chance, killed = free_port(), random.Random(4), 0

    def work() -> Running:
        number = time.monotonic_ns()
        return Running(workspace, *GRAPH[:-1], "--scheduler-port", str(port), log=tmp_path / f"{number}.log")

    with scheduler(workspace, port):
        runs = [work() for _ in range(4)]
        until = time.monotonic() + 400
        while not any(run.process.exitcode == 0 for run in runs):
            assert time.monotonic() < until, "it hangs"
            time.sleep(chance.uniform(0.3, 1.0))
            runs = [run if run.process.exitcode in (None, 0) else work() for run in runs]
            if killed < KILLS:
                victim = chance.randrange(4)
                if runs[victim].process.exitcode is None:
                    runs[victim].kill()
                    runs[victim].process.join()
                    killed += 1
        for run in runs:
            run.wait(15)  # those that wait for more work are ended
    assert killed > 4
    assert list(kills.differences(village, workspace)) == []
