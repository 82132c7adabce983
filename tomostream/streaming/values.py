# SPDX-License-Identifier: GPL-3.0-or-later
"""Parameter values given as text: on the command line, in a workflow template, or as times in a form."""

from __future__ import annotations

import re
from typing import Any

UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "": 1.0}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*([dhms]?)(?:\s+|$)|(\d+(?:\.\d*)?)([dhms])")


def seconds_of(text: object) -> float:
    """Return a time as people write it in Scipion's forms, in seconds: `90`, `30m`, `12h`, `1d 6h`.

    Scipion's own `String.toSeconds` evaluates the text as Python; this reads it.

    Raises
    ------
    ValueError : it is not a time, or not more than 0.
    """
    rest = str("" if text is None else text).strip().lower()
    total, found = 0.0, bool(rest)
    while rest:
        part = _PART.match(rest)
        if part is None:
            found = False
            break
        number, unit = (part[1], part[2]) if part[1] is not None else (part[3], part[4])
        total += float(number) * UNITS[unit]
        rest = rest[part.end():].lstrip()
    if not found or total <= 0:
        raise ValueError(f"'{'' if text is None else text}' is not a time; write seconds, or 30m, 12h, 1d 6h")
    return total


def convert(param: Any, value: object) -> object:
    """Convert text to the type of a parameter: choices by name or number, yes and no for switches, None for an empty number.

    Raises
    ------
    ValueError : the text is not valid for the parameter; says what is.
    """
    from pyworkflow.protocol import BooleanParam, EnumParam, FloatParam, IntParam

    if not isinstance(value, str):
        return value
    if isinstance(param, EnumParam):
        return _choice([str(choice) for choice in param.choices], value)
    if isinstance(param, BooleanParam):
        words = {"true": True, "yes": True, "1": True, "on": True, "false": False, "no": False, "0": False, "off": False}
        if value.strip().lower() not in words:
            raise ValueError("write yes or no")
        return words[value.strip().lower()]
    if isinstance(param, (IntParam, FloatParam)):
        return _number(int if isinstance(param, IntParam) else float, value.strip())
    return value


def _choice(choices: list[str], value: str) -> int:
    """Return the number of a choice given by its name (whatever its case) or its number."""
    names = [choice.lower() for choice in choices]
    word = value.strip().lower()
    if word in names:
        return names.index(word)
    if not word.isdigit() or int(word) >= len(names):
        raise ValueError(f"the choices are {', '.join(choices)}")
    return int(word)


def _number(kind: type[int] | type[float], text: str) -> int | float | None:
    """Return a number, None for empty text."""
    if not text:
        return None
    try:
        return kind(text)
    except ValueError:
        raise ValueError("write a whole number" if kind is int else "write a number") from None
