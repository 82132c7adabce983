# SPDX-License-Identifier: GPL-3.0-or-later
"""Output sets that others can read while they grow, and that hold every item exactly once.

Only the main thread of a protocol touches these. A set is opened empty, with its tables, so that the next protocol can be
launched before the first item exists. A commit is all or nothing, the tables of a tilt series included: when the disk is
full or the file is locked, it is rolled back and retried, with the items kept in memory.

The cost of an item must not grow with the set. pyworkflow checks whether a table exists by listing all tables, and a file with
a thousand tilt series has thousands: `know_tables` makes it ask SQLite for that one. And every reader parses the whole schema
again after each new tilt series, so the tables of a series have the same names, columns and types as pyworkflow's, but not the
clauses that are slow to parse (`create_tables`).

An additional table, `TomostreamReplaced`, tells readers which rows were replaced by a higher version. It is written in the same
transaction as the row, and upstream's readers never look at it.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyworkflow.object import Set

from tomostream.files.databases import readers_of
from tomostream.streaming.rows import database_errors, know_tables, words_of

REPLACED = "TomostreamReplaced"
_CREATE = (f"CREATE TABLE IF NOT EXISTS {REPLACED} (seq INTEGER PRIMARY KEY AUTOINCREMENT, item_id INTEGER, "
           "item_key TEXT, version INTEGER)")
_PROPERTY = ("INSERT INTO Properties (key, value) VALUES (?, ?) "
             "ON CONFLICT(key) DO UPDATE SET value=excluded.value")
_NEVER = object()
_ADD = f"INSERT INTO {REPLACED} (item_id, item_key, version) VALUES (?, ?, ?)"


#: Milliseconds that a commit waits for a lock before it is postponed; pyworkflow would wait for 1000 s.
BUSY_MS = 2000


class NotCommitted(Exception):
    """The set could not be written now (disk full, locked); nothing of the change is visible. Try again."""


@dataclass(frozen=True)
class _Change:
    """A change waiting for its commit."""

    key: str
    apply: Callable[[], None]


def create_tables(database: Any, columns: Mapping[str, Sequence[Any]]) -> None:
    """Create the tables of a set inside a set (a tilt series), without a commit.

    For a reader they equal those of pyworkflow's `createTables`: names, columns, types, row id. Left out are UNIQUE and
    AUTOINCREMENT of the table of classes, which nobody uses, and "DEFAULT NULL", which is the default.
    """
    prefix = database.tablePrefix
    database.executeCommand(f"CREATE TABLE {prefix}Classes (id INTEGER PRIMARY KEY, label_property TEXT, column_name TEXT, "
                            "class_name TEXT)")
    definitions = ["id INTEGER PRIMARY KEY", "enabled INTEGER DEFAULT 1", "label TEXT", "comment TEXT", "creation DATE"]
    for number, (label, (class_name, *_)) in enumerate(columns.items()):
        column = f"c{number:02d}"
        database.executeCommand(database.INSERT_CLASS, (label, column, class_name))
        if number > 0:      # the first is the item itself
            definitions.append(f"{column} {database.CLASS_MAP.get(class_name, 'TEXT')}")
    database.executeCommand(f"CREATE TABLE {prefix}Objects ({', '.join(definitions)})")


class OutputSet:
    """One output of a protocol.

    Parameters
    ----------
    items : the Scipion set, with its mapper path given.
    template : an item with the attributes that all items will have. It defines the columns and is not stored.
    key_attribute : the attribute that identifies an item, e.g. "_micName" or "_tsId".
    """

    def __init__(self, items: Set, template: Any, key_attribute: str) -> None:
        self.items = items
        self.key_attribute = key_attribute
        self._template = template
        self._waiting: list[_Change] = []
        self._properties: dict[str, str | None] = {}
        self._broken = False
        self._create_tables()
        self.ids: dict[str, int] = self._read_ids()
        self.items._idCount = max(self.ids.values(), default=0)     # None in a set that is there and empty
        self.versions: dict[str, int] = self._read_versions()

    # ------------------------------------------------------------------ opening
    @property
    def mapper(self) -> Any:
        return self.items._getMapper()

    @property
    def connection(self) -> sqlite3.Connection:
        return self.mapper.db.connection

    def _create_tables(self) -> None:
        mapper = self.mapper
        self.connection.execute(f"PRAGMA busy_timeout={BUSY_MS}")
        columns = self._template.getObjDict(includeClass=True)
        if mapper.doCreateTables:
            mapper.db.createTables(columns)
            mapper.doCreateTables = False
        else:
            self._add_columns(columns)
            mapper.db.setupCommands(columns)
        mapper.getAttributes2Store(self._template)
        know_tables(self.items)
        self.connection.execute(_CREATE)
        self.connection.commit()

    def _add_columns(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """Add the columns that items have gained since the release that made the file, after all others."""
        known = [row[0] for row in self.connection.execute("SELECT label_property FROM Classes ORDER BY id")]
        if known != list(columns)[:len(known)]:
            return
        for number, (label, (class_name, *_)) in enumerate(list(columns.items())[len(known):], start=len(known)):
            column = f"c{number:02d}"
            self.connection.execute("INSERT INTO Classes (label_property, column_name, class_name) VALUES (?, ?, ?)",
                                    (label, column, class_name))
            self.connection.execute(f"ALTER TABLE Objects ADD COLUMN {column} {self.mapper.db.CLASS_MAP.get(class_name, 'TEXT')}")

    def _column(self, attribute: str) -> str:
        return self.mapper.db._getRealCol(attribute)

    def _read_ids(self) -> dict[str, int]:
        rows = self.connection.execute(f"SELECT id, {self._column(self.key_attribute)} FROM Objects")
        return {row[1]: row[0] for row in rows.fetchall()}

    def _read_versions(self) -> dict[str, int]:
        rows = self.connection.execute(f"SELECT item_key, max(version) FROM {REPLACED} GROUP BY item_key")
        replaced = dict(tuple(row) for row in rows.fetchall())
        return {key: replaced.get(key, 1) for key in self.ids}

    def __contains__(self, key: str) -> bool:
        return key in self.ids

    # ------------------------------------------------------------------ changing
    def put(self, key: str, item: Any, version: int = 1, children: Iterable[Any] | None = None) -> None:
        """Add an item, or replace the one with that key, at the next `commit`. `children`: tilt images of a tilt series."""
        self._waiting.append(_Change(key, lambda: self._put(key, item, version, children)))

    def mark(self) -> int:
        """Return how many changes are waiting; see `take_back`."""
        return len(self._waiting)

    def take_back(self, mark: int) -> None:
        """Drop the changes made since `mark`."""
        del self._waiting[mark:]

    def remove(self, key: str) -> None:
        """Remove an item, if it is there, at the next commit."""
        if key in self.ids:
            self._waiting.append(_Change(key, lambda: self._remove(key)))

    def _put(self, key: str, item: Any, version: int, children: Iterable[Any] | None) -> None:
        old = self.ids.get(key)
        item.setObjId(self.items._idCount + 1 if old is None else old)
        if children is not None:
            self._write_children(item, children)
        if old is None:
            # Not Set.append: it opens the first image for its size, and commits a tilt series before its images.
            self.items._idCount += 1
            self.mapper.insert(item)
            self.items._size.increment()
            self.ids[key] = item.getObjId()
        else:
            self.mapper.updateTo(item)
        if old is not None or version > 1:
            self.connection.execute(_ADD, (self.ids[key], key, version))
        self.versions[key] = version

    def _write_children(self, item: Any, children: Iterable[Any]) -> None:
        """Fill the tables of a tilt series (or CTF series), in the same file and the same transaction."""
        self.items._setItemMapperPath(item)     # tables are named by tsId in tilt series, by id in CTF series
        mapper = item._getMapper()
        children = list(children)
        columns = children[0].getObjDict(includeClass=True)
        if not mapper.doCreateTables:       # an earlier version, perhaps with other columns
            for table in ("Objects", "Classes"):
                mapper.db.executeCommand(f"DROP TABLE {mapper.db.tablePrefix}{table}")
        create_tables(mapper.db, columns)
        mapper.doCreateTables = False
        mapper.db.setupCommands(columns)
        item._size.set(0)
        item._idCount = 0
        for number, child in enumerate(children, start=1):      # not item.append: it opens the stack for its size
            if hasattr(child, "setTsId"):
                child.setTsId(item.getTsId())
            child.setObjId(number)
            mapper.insert(child)
        item._size.set(len(children))
        item._idCount = len(children)
        for flag, question in (("_hasAlignment", "hasTransform"), ("_hasOddEven", "hasOddEven")):
            if hasattr(item, flag):
                getattr(item, flag).set(getattr(children[-1], question)())

    def _remove(self, key: str) -> None:
        if key not in self.ids:
            return
        self.connection.execute("DELETE FROM Objects WHERE id=?", (self.ids.pop(key),))
        self.versions.pop(key, None)
        self.items._size.set(max(0, self.items.getSize() - 1))

    @property
    def dirty(self) -> bool:
        return bool(self._waiting)

    def commit(self) -> bool:
        """Make all waiting changes visible; True when there were any.

        Raises
        ------
        NotCommitted : with SQLite's message; what is not visible waits for the next call.
        """
        changed = bool(self._waiting)
        if changed:
            self._commit_all(self._waiting)
            self._waiting = []
        return changed

    def _commit_all(self, batch: list[_Change]) -> None:
        undo = self._remember(batch)
        try:
            if self._broken:
                self._create_tables()
                self._broken = False
            if not self.connection.in_transaction:      # sqlite3 begins none before a CREATE TABLE
                self.connection.execute("BEGIN IMMEDIATE")
            for change in batch:
                change.apply()
            self.write_properties()
            self.connection.commit()
        except database_errors() as error:
            self._roll_back(undo)
            raise NotCommitted(self._why(error)) from error

    def _remember(self, batch: list[_Change]) -> tuple[Any, ...]:
        keys = {change.key for change in batch}
        return ({key: self.ids.get(key) for key in keys}, {key: self.versions.get(key) for key in keys},
                self.items.getSize(), self.items._idCount)

    def _roll_back(self, undo: tuple[Any, ...]) -> None:
        ids, versions, size, count = undo
        self._properties.clear()
        try:
            self.connection.rollback()
        except database_errors():
            self.items.close()          # a broken connection: the next use opens a new one
            self._broken = True
        for known, old in ((self.ids, ids), (self.versions, versions)):
            for key, value in old.items():
                if value is None:
                    known.pop(key, None)
                else:
                    known[key] = value
        self.items._size.set(size)
        self.items._idCount = count

    def write_properties(self) -> None:
        """Write the changed properties (size, stream state, ...) in the same transaction as the rows.

        Not with `mapper.setProperty`, which lists all tables of the file twice for each property: a set of a thousand tilt series
        has thousands of tables.
        """
        values = {key: None if value is None else str(value) for key, value in self.items.getObjDict().items()}
        values["self"] = self.items.getClassName()
        changed = [(key, value) for key, value in values.items() if self._properties.get(key, _NEVER) != value]
        self.connection.executemany(_PROPERTY, changed)
        self._properties.update(changed)

    def set_stream_state(self, state: int) -> None:
        """Open or close the stream, committed.

        Raises
        ------
        NotCommitted : see `commit`.
        """
        try:
            self.items.setStreamState(state)
            self.write_properties()
            self.connection.commit()
        except database_errors() as error:
            self._properties.clear()
            with contextlib.suppress(*database_errors()):
                self.connection.rollback()
            raise NotCommitted(self._why(error)) from error

    def _why(self, error: BaseException) -> str:
        """Return why nothing was committed; if the file is locked also by whom, because that process may have to be ended."""
        words = words_of(error)
        readers = readers_of(self.items.getFileName()) if "locked" in words else []
        return words + (f": {' and '.join(readers)} {'keeps' if len(readers) == 1 else 'keep'} reading {self.items.getFileName()}"
                        if readers else "")


class OutputSets(dict[str, OutputSet]):
    """The outputs of a protocol by name, in the order in which they were opened: other protocols read the first one."""

    @property
    def dirty(self) -> bool:
        """Whether anything waits for its commit."""
        return any(output.dirty for output in self.values())

    @contextlib.contextmanager
    def all_or_none(self) -> Iterator[None]:
        """Drop the rows put in this context if it raises."""
        marks = {name: output.mark() for name, output in self.items()}
        try:
            yield
        except Exception:
            for name, mark in marks.items():
                self[name].take_back(mark)
            raise

    def commit(self) -> bool:
        """Write what is waiting; tell whether anything was. Secondary outputs are written first and the one that others read
        last, so that what is in the last is in all of them.

        Raises
        ------
        NotCommitted : an output cannot be written now.
        """
        waiting = [output for output in self.values() if output.dirty]
        for output in reversed(waiting):
            output.commit()
        return bool(waiting)

    def close(self) -> None:
        """Tell all readers that nothing more will come.

        Raises
        ------
        NotCommitted : an output cannot be written now.
        """
        for output in self.values():
            output.set_stream_state(Set.STREAM_CLOSED)
