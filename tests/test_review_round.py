"""The review loop as a team runs it: out, edited by a script, back in, learnt from, out again."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import geopandas
import luigi
import numpy as np
import pyogrio
import pytest
import shapely
from luigi.configuration import get_config
from test_graph import SETTINGS, run_luigi, tasks_run
from test_review import GRID, LEFT, RIGHT, ROUND, annotated, proposals
from test_review import edit as edit_with

from models.weights import weights_digest
from pipeline import settings
from pipeline.errors import ArtifactError
from pipeline.frames import crs_to_px, px_to_crs, window_box
from pipeline.review.corrected import read_marks
from pipeline.review.proposals import propose
from pipeline.review.qgis import write_qgis
from pipeline.review.records import QueuedTile, Round
from pipeline.sample import SceneSpec, write_scene
from pipeline.schema import Pair, PairIndex, Window
from pipeline.split import split_pairs
from pipeline.steps import silent
from pipeline.steps.importing import Imported, import_round, read_numbers
from pipeline.steps.judging import Truth, score_versions
from pipeline.stores.opening import open_versions
from pipeline.stores.versions import Version, row_frame
from pipeline.tasks import returning

REVIEW = "\n[Review]\nbudget = 2\nrandom_share = 0.5\n"


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> Path:
    """A workspace whose first round has gone out."""
    workspace = tmp_path_factory.mktemp("village")
    for split, name, seed in (
        ("training", "scene_001", 1),
        ("review", "scene_007", 7),
        ("test", "scene_042", 42),
    ):
        folder = workspace / "input" / split
        for kind in ("images", "labels"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
        spec = SceneSpec(width=512, height=448, seed=seed, collar=20)
        write_scene(spec, folder / "images" / f"{name}.tif", folder / "labels" / f"{name}.geojson")
    (workspace / "input/review/labels/scene_007.geojson").unlink()
    quick = SETTINGS.replace("epochs = 2", "epochs = 1").replace("tiles_per_epoch = 6", "tiles_per_epoch = 2")
    (workspace / "luigi.cfg").write_text(quick + REVIEW)
    process = run_luigi(workspace, "ReviewRound", "--round", "1")
    assert process.returncode == 0, process.stdout
    return workspace


def edit(path: Path) -> None:
    """What a person does in QGIS: a building rejected, one reclassified, every tile done."""
    with closing(sqlite3.connect(path)) as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f'DROP TRIGGER "{name}"')
        connection.execute("UPDATE tiles SET status = 'done', reviewer = 'amina', minutes = 2")
        ids = [row[0] for row in connection.execute("SELECT building_id FROM buildings ORDER BY building_id")]
        connection.execute("UPDATE buildings SET status = 'rejected' WHERE building_id = ?", ids[:1])
        connection.execute("UPDATE buildings SET class_name = 'foundation' WHERE building_id = ?", ids[1:2])
        connection.commit()


@pytest.fixture(scope="module")
def second(first) -> tuple[Path, list[str]]:
    """The same workspace after the second round, and the tasks that ran in it."""
    folder = first / "review" / "round_001"
    for path in (folder / "qgis").iterdir():
        shutil.copy(path, folder / "returned" / path.name)
        edit(folder / "returned" / path.name)
    process = run_luigi(first, "ReviewRound", "--round", "2")
    assert process.returncode == 0, process.stdout
    return first, tasks_run(process)


def round_of(workspace: Path, number: int) -> Round:
    return Round.model_validate_json((workspace / f"review/round_{number:03d}/round.json").read_bytes())


@pytest.mark.timeout(600)
def test_a_round_goes_out_for_every_tool(first):
    folder, round_ = first / "review" / "round_001", round_of(first, 1)
    assert len(round_.tiles) == 2 and sum(tile.reason == "random" for tile in round_.tiles) == 1
    assert set(round_.proposals) == {"scene_007"} and not round_.bases
    assert set(round_.evaluated) == {"scene_042"}
    tasks = json.loads((folder / "label_studio" / "tasks.json").read_bytes())
    assert [task["data"]["tile"] for task in tasks] == [tile.name for tile in round_.tiles]
    assert all(task["data"]["image"].startswith("data:image/jpeg;base64,") for task in tasks)
    assert {path.stem for path in (folder / "chips").glob("*.jpg")} == {tile.name for tile in round_.tiles}
    assert (folder / "qgis" / "scene_007.gpkg").is_file() and (folder / "coco" / "instances.json").is_file()
    assert not list((folder / "returned").iterdir())
    assert (first / "output" / "review.html").is_file()


@pytest.mark.timeout(600)
def test_chips_lie_on_the_map(first):
    import rasterio

    folder, round_ = first / "review" / "round_001", round_of(first, 1)
    tile = round_.tiles[0]
    with rasterio.open(folder / "chips" / f"{tile.name}.jpg") as src:
        corner = src.transform @ (0, 0)
    expected = rasterio.Affine(*round_.grids[tile.image_id].transform) @ tuple(tile.window[:2])
    assert np.abs(np.subtract(corner, expected)).max() < 1e-6


@pytest.mark.parametrize(
    ("task", "out", "says"),
    [
        ("ReviewRound", 0, "ReviewRound(round=3): round 1 has not gone out. Out so far: none. ReviewRound "),
        ("ReviewRound", 1, "round 2 has not gone out. Out so far: 1. ReviewRound --round 2 hands it out."),
        ("ExportReview", 1, "round 2 has not gone out"),
        ("ImportReview", 2, "round 3 has not gone out. Out so far: 1, 2."),
    ],
)  # fmt: skip
def test_a_round_that_cannot_be_yet_is_refused_before_anything_is_made(tmp_path, task, out, says):
    for number in range(1, out + 1):
        folder = tmp_path / "review" / f"round_{number:03d}"
        folder.mkdir(parents=True)
        (folder / "round.json").touch()
    image = tmp_path / "input" / "review" / "images" / "scene_007.tif"
    image.parent.mkdir(parents=True)
    image.touch()
    before = set(tmp_path.rglob("*"))
    process = run_luigi(tmp_path, task, "--round", "3")
    assert process.returncode != 0 and says in process.stdout and "Traceback" not in process.stdout
    assert set(tmp_path.rglob("*")) == before and tasks_run(process) == []


@pytest.mark.timeout(600)
def test_what_comes_back_is_learnt_from(second):
    workspace, ran = second
    assert ran[:2] == ["ReviewRound", "ImportReview"]
    assert {"LoadLabels", "CutTiles", "TrainMaskRCNN", "SelectTiles", "ExportReview"} <= set(ran)
    folder = workspace / "review" / "round_001"
    imported = Imported.model_validate_json((folder / "imported.json").read_bytes())
    assert {tile.person for tile in imported.tiles} == {"amina"} and len(imported.tiles) == 2
    numbers = json.loads((folder / "numbers.json").read_bytes())
    assert numbers["everything"]["rejected"] >= 1 and numbers["seconds_per_tile"] == 120

    store = open_versions("", workspace / "review" / "versions")
    name = imported.versions["scene_007"]
    rows = store.read("scene_007", name)
    assert set(rows["status"]) <= {"accepted", "reclassified"} and set(rows["person"]) == {"amina"}
    assert set(rows["round"]) == {1} and rows["model"].str.startswith("maskrcnn_small/").all()
    kinds = [version.kind for version in store.versions("scene_007")]
    assert kinds.count("model") == 2 and "reviewed" in kinds and kinds.count("proposed") == 2
    page = (workspace / "output" / "review.html").read_text()
    assert "amina" in page and 'id="held-out"' in page
    report = json.loads((workspace / "review/round_002/report.json").read_bytes())
    assert set(report["held_out"]) == {"1", "2"}
    # Nobody is asked twice.
    windows = [tile.window for tile in round_of(workspace, 1).tiles]
    assert not {tuple(tile.window) for tile in round_of(workspace, 2).tiles} & set(map(tuple, windows))


@pytest.mark.timeout(600)
def test_images_that_rounds_are_compared_on_are_never_learnt_from(second):
    workspace, _ = second
    (network,) = [
        record
        for path in (workspace / "work" / "networks").glob("*/run.json")
        if "scene_007" in (record := json.loads(path.read_bytes()))["inputs"]
    ]
    assert set(network["inputs"]) == {"scene_001", "scene_007"}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_importing_again_changes_nothing(second):
    workspace, _ = second
    process = run_luigi(workspace, "ReviewRound", "--round", "2")
    assert tasks_run(process) == []
    store = open_versions("", workspace / "review" / "versions")
    before = [version.name for version in store.versions("scene_007")]
    returned = workspace / "review" / "round_001" / "returned" / "scene_007.gpkg"
    os.utime(returned)
    process = run_luigi(workspace, "ImportReview", "--round", "1")
    assert process.returncode == 0 and tasks_run(process) == ["ImportReview"]
    assert [version.name for version in store.versions("scene_007")] == before


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_nothing_handed_back_is_said_so(first, tmp_path):
    copy = tmp_path / "village"
    shutil.copytree(first, copy, copy_function=shutil.copy2)
    for number in ("001", "002"):
        for path in (copy / "review" / f"round_{number}" / "returned").glob("*"):
            path.unlink()
        (copy / "review" / f"round_{number}" / "imported.json").unlink(missing_ok=True)
    process = run_luigi(copy, "ImportReview", "--round", "1")
    assert process.returncode != 0
    assert "no finished tile has come back" in process.stdout and "Traceback" not in process.stdout


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_comes_late_is_read_by_the_same_command_and_outlasts_the_next_import(second, tmp_path):
    copy = tmp_path / "village"
    shutil.copytree(second[0], copy, copy_function=shutil.copy2)
    first_round, second_round = (copy / "review" / f"round_{number:03d}" for number in (1, 2))
    late = first_round / "returned" / "late.gpkg"
    shutil.copy(first_round / "qgis" / "scene_007.gpkg", late)
    edit(late)
    with closing(sqlite3.connect(late)) as connection:
        connection.execute("UPDATE tiles SET reviewer = 'baraka', finished_at = '2100-01-01T00:00:00Z'")
        connection.execute("DELETE FROM buildings")
        connection.commit()
    out = (second_round / "round.json").read_bytes()
    with closing(sqlite3.connect(first_round / "labels" / "scene_007.gpkg")) as viewer:
        viewer.execute("PRAGMA journal_mode = WAL")
        viewer.execute("PRAGMA user_version = 10301")
        process = run_luigi(copy, "ReviewRound", "--round", "2")
    assert process.returncode == 0 and tasks_run(process) == ["ReviewRound", "ImportReview", "ReviewRound"]
    assert (second_round / "round.json").read_bytes() == out, "a round that is out is never written again"
    numbers = json.loads((second_round / "report.json").read_bytes())["numbers"]
    assert [one["people"] for one in numbers] == [["amina", "baraka"]]
    assert not len(pyogrio.read_dataframe(first_round / "labels" / "scene_007.gpkg", layer="labels"))

    shutil.copy(second_round / "qgis" / "scene_007.gpkg", second_round / "returned")
    edit(second_round / "returned" / "scene_007.gpkg")
    process = run_luigi(copy, "ImportReview", "--round", "2")
    assert process.returncode == 0, process.stdout
    labels = pyogrio.read_dataframe(second_round / "labels" / "scene_007.gpkg", layer="labels")
    assert set(labels["round"]) <= {2}, "what baraka rejected has come back"

    last = first_round / "returned" / "last.gpkg"
    shutil.copy(first_round / "qgis" / "scene_007.gpkg", last)
    edit(last)
    with closing(sqlite3.connect(last)) as connection:
        connection.execute("UPDATE tiles SET reviewer = 'neema', finished_at = '2101-01-01T00:00:00Z'")
        connection.commit()
    process = run_luigi(copy, "ReviewRound", "--round", "3")
    assert process.returncode == 0, process.stdout
    ran = tasks_run(process)
    assert set(ran[: ran.index("LoadLabels")]) == {"ReviewRound", "ImportReview"} and "TrainMaskRCNN" in ran
    joined = pyogrio.read_dataframe(second_round / "labels" / "scene_007.gpkg", layer="labels")
    assert len(joined) > len(labels) and set(joined["person"]) == {"amina"}, "baraka had rejected all"


@pytest.mark.timeout(600)
def test_people_calibrate_given_weights(second):
    workspace, _ = second
    numbers = json.loads((workspace / "review/round_001/numbers.json").read_bytes())
    (model,) = numbers["models"]
    (weights,) = [
        path
        for path in (workspace / "work" / "networks").glob("*/weights.h5")
        if weights_digest(path).startswith(model.rpartition("/")[2])
    ]
    given = ("AggregateImage", "--image-id", "scene_042", "--Inference-weights", str(weights))
    before = tasks_run(run_luigi(workspace, *given))
    assert "AggregateImage" in before and "CalibrateNetwork" not in before, "too few to say anything"
    process = run_luigi(workspace, *given, "--Thresholds-min-detections", "1")
    assert process.returncode == 0, process.stdout
    assert tasks_run(process)[-2:] == ["CalibrateNetwork", "AggregateImage"]
    made = [
        json.loads(path.read_bytes()) for path in (workspace / "work").glob("calibrations/*/thresholds.json")
    ]
    (by_people,) = [one for one in made if one["tiles"] == 2]
    assert by_people["weights"] == weights_digest(weights)


@pytest.mark.timeout(600)
def test_networks_together_propose_and_are_judged(second, tmp_path):
    copy = tmp_path / "village"
    shutil.copytree(second[0], copy, copy_function=shutil.copy2)
    process = run_luigi(copy, "ExportReview", "--round", "3", "--Review-ensemble", '["maskrcnn_small"]')
    assert process.returncode == 0, process.stdout
    assert {"SelectTiles", "ExportReview"} <= set(tasks_run(process))
    assert "TrainMaskRCNN" not in tasks_run(process), "importing the same again has taught something"
    round_, store = round_of(copy, 3), open_versions("", copy / "review" / "versions")
    # The networks of both rounds have looked at the review's image, and at the one they are compared on.
    assert all(name.startswith("ensemble-") for name in round_.evaluated.values())
    for image_id, name in [("scene_042", round_.evaluated["scene_042"]), ("scene_007", "")]:
        kept = [version.name for version in store.versions(image_id) if version.kind == "ensemble"]
        assert kept == [name or kept[0]]
        tags = store.read(image_id, kept[0])["model"]
        assert any(" + " in tag for tag in tags), "no building that both networks saw"
    parents = store.read("scene_007", round_.proposals["scene_007"])["parent"].str
    found = parents.startswith("ensemble-")
    assert found.any() and (found | parents.startswith("round_001-")).all(), "labels, and what is new"


# The guard ----------------------------------------------------------------------------------------------


def pairs(image_id: str, windows: dict[str, list[int]], held_out: list[Window] | None = None) -> PairIndex:
    made = [Pair(tile_id=name, window=window, label_ids=[]) for name, window in windows.items()]
    transform = (0.1, 0, 543000 if image_id == "b" else 533000, 0, -0.1, 9367000)
    return PairIndex(image_id=image_id, crs="EPSG:32737", transform=transform, pairs=made, held_out=held_out)


def test_ground_held_out_before_a_review_stays_held_out():
    grid = {
        f"r{row:04d}_c{column:04d}": [80 * column, 80 * row, 100, 100]
        for row in range(6)
        for column in range(6)
    }
    before = pairs("a", {name: window for name, window in grid.items() if window[0] < 320})
    (sides,) = split_pairs([before], [], 0.2)
    frozen = [before.pairs[place].window for place in sides.held_out]
    # People added buildings: there are more tiles now, and a strip chosen anew would lie elsewhere.
    after = pairs("a", grid, frozen)
    (kept,) = split_pairs([after], [], 0.2)
    ground = shapely.union_all([window_box(window) for window in frozen])
    boxes = np.array([window_box(pair.window) for pair in after.pairs], dtype=object)
    assert frozen and len(kept.learnt)
    assert shapely.area(shapely.intersection(boxes[kept.learnt], ground)).max() == 0
    assert set(frozen) <= {after.pairs[place].window for place in kept.held_out}
    (moved,) = split_pairs([pairs("a", grid)], [], 0.2)
    assert shapely.area(shapely.intersection(boxes[moved.learnt], ground)).max() > 0, "without the guard"


def test_buildings_of_ground_held_out_are_learnt_from_nowhere():
    windows = {f"r0000_c000{column}": [100 * column, 0, 100, 100] for column in range(3)}
    index = pairs("a", windows, [Window(0, 0, 100, 100)])
    across = [
        pair.model_copy(update={"label_ids": ids})
        for pair, ids in zip(index.pairs, ([1], [1, 2], [2]), strict=True)
    ]
    (sides,) = split_pairs([index.model_copy(update={"pairs": across})], [], 0.2)
    assert (sides.held_out.tolist(), sides.learnt.tolist()) == ([0], [2])


def test_images_held_out_whole_stay_so_whatever_is_reviewed():
    windows = {f"r0000_c000{column}": [100 * column, 0, 100, 100] for column in range(4)}
    learnt, held_out = split_pairs([pairs("a", windows, []), pairs("b", windows, [])], ["b"], 0.2)
    assert len(learnt.learnt) == 4 and not len(learnt.held_out)
    assert len(held_out.held_out) == 4 and not len(held_out.learnt)


def test_corrected_labels_are_a_label_file_with_marks(second):
    workspace, _ = second
    path = workspace / "review" / "round_001" / "labels" / "scene_007.gpkg"
    marks = read_marks(path)
    assert len(marks.reviewed) == 2 and marks.held_out == []
    layers = pyogrio.list_layers(path)
    assert [name for name, kind in layers if kind is not None] == ["labels"]
    area = pyogrio.read_dataframe(workspace / "review" / "round_001" / "areas" / "scene_007.gpkg")
    assert area.area.sum() > 0


# What is taken back -------------------------------------------------------------------------------------

TWO_IMAGES = ROUND.model_copy(
    update={
        "tiles": [LEFT, LEFT.model_copy(update={"image_id": "b"})],
        "grids": {"a": GRID, "b": GRID},
        "proposals": {"a": "proposals-001", "b": "proposals-001"},
    }
)


class Returns:
    """A round that is out, and what people hand back of it."""

    def __init__(self, workspace: Path, round_: Round = TWO_IMAGES, rows=None):
        self.store, self.round = open_versions("", workspace / "review" / "versions"), round_
        self.folder = workspace / "review" / f"round_{round_.round:03d}"
        (self.folder / "returned").mkdir(parents=True)
        (self.folder / "round.json").write_text(round_.model_dump_json())
        self.rows = proposals() if rows is None else rows
        for image_id, name in round_.proposals.items():
            version = Version(name, "proposed", name, round_.round, "2026-01-01T00:00:00+00:00")
            self.store.add(image_id, version, self.rows)

    def hand_back(self, image_id: str, day: int, *rejected: int) -> Path:
        """A file in which somebody has rejected buildings of an image's tile."""
        path = self.folder / "returned" / f"{image_id}_{day}.gpkg"
        ids = ", ".join(map(str, rejected))
        write_qgis(
            path, self.round.round, image_id, GRID, self.rows, self.round.tiles[:1], self.round.categories
        )
        edit_with(
            path,
            f"UPDATE tiles SET status = 'done', finished_at = '2026-02-{day:02d}T00:00:00Z'",
            f"UPDATE buildings SET status = 'rejected' WHERE building_id IN ({ids})",
        )
        return path

    def take_in(self, progress=silent, earlier=()) -> dict[str, str]:
        """The version of each image's labels, as ImportReview leaves them."""
        labels, now = settings.Labels(), "2026-03-01T00:00:00+00:00"
        imported, _ = import_round(self.folder, earlier, self.store, labels, now, progress)
        (self.folder / "imported.json").write_text(imported.model_dump_json())
        return imported.versions

    def labels(self) -> dict[str, int]:
        """Buildings in the label file of each image that has one."""
        return {image_id: len(rows) for image_id, rows in self.kept().items()}

    def kept(self) -> dict[str, set[int]]:
        """By image, the proposals in its label file."""
        paths = (self.folder / "labels").iterdir()
        parents = {path.stem: pyogrio.read_dataframe(path, layer="labels")["parent"] for path in paths}
        return {name: {int(parent.rpartition(":")[2]) for parent in rows} for name, rows in parents.items()}


@pytest.fixture
def returns(tmp_path) -> Returns:
    """A round that amina has answered for one image."""
    returns = Returns(tmp_path)
    returns.hand_back("a", 1)
    return returns


def test_a_file_taken_back_takes_its_labels_along(returns):
    (before,) = returns.take_in().values()
    assert returns.labels() == {"a": 4}
    baraka = [returns.hand_back("a", 2, 1, 2, 3), returns.hand_back("b", 2, 1)]
    returns.take_in()
    assert returns.labels() == {"a": 1, "b": 3}
    for path in baraka:
        path.unlink()
    assert returns.take_in() == {"a": before}
    assert returns.labels() == {"a": 4} and not (returns.folder / "areas" / "b.gpkg").exists()


def test_the_same_read_again_is_not_written_again(returns):
    returns.take_in()
    (path,) = (returns.folder / "labels").iterdir()
    written = path.stat().st_mtime_ns
    returns.take_in()
    assert path.stat().st_mtime_ns == written


def test_a_killed_import_leaves_no_labels_of_another_version(returns):
    returns.take_in()
    baraka = [returns.hand_back("a", 2, 1, 2, 3), returns.hand_back("b", 2, 1)]

    def kill(share: float, _: str) -> None:
        if share:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        returns.take_in(kill)
    assert returns.labels() == {"a": 1}
    for path in baraka:
        path.unlink()
    returns.take_in()
    assert returns.labels() == {"a": 4}


def test_labels_of_a_version_that_an_import_kept_and_never_wrote_are_written(returns):
    returns.take_in()
    there = {
        path: path.read_bytes()
        for path in (returns.folder / "imported.json", *returns.folder.glob("labels/*"))
    }
    returns.hand_back("a", 2, 1, 2, 3)
    returns.take_in()
    for path, content in there.items():
        path.write_bytes(content)
    returns.take_in()
    assert returns.labels() == {"a": 1}


# What comes late ----------------------------------------------------------------------------------------


def one_tile(number: int, tile: QueuedTile) -> Round:
    return ROUND.model_copy(update={"round": number, "tiles": [tile]})


def test_what_comes_back_of_a_round_before_the_last_is_joined_and_not_forgotten(tmp_path):
    """Round 2 went out before round 1 came back, and came back first."""
    first, second = Returns(tmp_path, one_tile(1, LEFT)), Returns(tmp_path, one_tile(2, RIGHT))
    second.hand_back("a", 1, 5)

    def imported(number: int) -> list[str]:
        process = run_luigi(tmp_path, "ImportReview", "--round", str(number))
        assert process.returncode == 0, process.stdout
        if number == 1:
            assert "ImportReview --round 2, or the next ReviewRound, joins this" in process.stdout
        return tasks_run(process)

    assert imported(2) == ["ImportReview"] and second.kept() == {"a": {3}}
    first.hand_back("a", 2, 1)
    assert imported(1) == ["ImportReview"] and second.kept() == {"a": {3}}
    assert imported(2) == ["ImportReview"] and second.kept() == {"a": {2, 3, 4}}
    assert set(read_marks(second.folder / "labels/a.gpkg").reviewed) == {LEFT.window, RIGHT.window}
    assert imported(2) == []
    first.hand_back("a", 3, 2)
    assert set(imported(2)) == {"ImportReview"} and second.kept() == {"a": {1, 3, 4}}
    (second.folder / "labels" / "a.gpkg").unlink()
    assert imported(2) == ["ImportReview"] and second.kept() == {"a": {1, 3, 4}}


def test_what_cannot_be_read_is_told_of_whenever_it_comes(tmp_path):
    returns = Returns(tmp_path, one_tile(1, LEFT))
    folder = returns.folder / "returned"

    def told() -> list[str]:
        process = run_luigi(tmp_path, "ImportReview", "--round", "1")
        assert "Traceback" not in process.stdout
        return [line for line in process.stdout.splitlines() if "ImportReview(round=1): " in line]

    (folder / "buildings.geojson").write_text("{}")
    assert any("no finished tile has come back (found ['buildings.geojson'])" in line for line in told())
    returns.hand_back("a", 1)
    (folder / ".buildings.geojson.swp").touch()
    (folder / "a_1.gpkg-wal").touch()
    unread = "buildings.geojson (no .gpkg or .json out of its archive)"
    assert any(line.endswith(f"nothing was taken from {unread}") for line in told())
    assert told() == []
    (folder / "annotations").mkdir()
    shutil.copy(returns.hand_back("a", 2), folder / "b.gpkg")
    edit_with(folder / "b.gpkg", "UPDATE tiles SET status = 'todo'")
    more = "annotations (no .gpkg or .json out of its archive), b.gpkg (no finished tile), "
    assert any(line.endswith(f"nothing was taken from {more}{unread}") for line in told())
    assert returns.labels() == {"a": 4}


@pytest.fixture
def on_a_server(tmp_path, monkeypatch) -> Iterator[list[dict]]:
    """What a Label Studio server holds of every round, in this workspace."""
    tasks: list[dict] = []
    monkeypatch.setattr(returning, "annotated", lambda url, project: str(len(tasks) or ""))
    monkeypatch.setattr(returning, "download_reviews", lambda url, project: tasks)
    config = get_config()
    config.set("Storage", "workspace", str(tmp_path))
    config.set("Review", "label_studio_url", "http://127.0.0.1:1")
    yield tasks
    for section in ("Storage", "Review"):
        config.remove_section(section)


def test_an_earlier_round_on_a_server_is_looked_at_again(tmp_path, on_a_server):
    first, second = Returns(tmp_path, one_tile(1, LEFT)), Returns(tmp_path, one_tile(2, RIGHT))
    (first.folder / "label_studio").mkdir()
    (first.folder / "label_studio" / "project.json").write_text('{"project": 7}')
    second.hand_back("a", 1, 5)

    def take_in() -> dict[str, set[int]]:
        assert luigi.build([returning.ImportReview(round=2)], local_scheduler=True, log_level="ERROR")
        return second.kept()

    assert take_in() == {"a": {3}} and not list((first.folder / "returned").glob("*.json")), (
        "nobody has answered"
    )
    on_a_server.append(annotated(LEFT))
    assert take_in() == {"a": {1, 2, 3, 4}}
    assert returning.ImportReview(round=2).complete()


def test_what_comes_late_of_a_round_between_is_no_earlier_version(tmp_path):
    far = LEFT.model_copy(update={"tile_id": "r0009_c0009", "window": Window(1100, 800, 300, 300)})
    rounds = [Returns(tmp_path, one_tile(*told)) for told in enumerate((LEFT, RIGHT, far), start=1)]
    for returns, rejected in zip(rounds, (1, 5, 6), strict=True):
        returns.hand_back("a", 1, rejected)
    paths = [returns.folder / "imported.json" for returns in rounds]

    def all_in() -> set[int]:
        for place, returns in enumerate(rounds):
            returns.take_in(earlier=paths[:place])
        return rounds[-1].kept()["a"]

    assert all_in() == {2, 3, 4}
    rounds[1].hand_back("a", 2)
    assert all_in() == {2, 3, 4, 5}


@pytest.mark.parametrize("labelled", [True, False])
def test_what_is_taken_back_of_an_earlier_round_is_taken_from_the_labels_since(tmp_path, labelled):
    first = Returns(tmp_path)
    drawn = Version("labels-1", "drawn", "1", 0, "2026-01-01T00:00:00+00:00")
    first.store.add("a", drawn, proposals().iloc[5:])
    (first.folder / "round.json").write_text(
        TWO_IMAGES.model_copy(update={"bases": {"a": "labels-1"} if labelled else {}}).model_dump_json()
    )
    taken_back = first.hand_back("a", 1, 1)
    first.hand_back("b", 1)
    base = first.take_in()["a"]
    assert base.startswith("round_001-") and first.kept()["a"] == {2, 3, 4}
    labels = first.store.read("a", base)
    shown = propose(labels, base, proposals().iloc[:0], "net-abc", 2, "2026-01-02T00:00:00+00:00")
    update = {"bases": {"a": base}, "proposals": {"a": "proposals-002"}}
    second = Returns(tmp_path, one_tile(2, RIGHT).model_copy(update=update), shown)
    second.hand_back("a", 2)
    earlier = [first.folder / "imported.json"]
    second.take_in(earlier=earlier)
    assert pixel_bounds(second) == {(200, 100, 240, 140), (460, 200, 540, 260), (300, 300, 340, 330)}

    taken_back.unlink()
    first.take_in()
    second.take_in(earlier=earlier)
    drawn_before = {(1200, 900, 1300, 1000)} if labelled else set()
    assert pixel_bounds(second) == {(460, 200, 540, 260)} | drawn_before, "one is on a tile of round 2"
    assert read_marks(second.folder / "labels/a.gpkg").reviewed == [RIGHT.window]


def pixel_bounds(returns: Returns) -> set[tuple[int, ...]]:
    """Of the buildings in the label file of image a."""
    rows = pyogrio.read_dataframe(returns.folder / "labels/a.gpkg", layer="labels")
    outlines = crs_to_px(rows.geometry.values, GRID.transform)
    return {tuple(np.round(outline.bounds).astype(int).tolist()) for outline in outlines}


def test_numbers_of_a_round_that_cannot_be_read_are_said_so(tmp_path):
    (tmp_path / "numbers.json").write_text('{"round": 1}')
    with pytest.raises(ArtifactError, match=r"numbers\.json: .*Delete imported\.json beside it"):
        read_numbers(tmp_path / "numbers.json")


def test_networks_are_judged_by_the_labels_that_the_image_shows(tmp_path):
    house, far = shapely.box(100, 100, 160, 150), shapely.box(5000, 100, 5060, 150)
    store, version = open_versions("", tmp_path / "versions"), Version("found", "model", "found", 1, "now")
    places = px_to_crs(np.array([house, far], dtype=object), GRID.transform)
    scores = [json.dumps({"foundation": 0.1, "unfinished": 0.1, "completed": 0.8})]
    store.add("a", version, row_frame(places[:1], GRID.crs, category="completed", score=0.8, scores=scores))
    labels = tmp_path / "labels.geojson"
    geopandas.GeoDataFrame({"condition": ["Complete"] * 2}, geometry=places, crs=GRID.crs).to_file(labels)
    scored = score_versions({"a": "found"}, {"a": Truth(GRID, labels, [])}, store, settings.Labels())
    assert scored["all_f1"] == 1.0


def test_networks_are_judged_by_what_the_image_shows_of_a_label(tmp_path):
    store, version = open_versions("", tmp_path / "versions"), Version("found", "model", "found", 1, "now")
    drawn = np.array([shapely.box(-60, 100, 60, 150), shapely.box(1990, 100, 2060, 150)], dtype=object)
    seen = shapely.intersection(drawn, shapely.box(0, 0, GRID.width, GRID.height))
    scores = [json.dumps({"foundation": 0.1, "unfinished": 0.1, "completed": 0.8})] * 2
    buildings = px_to_crs(seen, GRID.transform)
    store.add("a", version, row_frame(buildings, GRID.crs, category="completed", score=0.8, scores=scores))
    labels = tmp_path / "labels.geojson"
    places = px_to_crs(drawn, GRID.transform)
    geopandas.GeoDataFrame({"condition": ["Complete"] * 2}, geometry=places, crs=GRID.crs).to_file(labels)
    scored = score_versions({"a": "found"}, {"a": Truth(GRID, labels, [])}, store, settings.Labels())
    assert scored["all_f1"] == 1.0, "of the second it shows a seventh, which counts on neither side"
