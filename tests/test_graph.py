"""The graph as a user runs it: real `luigi` processes in a workspace of painted scenes."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

import numpy as np
import pyogrio
import pytest

from pipeline.sample import SceneSpec, write_scene
from pipeline.schema import TileDetections
from pipeline.steps.detection_rows import read_detections
from pipeline.submission import read_csv, validate_csv

SETTINGS = """
[Tiling]
tile_size = 192
overlap = 64

[Training]
network = maskrcnn_small
epochs = 2
tiles_per_epoch = 6
batch_size = 2
device = cpu

[Inference]
shards = 2
batch_size = 2
workers = 0
device = cpu
detections_per_tile = 12

[Aggregation]
score_thresholds = {"foundation": 0.0, "unfinished": 0.0, "completed": 0.0}
"""
RUNNING = re.compile(r"Worker .* running   (\w+)\(")


def run_luigi(workspace: Path, task: str, *arguments: str, scheduler=("--local-scheduler",), timeout=280):
    """A finished `luigi` process of this checkout; its output in one text."""
    return subprocess.run(
        [sys.executable, "-m", "luigi", "--module", "pipeline", task, *arguments, *scheduler],
        cwd=workspace,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )


def tasks_run(process) -> list[str]:
    """Families of the tasks that ran, in order."""
    return RUNNING.findall(process.stdout)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A workspace in which ReportImage has run once."""
    workspace = tmp_path_factory.mktemp("village")
    for split, name, seed in (("training", "scene_001", 1), ("test", "scene_042", 42)):
        folder = workspace / "input" / split
        for kind in ("images", "labels"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
        spec = SceneSpec(width=512, height=448, seed=seed, collar=20)
        write_scene(spec, folder / "images" / f"{name}.tif", folder / "labels" / f"{name}.geojson")
    (workspace / "luigi.cfg").write_text(SETTINGS)
    process = run_luigi(workspace, "ReportImage", "--image-id", "scene_042")
    assert process.returncode == 0, process.stdout
    return workspace


@pytest.fixture
def workspace(built, tmp_path) -> Path:
    """A copy of the built workspace, for a test to change."""
    copy = tmp_path / "village"
    shutil.copytree(built, copy, copy_function=shutil.copy2)
    return copy


def test_the_graph_publishes_what_it_promises(built):
    output = built / "output"
    names = {path.name for path in output.iterdir()}
    assert {"scene_042.csv", "scene_042.geojson", "scene_042.report.json", "scene_042.html"} <= names
    assert {"scene_042.gpkg", "scene_042.qgs", "scene_042.stac.json"} <= names
    assert not [path for path in built.rglob(".*") if path.is_dir() or path.suffix == ".json"]
    assert validate_csv(output / "scene_042.csv", width=512, height=448) == []
    buildings = pyogrio.read_dataframe(output / "scene_042.geojson")
    rows = read_csv(output / "scene_042.csv")
    assert len(buildings) == len(rows.polygons_px) > 0
    assert set(buildings["timestamp"].astype(str).str[:10]) == {"2018-04-30"}
    assert np.allclose(buildings["conf_completed"], rows.probabilities[:, 2], atol=1e-6)
    page = (output / "scene_042.html").read_text()
    made = ["TileImage", "LoadLabels", "CutTiles", "TrainMaskRCNN", "CalibrateNetwork", "InferShard"]
    made += ["AggregateImage", "EvaluateImage", "ExportImage"]
    assert re.findall(r'<th scope="row">(\w+)</th>', page.partition('id="work"')[2]) == made


@pytest.mark.slow
def test_two_processes_train_the_graphs_network(workspace):
    """As docs/architecture.md says it: `torchrun` starts the task twice, and one network comes of it."""
    before = set((workspace / "work" / "networks").iterdir())
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "luigi", "--module", "pipeline", "TrainMaskRCNN", "--Training-learning-rate", "0.0003"]
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [*command, "--local-scheduler", "--no-lock"],
        cwd=workspace,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout
    (made,) = set((workspace / "work" / "networks").iterdir()) - before
    assert {path.name for path in made.iterdir()} >= {"weights.h5", "history.json", "run.json"}
    history = json.loads((made / "history.json").read_text())
    assert [record["epoch"] for record in history] == [1, 2], "only the first process writes"
    again = run_luigi(workspace, "TrainMaskRCNN", "--Training-learning-rate", "0.0003")
    assert tasks_run(again) == []


def test_every_tile_has_its_artifact(built):
    (index,) = (built / "work" / "scene_042").glob("tiles-*/tiles.geojson")
    tiles = {feature["properties"]["tile_id"] for feature in json.loads(index.read_text())["features"]}
    paths = list((built / "work" / "scene_042").glob("detections-*/r*.json"))
    assert {path.stem for path in paths} == tiles
    for path in paths:
        content = read_detections(path)
        assert isinstance(content, TileDetections)
        assert tuple(content.categories) == ("foundation", "unfinished", "completed")
        assert all(sum(detection.scores) <= 1 + 1e-3 for detection in content.detections)


def test_training_pairs_go_to_other_networks(built):
    process = run_luigi(built, "ExportTraining")
    assert process.returncode == 0, process.stdout
    assert tasks_run(process) == ["ExportTraining"]
    (folder,) = (built / "work" / "training_sets").iterdir()
    pictures, labels = (sorted((folder / kind).rglob("scene_001_*.*")) for kind in ("images", "labels"))
    (pairs,) = (built / "work" / "scene_001").glob("pairs-*")
    tiles = {path.stem for path in (pairs / "tiles").iterdir()}  # those on the border are on neither side
    shown = [path.stem.removeprefix("scene_001_") for path in pictures]
    assert shown == [path.stem.removeprefix("scene_001_") for path in labels]
    assert shown and set(shown) <= tiles
    content = json.loads((folder / "annotations" / "train.json").read_text())
    assert all((folder / image["file_name"]).is_file() for image in content["images"])
    assert content["annotations"]


def test_a_second_run_does_nothing(built):
    process = run_luigi(built, "ReportImage", "--image-id", "scene_042")
    assert process.returncode == 0
    assert tasks_run(process) == []
    assert "1 complete ones were encountered" in process.stdout


def test_edited_test_labels_rerun_what_depends_on_them(workspace):
    run_luigi(workspace, "LoadLabels", "--image-id", "scene_042")
    path = workspace / "input/test/labels/scene_042.geojson"
    content = json.loads(path.read_text())
    content["features"][0]["properties"]["condition"] = "Foundation"
    path.write_text(json.dumps(content))
    process = run_luigi(workspace, "ReportImage", "--image-id", "scene_042")
    assert sorted(tasks_run(process)) == ["EvaluateImage", "ExportImage", "ReportImage"]
    process = run_luigi(workspace, "LoadLabels", "--image-id", "scene_042")
    assert tasks_run(process) == ["LoadLabels"]


def test_edited_training_labels_rerun_learning(workspace):
    path = workspace / "input/training/labels/scene_001.geojson"
    path.write_text(path.read_text().replace('"Incomplete"', '"Foundation"', 1))
    process = run_luigi(workspace, "AggregateImage", "--image-id", "scene_042")
    assert process.returncode == 0, process.stdout
    learning = ["LoadLabels", "CutTiles", "TrainMaskRCNN"]
    mapping = ["AggregateImage", "CalibrateNetwork", "InferShard", "InferShard"]
    assert tasks_run(process)[:3] == learning and sorted(tasks_run(process)[3:]) == mapping
    assert len(list((workspace / "work" / "networks").iterdir())) == 2, "old weights are kept"


# Every setting is in test_stale's table; here the graph really runs.
@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (("--Aggregation-regularize", "none"), ["AggregateImage"]),
        (
            ("--Inference-score-threshold", "0.1"),
            ["AggregateImage", "CalibrateNetwork", "InferShard", "InferShard"],
        ),
        (("--Inference-batch-size", "3"), []),
    ],
)
def test_a_changed_setting_reruns_what_depends_on_it(workspace, setting, expected):
    process = run_luigi(workspace, "AggregateImage", "--image-id", "scene_042", *setting)
    assert process.returncode == 0, process.stdout
    assert sorted(tasks_run(process)) == expected
    # And back again: what the first setting made is still there, or is published anew from it.
    process = run_luigi(workspace, "AggregateImage", "--image-id", "scene_042")
    assert tasks_run(process) == (["AggregateImage"] if expected else [])


def test_a_deleted_result_is_made_again(workspace):
    before = (workspace / "output" / "scene_042.csv").read_bytes()
    (workspace / "output" / "scene_042.csv").unlink()
    process = run_luigi(workspace, "AggregateImage", "--image-id", "scene_042")
    assert tasks_run(process) == ["AggregateImage"]
    assert (workspace / "output" / "scene_042.csv").read_bytes() == before


def test_a_killed_shard_resumes_at_the_first_missing_tile(workspace):
    (folder,) = (workspace / "work" / "scene_042").glob("detections-*")
    before = {path: path.read_bytes() for path in sorted(folder.glob("r*.json"))}
    times = {path: path.stat().st_mtime_ns for path in before}
    lost = len(before) - 1
    gone = list(before)[lost]
    gone.unlink()
    (folder / "shard_1_of_2_by_2.manifest.json").unlink()
    process = run_luigi(workspace, "InferShard", "--image-id", "scene_042", "--shard", "1")
    assert process.returncode == 0, process.stdout
    assert {path for path in times if path.stat().st_mtime_ns != times[path]} == {gone}
    for path, content in before.items():
        old, new = json.loads(content), json.loads(path.read_bytes())
        assert old["detections"] == new["detections"]


def test_fewer_tiles_at_once_leave_no_tile_out_and_infer_none_again(workspace):
    (folder,) = (workspace / "work" / "scene_042").glob("detections-*")
    tiles = {path.name for path in folder.glob("r*.json")}
    shutil.rmtree(folder)
    (workspace / "output" / "scene_042.csv").unlink()
    # At four at once the first of two shards has four of twelve tiles, at two it has six.
    more = ("--shard", "0", "--Inference-batch-size", "4")
    assert run_luigi(workspace, "InferShard", "--image-id", "scene_042", *more).returncode == 0
    first = {path: path.read_bytes() for path in folder.glob("r*.json")}
    process = run_luigi(workspace, "AggregateImage", "--image-id", "scene_042")
    assert process.returncode == 0, process.stdout
    assert len(first) == 4 and {path.name for path in folder.glob("r*.json")} == tiles
    assert all(path.read_bytes() == content for path, content in first.items())


def test_one_worker_and_four_with_a_real_luigid_agree_to_the_byte(workspace, luigid_port):
    names = ("scene_042.csv", "scene_042.geojson")
    alone = [(workspace / "output" / name).read_bytes() for name in names]
    shutil.rmtree(workspace / "work")
    shutil.rmtree(workspace / "output")
    scheduler = ("--scheduler-port", str(luigid_port), "--workers", "4", "--Inference-shards", "5")
    process = run_luigi(workspace, "AggregateImage", "--image-id", "scene_042", scheduler=scheduler)
    assert process.returncode == 0, process.stdout
    assert [(workspace / "output" / name).read_bytes() for name in names] == alone
    told = {
        task["name"]: (task["status_message"], task["progress_percentage"]) for task in finished(luigid_port)
    }
    assert re.fullmatch(r"tile \d+/\d+, [\d.]+ tiles/s", told["InferShard"][0])
    assert "tiles/s" in told["AggregateImage"][0] and "valid pixels" in told["TileImage"][0]
    assert told["TrainMaskRCNN"][1] == told["AggregateImage"][1] == 100


def finished(port: int) -> list[dict]:
    """The tasks that a luigid knows as done, as its dashboard shows them."""
    query = urllib.parse.urlencode({"data": json.dumps({"status": "DONE", "upstream_status": ""})})
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/task_list?{query}") as answer:
        return list(json.load(answer)["response"].values())


@pytest.fixture
def luigid_port(tmp_path):
    """The port of a real luigid on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = "from luigi.cmdline import luigid; luigid()"
    arguments = ["--address", "127.0.0.1", "--port", str(port), "--state-path", str(tmp_path / "state")]
    daemon = subprocess.Popen(
        [sys.executable, "-c", command, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield port
    finally:
        daemon.terminate()
        daemon.wait(20)


@pytest.mark.postgis
def test_both_label_stores_give_the_same_training_pairs(workspace, postgis_url):
    (pairs,) = (workspace / "work" / "scene_001").glob("pairs-*")
    before = {path.name: path.read_bytes() for path in sorted((pairs / "items").iterdir())}
    shutil.rmtree(pairs)
    process = run_luigi(
        workspace, "CutTiles", "--image-id", "scene_001", "--Labels-database-url", postgis_url
    )
    assert process.returncode == 0, process.stdout
    assert tasks_run(process) == ["LoadLabels", "CutTiles"]
    assert {path.name: path.read_bytes() for path in sorted((pairs / "items").iterdir())} == before
    again = run_luigi(
        workspace, "LoadLabels", "--image-id", "scene_001", "--Labels-database-url", postgis_url
    )
    assert tasks_run(again) == []


def test_an_independent_scorer_gives_the_same_numbers(built):
    script = Path(__file__).with_name("independent_metric.py")
    csv, labels = built / "output/scene_042.csv", built / "input/test/labels/scene_042.geojson"
    given = [csv, labels, built / "input/test/images/scene_042.tif"]
    done = subprocess.run([sys.executable, script, *given], capture_output=True, text=True, check=True)
    theirs = json.loads(done.stdout)
    ours = json.loads((built / "output/scene_042.report.json").read_text())["score"]
    assert theirs["all_buildings"]["false_negatives"] > 0
    assert theirs["mean_f1"] == pytest.approx(ours["mean_f1"])
    assert theirs["all_buildings"] == pytest.approx(ours["all_buildings"])
    for name, counts in ours["categories"].items():
        assert theirs["categories"][name] == pytest.approx(counts)


def test_a_submission_is_packed(built):
    process = run_luigi(built, "Submission")
    assert process.returncode == 0, process.stdout
    assert (built / "output" / "submission_test.zip").stat().st_size > 100


NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"
MISTAKES = [
    (["InferShard", "--image-id", "scene_042", "--shard", "7"], "there are 2 shards", "[Inference] shards"),
    (["AggregateImage"], "image_id", "parameter to be set"),
    (["TrainMaskRCNN", "--Training-epochs", "many"], "[Training] epochs", "many"),
    (
        ["LoadLabels", "--image-id", "scene_042", "--Labels-database-url", NOWHERE],
        "127.0.0.1",
        "Check that the",
    ),
    (
        ["LoadLabels", "--image-id", "scene_042", "--Labels-database-url", NOWHERE.replace("@", ":secret@")],
        "holds a password",
        "PGPASSFILE",
    ),
    (["AggregateImage", "--image-id", "scene_043"], "no such image", "Did you mean scene_042?"),
    (["AggregateImage", "--image-id", "../scene_042"], "not an image id", "without folder"),
    (
        ["LoadLabels", "--image-id", "scene_042", "--Labels-condition-attribute", "state"],
        "state",
        "condition",
    ),
    (["TileImage", "--image-id", "scene_042", "--Tiling-tile-size", "0"], "tile_size", "at least"),
    (
        ["TileImage", "--image-id", "scene_042", "--Imagery-collar-tolerance", "much"],
        "collar_tolerance",
        "much",
    ),
    (
        ["InferShard", "--image-id", "scene_042", "--shard", "0", "--Inference-weights", "none.h5"],
        "no such weights",
        "none.h5",
    ),
    (["LoadLabels", "--image-id", "scene_042", "--Labels-categories", "[1]"], "Labels", "JSON object"),
]


@pytest.mark.parametrize(("arguments", "what", "remedy"), MISTAKES, ids=lambda value: str(value)[:40])
def test_a_mistake_is_one_line_and_a_failure(built, arguments, what, remedy):
    process = run_luigi(built, *arguments)
    assert process.returncode != 0
    assert "Traceback" not in process.stdout and "secret" not in process.stdout
    lines = [line for line in process.stdout.splitlines() if what in line and remedy in line]
    assert lines, process.stdout


@pytest.mark.parametrize(
    "task", [("ReportImage", "--image-id", "a"), ("ReportImages", "--image-ids", '["a"]')]
)
def test_nothing_is_learnt_for_an_image_that_is_not_there(built, task):
    process = run_luigi(built, *task, "--Training-learning-rate", "0.0004")
    assert process.returncode == 35 and tasks_run(process) == []
    assert len([line for line in process.stdout.splitlines() if "no such image" in line]) == 1


def test_a_misspelt_setting_is_refused(workspace):
    (workspace / "luigi.cfg").write_text(SETTINGS.replace("tile_size", "tilesize"))
    process = run_luigi(workspace, "TileImage", "--image-id", "scene_042")
    assert process.returncode != 0
    assert "Traceback" not in process.stdout
    assert "Did you mean tile_size?" in process.stdout
