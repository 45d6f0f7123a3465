"""What several test files need."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import postgis
import pytest

# Every run draws the same examples; `--hypothesis-profile default` draws others each time.
hypothesis.settings.load_profile("ci")


@pytest.fixture(scope="session")
def postgis_server() -> Iterator[postgis.Server]:
    """A PostGIS server of this session; libpq finds its passwords."""
    if postgis.binaries() is None:
        pytest.skip("no PostGIS on this machine: make system, as root on Debian")
    before = os.environ.get("PGPASSFILE")
    with postgis.postgis_server() as server:
        os.environ["PGPASSFILE"] = str(server.passfile)
        yield server
    if before is None:
        del os.environ["PGPASSFILE"]
    else:
        os.environ["PGPASSFILE"] = before


@pytest.fixture(scope="session")
def postgis_url(postgis_server) -> str:
    """The URL of a PostGIS database, without password."""
    return postgis_server.url


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Torch on one thread: exact arithmetic asks for the same number, and several wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def pictures(tmp_path) -> Path:
    """Where a test puts its picture of a tool: the folder in JENGO_PICTURES, else one that goes away."""
    return Path(os.environ.get("JENGO_PICTURES") or tmp_path)
