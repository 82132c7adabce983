# SPDX-License-Identifier: GPL-3.0-or-later
"""Command lines of the programs taken apart and put together; values that they interpret differently from forms."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence


def phase_search(lowest: float, highest: float) -> list[str]:
    """Return values of -ExtPhase: AreTomo2 and AreTomo3 take the middle of the range and its full width, in degrees."""
    return [f"{(lowest + highest) / 2:g}", f"{highest - lowest:g}"]


def words_of_flags(flags: Mapping[str, Sequence[str]]) -> str:
    """Return flags with their values as a command line."""
    return " ".join(" ".join([flag, *map(quote_word, values)]) for flag, values in flags.items())


def quote_word(word: str) -> str:
    """Return a word of a command line for the shell; Scipion's GPU placeholder stays as it is."""
    return word if word == "%(GPU)s" else shlex.quote(word)


def parse_flags(command: str) -> dict[str, list[str]]:
    """Return the flags of a command line with their values; a repeated flag replaces the earlier one. -5 is a value."""
    flags: dict[str, list[str]] = {}
    flag = ""
    for word in shlex.split(command):
        if word.startswith("-") and word.lstrip("-")[:1].isalpha():
            flag = word
            flags[flag] = []
        else:
            flags.setdefault(flag, []).append(word)
    return flags


def tilt_axis_word(tilt_axis: float | None) -> str:
    """Return the tilt axis for AreTomo2, degrees: 0 requests a full search, so an axis known to be 0 is passed as 0.01."""
    if tilt_axis is None:
        return "0"
    return "0.01" if tilt_axis == 0 else f"{tilt_axis:g}"
