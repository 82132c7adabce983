# SPDX-License-Identifier: GPL-3.0-or-later
"""New and replaced rows of another protocol's output, read from its SQLite file."""

from __future__ import annotations

import gc
import re
import sqlite3
from typing import Any

#: Milliseconds that a reader waits for a lock before it gives up until the next turn.
BUSY_MS = 1000


def know_tables(items: Any) -> Any:
    """Make an open set ask SQLite whether it has a table, where pyworkflow lists all tables of the file; return the set."""
    database = items._getMapper().db
    database.hasTable = lambda name: has_table(database.connection, name)
    return items


def has_table(connection: sqlite3.Connection, name: str) -> bool:
    """Tell whether there is a table of this name in a database."""
    return connection.execute("SELECT 1 FROM pragma_table_info(?) LIMIT 1", (name,)).fetchone() is not None


def first_item(items: Any) -> Any:
    """Return a copy of the first item of an open set; None where it has none.

    Not `getFirstItem`: it leaves the query behind it half read, which keeps everybody else from writing until it is collected.
    """
    first = [item.clone() for item in items.iterItems(limit=1)]
    return first[0] if first else None


def let_go(items: Any) -> None:
    """Close a set of which something may have been read, but not to its end (a first image): that holds a lock.

    pyworkflow's readers are circles, and closing a connection does not end what is being read through it: its own query is ended,
    and those of the sets in it are collected.
    """
    if items._mapper is not None:
        items._mapper.db.cursor.close()
    items.close()
    gc.collect()


class RowReader:
    """Rows of a Scipion set, each once, in the order in which they were committed, and again when they were replaced.

    Works for sets whose ids grow with every commit (`Set.append` gives the next id). Upstream protocols that copy the ids of
    their input may add a lower id later: when the count does not match, all ids are compared. On an error of SQLite (locked,
    unreadable) `trouble` says why, and the rows are returned the next time.
    """

    def __init__(self, items: Any, replacements: str) -> None:
        self.items = items
        self._quick = None
        self._last_id = 0
        self._known: set[int] = set()
        self._replacements_table = replacements
        self._ids_grow = True
        self._versions: dict[int, int] = {}
        self._last_replacement = 0
        self.trouble = ""

    def read(self) -> tuple[list[Any], bool]:
        """Return (rows that are new or were replaced since the last call, whether the set is closed). Rows are clones.

        All or nothing: what cannot be read now is returned the next time. The state is read together with the rows, so closed
        means that these are the last ones.
        """
        try:
            result = self._read()
        except database_errors() as error:
            self.trouble = f"{self.items.getFileName()} cannot be read now ({words_of(error)})"
        else:
            self.trouble = ""
            return result
        self.release()      # after the handler: the error keeps alive what was half read
        return [], False

    def release(self) -> None:
        """Let go of the file, whose writer would wait: an idle protocol collects no garbage. See `let_go`."""
        self._quick = None
        let_go(self.items)

    def _read(self) -> tuple[list[Any], bool]:
        mapper = self.items._getMapper()
        if mapper._objTemplate is None:     # opened when the file had no tables yet
            self.items.close()
            mapper = self.items._getMapper()
            if mapper._objTemplate is None:
                return [], False
        if mapper is not self._quick:
            self._quick = know_tables(self.items)._getMapper()
        connection = mapper.db.connection
        connection.execute(f"PRAGMA busy_timeout={BUSY_MS}")       # pyworkflow would wait for a lock for 1000 s
        connection.execute("BEGIN")         # one snapshot: a row and its version belong together
        try:
            return self._read_snapshot(mapper, connection)
        finally:
            connection.rollback()

    def _read_snapshot(self, mapper: Any, connection: Any) -> tuple[list[Any], bool]:
        closed = mapper.getProperty("_streamState") == str(self.items.STREAM_CLOSED)
        replaced = self._replaced(connection)
        rows = [item.clone() for item in self.items.iterItems(where=f"id>{self._last_id}")]
        new = {row.getObjId() for row in rows}
        if not self._ids_grow:
            count = connection.execute("SELECT count(*) FROM Objects").fetchone()[0]
            if count != len(self._known) + len(new):
                rows += self._late(new)
        again = {item_id for _, item_id, _ in replaced} - {row.getObjId() for row in rows}
        rows += [item.clone() for item in map(self.items.__getitem__, sorted(again)) if item is not None]
        self._took(rows, replaced)
        return rows, closed

    def _late(self, new: set[int]) -> list[Any]:
        known = self._known | new
        return [row.clone() for row in self.items.iterItems() if row.getObjId() not in known]

    def _took(self, rows: list[Any], replaced: list[tuple[int, int, int]]) -> None:
        """Note rows as read, now that everything was read."""
        if rows:
            self._known.update(row.getObjId() for row in rows)
            self._last_id = max(self._last_id, *(row.getObjId() for row in rows))
        if replaced:
            self._last_replacement = replaced[-1][0]
            self._versions.update((item_id, version) for _, item_id, version in replaced)

    def _replaced(self, connection: Any) -> list[tuple[int, int, int]]:
        """Return (running number, id, version) of the rows that were replaced."""
        self._ids_grow = has_table(connection, self._replacements_table)
        if not self._ids_grow:          # an upstream set: nothing is replaced, ids may come late
            return []
        return [tuple(row) for row in connection.execute(
            f"SELECT seq, item_id, version FROM {self._replacements_table} WHERE seq>? ORDER BY seq",
            (self._last_replacement,))]

    def version_of(self, item_id: int) -> int:
        """Return the version of a row: 1, or that of its last replacement."""
        return self._versions.get(item_id, 1)


def database_errors() -> tuple[type[Exception], ...]:
    """Return the errors raised when a database cannot be read or written now: SQLite's, the disk's and pyworkflow's wrapper."""
    from pyworkflow.mapper.sqlite import SqliteFlatMapperException

    return sqlite3.Error, OSError, SqliteFlatMapperException


def words_of(error: BaseException) -> str:
    """Return SQLite's own message, without the lines that pyworkflow wraps around it."""
    inner = re.search(r"(?:\berror:|selectAll command:)\s*([^\n]+)", str(error))
    return (inner[1] if inner else " ".join(str(error).split())).rstrip(". ")
