"""Installs what tests need beside Python packages, on Debian as root: PostGIS, Chromium, QGIS and GDAL.

Where they are there it does nothing; where it cannot install, it says what is missing and the tests
that need it skip.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import postgis

NO_CLUSTER = Path("/etc/postgresql-common/createcluster.d/no-main-cluster.conf")
"""Keeps the package from starting a cluster of its own: the tests start theirs on a free port."""

QGIS = Path("/usr/lib/python3/dist-packages/qgis")
"""PyQGIS of Debian's own Python: 200 MB to fetch, 960 MB on the disk."""


def missing() -> list[str]:
    """Debian's packages that are not there."""
    packages = [] if postgis.binaries() else ["postgresql", "postgresql-postgis"]
    packages += [] if shutil.which("chromium") else ["chromium"]
    packages += [] if QGIS.exists() else ["python3-qgis"]
    return packages + ([] if shutil.which("gdal_retile.py") else ["gdal-bin", "python3-gdal"])


def install(packages: list[str]) -> None:
    """Installs packages; a server among them is not started."""
    NO_CLUSTER.parent.mkdir(parents=True, exist_ok=True)
    NO_CLUSTER.write_text("create_main_cluster = false\n")
    try:
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        for step in (["update", "-qq"], ["install", "-qq", "-y", "--no-install-recommends", *packages]):
            subprocess.run(["apt-get", *step], env=environment, stdout=subprocess.DEVNULL, check=True)
    finally:
        NO_CLUSTER.unlink()


def main() -> None:
    """Installs what is missing, or says so."""
    packages = missing()
    if packages and (os.geteuid() != 0 or shutil.which("apt-get") is None):
        sys.stderr.write(f"not here, tests that need them skip: {', '.join(packages)}\n")
    elif packages:
        install(packages)


if __name__ == "__main__":
    main()
