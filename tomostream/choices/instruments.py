# SPDX-License-Identifier: GPL-3.0-or-later
"""The remembered sign of the tilt angles of each instrument, in a small JSON file.

The file is the user's own, or the one named by `TOMOSTREAM_INSTRUMENTS`, which a whole facility may share.
"""

from __future__ import annotations

import getpass
import json
import os
from dataclasses import asdict, dataclass
from datetime import datetime, timezone

from tomostream.files import locks
from tomostream.files.writing import write_text

VARIABLE = "TOMOSTREAM_INSTRUMENTS"
DESCRIPTION = ("File (JSON) that remembers the sign of the tilt angles of each instrument; a facility may share one among all "
               "its users. Empty: tomostream/instruments.json in the user's own configuration folder.")
AS_GIVEN, NEGATED = "as-given", "negated"
#: The version of the format.
FORMAT = 1


@dataclass(frozen=True)
class Entry:
    """The choice for one instrument: angles (as-given or negated), when, by whom, from which series, and the evidence."""

    angles: str
    date: str
    user: str
    series: str
    evidence: str = ""

    @property
    def negated(self) -> bool:
        return self.angles == NEGATED


def path() -> str:
    """Return the path of the file."""
    given = os.environ.get(VARIABLE, "").strip()
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return os.path.expanduser(given) if given else os.path.join(base, "tomostream", "instruments.json")


def key_of(name: str) -> str:
    """Return the key for a name: names that differ only in case and blanks mean the same instrument."""
    return " ".join(name.split()).casefold()


def read() -> dict[str, Entry]:
    """Return everything that is remembered: name -> entry.

    Raises
    ------
    ValueError : the file is there and cannot be read; names it.
    """
    try:
        with open(path(), encoding="utf-8") as file:
            data = json.load(file)
        entries = {str(name): Entry(**entry) for name, entry in data["instruments"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path()} cannot be read ({error}): fix or remove it") from error
    wrong = next((name for name, entry in entries.items() if entry.angles not in (AS_GIVEN, NEGATED)), None)
    if wrong is not None:
        raise ValueError(f"{path()}: the angles of {wrong} are '{entries[wrong].angles}'; write {AS_GIVEN} or {NEGATED}")
    return entries


def remembered(name: str) -> Entry | None:
    """Return the entry of an instrument; None if nothing is remembered.

    Raises
    ------
    ValueError : the file cannot be read.
    """
    return {key_of(known): entry for known, entry in read().items()}.get(key_of(name)) if name.strip() else None


def remember(name: str, angles: str, series: str, evidence: str = "") -> str:
    """Remember the choice for an instrument, replacing an earlier one. Returns the path of the file.

    Raises
    ------
    ValueError : the name is empty, or the file cannot be read or written.
    """
    if not name.strip():
        raise ValueError("give the instrument a name: the choice is remembered for it")
    target = path()
    try:
        os.makedirs(os.path.dirname(os.path.abspath(target)), exist_ok=True)
        with locks.writing(target):         # a facility's users may choose at the same time
            entries = {known: entry for known, entry in read().items() if key_of(known) != key_of(name)}
            today = datetime.now(timezone.utc).strftime("%Y-%m-%d")
            entries[" ".join(name.split())] = Entry(angles, today, _user(), series, evidence)
            kept = {each: asdict(entry) for each, entry in sorted(entries.items())}
            write_text(target, json.dumps({"format": FORMAT, "instruments": kept}, indent=1))
    except OSError as error:
        raise ValueError(f"{target} cannot be written: {(error.strerror or str(error)).lower()}") from error
    return target


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""
