# SPDX-License-Identifier: GPL-3.0-or-later
"""Scipion's configuration files: which there are, what they say, and the line of a syntax error."""

from __future__ import annotations

import configparser
import json
import os
from collections.abc import Mapping
from typing import Any

HOME, LOCAL = "SCIPION_HOME", "SCIPION_LOCAL_CONFIG"


class Unreadable(ValueError):
    """A configuration file that is invalid: a sentence with the file and, if known, the line."""

    def __init__(self, path: str, why: str, line: int = 0) -> None:
        super().__init__(f"{path}{f', line {line}' if line else ''}: {why}; correct the file, or remove it")


def files(environment: Mapping[str, str]) -> list[str]:
    """Return the files with Scipion's variables: `config/scipion.conf` of its home, overridden by the user's own."""
    found = [os.path.join(environment[HOME], "config", "scipion.conf")] if environment.get(HOME) else []
    found.append(os.path.expanduser(environment.get(LOCAL, "") or os.path.join("~", ".config", "scipion", "scipion.conf")))
    return found


def read(path: str, comments: tuple[str, ...] = ("#", ";")) -> configparser.RawConfigParser:
    """Read a file of sections with `NAME = value`; one that does not exist has none.

    Parameters
    ----------
    comments : what a comment line begins with.

    Raises
    ------
    Unreadable : it cannot be read, or is invalid.
    """
    parser = configparser.RawConfigParser(strict=False, default_section="", comment_prefixes=comments)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    try:
        with open(path, encoding="utf-8") as file:
            parser.read_file(file)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise Unreadable(path, f"cannot be read ({(error.strerror or str(error)).lower()})") from error
    except UnicodeDecodeError as error:
        raise Unreadable(path, "this is not text", error.object[:error.start].count(b"\n") + 1) from error
    except configparser.MissingSectionHeaderError as error:
        raise Unreadable(path, f"{_quoted(error.line)} stands before any [SECTION]", error.lineno) from error
    except configparser.ParsingError as error:
        line, text = error.errors[0]
        raise Unreadable(path, f"{_quoted(text)} is neither a [SECTION] nor NAME = value", line) from error
    return parser


def _quoted(line: object) -> str:
    """Return a line for a message, shortened; configparser passes some on as `repr`."""
    text = str(line).strip().strip("'\"").removesuffix("\\n").strip()
    return f"'{text[:40]}{'...' if len(text) > 40 else ''}'"


def variables(path: str) -> dict[str, str]:
    """Return the variables of a file, whatever their section.

    Raises
    ------
    Unreadable : see `read`.
    """
    parser = read(path)
    return {name: value.strip() for section in parser.sections() for name, value in parser.items(section) if value is not None}


def table(path: str, parser: configparser.RawConfigParser, section: str, name: str) -> dict[str, Any]:
    """Return a value that is a JSON object; an empty one if it is not given.

    Raises
    ------
    Unreadable : it is something else.
    """
    given = parser.get(section, name, fallback="").strip()
    if not given:
        return {}
    line = line_of(path, section, name)
    try:
        found = json.loads(given)
    except ValueError as error:
        at = getattr(error, "lineno", 1) - 1
        raise Unreadable(path, f"{name} is not JSON ({getattr(error, 'msg', error)})", line + at if line else 0) from error
    if not isinstance(found, dict):
        raise Unreadable(path, f'{name} must look like {{ "name": {{}} }}', line)
    return found


def line_of(path: str, section: str, name: str) -> int:
    """Return the line of a value; 0 if it cannot be told."""
    here, found = "", 0
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if line.startswith("["):
                here = line.strip()[1:].partition("]")[0]
            elif here == section and line[:1].strip() and line.replace(":", "=").partition("=")[0].strip() == name:
                found = number
    return found
