# SPDX-License-Identifier: GPL-3.0-or-later
"""What people think of each series: good, bad, or to look at again, and a note. Kept beside the page, for whoever opens it."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from typing import Annotated, Literal, get_args

import msgspec

from tomostream.files.locks import writing
from tomostream.files.writing import write_text
from tomostream.report import tables

FILE, SCRIPT = "marks.json", os.path.join("data", "marks.js")
MarkName = Literal["", "good", "bad", "look-again"]
Note = Annotated[str, msgspec.Meta(max_length=500)]


class Mark(msgspec.Struct, frozen=True):
    """What a person thinks of a series; `time` in seconds since the epoch: of two marks the newer counts."""

    mark: MarkName = ""
    note: Note = ""
    time: float = 0.0


def read(out: str) -> dict[str, Mark]:
    """Return series -> mark, for the page in folder `out`.

    Raises
    ------
    ValueError : the file is invalid, perhaps edited by hand; names it.
    """
    path = os.path.join(out, FILE)
    try:
        with open(path, "rb") as file:
            return msgspec.json.decode(file.read(), type=dict[str, Mark])
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.DecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error}): fix or remove it") from error


def put(out: str, series_id: str, mark: Mark) -> None:
    """Store the mark of a series, unless there is a newer one.

    Raises
    ------
    OSError : it cannot be written.
    ValueError : the file of the marks cannot be read.
    """
    path = os.path.join(out, FILE)
    with writing(path):
        known = read(out)
        if series_id in known and known[series_id].time > mark.time:
            return
        write(out, {**known, series_id: mark})


def write(out: str, marks: Mapping[str, Mark]) -> None:
    """Write all marks, for programs and for the page."""
    os.makedirs(os.path.join(out, "data"), exist_ok=True)
    write_text(os.path.join(out, FILE), msgspec.json.format(msgspec.json.encode(dict(marks)), indent=1).decode() + "\n")
    write_text(os.path.join(out, SCRIPT), tables.script("marks", msgspec.to_builtins(dict(marks))))


def revision(out: str) -> int:
    """Return a number that changes whenever the marks do; 0 without any."""
    try:
        return os.stat(os.path.join(out, FILE)).st_mtime_ns // 1_000_000
    except OSError:
        return 0


def marks_in(path: str) -> dict[str, Mark]:
    """Return series -> mark from a list saved by the page: a CSV with the columns series_id, mark and note. Mere names have no
    marks.

    Raises
    ------
    OSError : it cannot be read.
    ValueError : it names no series.
    """
    names = series_in(path)
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = {row[0].strip(): row[1:] for row in csv.reader(file) if row}
    known: dict[str, MarkName] = {name: name for name in get_args(MarkName)}
    found = {name: [*rows[name], "", ""] for name in names}
    return {name: Mark(known.get(cells[0].strip(), ""), cells[1][:500]) for name, cells in found.items()}


def series_in(path: str) -> list[str]:
    """Return the series in a list: the first column of a CSV as saved by the page, or one name per line.

    Raises
    ------
    OSError : it cannot be read.
    ValueError : it names no series.
    """
    with open(path, encoding="utf-8-sig", newline="") as file:
        names = [row[0].strip() for row in csv.reader(file) if row and row[0].strip()]
    names = names[1:] if names[:1] == ["series_id"] else names
    if not names:
        raise ValueError(f"{path} names no series: write one per line, or save the list from the page")
    return list(dict.fromkeys(names))
