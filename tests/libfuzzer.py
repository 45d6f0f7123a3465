"""A JSON reader under libFuzzer, by Atheris: inputs that reach new branches are changed further.

    python tests/libfuzzer.py {detections,items} SECONDS FOLDER

Begins with what lies in FOLDER/corpus; an input that raises anything but a user's mistake, takes more than
20 s or 4 GiB is written to FOLDER, and the exit code is not 0.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["models", "pipeline"]):
    from models.errors import Mistake
    from models.tiles import read_items
    from pipeline.steps.detection_rows import read_detections

READERS = {"detections": read_detections, "items": read_items}


def main(reader: str, seconds: str, folder: str) -> None:
    """Feeds the reader until the time is over."""
    path = Path(folder) / "input.json"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        try:
            READERS[reader](path)
        except Mistake as mistake:
            assert "\n" not in str(mistake)

    limits = [f"-max_total_time={seconds}", "-timeout=20", "-rss_limit_mb=4096", "-max_len=65536"]
    places = [f"-artifact_prefix={folder}/", f"{folder}/corpus"]
    atheris.Setup([sys.argv[0], *limits, *places], read)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
