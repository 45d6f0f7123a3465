"""What is wrong with a luigi.cfg that cannot be parsed, in one line."""

from __future__ import annotations

import configparser

from pipeline.errors import SettingsError


def as_mistake(error: configparser.Error) -> SettingsError:
    """What the parser says, as a user's mistake with its file and line."""
    match error:
        case configparser.DuplicateSectionError():
            what, remedy = f"[{error.section}] is there already", "Put both into one."
        case configparser.DuplicateOptionError():
            what, remedy = f"[{error.section}] has {error.option} already", "Keep one of them."
        case configparser.MissingSectionHeaderError():
            what, remedy = "a setting below no section", "Write its section above it, as in [Tiling]."
        case configparser.ParsingError():
            line, text = error.errors[0]
            return SettingsError(f"neither section nor setting: {text}", where=f"{error.source} line {line}")
        case _:
            return SettingsError(" ".join(str(error).split()), where="luigi.cfg")
    return SettingsError(what, where=f"{error.source} line {error.lineno}", remedy=remedy)
