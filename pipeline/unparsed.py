"""What is wrong with a luigi.cfg that cannot be parsed, in one line."""

from __future__ import annotations

import configparser

from pipeline.errors import SettingsError


def as_mistake(error: configparser.Error | UnicodeDecodeError) -> SettingsError:
    """What the parser says, as a user's mistake with its file and line."""
    match error:
        case UnicodeDecodeError():
            byte = f"byte {error.object[error.start]:#04x} at {error.start}"
            return SettingsError(
                "no text in UTF-8", where="luigi.cfg", found=byte, remedy="Save it as UTF-8."
            )
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
