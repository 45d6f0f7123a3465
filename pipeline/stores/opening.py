"""The door to the versions: files or a database, as the settings say."""

from __future__ import annotations

from pathlib import Path

from pipeline.stores.version_files import VersionFiles
from pipeline.stores.versions import VersionStore


def open_versions(database_url: str, folder: Path) -> VersionStore:
    """The versions in the PostGIS database at `database_url`, or for an empty URL as files in `folder`.

    Opening touches neither server nor disk.
    """
    if not database_url:
        return VersionFiles(folder)
    from pipeline.stores.version_tables import VersionTables  # SQLAlchemy is slow to import

    return VersionTables(database_url)
