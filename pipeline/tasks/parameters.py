"""Parameters of tasks that tell in one line what is wrong with a value: Luigi's own end in a traceback."""

from __future__ import annotations

import json

import luigi

from pipeline.errors import SettingsError
from pipeline.names import check_image_id


class ImageId(luigi.Parameter):
    """A name, never a path: the stem of the image's file."""

    def normalize(self, value: str) -> str:
        """The id itself; SettingsError where it could leave the workspace or break a file name."""
        return check_image_id(value)

    parse = normalize


class ImageIds(luigi.ListParameter):
    """Names as a JSON list."""

    def parse(self, value: str) -> tuple[str, ...]:
        """The ids; SettingsError where it is no list of them."""
        try:
            found = json.loads(value)
        except ValueError:
            found = None
        if not isinstance(found, list):
            remedy = """Write '["flight_01", "flight_02"]'."""
            raise SettingsError("not a JSON list of image ids", where="image_ids", found=value, remedy=remedy)
        return tuple(map(check_image_id, found))


class Number(luigi.IntParameter):
    """A whole number."""

    def parse(self, value: str) -> int:
        """The number; SettingsError where it is none."""
        try:
            return super().parse(value)
        except ValueError as error:
            raise SettingsError("not a whole number", found=value, remedy=self.description or "") from error
