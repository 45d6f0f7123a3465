"""What a section of luigi.cfg is: a class whose knobs are declared once, and checked when they are read."""

from __future__ import annotations

import ast
import configparser
import dataclasses
import difflib
import hashlib
import inspect
import json
import math
import textwrap
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import cache, cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args, get_origin, get_type_hints

import luigi
from luigi.cmdline_parser import CmdlineParser
from luigi.configuration import get_config
from luigi.task_register import Register

from models.errors import Mistake
from models.ranges import in_words, ranges_of
from pipeline.errors import SettingsError
from pipeline.schema import SCHEMA_VERSION

_SHOWN = 200
"""Characters of somebody else's error that are told."""


def digest(*parts: Any) -> str:
    """First 12 hexadecimal digits of the SHA-256 of `parts` as canonical JSON, schema version included."""
    canonical = json.dumps([SCHEMA_VERSION, *parts], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


_READ: dict[tuple[type, Any, tuple[str, ...], tuple[tuple[str, str], ...]], Any] = {}
"""Values of sections as they were read, by command line, sections of luigi.cfg and what this one held."""
_CLOSE = 0.75
"""Likeness from which an unknown section is a misspelt one, 0 to 1; none of luigi's own is so close."""


class Section(luigi.Config):
    """A section of luigi.cfg; its values are checked when it is read.

    Raises:
        SettingsError: a value that cannot be read or is out of range, or a key nobody declared.
    """

    incidental: ClassVar[Collection[str]] = ()
    """Insignificant knobs of which not even what a task is depends: how the machine at hand computes."""
    kinds: ClassVar[Collection[type]] = ()
    """The dataclasses whose fields are its knobs."""

    @classmethod
    @cache
    def get_params(cls):
        """Luigi's list of the parameters, looked up once."""
        return super().get_params()

    @classmethod
    def get_param_values(cls, params, args, kwargs):
        """Luigi's values; read once for each state of file and command line: graphs ask a thousand times."""
        section, config = cls.get_task_family(), get_config()
        written = tuple(config.items(section, raw=True)) if section in config.sections() else ()
        state = (cls, CmdlineParser.get_instance(), (*config.sections(),), written)
        if args or kwargs:
            return cls._read_values(params, args, kwargs)
        if state not in _READ:
            _READ[state] = cls._read_values(params, args, kwargs)
        return _READ[state]

    @classmethod
    def _read_values(cls, params, args, kwargs):
        """Luigi's values, with its errors and warnings turned into one line each."""
        section = cls.get_task_family()
        _refuse_misspelt(section)
        _refuse_unknown_keys(section, {name for name, _ in params})
        for name, parameter in params:
            try:
                parameter.has_task_value(section, name)
            except (ValueError, TypeError, KeyError, RecursionError, configparser.Error) as error:
                raise SettingsError(
                    f"cannot be read: {_short(error)}",
                    where=f"[{section}] {name}",
                    remedy=parameter.description,
                ) from error
        return super().get_param_values(params, args, kwargs)

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        for name, value in self.param_kwargs.items():
            if isinstance(value, float) and not math.isfinite(value):
                where = f"[{self.get_task_family()}] {name}"
                raise SettingsError("not a finite number", where=where, found=value)
        self.check()

    if TYPE_CHECKING:  # the parameters that `knobs_of` adds

        def __getattr__(self, name: str) -> Any: ...

    def check(self) -> None:
        """Looks at the values together; raises SettingsError for what cannot be honoured."""
        for kind in self.kinds:
            self.rules(kind)

    def described(self) -> dict[str, str]:
        """The significant values by name, as luigi writes them."""
        return dict(self._described)

    @cached_property
    def _described(self) -> dict[str, str]:
        return self.to_str_params(only_significant=True)

    def identity(self) -> dict[str, str]:
        """The values that runs have in common whose tasks are the same: all but the incidental ones."""
        return dict(self._identity)

    @cached_property
    def _identity(self) -> dict[str, str]:
        values = self.to_str_params()
        return {name: value for name, value in values.items() if name not in self.incidental}

    def rules(self, kind: type, **given: Any) -> Any:
        """The values as the dataclass `kind` of the module that uses them.

        Raises:
            SettingsError: a value that `kind` refuses.
        """
        names = {field.name for field in dataclasses.fields(kind)} - given.keys()
        values = {name: getattr(self, name) for name in names if hasattr(self, name)}
        with self.blamed():
            return kind(**values, **given)

    @contextmanager
    def blamed(self) -> Iterator[None]:
        """What a value is refused for in the block is told with the section's name."""
        try:
            yield
        except Mistake as error:
            where = f"[{self.get_task_family()}] {error.where or ''}".rstrip()
            raise SettingsError(error.what, where=where, found=error.found, remedy=error.remedy) from error


def _short(error: Exception) -> str:
    text = str(error)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _refuse_misspelt(section: str) -> None:
    """Raises SettingsError for a section that nobody reads and that is called nearly like this one."""
    for name in set(get_config().sections()) - set(Register.task_names()):
        if difflib.get_close_matches(name.lower(), [section.lower()], cutoff=_CLOSE):
            remedy = f"Did you mean [{section}]?"
            raise SettingsError("unknown section", where="luigi.cfg", found=name, remedy=remedy)


def _refuse_unknown_keys(section: str, known: Collection[str]) -> None:
    config = get_config()
    if section not in config.sections():
        return
    for key in sorted({key.replace("-", "_") for key in config[section]} - set(known)):
        close = difflib.get_close_matches(key, known, n=1)
        remedy = f"Did you mean {close[0]}?" if close else f"It may hold: {', '.join(sorted(known))}."
        raise SettingsError("unknown setting", where=f"[{section}]", found=key, remedy=remedy)


def knobs_of(
    *kinds: type, insignificant: Collection[str] = (), incidental: Collection[str] = ()
) -> Callable[[type], type]:
    """Class decorator: the fields of dataclasses as parameters of a section.

    Args:
        kinds: the dataclasses.
        insignificant: fields that stay out of every digest.
        incidental: fields that also stay out of a task's identity, see `Section.incidental`.
    """

    def decorate(section: type) -> type:
        section.incidental, section.kinds = incidental, kinds  # type: ignore[attr-defined]
        for kind in kinds:
            texts, hints, ranges = _field_texts(kind), get_type_hints(kind), ranges_of(kind)
            told = {name: f" {in_words(interval).capitalize()}." for name, interval in ranges.items()}
            for field in dataclasses.fields(kind):
                if not hasattr(section, field.name):
                    options = {
                        "default": field.default,
                        "description": texts[field.name] + told.get(field.name, ""),
                        "significant": field.name not in (*insignificant, *incidental),
                    }
                    parameter = _parameter(hints[field.name], options)
                    setattr(section, field.name, parameter)
                    parameter.__set_name__(section, field.name)
        return section

    return decorate


def _parameter(hint: Any, options: dict[str, Any]) -> Any:
    if get_origin(hint) is Literal:
        return luigi.ChoiceParameter(choices=get_args(hint), **options)
    if get_origin(hint) is tuple:
        return luigi.ListParameter(**options)
    if hint is bool:
        return luigi.BoolParameter(parsing=luigi.BoolParameter.EXPLICIT_PARSING, **options)
    return {int: luigi.IntParameter, float: luigi.FloatParameter, str: luigi.Parameter}[hint](**options)


def _field_texts(kind: type) -> dict[str, str]:
    """The docstring below each field of a dataclass, on one line."""
    module = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    (definition,) = (node for node in module.body if isinstance(node, ast.ClassDef))
    return {
        ast.unparse(node.target): " ".join(ast.literal_eval(text.value).split())
        for node, text in pairwise(definition.body)
        if isinstance(node, ast.AnnAssign) and isinstance(text, ast.Expr)
    }
