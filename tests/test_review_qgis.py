"""A round in the real QGIS: forms, styles, a person's edits, a picture; the edits through ImportReview."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from debian_qgis import DEBIANS_PYTHON, geopackage_complaints, qgis_or_skip
from PIL import Image
from review_village import village_under_review
from test_graph import run_luigi, tasks_run
from test_review import CATEGORIES, GRID, LEFT, RIGHT, proposals

from pipeline.review.corrected import Marks, write_corrected
from pipeline.review.qgis import write_qgis
from pipeline.untouched import stamp_of, with_log


def test_a_round_s_geopackages_are_as_the_specification_has_them(tmp_path):
    path, labels = tmp_path / "a.gpkg", tmp_path / "labels.gpkg"
    write_qgis(path, 1, "a", GRID, proposals(), [LEFT, RIGHT], CATEGORIES)
    write_corrected(labels, proposals(), Marks([LEFT.window], []), "condition", {})
    assert geopackage_complaints(path) == geopackage_complaints(labels) == ""


@pytest.mark.timeout(600)
def test_qgis_offers_what_a_reviewer_needs_and_its_edits_come_back(tmp_path, pictures):
    qgis_or_skip()
    workspace = village_under_review(tmp_path)
    process = run_luigi(workspace, "ExportReview", "--round", "1")
    assert process.returncode == 0, process.stdout
    folder = workspace / "review" / "round_001"
    package = folder / "returned" / "scene_007.gpkg"
    shutil.copy(folder / "qgis" / package.name, package)
    picture, image = tmp_path / "qgis.png", workspace / "input/review/images/scene_007.tif"
    script = Path(__file__).with_name("qgis_review.py")
    command = [DEBIANS_PYTHON, script, package, image, picture]
    elsewhere = os.environ | {"TZ": "Asia/Kathmandu"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=elsewhere)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    building, tile = told["buildings"], told["tiles"]
    assert building["class_name"]["choices"] == ["foundation", "unfinished", "completed", "unknown"]
    assert building["status"]["choices"] == ["proposed", "accepted", "edited", "rejected", "added"]
    assert building["fid"]["widget"] == "Hidden" and building["building_id"]["locked"]
    assert tile["status"]["choices"] == ["todo", "done"] and tile["reviewer"]["on_update"]
    assert not tile["minutes"]["locked"] and tile["turn"]["locked"]
    assert told["new_status"] == "added"
    assert all(person for person, _ in told["finished"]), "QGIS says who"
    ago = [datetime.now(UTC) - datetime.fromisoformat(when) for _, when in told["finished"]]
    assert max(ago) < timedelta(hours=1) > -min(ago), "and when, wherever that is"
    with Image.open(picture) as shown:
        assert shown.size[0] > 1000 and len(shown.getcolors(10**7) or ()) > 1000
        shown.convert("RGB").save(pictures / "review_qgis.jpg", quality=80, optimize=True)

    # QGIS was ended without closing the file: the edits lie in the log beside it, and stay there.
    before = stamp_of(package)
    assert len(with_log(package)) == 2
    process = run_luigi(workspace, "ImportReview", "--round", "1")
    assert process.returncode == 0 and tasks_run(process) == ["ImportReview"], process.stdout
    assert stamp_of(package) == before
    numbers = json.loads((folder / "numbers.json").read_bytes())
    assert numbers["people"] == sorted({person for person, _ in told["finished"]})
    everything = numbers["everything"]
    done = {name: everything[name] for name in ("rejected", "reclassified", "edited")}
    assert done == {"rejected": 1, "reclassified": 1, "edited": 1} and numbers["added"] == 1
    assert everything["accepted"] == everything["proposals"] - 3
    assert everything["mean_hausdorff_m"] == pytest.approx(1.0, abs=0.1), "moved by a metre"
