"""The console command as a new user meets it: real processes, own images, own labels, own classes."""

from __future__ import annotations

import io
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import traceback
from importlib import metadata
from pathlib import Path
from typing import NamedTuple, NoReturn

import geopandas
import pandas
import pyogrio
import pytest
import rasterio
from luigi.cmdline_parser import CmdlineParser
from luigi.configuration import LuigiConfigParser
from luigi.setup_logging import InterfaceLogging
from luigi.task_register import Register

from jengo.commands import main
from pipeline.defaults import set_defaults
from pipeline.errors import SettingsError, SourceError
from pipeline.sample import SceneSpec, write_scene
from pipeline.steps.adding import add_input
from pipeline.targets import Workspace

ROOT = Path(__file__).parents[1]
STATES = {"Complete": "Finished", "Incomplete": "walls only", "Foundation": "slab"}
SETTINGS = """
[Labels]
condition_attribute = state
categories = {"open": ["walls only", "slab"], "roofed": ["finished"]}

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
shards = 1
batch_size = 2
workers = 0
device = cpu
detections_per_tile = 12

[Aggregation]
score_thresholds = {"open": 0.0, "roofed": 0.0}
"""


class Done(NamedTuple):
    """What a process left behind."""

    returncode: int
    stdout: str
    stderr: str


def jengo(folder: Path, *arguments: str, **environment: str) -> Done:
    """A finished `jengo` process: a fork of this one, which has the pipeline imported already."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        if not (child := os.fork()):
            _become_jengo(folder, arguments, environment, out.fileno(), err.fileno())
        _, status = os.waitpid(child, 0)
        out.seek(0), err.seek(0)
        return Done(os.waitstatus_to_exitcode(status), out.read().decode(), err.read().decode())


def _become_jengo(folder, arguments, environment, out: int, err: int) -> NoReturn:
    """Goes on as the command line would, in a folder of its own, and ends the process."""
    code = 99
    try:
        os.dup2(out, 1), os.dup2(err, 2)
        sys.stdout, sys.stderr = (io.TextIOWrapper(io.FileIO(fd, "w", closefd=False)) for fd in (1, 2))
        os.chdir(folder)
        os.environ.update(environment)
        LuigiConfigParser._instance = None
        set_defaults()
        Register.clear_instance_cache()
        InterfaceLogging._configured = False
        logging.getLogger("luigi").handlers.clear(), logging.getLogger("luigi-interface").handlers.clear()
        sys.argv = ["jengo", *arguments]
        code = main()
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)


@pytest.fixture(scope="module")
def flights(tmp_path_factory) -> Path:
    """What a user has: two GeoTIFFs, and one Shapefile of both's buildings in another CRS and other words."""
    folder, frames = tmp_path_factory.mktemp("flights"), []
    for name, seed, east in (("Flight 01", 1, 532_800.0), ("flight_02", 42, 533_400.0)):
        spec = SceneSpec(
            width=512, height=448, seed=seed, collar=20, houses_per_hectare=60, origin=(east, 9_366_900.0)
        )
        write_scene(spec, folder / f"{name}.tif", folder / "drawn.geojson")
        frames.append(geopandas.read_file(folder / "drawn.geojson"))
    (folder / "drawn.geojson").unlink()
    drawn = pandas.concat(frames)
    drawn["state"] = drawn["condition"].map(STATES)
    drawn = drawn[drawn.geometry.notna() & ~drawn.geometry.is_empty][["state", "geometry"]]
    geopandas.GeoDataFrame(drawn, crs="EPSG:4326").to_crs("EPSG:21037").to_file(folder / "houses.shp")
    return folder


@pytest.fixture(scope="module")
def village(flights, tmp_path_factory) -> Path:
    """A folder in which a new user has come as far as a map, by four commands and an edited luigi.cfg."""
    folder = tmp_path_factory.mktemp("village")
    image, labels = str(flights / "Flight 01.tif"), str(flights / "houses.shp")
    added = jengo(folder, "add", image, "--labels", labels, "--name", "flight_01")
    assert added.returncode == 0, added.stderr
    checked = jengo(folder, "labels", "check", "flight_01")
    assert checked.returncode == 1, "no row has a category yet"
    assert "condition_attribute = state" in checked.stdout and '"walls only"' in checked.stdout
    (folder / "luigi.cfg").write_text(SETTINGS)
    checked = jengo(folder, "labels", "check", "flight_01")
    assert checked.returncode == 0, checked.stdout
    run = jengo(folder, "run", str(flights / "flight_02.tif"))
    assert run.returncode == 0, run.stderr
    assert run.stderr.startswith(
        "luigi --module pipeline ReportImage --image-id flight_02 --local-scheduler\n"
    )
    assert f"{folder}/output/flight_02.gpkg" in run.stdout
    return folder


def test_a_new_user_has_a_map_in_four_commands(village):
    buildings = pyogrio.read_dataframe(village / "output" / "flight_02.gpkg", layer="buildings")
    assert len(buildings) and set(buildings["class_name"]) <= {"open", "roofed"}
    with rasterio.open(village / "input/test/images/flight_02.tif") as src:
        assert buildings.crs == src.crs
        west, south, east, north = buildings.total_bounds
        assert src.bounds.left <= west < east <= src.bounds.right
        assert src.bounds.bottom <= south < north <= src.bounds.top


def test_nothing_was_copied_and_nothing_is_stale(village, flights):
    assert (village / "input/training/images/flight_01.tif").resolve() == flights / "Flight 01.tif"
    assert (village / "input/training/labels/flight_01.dbf").resolve() == flights / "houses.dbf"
    again = jengo(village, "run", str(flights / "flight_02.tif"))
    assert again.returncode == 0 and "Did not run any tasks" in again.stderr


def test_what_lies_beside_an_input_comes_along_whatever_its_case(tmp_path):
    for name in ("grid.tif", "GRID.TFW", "grid.tifw", "grid.SHP", "grid.DBF", "other.tfw"):
        (tmp_path / name).touch()
    workspace = Workspace(tmp_path / "village")
    add_input(workspace, tmp_path / "grid.tif", tmp_path / "grid.SHP", name="a")
    brought = {path.name for path in workspace.root.glob("input/training/*/*")}
    assert brought == {"a.tif", "a.TFW", "a.tifw", "a.SHP", "a.DBF"}


def test_an_image_is_added_whole_or_not_at_all(tmp_path):
    for name in ("flight.tif", "flight.01.tif", "houses.shp", "houses.dbf"):
        (tmp_path / name).touch()
    workspace = Workspace(tmp_path / "village")
    with pytest.raises(SourceError, match="no such file"):
        add_input(workspace, tmp_path / "flight.tif", tmp_path / "nowhere.shp")
    with pytest.raises(SettingsError, match="not the name of a folder"):
        add_input(workspace, tmp_path / "flight.tif", split="../../elsewhere")
    # A folder in the place of the last file that is linked.
    (workspace.root / "input/training/labels/flight.dbf").mkdir(parents=True)
    with pytest.raises(OSError):
        add_input(workspace, tmp_path / "flight.tif", tmp_path / "houses.shp")
    assert not [path for path in workspace.root.rglob("*") if path.is_symlink()]
    added = [add_input(workspace, tmp_path / name) for name in ("flight.01.tif", "flight.tif")]
    assert sorted(added) == workspace.images_of("test") == ["flight", "flight.01"]


def test_labels_lie_in_the_split_of_their_image(tmp_path, flights):
    (tmp_path / "luigi.cfg").touch()
    image, labels = str(flights / "flight_02.tif"), ("--labels", str(flights / "houses.shp"))
    assert jengo(tmp_path, "add", image).returncode == 0
    refused = jengo(tmp_path, "add", image, *labels, "--split", "training")
    assert refused.returncode == 1 and "this image lies in input/test" in refused.stderr
    done = jengo(tmp_path, "add", image, *labels)
    assert done.returncode == 0 and "flight_02 lies there already" in done.stdout
    assert (tmp_path / "input/test/labels/flight_02.shp").is_file() and not (
        tmp_path / "input/training"
    ).exists()


def test_labels_are_checked_without_an_image_and_without_a_store(village, flights):
    before = sorted(village.rglob("*"))
    done = jengo(village, "labels", "check", str(flights / "houses.shp"))
    assert done.returncode == 0 and "without its image" in done.stdout and "roofed" in done.stdout
    assert sorted(village.rglob("*")) == before


def test_a_run_says_its_luigi_line(village):
    settings = ("--set", "Tiling.tile_size=256", "--workers", "2", "--dashboard", "--dry-run")
    done = jengo(village, "run", "flight_02", "flight_01", *settings)
    line = 'luigi --module pipeline ReportImages --image-ids \'["flight_02", "flight_01"]\''
    assert done.stderr == f"{line} --Tiling-tile-size 256 --workers 2\n"


def test_a_run_finds_the_dashboard_on_its_port(village):
    done = jengo(village, "run", "flight_02", "--dashboard", "--port", "8123", "--dry-run")
    assert done.stderr.endswith(" --scheduler-port 8123\n")


def test_a_dry_run_links_nothing(tmp_path, flights):
    (tmp_path / "luigi.cfg").touch()
    done = jengo(tmp_path, "run", str(flights / "flight_02.tif"), "--dry-run")
    assert done.returncode == 0 and "--image-id flight_02" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["luigi.cfg"]
    assert "no such file" in jengo(tmp_path, "run", "nowhere.tif", "--dry-run").stderr
    assert "no such file" in jengo(tmp_path, "run", str(flights / "flight_02.tif"), "nowhere.tif").stderr
    assert [path.name for path in tmp_path.iterdir()] == ["luigi.cfg"]


def test_several_images_are_one_run(village):
    shutil.rmtree(village / "output")
    done = jengo(village, "run", "--task", "ReportImage")
    assert done.returncode == 0, done.stderr
    assert "flight_02.html" in done.stdout


def test_info_tells_what_the_settings_make_of_an_image(village, flights):
    for image in ("flight_02", str(flights / "flight_02.tif")):
        done = jengo(village, "info", image)
        assert done.returncode == 0, done.stderr
        assert "512 x 448 px" in done.stdout and "EPSG:32737" in done.stdout
        assert "12 of 192 px with 64 px overlap" in done.stdout and "12 of 12 tiles, about" in done.stdout
        assert "on one core" in done.stdout and "taken 2018-04-30T09:12:00Z" in done.stdout
    measured = jengo(village, "info", "flight_02", "--measure")
    assert measured.returncode == 0, measured.stderr
    assert re.search(r"12 of 12 tiles, about [\d.]+ (s|min) and .* on this machine", measured.stdout)


def test_csvs_are_validated(village, tmp_path):
    csv = village / "output" / "flight_02.csv"
    good = jengo(village, "validate", str(csv), "--image", "flight_02")
    assert good.returncode == 0 and "no fault" in good.stdout
    bad = tmp_path / "bad.csv"
    bad.write_text(csv.read_text().replace("\n2,", "\n7,", 1))
    assert jengo(village, "validate", str(bad)).returncode == 1
    elsewhere = jengo(village, "validate", str(csv), "--image", "flight_01")
    assert elsewhere.returncode == 1 and "outside the image" in elsewhere.stdout


def test_the_doctor_finds_nothing_where_a_run_went_well(village):
    done = jengo(village, "doctor")
    assert done.returncode == 0, done.stdout
    for subject in ("Python", "GDAL, PROJ", "GPU", "luigi.cfg", "workspace", "disk", "memory", "label store"):
        assert subject in done.stdout


def test_the_doctor_names_faults_and_remedies(tmp_path, flights):
    folder = tmp_path / "input" / "training"
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    shutil.copy(flights / "flight_02.tif", folder / "images" / "flight_02.tif")
    (folder / "labels" / "flight-02.geojson").write_text("{}")
    nowhere = "postgresql://nobody@127.0.0.1:1/nothing"
    done = jengo(tmp_path, "doctor", PROJ_DATA=str(tmp_path), JENGO_DATABASE_URL=nowhere)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "PROJ_DATA set" in done.stdout and "unset PROJ_DATA" in done.stdout
    assert "none for flight_02" in done.stdout and "flight-02 belong to no image" in done.stdout
    assert "127.0.0.1" in done.stdout
    (tmp_path / "luigi.cfg").write_text("[Tiling]\ntilesize = 3\n")
    assert "Did you mean tile_size?" in jengo(tmp_path, "doctor").stdout


@pytest.mark.parametrize("kind", ["images", "labels", "areas"])
def test_a_link_whose_file_has_gone_is_a_fault(tmp_path, flights, kind):
    (tmp_path / "luigi.cfg").touch()
    (tmp_path / "elsewhere.gpkg").touch()
    image, elsewhere = str(flights / "flight_02.tif"), str(tmp_path / "elsewhere.gpkg")
    added = jengo(tmp_path, "add", image, "--labels", elsewhere, "--area", elsewhere, "--split", "test")
    assert added.returncode == 0, added.stderr
    (link,) = (tmp_path / "input/test" / kind).glob("flight_02.*")
    link.unlink(), link.symlink_to("/nowhere/flight_02.tif")
    says = f"{link}: is a link to /nowhere/flight_02.tif, which is not there"
    done = jengo(tmp_path, "doctor")
    assert done.returncode == 1 and done.stdout.count(says) == 1, done.stdout + done.stderr
    if kind == "images":
        for command in (("run", "flight_02", "--dry-run"), ("info", "flight_02"), ("add", image)):
            done = jengo(tmp_path, *command)
            assert (done.returncode, done.stderr.splitlines()[0][: 7 + len(says)]) == (1, f"jengo: {says}")


def test_a_workspace_that_is_not_there_yet_has_a_disk(tmp_path):
    (tmp_path / "luigi.cfg").write_text("[Storage]\nworkspace = village\n")
    done = jengo(tmp_path, "doctor")
    assert "GiB free" in done.stdout and not done.stderr


def test_the_catalogue_lists_the_challenge(tmp_path):
    done = jengo(tmp_path, "catalogue")
    assert len(done.stdout.splitlines()) == 22 and "CC-BY-4.0" in done.stderr


MISTAKES = [
    (("info", "flight_09"), "no such image"),
    (("run", "flight_09", "--set", "Tiling.size=3"), "not a setting"),
    (("run", "flight_09", "--set", "Tiling.tilesize=3"), "Did you mean Tiling.tile_size?"),
    (("run", "flight_09", "--task", "ReportImag"), "Did you mean ReportImage?"),
    (("run", "flight_09", "--task", "Luigi"), "There are "),
    (("run", "flight_09"), "no such image"),
    (("run", "../houses.shp"), "not an image id"),
    (("run", "flight_09", "--set", "Training.epochs=many"), "[Training] epochs: cannot be read"),
    (("run", "nowhere.tif"), "no such file"),
    (("run",), "no image to map"),
    (("run", "--task", "TileImage", "a", "b"), "takes one image"),
    (("add", "Flight 01.tif"), "not an image id"),
    (("labels", "check", "nothing.shp"), "file not found"),
    (("validate", "nothing.csv"), "No such file"),
    (("catalogue", "nothing.csv"), "cannot be read"),
    (("summary", "flight_09"), "no results"),
    (("summary", "../flight_09"), "not an image id"),
    (("verify",), "holds neither work/ nor output/"),
    (("info", "nowhere.tif"), "no such file"),
    (("add", ".."), "a folder, not a file"),
    (("run", "flight_09", "--port", "8123"), "Add --dashboard"),
]


def test_an_empty_label_file_is_told_so(tmp_path):
    (tmp_path / "houses.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    done = jengo(tmp_path, "labels", "check", "houses.geojson")
    assert done.returncode == 1 and not done.stderr
    assert done.stdout.endswith("the file is empty: it holds no building\n")


@pytest.mark.parametrize(("arguments", "what"), MISTAKES, ids=lambda value: " ".join(value)[:30])
def test_a_mistake_is_one_line(tmp_path, arguments, what):
    (tmp_path / "Flight 01.tif").touch()
    (tmp_path / "luigi.cfg").touch()
    done = jengo(tmp_path, *arguments)
    said = (done.stdout + done.stderr).strip().splitlines()
    assert done.returncode == 1 and len(said) == 1, said
    assert what in said[-1]


def test_help_answers_and_imports_nothing_heavy(tmp_path):
    done = jengo(tmp_path, "--help")
    commands = ("doctor", "add", "info", "run", "labels", "validate", "catalogue", "dashboard")
    commands += ("summary", "verify")
    assert all(f"\n  {name} " in done.stdout for name in commands)
    assert "..." not in done.stdout.split("Commands")[1], "every summary fits"
    for name in commands:
        told = jengo(tmp_path, name, "--help").stdout
        assert re.match(rf"Usage: .*jengo {name} .*\n\n  \w.*\.\n", told), told
    code = "import jengo.commands, sys; print([m for m in sys.modules if m in ('luigi', 'torch', 'pandas')])"
    heavy = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert heavy.stdout == "[]\n"


def test_the_command_stands_on_its_own(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "jengo", "info", "flight_09"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and done.stderr.startswith("jengo: ") and done.stderr.count("\n") == 1


UNPARSED = [
    ("[Tiling]\n\n[Tiling]\n", "luigi.cfg line 3: [Tiling] is there already"),
    ("[Tiling]\noverlap = 1\noverlap = 2\n", "luigi.cfg line 3: [Tiling] has overlap already"),
    ("overlap = 1\n", "luigi.cfg line 1: a setting below no section"),
    ("[Tiling]\noverlap\n", "luigi.cfg line 2: neither section nor setting"),
    ("[Storage]\nworkspace = s\xe4ule\n", "luigi.cfg: no text in UTF-8"),
]


@pytest.mark.parametrize("command", ["doctor", "run"])
@pytest.mark.parametrize(("text", "says"), UNPARSED, ids=lambda value: value[-20:])
def test_a_file_of_settings_that_cannot_be_parsed_is_one_line(tmp_path, text, says, command):
    (tmp_path / "luigi.cfg").write_text(text, encoding="latin-1")
    done = subprocess.run(
        [sys.executable, "-m", "jengo", command],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and done.stderr.startswith(f"jengo: {says}"), done.stderr
    assert done.stderr.count("\n") == 1


def test_it_tells_its_version(tmp_path):
    assert jengo(tmp_path, "--version").stdout == f"jengo {metadata.version('jengo')}\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("SelectTiles", "--round", "x"), "not a whole number (found 'x'). Number of the round, from 1."),
        (("InferShard", "--image-id", "a", "--shard", "x"), "not a whole number (found 'x')"),
        (("ReportImages", "--image-ids", "a"), "not a JSON list of image ids (found 'a')"),
        (("ReportImages", "--image-ids", "3"), "not a JSON list of image ids (found '3')"),
        (("ReportImages", "--image-ids", '"abc"'), "not a JSON list of image ids"),
        (("ReportImages", "--image-ids", '["a/b"]'), "not an image id (found 'a/b')"),
    ],
)
def test_a_parameter_that_makes_no_sense_is_one_line(arguments, says):
    with pytest.raises(SettingsError) as caught:
        CmdlineParser(["--module", "pipeline", *arguments]).get_task_obj()
    assert says in str(caught.value)


def test_the_shell_completes_image_ids(village):
    environment = {"_JENGO_COMPLETE": "complete_bash", "COMP_WORDS": "jengo info fli", "COMP_CWORD": "2"}
    code = "from jengo.commands import app; app(prog_name='jengo')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=village,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["flight_01", "flight_02"]
