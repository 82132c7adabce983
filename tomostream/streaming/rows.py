# SPDX-License-Identifier: GPL-3.0-or-later
"""New and replaced rows of another protocol's output, read from its SQLite file."""

from __future__ import annotations

import gc
import re
import sqlite3
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")
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


class RowReader(Generic[T]):
    """Rows of a Scipion set, each once, in the order in which they were committed, and again when they were replaced.

    Works for sets whose ids grow with every commit (`Set.append` gives the next id). Upstream protocols that copy the ids of
    their input may add a lower id later: when the count does not match, all ids are compared. On an error of SQLite (locked,
    unreadable) `trouble` says why, and the rows are returned the next time.

    Parameters
    ----------
    items : the set.
    replacements : the table in which its writer notes which rows were replaced.
    take : returns what is kept of a row. pyworkflow uses one object for all rows, and a copy of it costs more than the reading:
        a protocol that is continued would hold copies of all 60,000 movies of a long session at once.
    """

    def __init__(self, items: Any, replacements: str, take: Callable[[Any], T]) -> None:
        self.items = items
        self._take = take
        self._quick: Any = None
        self._seen: int | None = None
        self._closed = False
        self._last_id = 0
        self._known: set[int] = set()
        self._replacements_table = replacements
        self._ids_grow = True
        self._versions: dict[int, int] = {}
        self._last_replacement = 0
        self.trouble = ""

    def read(self) -> tuple[list[T], bool]:
        """Return (what `take` returns of the rows that are new or were replaced since the last call, whether the set is closed).

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

    def _read(self) -> tuple[list[T], bool]:
        mapper = self.items._getMapper()
        if mapper._objTemplate is None:     # opened when the file had no tables yet
            self.items.close()
            mapper = self.items._getMapper()
            if mapper._objTemplate is None:
                return [], False
        if mapper is not self._quick:
            mapper = self._quick = know_tables(self.items)._getMapper()
            self._seen = None
            mapper.db.connection.execute(f"PRAGMA busy_timeout={BUSY_MS}")     # pyworkflow would wait for a lock for 1000 s
        connection = mapper.db.connection
        # Another one after every commit of anybody else. By the cursor of the set: a query of its own that was half read ends so,
        # which would keep it as it was.
        (seen,), = mapper.db.executeCommand("PRAGMA data_version").fetchall()
        if seen == self._seen:
            return [], self._closed
        connection.execute("BEGIN")         # one snapshot: a row and its version belong together
        try:
            found = self._read_snapshot(mapper, connection)
        finally:
            connection.rollback()
        self._seen = seen
        return found, self._closed

    def _read_snapshot(self, mapper: Any, connection: Any) -> list[T]:
        closed = mapper.getProperty("_streamState") == str(self.items.STREAM_CLOSED)
        replaced = self._replaced(connection)
        found = {item.getObjId(): self._take(item) for item in self.items.iterItems(where=f"id>{self._last_id}")}
        if not self._ids_grow:
            count = connection.execute("SELECT count(*) FROM Objects").fetchone()[0]
            if count != len(self._known) + len(found):
                found |= self._late(self._known | found.keys())
        again = {item_id for _, item_id, _ in replaced} - found.keys()
        found |= {item.getObjId(): self._take(item) for item in map(self.items.__getitem__, sorted(again)) if item is not None}
        self._took(found, replaced)
        self._closed = closed
        return list(found.values())

    def _late(self, known: set[int]) -> dict[int, T]:
        return {item.getObjId(): self._take(item) for item in self.items.iterItems() if item.getObjId() not in known}

    def _took(self, found: dict[int, T], replaced: list[tuple[int, int, int]]) -> None:
        """Note rows as read, now that everything was read."""
        if found:
            self._last_id = max(self._last_id, *found)
        if not self._ids_grow:
            self._known.update(found)
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
