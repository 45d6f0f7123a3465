# ruff: noqa: E501
"""Which tasks rerun for which change: a table over every setting there is, and over every input."""

from __future__ import annotations

import inspect
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import luigi
import pytest
from luigi.configuration import get_config
from luigi.scheduler import Scheduler
from luigi.worker import Worker
from test_fuzz import DETECTION

from pipeline import settings
from pipeline.atomic import scratch_folder
from pipeline.errors import ArtifactError, SourceError
from pipeline.provenance import Stopwatch
from pipeline.schema import SCHEMA_VERSION
from pipeline.steps.detection_rows import read_detections
from pipeline.tasks import (
    AggregateImage,
    CalibrateNetwork,
    CheckLabels,
    CutTiles,
    EvaluateImage,
    ExportImage,
    ExportReview,
    ExportTraining,
    InferLarge,
    InferShard,
    LoadLabels,
    ReportImage,
    ReportImages,
    ReviewRound,
    SelectTiles,
    Submission,
    TileImage,
    TrainMaskRCNN,
    sources,
)
from pipeline.tasks.step import Step, one_look
from pipeline.tiling import read_tile_index
from pipeline.verify import verify

JUDGED = {"EvaluateImage", "ExportImage", "ReportImage"}
PUBLISHED = {"AggregateImage", "Submission", "CheckLabels", "SelectTiles"} | JUDGED
FOUND = {"InferShard", "InferLarge"} | PUBLISHED
CHOSEN = {"CalibrateNetwork"} | PUBLISHED
DETECTED = {"CalibrateNetwork"} | FOUND
LEARNT = {"TrainMaskRCNN"} | DETECTED
CUT = {"CutTiles", "ExportTraining"} | LEARNT
TILED = {"TileImage"} | CUT
LABELLED = {"LoadLabels"} | CUT
MERGED = {"InferLarge"} | CHOSEN
NOTHING: set[str] = set()

TABLE: dict[str, list[tuple[set[str], str]]] = {
    "Storage": [(NOTHING, "workspace"), ({"Submission"}, "catalogue")],
    "Imagery": [
        (TILED, "bands stretch collars collar_tolerance collar_size jpeg_decoder metres_per_pixel"),
        (NOTHING, "cache_mb"),
    ],
    "Tiling": [(TILED, "tile_size overlap min_valid_share")],
    "Labels": [
        (LABELLED, "categories condition_attribute duplicate_iou sliver_share min_area_m2"),
        (NOTHING, "database_url examples"),
    ],
    "Pairs": [(CUT, "empty_share min_area_share")],
    "Training": [
        (
            LEARNT | {"ExportTraining"},
            "validation_images validation_share",
        ),
        (
            LEARNT,
            "images network initial_weights backbone_stride_in_1x1 "
            "trainable_stages frozen_norms anchors epochs tiles_per_epoch rare_share negative_share mine_every "
            "patience batch_size accumulate optimizer learning_rate warmup_steps weight_decay gradient_clip "
            "ema_decay min_visible_share min_item_px flips rotation scale_min scale_max paste brightness "
            "contrast tint saturation hue blur jpeg_quality seed validate_every precision channels_last "
            "reviewed_weight",
        ),
        (NOTHING, "compile device workers"),
    ],
    "Thresholds": [
        (
            CHOSEN,
            "objective target_precision default min_iou max_ignored_share block_px resamples confidence min_detections",
        )
    ],
    "Inference": [
        (
            DETECTED,
            "score_threshold nms_iou detections_per_tile views precision min_valid_share proposals_per_tile",
        ),
        (DETECTED, "weights"),
        (NOTHING, "shards batch_size device workers writers compile"),
    ],
    "Outlines": [(DETECTED, "threshold simplify_cells min_hole_px2 min_piece_px2")],
    "LargeBuildings": [({"InferLarge"} | PUBLISHED, "refine fill min_iou min_score")],
    "Aggregation": [
        (CHOSEN, "min_area_m2"),
        (
            MERGED,
            "min_agreement margin_px edge_px gap_px coincident_iou parting_score agreement_gain clean_up_ios"
            " min_overlap_px2",
        ),
        (
            PUBLISHED,
            "score_thresholds formats regularize diagonals detail_share wall_px min_regular_iou max_area_change",
        ),
    ],
    "Metrics": [(JUDGED, "size_limits_m2 boundary_m")],
    # What people look at next: no map depends on it until they have answered.
    "Review": [
        ({"SelectTiles"}, "images ensemble budget random_share diversity"),
        (NOTHING, "labels label_studio_url"),
    ],
    "Checks": [
        (
            {"CheckLabels"},
            "duplicate_iou overlap_share area_deviations outlier_rows compactness outside_share match_iou "
            "confident_score region_m region_predictions shift_search_m shift_cell_m shift_m shift_support "
            "shift_labels",
        )
    ],
}
"""By section: the tasks that a setting's change makes stale, and the settings of which that is true."""

VALUES = {
    "bands": "[1]",
    "stretch": "auto",
    "tile_size": "512",
    "overlap": "128",
    "categories": '{"hut": ["Hut"]}',
    "condition_attribute": "state",
    "database_url": "postgresql://nobody@127.0.0.1:1/none",
    "Training images": '["scene_001"]',
    "Review images": '["scene_042"]',
    "ensemble": '["maskrcnn"]',
    "validation_images": '["scene_001"]',
    "initial_weights": "imagenet",
    "seed": "9",
    "score_thresholds": '{"completed": 0.4}',
    "formats": '["csv"]',
    "size_limits_m2": "[10.0, 20.0]",
    "catalogue": "challenge",
    "scale_max": "1.5",
    "blur": "2.0",
    "jpeg_quality": "50",
    "device": "cuda",
    "label_studio_url": "http://127.0.0.1:1",
}
"""Another value of settings whose type does not say one."""


def another(section: str, name: str, parameter: luigi.Parameter, now: object) -> str:
    """A value that differs from the setting's present one, as it is written in luigi.cfg."""
    for key in (f"{section} {name}", name):
        if key in VALUES:
            return VALUES[key]
    if isinstance(parameter, luigi.BoolParameter):
        return str(not now)
    if isinstance(parameter, luigi.ChoiceParameter):
        return next(choice for choice in sorted(parameter._choices) if choice != now)
    if isinstance(parameter, luigi.IntParameter):
        return str(now + 1)
    if isinstance(parameter, luigi.FloatParameter):
        return str(now * 0.9 if now else 0.5)
    if isinstance(parameter, luigi.ListParameter):
        return "[" + ", ".join(str(value * 2) for value in now) + "]"
    return f"{now}x"


@pytest.fixture
def workspace(tmp_path) -> Iterator[Path]:
    """A workspace in which every input is there, and no artifact."""
    for path in ("training/images/scene_001.tif", "training/labels/scene_001.geojson",
                 "test/images/scene_042.tif", "test/labels/scene_042.geojson"):  # fmt: skip
        (tmp_path / "input" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "input" / path).write_text(path)
    (tmp_path / "weights.h5").write_text("weights")
    (tmp_path / "link").symlink_to(tmp_path)
    config = get_config()
    before = {name: dict(config[name]) for name in config.sections()}
    config.set("Storage", "workspace", str(tmp_path))
    config.set("LargeBuildings", "refine", "True")
    yield tmp_path
    for name in config.sections():
        config.remove_section(name)
    for name, values in before.items():
        for key, value in values.items():
            config.set(name, key, value)
    luigi.task_register.Register.clear_instance_cache()


def every_step() -> list[Step]:
    """Every task as the settings stand; LoadLabels to Submission of the image they are about."""
    test, training = {"image_id": "scene_042"}, {"image_id": "scene_001"}
    return [
        TileImage(**test), TileImage(**training), LoadLabels(**training), CutTiles(**training), TrainMaskRCNN(),
        CalibrateNetwork(), InferShard(shard=0, **test), InferLarge(**test), AggregateImage(**test),
        EvaluateImage(**test), ReportImage(**test), Submission(), CheckLabels(**test),
        ExportImage(**test), ExportTraining(), SelectTiles(round=1),
    ]  # fmt: skip


def digests() -> dict[str, str]:
    """Every task's digest as the settings stand."""
    found: dict[str, str] = {}
    with one_look():
        for step in every_step():
            family = type(step).__name__
            found[family] = found.get(family, "") + step.digest
    return found


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    """Tasks whose digests differ."""
    return {name for name in before if before[name] != after[name]}


def test_the_table_names_every_setting_once():
    named = {
        section: [name for _, names in rows for name in names.split()] for section, rows in TABLE.items()
    }
    there = {
        section.get_task_family(): [name for name, _ in section.get_params()] for section in settings.ALL
    }
    assert named.keys() == there.keys()
    for section, names in there.items():
        assert sorted(named[section]) == sorted(names), f"say in TABLE which tasks [{section}] makes stale"


def test_the_docs_name_the_settings_without_a_digest_that_make_stale():
    page = (Path(__file__).parents[1] / "docs" / "settings.md").read_text()
    head = " ".join(page[: page.index("\n## ")].split())
    for section in settings.ALL:
        family, outside = section.get_task_family(), dict(section.get_params())
        for tasks, names in TABLE[family]:
            for name in names.split():
                if tasks and not outside[name].significant:
                    assert f"`[{family}] {name}`" in head


@pytest.mark.parametrize("section", settings.ALL, ids=lambda section: section.get_task_family())
def test_a_setting_makes_stale_what_depends_on_it(workspace, section):
    family = section.get_task_family()
    before, expected = digests(), {name: tasks for tasks, names in TABLE[family] for name in names.split()}
    for name, value in each_changed(workspace, section):
        assert changed(before, digests()) == expected[name], f"[{family}] {name} = {value}"
    assert digests() == before


def each_changed(workspace: Path, section: type[settings.Section]) -> Iterator[tuple[str, str]]:
    """Gives one setting after the other another value, for as long as it is looked at: its name and that."""
    config, family = get_config(), section.get_task_family()
    for name, parameter in section.get_params():
        value = another(family, name, parameter, getattr(section(), name))
        value = {"workspace": str(workspace / "link"), "weights": str(workspace / "weights.h5")}.get(
            name, value
        )
        old = config.get(family, name, None)
        config.set(family, name, value)
        yield name, value
        if old is None:
            config.remove_option(family, name)
        else:
            config.set(family, name, old)


INCIDENTAL = {"cache_mb", "device", "workers", "writers", "compile"}
"""Settings in which the workers of one run may differ."""


@pytest.mark.parametrize("section", settings.ALL, ids=lambda section: section.get_task_family())
def test_runs_share_tasks_where_only_their_machines_differ(workspace, section):
    def identities() -> list[str]:
        luigi.task_register.Register.clear_instance_cache()
        return [InferShard(image_id="scene_042", shard=0).task_id, ReportImages().task_id]

    before = identities()
    for name, value in each_changed(workspace, section):
        told = [name in INCIDENTAL] * len(before)
        same = [now == then for now, then in zip(identities(), before, strict=True)]
        assert same == told, f"[{section.get_task_family()}] {name} = {value}"


def test_whatever_runs_a_network_takes_a_gpu_where_it_may_use_one(workspace):
    def take_one() -> set[str]:
        return {type(step).__name__ for step in every_step() if step.resources == {"gpu": 1}}

    run_one = re.compile(r"\b(detector|train_network)\(")
    run = {type(step).__name__ for step in every_step() if run_one.search(inspect.getsource(type(step)))}
    assert take_one() == run >= {"TrainMaskRCNN", "InferShard"}
    get_config().set("Inference", "device", "cpu")
    assert take_one() == {"TrainMaskRCNN"}
    get_config().set("Training", "device", "cpu")
    assert not take_one()


def test_a_workspace_is_the_same_however_it_is_called(workspace, monkeypatch):
    before = TileImage(image_id="scene_042").task_id
    monkeypatch.chdir(workspace)
    get_config().set("Storage", "workspace", ".")
    luigi.task_register.Register.clear_instance_cache()
    assert TileImage(image_id="scene_042").task_id == before


EDITS = {
    # A round is about the training images.
    "input/test/images/scene_042.tif": (FOUND | {"TileImage"}) - {"SelectTiles"},
    "input/training/images/scene_001.tif": TILED | LABELLED,
    "input/test/labels/scene_042.geojson": JUDGED | {"CheckLabels"},
    "input/training/labels/scene_001.geojson": LABELLED,
}


@pytest.mark.parametrize("name", EDITS)
def test_a_touched_or_replaced_input_makes_stale_what_depends_on_it(workspace, name):
    before, path = digests(), workspace / name
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert changed(before, digests()) == EDITS[name]
    touched = digests()
    path.with_suffix(".new").write_text("another one")
    os.replace(path.with_suffix(".new"), path)
    assert changed(touched, digests()) == EDITS[name]


def test_labels_are_checked_as_they_are_read_now(workspace):
    check = CheckLabels(image_id="scene_042")
    before = check._drawn("EPSG:32737").name
    get_config().set("Labels", "condition_attribute", "roof")
    assert check._drawn("EPSG:32737").name != before


@pytest.mark.parametrize("kind", ["images/scene_042.tif", "labels/scene_042.geojson"])
def test_a_moved_input_makes_stale_what_points_to_it(workspace, kind):
    (workspace / "input/test/images/scene_043.tif").write_text("so that the split stays one")
    before = digests()
    (workspace / "input/other" / kind).parent.mkdir(parents=True)
    os.rename(workspace / "input/test" / kind, workspace / "input/other" / kind)
    left = {"Submission"} if kind.startswith("images") else NOTHING
    assert changed(before, digests()) == {"ExportImage", "ReportImage"} | left


@pytest.mark.parametrize(
    ("url", "attribution", "expected"), [("y", "Jane", {"Submission"}), ("x", "Joe", {"ReportImage"})]
)
def test_an_edited_catalogue_makes_stale_what_tells_of_it(workspace, url, attribution, expected):
    def listed(url: str, attribution: str) -> dict[str, str]:
        path = workspace / f"{url}{attribution}.csv"
        columns = "image_id,split,url,attribution"
        path.write_text(f"{columns}\nscene_042,test,https://127.0.0.1/{url}.tif,{attribution}\n")
        get_config().set("Storage", "catalogue", str(path))
        return digests()

    assert changed(listed("x", "Jane"), listed(url, attribution)) == expected


def test_replaced_weights_make_stale_what_they_found(workspace):
    get_config().set("Inference", "weights", str(workspace / "weights.h5"))
    before = digests()
    (workspace / "weights.h5").write_text("weights of another network")
    assert changed(before, digests()) == DETECTED
    before = digests()
    (workspace / "thresholds.json").write_text("{}")
    assert changed(before, digests()) >= PUBLISHED


@pytest.fixture
def looks(workspace, monkeypatch) -> Counter[Path]:
    """How often each input is looked at; there are three images to learn from and three to map."""
    for number in range(2):
        for path in EDITS:
            stem = Path(path).stem
            more = workspace / path.replace(stem, f"{stem}_{number}")
            more.write_text("another")
    seen: Counter[Path] = Counter()
    look = sources.fingerprint
    monkeypatch.setattr(sources, "fingerprint", lambda path: [seen.update([path]), look(path)][1])
    return seen


def test_a_digest_looks_at_each_input_once(looks):
    first = Submission().digest
    assert set(looks.values()) == {1} and len(looks) == 9
    assert Submission().digest == first
    assert set(looks.values()) == {2}, "another digest is another look"


def test_scheduling_looks_at_each_input_once(looks):
    worker = Worker(scheduler=Scheduler())
    assert worker.add(Submission())
    assert set(looks.values()) == {1} and len(looks) == 9


def test_what_was_scheduled_sees_inputs_as_they_are_when_it_starts(workspace):
    task = TrainMaskRCNN()
    assert Worker(scheduler=Scheduler()).add(task)
    before = task.digest
    (workspace / "input/training/labels/scene_001.geojson").write_text("other labels")
    assert task.digest != before


@pytest.fixture
def evaluation(workspace) -> EvaluateImage:
    """A task whose inputs are all there, the published ones with the digest asked for."""
    step = EvaluateImage(image_id="scene_042")
    tiles = Path(step.tiles.output().path)
    tiles.parent.mkdir(parents=True)
    tiles.write_text("tiles")
    step.buildings.table.mkdir(parents=True)
    made = Stopwatch("AggregateImage", step.image_id, step.buildings.digest).record({}, {})
    (step.buildings.table / "run.json").write_text(made.model_dump_json())
    publish(step.buildings, step.buildings.digest)
    assert all(needed.complete() for needed in step.deps())
    # What a luigi worker gives a task to tell its progress with.
    step.set_status_message = step.set_progress_percentage = lambda _: None
    return step


def publish(step: AggregateImage, digest: str) -> None:
    """Puts a map in place of the one that is published."""
    with scratch_folder(step.workspace.output) as folder:
        (folder / step.csv.name).write_text(digest)
        step.published.publish(folder, Stopwatch("AggregateImage", step.image_id, digest).record({}, {}))


def test_results_of_another_run_are_refused_before_they_are_read(evaluation):
    publish(evaluation.buildings, "other")
    with pytest.raises(SourceError, match=r"other results of AggregateImage.*meanwhile"):
        evaluation.run()


def test_results_of_another_run_are_refused_after_they_were_read(evaluation):
    with (
        pytest.raises(SourceError, match=r"other results of AggregateImage.*meanwhile"),
        evaluation.publishing(evaluation.output()),
    ):
        publish(evaluation.buildings, "other")
    assert not evaluation.complete()


def test_a_page_is_stale_where_another_map_was_published_meanwhile(evaluation):
    with evaluation.publishing(evaluation.output()):
        pass
    assert evaluation.complete()
    publish(evaluation.buildings, "other")
    assert evaluation.output().exists() and not evaluation.complete()
    (damage,) = verify(evaluation.workspace.root).damages
    assert "made from other results than scene_042.AggregateImage.json" in damage.what
    assert damage.remake == "EvaluateImage --image-id scene_042"


def test_an_input_that_changed_while_it_was_read_is_refused(evaluation):
    with (
        pytest.raises(SourceError, match="an input changed while it was being read"),
        evaluation.publishing(evaluation.output()),
    ):
        evaluation.labels.source.write_text("other labels")
    assert not evaluation.complete()


def test_an_artifact_that_somebody_removed_is_one_line(evaluation):
    Path(evaluation.tiles.output().path).unlink()
    with pytest.raises(SourceError, match=r"what TileImage.*is gone"):
        evaluation.run()


@pytest.mark.parametrize(("kind", "stays"), [("review/round_001", True), ("work/tiles-abc", False)])
def test_only_what_can_be_made_again_is_replaced(evaluation, workspace, kind, stays):
    folder = workspace / kind
    (folder / "returned").mkdir(parents=True)
    (folder / "returned" / "asha.json").write_text("{}")
    with evaluation.making(folder) as scratch:
        (scratch / "round.json").write_text("{}")
    assert (folder / "returned" / "asha.json").exists() is stays


def test_a_round_is_made_of_every_image_that_it_shows_or_compares(workspace):
    for name in ("images/scene_041.tif", "labels/scene_041.geojson"):
        (workspace / "input/test" / name).write_text("sorts before the others")
    before = ExportReview(round=1).digest
    image = workspace / "input/test/images/scene_041.tif"
    os.utime(image, ns=(0, image.stat().st_mtime_ns + 1))
    assert ExportReview(round=1).digest != before


def test_a_round_that_people_work_at_is_never_stale(workspace):
    before = [task(round=1).output().path for task in (ExportReview, ReviewRound)]
    get_config().set("Tiling", "tile_size", "512")
    get_config().set("Review", "budget", "3")
    assert [task(round=1).output().path for task in (ExportReview, ReviewRound)] == before


def test_another_schema_version_is_refused_with_its_remedy(tmp_path):
    path = tmp_path / "artifact.json"
    path.write_text(json.dumps(DETECTION | {"schema_version": 99}))
    for reader in (read_detections, read_tile_index):
        with pytest.raises(ArtifactError, match=r"version 99.*(Delete|Remove)"):
            reader(path)
    assert settings.digest("a") != digest_of_the_next_version("a")


def digest_of_the_next_version(*parts: object) -> str:
    """What `digest` would return after an upgrade: paths of old artifacts are never looked at again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.settings.section.SCHEMA_VERSION", SCHEMA_VERSION + 1)
        return settings.digest(*parts)
