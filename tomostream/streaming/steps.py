# SPDX-License-Identifier: GPL-3.0-or-later
"""The list of steps that Scipion shows (steps.sqlite): new rows are appended, changed ones updated, none is kept in memory.

pyworkflow rewrites the whole list each time. It is for display only: nothing is decided by it.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from typing import Any

from pyworkflow.protocol import STATUS_ABORTED
from pyworkflow.protocol.protocol import FunctionStep, StepSet


class Finished:
    """Takes the place of a step that ended: the arguments of 60,000 of them would fill the memory."""

    _prerequisites = ()

    @staticmethod
    def isFinished() -> bool:
        return True

    @staticmethod
    def isNew() -> bool:
        return False

    isRunning = isWaiting = isFailed = isNew


class StepLog:
    """The steps of a run, including those of its earlier processes. Raises database errors when it cannot be opened now.

    Parameters
    ----------
    path : steps.sqlite of the run.
    warn : called with a sentence if the list was damaged.
    seconds : for how long to wait for a locked list.
    """

    def __init__(self, path: str, warn: Callable[[str], None], seconds: float) -> None:
        self._steps = open_steps(path, warn, seconds)
        self._mapper = self._steps._getMapper()
        self._stored = 0
        self._changed: dict[int, Any] = {}
        database = self._mapper.db
        columns = FunctionStep(None, "turn").getObjDict(includeClass=True)
        if self._mapper.doCreateTables:
            database.createTables(columns)
            self._mapper.doCreateTables = False
        else:
            database.setupCommands(columns)
            column = database._getRealCol("status")
            database.executeCommand(f"UPDATE Objects SET {column}='{STATUS_ABORTED}' WHERE {column}='running'")
            self._mapper.commit()
        database.executeCommand("PRAGMA synchronous=OFF")
        #: The last id of earlier processes, whose rows stay.
        self.before: int = self._mapper.maxId() or 0

    @property
    def changed(self) -> bool:
        """Whether a step that is stored has changed."""
        return bool(self._changed)

    def note(self, step: Any) -> None:
        """Note that a step began or ended."""
        self._changed[step.getObjId()] = step

    def store(self, steps: list[Any]) -> list[Any]:
        """Append what is new and update what changed; return the steps that changed."""
        changed = list(self._changed.values())
        first = self._stored == 0
        for step in steps[self._stored:]:
            self._mapper.insert(step)
            self._changed.pop(step.getObjId(), None)
        self._stored = len(steps)
        for step in self._changed.values():
            self._mapper.updateTo(step)
        self._changed.clear()
        self._mapper.commit()
        if first:
            self._steps.write()
        return changed


def open_steps(path: str, warn: Callable[[str], None], seconds: float) -> StepSet:
    """Return the steps of earlier processes. The list is written without syncing, so a power failure may damage it: then a new
    one is started."""
    try:
        connection = sqlite3.connect(path, timeout=seconds)
        try:
            connection.execute("PRAGMA quick_check").fetchone()
        finally:
            connection.close()
    except sqlite3.OperationalError:        # still locked, or out of reach: pyworkflow will raise
        pass
    except sqlite3.DatabaseError as error:
        warn(f"The list of steps was damaged ({error}); a new one is started. No result depends on it.")
        os.replace(path, f"{path}.damaged")
    steps = StepSet(filename=path)
    steps.setStore(False)
    return steps
