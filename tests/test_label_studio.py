"""A round through a real Label Studio server: project, tasks, a person's changes through its API, export."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import label_studio
import numpy as np
import orjson
import pytest
from browser import photograph
from chromium import CHROMIUM
from PIL import Image
from review_village import village_under_review
from test_graph import tasks_run
from test_review import CATEGORIES, LEFT, RIGHT, ROUND, shown, verdicts

from pipeline.errors import SettingsError
from pipeline.review.label_studio import labeling_config, labeling_task
from pipeline.review.returned import read_returned
from pipeline.steps.labeling_server import upload_round

ROOT = Path(__file__).parents[1]
PICTURE = "data:image/png;base64," + (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)

OURS = """
import json, sys
sys.path.append({packages!r})
from pathlib import Path
from pipeline.steps.labeling_server import download_reviews, upload_round
if sys.argv[1] == "upload":
    print(upload_round(Path(sys.argv[2]), {url!r}, "village, round 1"))
else:
    Path(sys.argv[2]).write_text(json.dumps(download_reviews({url!r}, int(sys.argv[3]))))
"""

PERSON = """
import copy, json, sys
from label_studio_sdk import LabelStudio
client = LabelStudio(base_url={url!r}, api_key={token!r})
for task in client.tasks.list(project={project}, fields="all"):
    (prediction,) = client.predictions.list(task=task.id)
    result = copy.deepcopy(prediction.result)
    if task.data["tile"].endswith("c0000"):
        by_id = {{region["id"]: region for region in result}}
        by_id["proposal-1"]["value"]["polygonlabels"] = ["foundation"]
        by_id["proposal-2"]["value"]["points"][0][0] += 2
        result = [by_id[name] for name in ("proposal-1", "proposal-2", "proposal-3")]
        value = {{"points": [[10, 60], [20, 60], [20, 70]], "polygonlabels": ["unfinished"], "closed": True}}
        result.append({{"id": "aB3", "type": "polygonlabels", "from_name": "building", "to_name": "image",
                       "original_width": 500, "original_height": 400, "image_rotation": 0, "value": value}})
    client.annotations.create(id=task.id, result=result, lead_time=42.0)
    print(task.id, len(result))
"""


LUIGI = """
import sys
sys.path.append({packages!r})
from luigi.cmdline import luigi_run
luigi_run(["--module", "pipeline", "--local-scheduler", "--Review-label-studio-url", {url!r}, *sys.argv[1:]])
"""

SUBMIT = """
from label_studio_sdk import LabelStudio
client = LabelStudio(base_url={url!r}, api_key={token!r})
for task in client.tasks.list(project={project}, fields="all"):
    (prediction,) = client.predictions.list(task=task.id)
    client.annotations.create(id=task.id, result=prediction.result, lead_time=30.0)
"""

CHANGE = """
from label_studio_sdk import LabelStudio
client = LabelStudio(base_url={url!r}, api_key={token!r})
task = next(iter(client.tasks.list(project={project}, fields="all")))
(annotation,) = client.annotations.list(id=task.id)
whole = [one for one in annotation.result if all(1 < n < 99 for xy in one["value"]["points"] for n in xy)]
client.annotations.update(id=annotation.id, result=[one for one in annotation.result if one != whole[0]])
"""


def packages() -> str:
    (found,) = label_studio.VENV.glob("lib/python3*/site-packages")
    return str(found)


def run_there(program: str, *arguments: str, python: Path | str, token: str) -> str:
    environment = os.environ | {"LABEL_STUDIO_API_KEY": token, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [str(python), "-c", program, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def write_project(folder: Path) -> None:
    (folder / "label_studio").mkdir(parents=True)
    (folder / "label_studio" / "config.xml").write_text(labeling_config(CATEGORIES))
    tasks = [labeling_task(tile, shown(tile), PICTURE) for tile in (LEFT, RIGHT)]
    (folder / "label_studio" / "tasks.json").write_bytes(orjson.dumps(tasks))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    if label_studio.python() is None:
        pytest.skip("Label Studio is not installed: make label-studio")
    with label_studio.label_studio_server(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_proposals_go_through_a_real_server_and_back(server, tmp_path):
    write_project(tmp_path / "round_001")
    ours = OURS.format(packages=packages(), url=server.url)
    uploaded = run_there(
        ours, "upload", str(tmp_path / "round_001"), python=sys.executable, token=server.token
    )
    project = int(uploaded)
    person = PERSON.format(url=server.url, token=server.token, project=project)
    assert len(run_there(person, python=label_studio.python(), token=server.token).splitlines()) == 2
    export = tmp_path / "label_studio.json"
    run_there(ours, "download", str(export), str(project), python=sys.executable, token=server.token)
    reviews = read_returned(export, ROUND)
    assert {review.person for review in reviews} == {server.user}
    assert [review.seconds for review in reviews] == [42.0, 42.0]
    assert all(review.finished_at for review in reviews)
    found = verdicts(reviews)
    assert set(found) == {
        (1, "reclassified"), (2, "edited"), (3, "accepted"), (4, "rejected"), (5, "accepted"), (0, "added"),
    }  # fmt: skip
    # What nobody touched has come through the server's database to the last digits.
    kept = next(building for review in reviews for building in review.buildings if building.proposal == 5)
    (sent,) = [one for one in shown(RIGHT) if one.row_id == 5]
    moved = np.array(kept.polygon_px.exterior.coords) - np.array(sent.polygon_px.exterior.coords)
    assert np.abs(moved).max() < 1e-3


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_round_on_a_real_server_and_an_answer_that_comes_late(server, tmp_path, pictures):
    if not CHROMIUM.exists():
        pytest.skip("no Chromium at /usr/bin/chromium: make system, as root on Debian")
    workspace = village_under_review(tmp_path)
    folder = workspace / "review" / "round_001"

    def luigi(*task: str, url: str = server.url):
        program = LUIGI.format(packages=packages(), url=url)
        environment = os.environ | {"LABEL_STUDIO_API_KEY": server.token, "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            [sys.executable, "-c", program, *task],
            cwd=workspace,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )

    def numbers() -> dict:
        return json.loads((folder / "numbers.json").read_bytes())

    assert luigi("ReviewRound", "--round", "1").returncode == 0
    project = json.loads((folder / "label_studio" / "project.json").read_bytes())["project"]
    told = {"url": server.url, "token": server.token, "project": project}
    with label_studio.logged_in(server) as address:
        page = f"{address}/projects/{project}/data?task={label_studio.first_task(server, project)}"
        shown = photograph(page, 1500, 900)
    assert len(shown.getcolors(10**7) or ()) > 1000
    shown = shown.resize((1200, 720), Image.Resampling.LANCZOS)
    shown.save(pictures / "review_label_studio.jpg", quality=80, optimize=True)

    run_there(SUBMIT.format(**told), python=label_studio.python(), token=server.token)
    done = luigi("ImportReview", "--round", "1")
    assert done.returncode == 0, done.stdout
    assert tasks_run(done) == ["FetchReview", "ImportReview"]
    assert [path.name for path in (folder / "returned").glob("*.json")] == [f"label_studio_{project}.json"]
    first = numbers()
    assert first["tiles"] == 2 and first["everything"]["acceptance_rate"] == 1.0
    assert first["people"] == [server.user] and first["seconds_per_tile"] == 30.0
    assert tasks_run(luigi("ImportReview", "--round", "1")) == [], "nothing new on the server"

    run_there(CHANGE.format(**told), python=label_studio.python(), token=server.token)
    assert tasks_run(luigi("ImportReview", "--round", "1")) == ["FetchReview", "ImportReview"]
    assert numbers()["everything"]["rejected"] == 1
    assert numbers()["everything"]["proposals"] == first["everything"]["proposals"]

    gone = luigi("ImportReview", "--round", "1", url="http://127.0.0.1:9")
    assert gone.returncode != 0 and "Label Studio does not answer" in gone.stdout
    assert "Traceback" not in gone.stdout


def test_a_server_without_key_or_package_is_said_so(tmp_path, monkeypatch):
    write_project(tmp_path)
    monkeypatch.delenv("LABEL_STUDIO_API_KEY", raising=False)
    with pytest.raises(SettingsError, match="no key for Label Studio"):
        upload_round(tmp_path, "http://127.0.0.1:1", "x")
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "0" * 40)
    monkeypatch.setitem(sys.modules, "label_studio_sdk", None)
    with pytest.raises(SettingsError, match="label-studio-sdk is not installed"):
        upload_round(tmp_path, "http://127.0.0.1:1", "x")
    assert json.loads((tmp_path / "label_studio" / "tasks.json").read_bytes())
