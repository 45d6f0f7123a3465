"""The container and its neighbours, read as they stand; test_wheel.py installs what the container does."""

import configparser
from pathlib import Path

import pytest
from build_context import copied, is_admitted

from pipeline.stores import open_store

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text().splitlines()


@pytest.mark.parametrize("name", copied())
def test_what_is_copied_is_there_and_not_ignored(name):
    assert (ROOT / name).exists() and is_admitted(name)


def test_every_package_is_copied():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    packages = {name.removesuffix("*") for name in config["options.packages.find"]["include"].split()}
    assert {name for name in copied() if (ROOT / name).is_dir()} == packages


def test_nothing_else_comes_along():
    assert not is_admitted(".git") and not is_admitted(".venv") and not is_admitted("demo")


def test_it_runs_as_a_user_without_rights():
    users = [line.split()[1] for line in DOCKERFILE if line.startswith("USER ")]
    assert users == ["jengo"]
    last = max(number for number, line in enumerate(DOCKERFILE) if line.startswith(("RUN ", "COPY ", "ADD ")))
    assert DOCKERFILE.index("USER jengo") > last, "what is installed belongs to root, not to who runs it"
    assert any(line.startswith("RUN useradd") and '--uid "$UID"' in line for line in DOCKERFILE)


def test_compose_file_shows_no_password_and_opens_no_door():
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    assert set(services) == {"postgis", "luigid", "worker"}
    assert services["luigid"]["ports"] == ["127.0.0.1:8082:8082"]
    assert "ports" not in services["postgis"] and "ports" not in services["worker"]
    environment = services["worker"]["environment"]
    assert open_store(environment["JENGO_DATABASE_URL"], Path()).where == environment[
        "JENGO_DATABASE_URL"
    ].replace("postgresql:", "postgresql+psycopg2:")
    assert environment["PGPASSWORD"].startswith("${PGPASSWORD:?")
