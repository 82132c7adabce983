# SPDX-License-Identifier: GPL-3.0-or-later
"""SQLite files of other processes, read without writing to them."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Sequence
from contextlib import closing
from typing import Any
from urllib.parse import quote

#: Seconds to wait for a writer that is in the middle of something.
LOCKED_SECONDS = 1.0


def select(path: str, query: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
    """Return the rows that a query finds in a database as last committed.

    A process that was killed while writing leaves a journal, which SQLite wants to roll back before anybody reads. That is done
    in a copy, because the file may be another user's, and its own process rolls it back when it is continued.

    Raises
    ------
    sqlite3.Error : there is no such database or table, or it cannot be read now.
    """
    try:
        return _read(f"file:{quote(path)}?mode=ro", query, values)
    except sqlite3.OperationalError:
        if not os.path.exists(f"{path}-journal"):
            raise
    try:
        with tempfile.TemporaryDirectory(prefix="tomostream-") as folder:
            copy = os.path.join(folder, "copy.db")
            shutil.copyfile(path, copy)                             # before its journal, which holds the earlier content
            shutil.copyfile(f"{path}-journal", f"{copy}-journal")
            return _read(f"file:{quote(copy)}", query, values)
    except OSError:             # committed in the meantime, or no room for a copy
        return _read(f"file:{quote(path)}?mode=ro", query, values)


def _read(uri: str, query: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(uri, uri=True, timeout=LOCKED_SECONDS)) as connection:
        return list(connection.execute(query, tuple(values)))


def readers_of(path: str) -> list[str]:
    """Return the other processes of this machine that are in the middle of reading a database, as "process 12
    (Runs/000631_ProtImod)": meanwhile nobody can write. Empty if the system does not tell, or nobody is."""
    try:
        status = os.stat(path)
        with open("/proc/locks", encoding="ascii", errors="replace") as file:
            lines = [line.split() for line in file]
    except OSError:
        return []
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    found = {int(words[4]) for words in lines if words[1] == "POSIX" and words[3] == "READ" and words[5] == place}
    return [f"process {number}{_named(number)}" for number in sorted(found - {os.getpid()})]


def _named(process: int) -> str:
    """Return what a process is, in brackets: the folder of its protocol, else its program."""
    try:
        with open(f"/proc/{process}/cmdline", encoding="utf-8", errors="replace") as file:
            words = file.read().split("\0")
    except OSError:
        return ""
    protocol = next((os.path.dirname(os.path.dirname(word)) for word in words if word.endswith("logs/run.db")), "")
    return f" ({protocol or os.path.basename(words[0])})"
