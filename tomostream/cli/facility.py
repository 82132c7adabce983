# SPDX-License-Identifier: GPL-3.0-or-later
"""The configuration of `tomostream watch`: a TOML file that says which microscopes write where, and how to process it."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

from tomostream.cli.run import ENGINES
from tomostream.journal.status import CLASSES
from tomostream.report.notify import Destinations
from tomostream.streaming.values import seconds_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")
#: Stands for the name of the session's folder in a pattern.
SESSION = "{session}"


class ConfigError(Exception):
    """What is wrong with a configuration, in one sentence with file, key and value."""


class Existing(str, Enum):
    """What to do with the session folders that exist when a microscope is first watched."""

    IGNORE = "ignore"
    START = "start"


@dataclass(frozen=True)
class Microscope:
    """A microscope to watch. `movies` and `mdocs`: patterns below the folder of a session, or absolute ones with `{session}` in
    them. `settings`: as for `tomostream run --set`. `report`: folder for the pages of its sessions; "": in their projects."""

    name: str
    root: str
    movies: str
    mdocs: str
    sessions: str = "*"
    engine: str = "auto"
    gpus: tuple[int, ...] = ()
    queue: str = ""
    timeout: str = "12h"
    report: str = ""
    existing: Existing = Existing.IGNORE
    email: tuple[str, ...] = ()
    webhook: str = ""
    settings: tuple[str, ...] = ()

    def pattern(self, pattern: str, session: str) -> str:
        """Return a pattern for one session, whose name is taken literally."""
        import glob

        whole = os.path.isabs(pattern)
        filled = pattern.replace(SESSION, glob.escape(session) if whole else session)
        return filled if whole else os.path.join(self.root, session, filled)


@dataclass(frozen=True)
class Facility:
    """The whole configuration. `index`: folder of the page that lists all sessions; `every`: seconds between two looks; `starts`:
    sessions started at the same time; `cores`, `programs_per_gpu`: for all sessions together, "" for the default."""

    path: str
    projects: str
    index: str
    microscopes: tuple[Microscope, ...]
    every: float = 10.0
    starts: int = 2
    cores: str = ""
    programs_per_gpu: str = ""


def read(path: str) -> Facility:
    """Read a configuration.

    Raises
    ------
    ConfigError : it cannot be read, or something in it is invalid.
    """
    path = os.path.abspath(path)
    try:
        with open(path, "rb") as file:
            document = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    table = Table(path, "", document)
    projects = table.folder("projects")
    tables = table.take("microscope", list, "one or more [[microscope]] tables")
    if not tables or not all(isinstance(each, dict) for each in tables):
        raise ConfigError(f"{path}: there is no [[microscope]] table; write one for each microscope")
    facility = Facility(
        path, projects, table.folder("index", projects),
        tuple(_microscope(Table(path, f"microscope {number}: ", each)) for number, each in enumerate(tables, start=1)),
        table.seconds("every", 10.0), table.number("starts", 2), str(table.number("cores", 0) or ""),
        str(table.number("programs_per_gpu", 0) or ""))
    table.refuse_unknown()
    _refuse_together(facility)
    return facility


def _microscope(table: Table) -> Microscope:
    name = table.text("name")
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise table.wrong("name", name, "letters, digits, - and _ only: the projects are named after it")
    table.where = f"microscope '{name}': "
    alarms = Table(table.path, f"{table.where}alarms.", table.take("alarms", dict, "a table", {}))
    microscope = Microscope(
        name, table.folder("root"), table.text("movies"), table.text("mdocs", "*.mdoc"), table.text("sessions", "*"),
        table.choice("engine", tuple(sorted(ENGINES)), "auto"), tuple(table.numbers("gpus")), table.text("queue", ""),
        table.time("timeout", "12h"), table.folder("report", ""),
        Existing(table.choice("existing", tuple(each.value for each in Existing), Existing.IGNORE.value)),
        tuple(alarms.texts("email")), alarms.text("webhook", ""), _settings(table))
    for each in (table, alarms):
        each.refuse_unknown()
    try:
        Destinations.from_environment(variables(microscope))
    except ValueError as error:
        raise ConfigError(f"{table.path}: {table.where}alarms: {error}") from error
    for key in ("movies", "mdocs"):
        pattern = getattr(microscope, key)
        if os.path.isabs(pattern) and SESSION not in pattern:
            raise table.wrong(key, pattern, f"a pattern below the folder of a session, or an absolute one with {SESSION} in it")
    return microscope


def variables(microscope: Microscope) -> dict[str, str]:
    """Return a microscope's own addresses for alarms, as Scipion's variables."""
    from tomostream.report.notify import EMAIL, WEBHOOK

    given = {EMAIL: ",".join(microscope.email), WEBHOOK: microscope.webhook}
    return {name: value for name, value in given.items() if value}


def _settings(table: Table) -> tuple[str, ...]:
    """Return `[microscope.set.aretomo] tomoThickness = 1500` as words of `--set`."""
    words = []
    for protocol, values in table.take("set", dict, "tables of parameters", {}).items():
        if protocol not in CLASSES or not isinstance(values, dict):
            raise table.wrong(f"set.{protocol}", values, f"[microscope.set.PROTOCOL] with {', '.join(CLASSES)} as the protocol")
        for key, value in values.items():
            if isinstance(value, (dict, list)):
                raise table.wrong(f"set.{protocol}.{key}", value, "a number, a text, true or false")
            words.append(f"{protocol}.{key}={value}")
    return tuple(words)


def _refuse_together(facility: Facility) -> None:
    """Refuse what does not fit together, whatever each microscope says by itself."""
    names = [each.name for each in facility.microscopes]
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        raise ConfigError(f"{facility.path}: two microscopes are called '{double}'; give each its own name")
    for each in facility.microscopes:
        for key, folder in (("projects", facility.projects), ("index", facility.index), (f"{each.name}: report", each.report)):
            if folder and os.path.commonpath([each.root, folder]) == each.root:
                raise ConfigError(f"{facility.path}: {key} is '{folder}', inside the root of the microscope '{each.name}' "
                                  f"({each.root}), where nothing must be written; choose another place")


class Table:
    """A table of a configuration: returns checked values, and refuses keys that nobody asked for."""

    def __init__(self, path: str, where: str, values: Mapping[str, Any]) -> None:
        self.path, self.where, self._values = path, where, values
        self._asked: list[str] = []

    def wrong(self, key: str, value: object, write: str) -> ConfigError:
        shown = f"'{value}'" if isinstance(value, str) else repr(value)
        return ConfigError(f"{self.path}: {self.where}{key} is {shown}; write {write}")

    def take(self, key: str, kind: type[T], write: str, default: T | None = None) -> T:
        """Return a value of a type.

        Raises
        ------
        ConfigError : it is of another type, or missing and without a default.
        """
        self._asked.append(key)
        if key not in self._values:
            if default is None:
                raise ConfigError(f"{self.path}: {self.where}{key} is missing; write {write}")
            return default
        value = self._values[key]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.wrong(key, value, write)
        return value

    def text(self, key: str, default: str | None = None) -> str:
        value = self.take(key, str, "a text in quotes", default)
        if default is None and not value.strip():
            raise self.wrong(key, value, "a text in quotes that is not empty")
        return value

    def folder(self, key: str, default: str | None = None) -> str:
        """Return an absolute path; ~ is the home of the user."""
        value = os.path.expanduser(self.text(key, default))
        if value and not os.path.isabs(value):
            raise self.wrong(key, value, "an absolute path, beginning with /")
        return os.path.normpath(value) if value else ""

    def choice(self, key: str, choices: Sequence[str], default: str) -> str:
        value = self.text(key, default)
        if value not in choices:
            raise self.wrong(key, value, f"one of {', '.join(choices)}")
        return value

    def number(self, key: str, default: int) -> int:
        value = self.take(key, int, "a whole number of at least 1", default)
        if key in self._values and value < 1:
            raise self.wrong(key, value, "a whole number of at least 1")
        return value

    def numbers(self, key: str) -> list[int]:
        write = "numbers of GPUs, e.g. [0, 1]"
        values = self.take(key, list, write, [])
        if not all(isinstance(each, int) and not isinstance(each, bool) and each >= 0 for each in values):
            raise self.wrong(key, values, write)
        return values

    def texts(self, key: str) -> list[str]:
        write = 'texts, e.g. ["operator@lab.org"]'
        values = self.take(key, list, write, [])
        if not all(isinstance(each, str) for each in values):
            raise self.wrong(key, values, write)
        return values

    def time(self, key: str, default: str) -> str:
        """Return a time as it was written, after checking it."""
        value = self._values.get(key, default)
        self._asked.append(key)
        self._time(key, value)
        return str(value)

    def seconds(self, key: str, default: float) -> float:
        value = self._values.get(key, default)
        self._asked.append(key)
        return self._time(key, value)

    def _time(self, key: str, value: object) -> float:
        convert: Callable[[object], float] = seconds_of
        try:
            return convert(value)
        except ValueError:
            raise self.wrong(key, value, 'a time, e.g. "30s", "10m" or "12h"') from None

    def refuse_unknown(self) -> None:
        """Refuse keys that nobody asked for, which would otherwise be ignored silently.

        Raises
        ------
        ConfigError : names the first such key, and a similar one.
        """
        unknown = next((key for key in self._values if key not in self._asked), None)
        if unknown is not None:
            near = difflib.get_close_matches(unknown, self._asked, n=1)
            raise ConfigError(f"{self.path}: {self.where}{unknown} is not a key"
                              + (f"; did you mean {near[0]}?" if near else f"; there are {', '.join(self._asked)}"))
