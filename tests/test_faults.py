"""Nothing lost and nothing left, whatever the machine does: real processes, disks and servers."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import geopandas
import kills
import numpy as np
import postgis
import pytest
import shapely
import tenacity
from kills import GRAPH, Village
from test_jengo import jengo
from test_review_round import Returns
from warm import Running, run_warm

from models.atomic import holding, sweep
from models.weights import weights_digest
from pipeline import targets
from pipeline.atomic import scratch_folder, write_many
from pipeline.errors import MachineError, SettingsError, StoreError
from pipeline.mishaps import as_mishap
from pipeline.outputs import RAW, write_geojson
from pipeline.provenance import Stopwatch, facts_of, read_record
from pipeline.stores.postgis import PostGISStore
from pipeline.targets import PublishedTarget, Workspace
from pipeline.tasks import FetchReview, ImportReview, ReviewRound, returning
from pipeline.tasks.step import Step
from pipeline.verify import verify

pytestmark = pytest.mark.timeout(1500)
ROOT = os.geteuid() == 0
NOBODY = 65534


@pytest.fixture(scope="module")
def village(tmp_path_factory) -> Village:
    """A workspace in which the graph has run undisturbed."""
    return kills.undisturbed(tmp_path_factory.mktemp("faults"))


@pytest.fixture
def workspace(village, tmp_path) -> Path:
    """A copy of it, for a test to damage."""
    return kills.copy(village.undisturbed, tmp_path / "village")


def test_killed_runs_complete_to_the_same_bytes(village, tmp_path):
    tally = kills.kill(village, tmp_path, 2, seed=6)
    assert (tally.tried, tally.lost) == (2, [])


def test_what_a_killed_process_left_is_swept_and_what_is_at_work_is_not(tmp_path):
    program = (
        "import sys, time; from pathlib import Path; from pipeline.atomic import atomic\n"
        "with atomic(Path(sys.argv[1])) as scratch:\n"
        "    scratch.write_text('half'); print('ready', flush=True); time.sleep(60)\n"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", program, tmp_path / name], stdout=subprocess.PIPE, text=True)
        for name in ("killed.csv", "working.csv")
    ]
    assert [writer.stdout.readline() for writer in writers if writer.stdout] == ["ready\n"] * 2
    writers[0].kill()
    writers[0].wait()
    assert len(list(tmp_path.iterdir())) == 2
    assert sweep(tmp_path) == 1
    (left,) = tmp_path.iterdir()
    assert [path.name for path in left.iterdir()] == ["working.csv"]
    writers[1].terminate()
    writers[1].wait()
    assert sweep(tmp_path) == 1 and list(tmp_path.iterdir()) == []
    assert sweep(tmp_path / "absent") == 0


def test_many_writers_and_sweepers_do_not_disturb_each_other(tmp_path):
    def write(number: int) -> None:
        for turn in range(40):
            with scratch_folder(tmp_path) as scratch:
                write_many(scratch, [(f"{number}.txt", str(turn).encode())])
            sweep(tmp_path)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{number}.txt" for number in range(4)]
    assert {path.read_text() for path in tmp_path.iterdir()} == {"39"}


def test_results_of_two_runs_never_lie_under_one_stamp(tmp_path):
    target = {name: PublishedTarget(Workspace(tmp_path).record("a", "CheckLabels"), name) for name in "xy"}

    def publish(name: str) -> None:
        for _ in range(25):
            with scratch_folder(tmp_path / "output") as folder:
                for ending in ("csv", "txt"):
                    (folder / f"a.{ending}").write_text(name)
                target[name].publish(folder, Stopwatch("CheckLabels", "a", name).record({}, {}))

    publish("x")
    threads = [threading.Thread(target=publish, args=(name,)) for name in "xy"]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        with holding(target["x"].record.parent):
            record = read_record(target["x"].record)
            assert record is not None
            assert {(tmp_path / "output" / name).read_text() for name in record.files} == {record.digest}
    assert verify(tmp_path).damages == []


def test_two_schedulers_make_one_result(village, tmp_path):
    workspace = kills.copy(village.inputs, tmp_path / "village")
    runs = [Running(workspace, *GRAPH, log=tmp_path / f"{number}.log") for number in range(2)]
    ended = [run.wait() for run in runs]
    # One of them may find what it reads replaced by the other's equal results, and says so.
    assert all(done.returncode == 0 or "meanwhile" in done.stdout for done in ended), ended
    assert list(kills.differences(village, workspace)) == []


def test_two_runs_with_other_settings_at_once_do_not_mix(village, tmp_path):
    workspace, alone = (kills.copy(village.inputs, tmp_path / name) for name in ("village", "alone"))
    other = (*GRAPH, "--Training-seed", "9")
    assert run_warm(alone, *other).returncode == 0
    runs = [
        Running(workspace, *arguments, log=tmp_path / f"{number}.log")
        for number, arguments in enumerate((GRAPH, other))
    ]
    ended = [run.wait() for run in runs]
    # Results have one name for both: who finds the other's in the place of its own stops and says so.
    assert all(done.returncode == 0 or "meanwhile" in done.stdout for done in ended), ended
    assert all("Traceback" not in done.stdout for done in ended), ended
    assert verify(workspace).damages == []
    assert run_warm(workspace, *other).returncode == 0
    for name in ("scene_042.csv", "scene_042.geojson", "scene_042.report.json"):
        made = [folder / "output" / name for folder in (workspace, alone, village.undisturbed)]
        assert made[0].read_bytes() == made[1].read_bytes()
        assert name != "scene_042.csv" or made[0].read_bytes() != made[2].read_bytes()
    assert len(list(workspace.glob("work/networks/*/weights.h5"))) == 2
    assert run_warm(workspace, *GRAPH).returncode == 0
    for name in ("scene_042.csv", "scene_042.geojson", "scene_042.report.json"):
        assert (workspace / "output" / name).read_bytes() == (
            village.undisturbed / "output" / name
        ).read_bytes()


@pytest.mark.parametrize("link", ["output", "work"])
def test_nothing_is_written_through_a_link_out_of_the_workspace(village, tmp_path, link):
    workspace, outside = kills.copy(village.inputs, tmp_path / "village"), tmp_path / "outside"
    outside.mkdir()
    (workspace / link).symlink_to(outside)
    with pytest.raises(SettingsError, match="out of the workspace"):
        Workspace(workspace).check_inside(workspace / link / "a.csv")
    if link == "work":
        done = run_warm(workspace, "TileImage", *GRAPH[1:])
        assert done.returncode > 0 and "a link leads out of the workspace" in done.stdout
        assert "Traceback" not in done.stdout
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, "x", "a.tif"), "a.tif: the disk is full"),
        (OSError(errno.EROFS, "x", "a.tif"), "read-only"),
        (PermissionError(errno.EACCES, "x", "a.tif"), "no permission"),
        (RuntimeError("TIFFAppendToStrip:Write error: No space left on device"), "the disk is full"),
        (MemoryError(), "memory ran out"),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory."), "lower|Lower"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), "read tiles ahead"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_the_machine_did_is_one_line(error, says):
    wrapped = ValueError("cannot write")
    wrapped.__cause__ = error
    for given in (error, wrapped):
        told = as_mishap(given, "TileImage(image_id=a)")
        assert isinstance(told, MachineError) and "TileImage(image_id=a)" in str(told)
        assert any(words in str(told) for words in says.split("|")) and "." in str(told)
    assert as_mishap(ValueError("a bug"), "TileImage") is None


@contextlib.contextmanager
def small_disk(folder: Path, kib: int) -> Iterator[Path]:
    """A disk of so many KiB in memory."""
    folder.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", folder]
    if subprocess.run(options, check=False, capture_output=True).returncode:
        pytest.skip("this machine does not let us mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.skipif(not ROOT, reason="only root may mount")
def test_a_full_disk_is_one_line_and_a_rerun_completes(village, tmp_path):
    with small_disk(tmp_path / "disk", 64 * 1024) as disk:
        workspace = kills.copy(village.undisturbed, disk / "village")
        shutil.rmtree(workspace / "output")
        for network in (workspace / "work" / "networks").iterdir():
            network.joinpath("run.json").unlink()
        ballast = disk / "ballast"
        free = shutil.disk_usage(disk).free
        ballast.write_bytes(b"\1" * (free - 8192))
        done = run_warm(workspace, *GRAPH, log=tmp_path / "log")
        assert done.returncode > 0 and "Traceback" not in done.stdout, done.stdout[-2000:]
        assert "the disk is full" in done.stdout or "free space" in done.stdout, done.stdout[-2000:]
        ballast.unlink()
        assert list(kills.differences(village, workspace)) == []


def fill(disk: Path) -> None:
    """Takes what room there is left."""
    with contextlib.suppress(OSError), (disk / "ballast").open("ab", buffering=0) as file:
        while True:
            file.write(bytes(4096))


@pytest.mark.skipif(not ROOT, reason="only root may mount")
@pytest.mark.parametrize(
    ("task", "writer"), [(FetchReview, targets), (ImportReview, returning), (ReviewRound, returning)]
)
def test_a_disk_that_fills_at_the_end_of_a_review_is_one_line(tmp_path, monkeypatch, task, writer):
    """It is full when the first of the task's last files is to be written."""
    monkeypatch.setattr(FetchReview, "_server", ("http://127.0.0.1:1", 7))
    monkeypatch.setattr(returning, "annotated", lambda *_: "1")
    monkeypatch.setattr(returning, "download_reviews", lambda *_: [])
    with small_disk(tmp_path / "disk", 16 * 1024) as disk:
        monkeypatch.setattr(Step, "workspace", Workspace(disk))
        Returns(disk).hand_back("a", 1, 1)
        step = task(round=1)
        # What a luigi worker gives a task to tell its progress with.
        step.set_status_message = step.set_progress_percentage = lambda _: None
        with monkeypatch.context() as patched:
            write = writer.write_atomic
            patched.setattr(writer, "write_atomic", lambda *given: (fill(disk), write(*given)))
            with pytest.raises(MachineError, match="the disk is full"):
                list(step.run() or ())
        assert not step.complete()
        (disk / "ballast").unlink()
        list(step.run() or ())
        assert step.complete()


@pytest.mark.skipif(not ROOT, reason="only root may become somebody else")
def test_a_missing_permission_is_one_line(village, tmp_path):
    workspace = kills.copy(village.inputs, tmp_path / "village")
    for folder in (*tmp_path.parents, tmp_path):
        if folder.stat().st_uid == 0 and "pytest" in str(folder):
            folder.chmod(0o755)
    done = run_warm(
        workspace, "TileImage", *GRAPH[1:], prepare=os.setuid, prepared=(NOBODY,), log=tmp_path / "log"
    )
    assert done.returncode > 0 and "Traceback" not in done.stdout, done.stdout
    assert "ermission" in done.stdout, done.stdout
    assert run_warm(workspace, "TileImage", *GRAPH[1:]).returncode == 0


@pytest.mark.postgis
def test_a_server_that_restarts_is_waited_for_and_one_that_is_gone_is_one_line(monkeypatch):
    if postgis.binaries() is None:
        pytest.skip("no PostGIS on this machine")
    with postgis.postgis_server() as server:
        monkeypatch.setenv("PGPASSFILE", str(server.passfile))
        store = PostGISStore(server.url)
        assert not store.is_current("scene_042", "x")
        wrong = PostGISStore(server.url.replace("jengo@", "nobody@"))
        with pytest.raises(StoreError, match=r"PGPASS|password"):
            wrong.is_current("scene_042", "x")
    pauses: list[float] = []
    monkeypatch.setattr(tenacity.nap, "time", SimpleNamespace(sleep=pauses.append))
    with pytest.raises(StoreError, match="Check that the server runs"):
        store.is_current("scene_042", "x")
    assert pauses == [0.5, 1, 2, 4], "it was tried again, and given up"


DAMAGES = {
    "a flipped byte": lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\x07"),
    "a missing byte": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "a missing file": lambda path: path.unlink(),
}


def test_damage_is_found_and_a_rerun_repairs_it(village, workspace):
    assert verify(workspace).damages == []
    (tile, *_), (weights,) = (
        sorted(workspace.glob("work/scene_042/detections-*/r*.json")),
        workspace.glob("work/networks/*/weights.h5"),
    )
    hurt = [
        tile,
        weights,
        workspace / "output/scene_042.csv",
        *workspace.glob("work/scene_001/pairs-*/pairs.json"),
    ]
    for path, damage in zip(hurt, [*DAMAGES.values(), DAMAGES["a flipped byte"]], strict=True):
        damage(path)
    found = verify(workspace).damages
    assert {path.name for path in hurt} <= {damage.path.name for damage in found}
    told = jengo(workspace, "verify", "--discard")
    assert told.returncode == 1 and str(tile) in told.stdout and "Traceback" not in told.stderr
    for line in told.stdout.splitlines():
        if "--module pipeline" in line:
            done = run_warm(workspace, *line.split()[3:])
            assert done.returncode == 0, done.stdout
    assert list(kills.differences(village, workspace)) == []


def test_a_damaged_tile_of_a_map_that_is_whole_is_found_and_repaired(village, workspace):
    tile, *_ = sorted(workspace.glob("work/scene_042/detections-*/r*.json"))
    DAMAGES["a missing byte"](tile)
    told = jengo(workspace, "verify", "--discard")
    assert told.returncode == 1 and str(tile) in told.stdout and "Traceback" not in told.stderr
    assert not tile.exists() and verify(workspace).damages == []
    assert run_warm(workspace, *GRAPH).returncode == 0
    assert list(kills.differences(village, workspace)) == []


@pytest.mark.parametrize("name", ["tiles.geojson", "pairs.json", "thresholds.json", "*.parquet"])
def test_a_file_that_somebody_removes_is_made_again(village, workspace, name):
    next(workspace.glob(f"work/**/{name}")).unlink()
    (damage,) = verify(workspace).damages
    done = run_warm(workspace, *damage.remake.split(), "--local-scheduler")
    assert done.returncode == 0, done.stdout
    assert verify(workspace).damages == []
    assert list(kills.differences(village, workspace)) == []


@pytest.mark.parametrize(
    ("folder", "task"),
    [
        ("work/review/queue_012-abc", "SelectTiles --round 12"),
        ("work/training_sets/abc", "ExportTraining"),
        ("work/networks/abc", "TrainMaskRCNN"),
        ("work/calibrations/abc", "CalibrateNetwork"),
        ("work/scene_042/tiles-abc", "TileImage --image-id scene_042"),
        ("work/scene_042/buildings-abc", "AggregateImage --image-id scene_042"),
    ],
)
def test_whatever_is_damaged_the_task_that_makes_it_again_is_named(tmp_path, folder, task):
    made = tmp_path / folder / "made.json"
    made.parent.mkdir(parents=True)
    made.write_text("{}")
    record = Stopwatch("Any", None, "abc").record({}, {}).model_copy(update=facts_of(made.parent, [made]))
    made.with_name("run.json").write_text(record.model_dump_json())
    assert jengo(tmp_path, "verify", "--discard").returncode == 0
    DAMAGES["a missing byte"](made)
    told = jengo(tmp_path, "verify", "--discard")
    assert told.returncode == 1
    assert f"luigi --module pipeline {task} --local-scheduler\n" in told.stdout
    assert not made.parent.exists()


def test_a_large_map_is_counted_without_being_held_in_memory(tmp_path):
    output, counts = tmp_path / "output", {"tiles": 1, "detections": 9000, "merged": 9000, "buildings": 8000}
    geojson, stamp = output / "town.geojson", output / "runs" / "town.AggregateImage.json"
    stamp.parent.mkdir(parents=True)

    def found(buildings: int) -> list[str]:
        outlines = np.full(buildings, shapely.box(533_000, 9_367_000, 533_010, 9_367_010))
        columns = {"building_id": np.arange(buildings), RAW: outlines}
        write_geojson(geojson, [geopandas.GeoDataFrame(columns, geometry=outlines, crs="EPSG:32737")])
        record = Stopwatch("AggregateImage", "town", "abc").record({}, {}, counts)
        record = record.model_copy(update=facts_of(output, [geojson]))
        stamp.write_text(record.model_dump_json())
        tracemalloc.start()
        damages = verify(tmp_path).damages
        assert tracemalloc.get_traced_memory()[1] < geojson.stat().st_size / 2
        tracemalloc.stop()
        return [damage.what for damage in damages]

    assert found(8000) == []
    assert found(7999) == ["7999 features in town.geojson for 8000 buildings"]


def test_a_record_says_where_a_result_comes_from_and_no_secret(village):
    work = village.undisturbed / "work"
    (network,) = work.glob("networks/*/weights.h5")
    learnt = weights_digest(network)
    within = {
        path: read_record(path) for path in (*work.glob("*/*/run.json"), *work.glob("*/*/*.manifest.json"))
    }
    for path, record in within.items():
        assert record is not None
        before = path.parent.name.startswith(("tiles-", "labels-", "pairs-"))
        assert record.weights == (None if before else learnt), path
    assert {record.task for record in within.values() if record and record.weights} >= {
        "TrainMaskRCNN", "CalibrateNetwork", "InferShard",
    }  # fmt: skip
    for path in (village.undisturbed / "output" / "runs").glob("*.json"):
        record = read_record(path)
        assert record is not None and record.sha256.keys() == record.files.keys() != set()
        assert {"Tiling", "Training", "Inference", "Aggregation"} <= record.settings.keys()
        assert record.weights == learnt
        assert record.inputs and record.versions["torch"] and record.peak_memory_mib > 0
        text = json.dumps(record.model_dump())
        assert os.uname().nodename not in text and str(Path.home()) not in text
