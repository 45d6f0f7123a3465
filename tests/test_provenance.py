"""What a run record says of the work itself."""

import json
import subprocess
import sys

import pytest

from pipeline import provenance
from pipeline.provenance import Stopwatch

TWO_TASKS = """
import json
from pipeline.provenance import Stopwatch
peaks = []
for mib in (300, 20):
    watch = Stopwatch("TileImage", "a", "0")
    held = b"x" * (mib << 20)
    del held
    record = watch.record({}, {})
    peaks.append((record.peak_memory_mib, record.peak_memory_since))
print(json.dumps(peaks))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems start no count anew")
def test_the_peak_is_the_tasks_own_and_not_that_of_the_one_before():
    done = subprocess.run([sys.executable, "-c", TWO_TASKS], capture_output=True, text=True, check=True)
    (large, since), (small, _) = json.loads(done.stdout)
    assert since == "task" and large > small + 200


def test_where_no_count_starts_anew_the_peak_says_that_it_is_the_processs(monkeypatch, tmp_path):
    monkeypatch.setattr(provenance, "_PROCESS", tmp_path / "none")
    record = Stopwatch("TileImage", "a", "0").record({}, {})
    assert record.peak_memory_since == "process" and 10 < record.peak_memory_mib < 100_000
