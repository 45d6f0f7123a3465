"""The real QGIS, as Debian's Python finds it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

DEBIANS_PYTHON = Path("/usr/bin/python3")


def qgis_or_skip() -> None:
    """Skips the test where there is no PyQGIS."""
    if subprocess.run([DEBIANS_PYTHON, "-c", "import qgis.core"], capture_output=True).returncode:
        pytest.skip("no python3-qgis: make system, as root on Debian")
