"""Targets: whole or not at all, stale never, and inputs found by name."""

import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.atomic import atomic, scratch_folder, write_atomic
from pipeline.errors import ArtifactError, RasterError, SettingsError, SourceError
from pipeline.inputs import fingerprint
from pipeline.provenance import Stopwatch
from pipeline.review.returned import returned_files
from pipeline.targets import FetchedTarget, PublishedTarget, Workspace


def test_a_file_appears_whole(tmp_path):
    write_atomic(tmp_path / "a" / "b.txt", "text")
    assert (tmp_path / "a" / "b.txt").read_text() == "text"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.txt"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "b.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic(path) as scratch:
        scratch.write_text("new")
        assert scratch.suffix == ".txt"
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_another_finished_first_is_kept(tmp_path):
    with atomic(tmp_path / "made") as scratch:
        scratch.mkdir()
        (scratch / "x").write_text("ours")
        (tmp_path / "made").mkdir()
        (tmp_path / "made" / "x").write_text("theirs")
    assert (tmp_path / "made" / "x").read_text() == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_a_folder_that_is_not_whole_is_replaced(tmp_path):
    (tmp_path / "made" / "parts").mkdir(parents=True)
    with atomic(tmp_path / "made", lambda: (tmp_path / "made" / "x").exists()) as scratch:
        scratch.mkdir()
        (scratch / "x").write_text("ours")
    assert [path.name for path in tmp_path.rglob("*")] == ["made", "x"]


def test_a_kill_inside_leaves_no_result(tmp_path):
    program = (
        "import sys, time; from pathlib import Path; from pipeline.atomic import atomic\n"
        "with atomic(Path(sys.argv[1])) as scratch:\n"
        "    scratch.write_text('half'); print('ready', flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, tmp_path / "result.csv"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.kill()
    process.wait()
    assert not (tmp_path / "result.csv").exists()
    write_atomic(tmp_path / "result.csv", "whole")
    assert (tmp_path / "result.csv").read_text() == "whole"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_said_so(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ArtifactError, match="permissions"):
        write_atomic(tmp_path / "a.txt", "")


def test_a_file_in_the_place_of_a_folder_is_said_so(tmp_path):
    (tmp_path / "work").write_text("")
    with pytest.raises(ArtifactError, match="cannot write here"), scratch_folder(tmp_path / "work" / "x"):
        pass


def test_fingerprints_follow_edits_sidecars_and_virtual_sources(tmp_path):
    image = tmp_path / "a.tif"
    image.write_bytes(b"1")
    first = fingerprint(image)
    assert fingerprint(image) == first
    (tmp_path / "a.tif.aux.xml").write_text("statistics of a viewer")
    assert fingerprint(image) == first
    (tmp_path / "a.tfw").write_text("0")
    second = fingerprint(image)
    assert second != first
    (tmp_path / "v.vrt").write_text(
        '<VRTDataset><SourceFilename relativeToVRT="1">a.tif</SourceFilename></VRTDataset>'
    )
    virtual = fingerprint(tmp_path / "v.vrt")
    time.sleep(0.01)
    image.write_bytes(b"2")
    assert fingerprint(image) != second and fingerprint(tmp_path / "v.vrt") != virtual
    assert fingerprint("https://host/a.tif") == {"url": "https://host/a.tif"}
    with pytest.raises(SourceError, match="file not found"):
        fingerprint(tmp_path / "none.tif")
    (tmp_path / "w.vrt").write_text("<VRT")
    with pytest.raises(RasterError, match="VRT"):
        fingerprint(tmp_path / "w.vrt")


@pytest.mark.parametrize(
    ("name", "beside"),
    [
        ("grid.SHP", "grid.DBF"),
        ("grid.tif", "GRID.TFW"),
        ("grid.tif", "grid.tifw"),
        ("grid.tiff", "grid.tfw"),
        ("grid.jp2", "grid.j2w"),
        ("grid.tif", "grid.tif.MSK"),
        ("grid.tif", "grid.tab"),
    ],
)
def test_fingerprints_follow_what_lies_beside_whatever_its_case(tmp_path, name, beside):
    path = tmp_path / name
    path.touch()
    alone = fingerprint(path)
    (tmp_path / beside).write_text("1")
    first = fingerprint(path)
    (tmp_path / beside).write_text("22")
    assert alone != first != fingerprint(path)
    (tmp_path / "other.tfw").touch()
    assert fingerprint(path) != first and fingerprint(path)["files"].keys() == {name, beside}


def test_notes_that_macos_keeps_beside_files_are_no_inputs(tmp_path):
    for kind, name in (("images", "a.tif"), ("labels", "a.geojson"), ("returned", "anna.gpkg")):
        folder = tmp_path / "input" / "test" / kind
        folder.mkdir(parents=True)
        for path in (folder / name, folder / f"._{name}"):
            path.touch()
    workspace = Workspace(tmp_path)
    assert workspace.images_of("test") == workspace.labels_everywhere() == ["a"]
    assert [path.name for path in returned_files(folder)] == ["anna.gpkg"]


def mosaic(path: Path, *sources: str, tag: str = "SourceFilename") -> Path:
    """A virtual raster of files named as seen from its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    named = "".join(f'<{tag} relativeToVRT="1">{source}</{tag}>' for source in sources)
    path.write_text(f"<VRTDataset>{named}</VRTDataset>")
    return path


def test_fingerprints_follow_every_source_of_a_mosaic(tmp_path):
    path = mosaic(tmp_path / "m.vrt", "a/ortho.tif", "b/ortho.tif", "c/inner.vrt", "m.vrt", "c/absent.tif")
    mosaic(tmp_path / "c/inner.vrt", "warped.vrt")
    mosaic(tmp_path / "c/warped.vrt", "deep.tif", tag="SourceDataset")
    parts = [tmp_path / name for name in ("a/ortho.tif", "b/ortho.tif", "c/deep.tif")]
    for part in parts:
        part.parent.mkdir(exist_ok=True)
        part.touch()
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "m.vrt"
    link.symlink_to(path)
    seen = [fingerprint(link)]
    for part in (*parts, *(part.with_suffix(".tfw") for part in parts)):
        part.write_text("edited")
        seen.append(fingerprint(link))
    assert all(one not in seen[:number] for number, one in enumerate(seen))
    assert fingerprint(link) == seen[-1]


def test_inputs_are_found_by_name_in_any_split(tmp_path):
    workspace = Workspace(tmp_path)
    assert workspace.find_image("a") is None and workspace.images_of("test") == []
    for path in ("test/images/b.TIF", "test/images/a.tif", "training/labels/a.gpkg", "test/images/notes.txt"):
        (tmp_path / "input" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "input" / path).touch()
    assert workspace.find_image("a") == tmp_path / "input/test/images/a.tif"
    assert workspace.find_labels("a") == tmp_path / "input/training/labels/a.gpkg"
    assert workspace.images_of("test") == ["a", "b"] == workspace.images_everywhere()
    assert workspace.find_image("b") == tmp_path / "input/test/images/b.TIF"
    (tmp_path / "input/training/images").mkdir()
    (tmp_path / "input/training/images/a.vrt").touch()
    with pytest.raises(SettingsError, match="2 files"):
        workspace.find_image("a")


def test_the_last_round_is_the_one_of_the_highest_number_and_copies_are_none(tmp_path):
    workspace, copies = (
        Workspace(tmp_path),
        ("round_002.bak", "round_1000 (copy)", "round_0999", "round_1", "round_"),
    )
    assert workspace.rounds == [] and workspace.find_corrected("a") is None
    for name in ("round_001", "round_998", "round_999", "round_1000", *copies):
        (tmp_path / "review" / name / "labels").mkdir(parents=True)
        (tmp_path / "review" / name / "labels" / "a.gpkg").touch()
    assert workspace.rounds == [workspace.round_folder(number) for number in (1, 998, 999, 1000)]
    found = workspace.find_corrected("a")
    assert found == workspace.round_folder(1000) / "labels" / "a.gpkg"
    found.unlink()
    assert workspace.find_corrected("a") == workspace.round_folder(999) / "labels" / "a.gpkg"


def test_a_folder_is_listed_once_and_again_when_something_comes_or_goes(tmp_path, monkeypatch):
    workspace, folder, listed = Workspace(tmp_path), tmp_path / "input/test/images", []
    folder.mkdir(parents=True)
    names = [f"scene_{number}" for number in range(5)]
    for name in names:
        (folder / f"{name}.tif").touch()
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: [listed.append(path), *listdir(path)][1:])

    def find() -> list[bool]:
        return [workspace.find_image(name) is not None for name in names]

    os.utime(folder, ns=(0, time.time_ns() - 10**10))
    assert find() == find() == [True] * 5 and listed == [folder]
    (folder / "scene_2.tif").unlink()
    assert find() == [True, True, False, True, True]
    # What comes within the same tick of the clock leaves no trace on the folder.
    state = folder.stat()
    (folder / "scene_2.tif").touch()
    os.utime(folder, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert find() == [True] * 5


def test_published_files_are_complete_with_their_own_stamp_only(tmp_path):
    workspace = Workspace(tmp_path)
    target = PublishedTarget(workspace.record("a", "AggregateImage"), "one")
    assert not target.exists()
    with scratch_folder(workspace.output) as scratch:
        (scratch / "a.csv").write_text("rows")
        target.publish(scratch, Stopwatch("AggregateImage", "a", "one").record({}, {}))
    assert target.exists() and (tmp_path / "output/a.csv").read_text() == "rows"
    assert not PublishedTarget(target.record, "two").exists()
    (tmp_path / "output/a.csv").write_text("other rows")
    assert not target.exists()
    (tmp_path / "output/a.csv").unlink()
    assert not target.exists()
    target.record.write_text("{")
    assert not target.exists()


def test_what_an_equal_run_has_published_stays_where_another_reads_it(tmp_path):
    workspace = Workspace(tmp_path)
    target = PublishedTarget(workspace.record("a", "AggregateImage"), "one")

    def publish() -> None:
        with scratch_folder(workspace.output) as scratch:
            (scratch / "a.csv").write_text("rows")
            target.publish(scratch, Stopwatch("AggregateImage", "a", "one").record({}, {}))

    publish()
    files = target.record, tmp_path / "output/a.csv"
    before = [path.stat().st_ino for path in files]
    publish()
    assert [path.stat().st_ino for path in files] == before
    files[1].unlink()
    publish()
    assert target.exists()


def test_publishing_that_breaks_off_leaves_nothing_that_counts(tmp_path):
    record = tmp_path / "output" / "runs" / "a.json"

    def publish(digest: str, *names: str) -> None:
        with scratch_folder(tmp_path / "output") as scratch:
            for name in names:
                (scratch / name).write_text(digest)
            made = Stopwatch("AggregateImage", "a", digest).record({}, {})
            PublishedTarget(record, digest).publish(scratch, made)

    publish("00000001", "a.csv")
    (tmp_path / "output" / "b.csv").mkdir()
    with pytest.raises(OSError):
        publish("00000002", "a.csv", "b.csv")
    assert (tmp_path / "output" / "a.csv").read_text() == "00000002"
    assert not PublishedTarget(record, "00000001").exists()


def test_a_fetch_that_breaks_off_is_fetched_again(tmp_path):
    target = FetchedTarget(tmp_path / "a.json", lambda: "two")
    target.write("content", "one")
    with pytest.raises(UnicodeEncodeError):
        target.write("\ud800", "two")
    assert not target.exists()
    target.write("content", "two")
    assert target.exists()


def test_nothing_on_the_server_is_no_file(tmp_path):
    told = ["two"]
    target = FetchedTarget(tmp_path / "a.json", lambda: told[0])
    target.write("content", "two")
    told[0] = ""
    assert not target.exists(), "all is deleted there"
    target.write("[]", "")
    assert target.exists() and not (tmp_path / "a.json").exists()


def test_what_is_no_longer_published_goes(tmp_path):
    record = tmp_path / "output" / "runs" / "a.json"
    for digest, names in (("00000001", ("a.csv", "a.fgb")), ("00000002", ("a.csv",))):
        scratch = tmp_path / digest
        scratch.mkdir()
        for name in names:
            (scratch / name).write_text(digest)
        target = PublishedTarget(record, digest)
        target.publish(scratch, Stopwatch("AggregateImage", "a", digest).record({}, {}))
        (tmp_path / "output" / "a.html").write_text("of another task")
        assert target.exists()
    assert sorted(path.name for path in record.parents[1].glob("a.*")) == ["a.csv", "a.html"]
    assert (tmp_path / "output" / "a.csv").read_text() == "00000002"


def test_the_log_of_a_viewer_is_not_replayed_on_what_is_published_next(tmp_path):
    record = tmp_path / "output" / "runs" / "a.json"

    def publish(digest: str, rows: int) -> None:
        with scratch_folder(tmp_path / "output") as scratch:
            with closing(sqlite3.connect(scratch / "a.gpkg")) as made, made:
                made.execute("CREATE TABLE buildings (name TEXT)")
                made.executemany("INSERT INTO buildings VALUES (?)", [(digest * 50,)] * rows)
            target = PublishedTarget(record, digest)
            target.publish(scratch, Stopwatch("AggregateImage", "a", digest).record({}, {}))

    publish("00000001", 3)
    published = tmp_path / "output" / "a.gpkg"
    with closing(sqlite3.connect(published)) as viewer:
        viewer.execute("PRAGMA journal_mode = WAL")
        with viewer:
            viewer.execute("UPDATE buildings SET name = 'edited'")
        publish("00000002", 200)
        with closing(sqlite3.connect(published)) as other:
            assert other.execute("PRAGMA quick_check").fetchall() == [("ok",)]
            assert other.execute("SELECT count(*), min(name) FROM buildings").fetchone() == (
                200,
                "00000002" * 50,
            )
    assert PublishedTarget(record, "00000002").exists()


def test_workspace_touches_nothing(tmp_path):
    Workspace(tmp_path / "none").artifact("a", "tiles", "digest")
    assert list(Path(tmp_path).iterdir()) == []
