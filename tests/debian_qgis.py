"""The real QGIS and its GDAL, as Debian's Python finds them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

DEBIANS_PYTHON = Path("/usr/bin/python3")


def geopackage_complaints(path: Path) -> str:
    """What GDAL's checker says of a file, and QGIS's GDAL as it reads all layers; skips without them."""
    checker = "osgeo_utils.samples.validate_gpkg"
    if subprocess.run([DEBIANS_PYTHON, "-c", f"import {checker}"], capture_output=True).returncode:
        pytest.skip("no python3-gdal: make system, as root on Debian")
    read = "import sys; from osgeo import ogr; [[*layer] for layer in ogr.Open(sys.argv[1])]"
    commands = (["-m", checker, "-k", path], ["-W", "ignore", "-c", read, path])
    return "".join(
        subprocess.run(
            [DEBIANS_PYTHON, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ).stdout
        for command in commands
    )


def qgis_or_skip() -> None:
    """Skips the test where there is no PyQGIS."""
    if subprocess.run([DEBIANS_PYTHON, "-c", "import qgis.core"], capture_output=True).returncode:
        pytest.skip("no python3-qgis: make system, as root on Debian")
