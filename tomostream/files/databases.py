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

#: Seconds for which the writer of a database may be in the middle of something.
LOCKED_SECONDS = 1.0


def select(path: str, query: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
    """Return the rows that a query finds in a database as it was last committed.

    A process that was killed while it wrote leaves a journal, which SQLite wants to roll back before anybody reads: that is done
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
            shutil.copyfile(path, copy)                             # before its journal, which has what was there before
            shutil.copyfile(f"{path}-journal", f"{copy}-journal")
            return _read(f"file:{quote(copy)}", query, values)
    except OSError:             # committed meanwhile, or no room for a copy
        return _read(f"file:{quote(path)}?mode=ro", query, values)


def _read(uri: str, query: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(uri, uri=True, timeout=LOCKED_SECONDS)) as connection:
        return list(connection.execute(query, tuple(values)))
