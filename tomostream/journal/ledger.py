# SPDX-License-Identifier: GPL-3.0-or-later
"""The ledger of a protocol: one table of what happened to every movie and every series, and why.

`extra/ledger.csv` has the columns time (seconds since the epoch), item, event, reason (a sentence) and evidence (JSON).
It is only ever appended to, by one process; any number of processes read it, each from where it stopped. It tells, it
does not decide: what is done is read from the output sets. Pure: the report reads it too.
"""

from __future__ import annotations

import csv
import io
import json
import os
import time as clock
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

NAME = "ledger.csv"
#: Seconds since the epoch that no clock of a session reaches (the year 5138).
LATEST = 1e11
COLUMNS = ("time", "item", "event", "reason", "evidence")

# ---- events. A movie ends as IMPORTED and ALIGNED, or FAILED; a series as COMPOSED and RECONSTRUCTED, or FAILED.
IMPORTED, ALIGNED, COMPOSED, RECONSTRUCTED = "imported", "aligned", "composed", "reconstructed"
FAILED, WAITING, STARTED, RETRIED, REPLACED = "failed", "waiting", "started", "retried", "replaced"
#: A series as the compose protocol sees it; evidence holds state, tilts seen / aligned / expected.
SERIES = "series"
#: Of a series that is not complete: of which tilts a preview can be made.
PREVIEW = "preview"
#: In a command line that is told once for many movies: the movie's file, and the name of its output without the extension.
MOVIE, OUTPUT = "{movie}", "{output}"
#: Nothing is wrong: this mdoc is no tilt series (a map, a montage).
NOT_A_SERIES = "not-a-series"
#: Which movies no series lists, all of them each time; evidence holds them with their reasons. Item is "".
UNASSIGNED = "unassigned"
#: The protocol itself: item is "".
SESSION = "session"


@dataclass(frozen=True)
class Entry:
    """One line of a ledger."""

    time: float
    item: str
    event: str
    reason: str = ""
    evidence: Mapping[str, object] = field(default_factory=dict)


def path_in(protocol_folder: str) -> str:
    """Where the ledger of a protocol lies, given its working folder."""
    return os.path.join(protocol_folder, "extra", NAME)


class Ledger:
    """The writing end. A full disk never stops the protocol: lines wait in memory and are written when they can be."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._pending: list[str] = []
        self.trouble = ""
        self._mend()

    def _mend(self) -> None:
        """A killed process may have left half a line: end it, so that the next line is whole."""
        try:
            with open(self.path, "rb+") as file:
                file.seek(0, os.SEEK_END)
                if file.tell():
                    file.seek(-1, os.SEEK_END)
                    if file.read(1) != b"\n":
                        file.write(b"\n")
        except FileNotFoundError:
            self._pending.append(",".join(COLUMNS) + "\n")
        except OSError as error:
            self.trouble = str(error)

    def write(self, item: str, event: str, reason: str = "", evidence: Mapping[str, object] | None = None,
              time: float | None = None) -> Entry:
        """Append one line. It is on its way to the disk when this returns, or kept for the next try."""
        entry = Entry(clock.time() if time is None else time, item, event, reason, evidence or {})
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(
            [f"{entry.time:.3f}", item.replace("\n", " ").replace("\r", " "), event, " ".join(reason.split()),
             json.dumps(entry.evidence, default=str) if entry.evidence else ""])
        self._pending.append(text.getvalue())
        self.flush()
        return entry

    def flush(self) -> bool:
        """Write what is pending; False (and `trouble` says why) when the disk does not take it."""
        if not self._pending:
            return True
        try:
            with open(self.path, "ab", buffering=0) as file:        # a buffer would be written once more at the end
                size, data = file.tell(), "".join(self._pending).encode(errors="backslashreplace")     # names of files are bytes
                try:
                    while data:
                        data = data[file.write(data):]
                except OSError:
                    file.truncate(size)     # half of it may have been written before the disk was full
                    raise
        except OSError as error:
            self.trouble = str(error)
            return False
        self._pending.clear()
        self.trouble = ""
        return True


class LedgerReader:
    """The reading end: `new()` gives the entries written since it was last asked. A half-written last line waits."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._offset = 0

    def new(self) -> list[Entry]:
        """New entries, oldest first; none when the file does not exist yet or cannot be read now."""
        try:
            with open(self.path, "rb") as file:
                if file.seek(0, os.SEEK_END) < self._offset:     # made anew: the run was restarted
                    self._offset = 0
                file.seek(self._offset)
                data = file.read()
        except OSError:
            return []
        whole = data[:data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return list(parse(whole.decode("utf-8", errors="replace")))


def parse(text: str) -> Iterator[Entry]:
    """Entries of ledger text; lines that are not whole (a killed writer), or of no time, are passed over."""
    for line in text.replace("\0", "").split("\n"):      # each by itself: a quotation that a killed writer left open ends with it
        row = next(csv.reader([line]), [])
        if len(row) != len(COLUMNS) or row[0] == COLUMNS[0]:
            continue
        try:
            entry = Entry(float(row[0]), row[1], row[2], row[3], json.loads(row[4]) if row[4] else {})
        except ValueError:
            continue
        if 0 <= entry.time < LATEST and isinstance(entry.evidence, dict):
            yield entry


def read(path: str) -> list[Entry]:
    """All entries of a ledger."""
    return LedgerReader(path).new()
