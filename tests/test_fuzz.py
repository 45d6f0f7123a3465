# ruff: noqa: E501
"""Readers against inputs nobody thought of: each returns, or refuses in one line; nothing else escapes.

The two JSON readers are also run guided by coverage: inputs that reach new lines of the package are kept
and changed further, for JENGO_FUZZ_SECONDS (two by default). Where Atheris is installed, libFuzzer does the same.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from test_review import CATEGORIES, LEFT, RIGHT, ROUND, annotated, shown, verdicts

from models.errors import Mistake
from models.tiles import read_items
from pipeline.catalogue import read_catalogue
from pipeline.labels import read_label_file
from pipeline.review.coco import coco_dataset
from pipeline.review.deciding import last_reviews
from pipeline.review.returned import read_returned
from pipeline.steps.detection_rows import read_detections
from pipeline.submission import columns, read_csv, validate_csv
from pipeline.tiling import parse_size, read_tile_index

QUICK = hypothesis_settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
DETECTION = {
    "schema_version": 2, "image_id": "a", "tile_id": "r0000_c0000", "window": [0, 0, 8, 8], "crs": "EPSG:32737",
    "transform": [1.0, 0.0, 0.0, 0.0, -1.0, 0.0], "categories": ["hut"], "model": {"name": "n", "weights": "w"},
    "created": "2026", "detections": [{"polygon": [1.0, 1.0, 4.0, 1.0, 4.0, 4.0], "scores": [0.5]}],
}  # fmt: skip
LABELS = {
    "type": "FeatureCollection",
    "features": [{"type": "Feature", "properties": {"condition": "Complete"},
                  "geometry": {"type": "Polygon", "coordinates": [[[39, -6], [39.1, -6], [39.1, -6.1], [39, -6]]]}}],
}  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)


def refuses(reader: Callable[[Path], object], path: Path) -> None:
    """Reads, and lets only a user's mistake pass."""
    try:
        reader(path)
    except Mistake as mistake:
        assert "\n" not in str(mistake)


@st.composite
def damaged(draw, good: dict | list) -> str:
    """A good document with a value anywhere in it replaced, or its text cut."""
    document = json.loads(json.dumps(good))
    inside = document
    while True:
        place, key = (
            inside,
            draw(st.sampled_from(sorted(inside) if isinstance(inside, dict) else range(len(inside)))),
        )
        inside = place[key]
        if not (isinstance(inside, (dict, list)) and inside and draw(st.booleans())):
            break
    place[key] = draw(VALUES)
    text = json.dumps(document)
    return text[: draw(st.integers(0, len(text)))] if draw(st.booleans()) else text


@QUICK
@given(text=damaged(DETECTION))
def test_any_tile_is_read_or_refused(tmp_path, text):
    (tmp_path / "tile.json").write_text(text)
    refuses(read_detections, tmp_path / "tile.json")
    refuses(read_items, tmp_path / "tile.json")
    refuses(read_tile_index, tmp_path / "tile.json")


@QUICK
@given(text=damaged(LABELS))
def test_any_label_file_is_read_or_refused(tmp_path, text):
    (tmp_path / "labels.geojson").write_text(text)
    refuses(read_label_file, tmp_path / "labels.geojson")


@QUICK
@given(
    text=damaged([annotated(LEFT), annotated(RIGHT)])
    | damaged(coco_dataset([LEFT], {LEFT.name: shown(LEFT)}, CATEGORIES))
)
def test_any_answer_of_a_reviewer_is_read_or_refused(tmp_path, text):
    (tmp_path / "amina.json").write_text(text)
    refuses(
        lambda path: verdicts(last_reviews(read_returned(path, ROUND))[0]),
        tmp_path / "amina.json",
    )


@QUICK
@given(rows=st.lists(st.lists(st.text(max_size=12), max_size=7), max_size=4), header=st.booleans())
def test_any_csv_is_read_validated_or_refused(tmp_path, rows, header):
    lines = [",".join(columns())] * header + [",".join(row) for row in rows]
    (tmp_path / "a.csv").write_text("\n".join(lines), encoding="utf-8", errors="surrogateescape")
    refuses(read_csv, tmp_path / "a.csv")
    assert isinstance(validate_csv(tmp_path / "a.csv"), list)
    refuses(lambda path: read_catalogue(str(path)), tmp_path / "a.csv")


@given(st.text(max_size=30))
def test_any_size_is_read_or_refused(text):
    with contextlib.suppress(Mistake):
        assert parse_size(text, (0.1, 0.1)) >= 0


@pytest.mark.parametrize("reader", [read_detections, read_items], ids=["per-tile JSON", "items"])
def test_readers_hold_against_inputs_grown_by_coverage(tmp_path, reader):
    path, chance = tmp_path / "grown.json", random.Random(6)
    corpus, seen = [json.dumps(DETECTION).encode(), b'{"items": []}'], set[tuple[str, int]]()
    until = time.monotonic() + float(os.environ.get("JENGO_FUZZ_SECONDS", "2"))
    while time.monotonic() < until:
        grown = _changed(bytearray(chance.choice(corpus)), chance)
        path.write_bytes(grown)
        reached = _lines_reached(lambda: refuses(reader, path))
        if reached - seen:
            seen |= reached
            corpus.append(bytes(grown))
    assert len(corpus) > 2, "coverage led nowhere"


@pytest.mark.parametrize("reader", ["detections", "items"])
def test_readers_hold_against_inputs_grown_by_libfuzzer(tmp_path, reader):
    pytest.importorskip("atheris", reason="pip install atheris runs it as well")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "tile").write_text(json.dumps(DETECTION))
    (corpus / "items").write_text('{"items": []}')
    script, seconds = Path(__file__).with_name("libfuzzer.py"), os.environ.get("JENGO_FUZZ_SECONDS", "2")
    command = [sys.executable, script, reader, seconds, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    ended = re.search(r"Done (\d+) runs in \d+ second", done.stderr)
    assert done.returncode == 0 and ended and int(ended[1]) > 10, done.stderr[-3000:]
    assert len(list(corpus.iterdir())) > 2, "coverage led nowhere"


def _changed(data: bytearray, chance: random.Random) -> bytearray:
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(4):
            case 0:
                data[at:at] = chance.choice(
                    [b"[", b"{", b"null", b"1e999", b"NaN", b'"', b"-", b"\xff", b"[" * 999]
                )
            case 1:
                del data[at : at + chance.randint(1, 30)]
            case 2:
                data[at : at + 1] = bytes([chance.randrange(256)])
            case 3:
                data[at:at] = data[: chance.randrange(len(data) + 1)]
    return data[: 1 << 16]


def _lines_reached(call: Callable[[], None]) -> set[tuple[str, int]]:
    reached: set[tuple[str, int]] = set()

    def trace(frame, event, _):
        if "/pipeline/" in frame.f_code.co_filename or "/models/" in frame.f_code.co_filename:
            reached.add((frame.f_code.co_filename, frame.f_lineno))
            return trace
        return None

    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(None)
    return reached
