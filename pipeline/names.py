"""Names that become parts of paths, table keys and file names: never paths themselves."""

from __future__ import annotations

import re
from typing import TypeGuard

from pipeline.errors import SettingsError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def is_name(name: object) -> TypeGuard[str]:
    """Whether it names a file or a folder, and never leads out of one."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def check_image_id(image_id: object) -> str:
    """The image id itself.

    Raises:
        SettingsError: it is not a safe name.
    """
    if not is_name(image_id):
        raise SettingsError(
            "not an image id",
            where="image_id",
            found=image_id,
            remedy="An image id is its file's name without folder and ending: letters, digits, . _ -",
        )
    return image_id
