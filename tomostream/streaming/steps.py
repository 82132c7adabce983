# SPDX-License-Identifier: GPL-3.0-or-later
"""The list of steps that Scipion shows (steps.sqlite): new rows are appended, changed ones updated, none is kept in memory.

pyworkflow rewrites the whole list each time. It is a log for the eye: nothing is decided from it.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from typing import Any

from pyworkflow.protocol import STATUS_ABORTED
from pyworkflow.protocol.protocol import FunctionStep, StepSet


class Finished:
    """What is left of a step that ended: its status. 60,000 of them would fill the memory with arguments."""

    _prerequisites = ()

    @staticmethod
    def isFinished() -> bool:
        return True

    @staticmethod
    def isNew() -> bool:
        return False

    isRunning = isWaiting = isFailed = isNew


class StepLog:
    """The steps of a run, those of its earlier processes included.

    Parameters
    ----------
    path : steps.sqlite of the run.
    warn : is told that the list was damaged.
    seconds : for how long to wait for a list that is locked.

    Raises
    ------
    An error of the database : it cannot be opened now.
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
        #: Rows of earlier processes stay: ids go on after them.
        self.before: int = self._mapper.maxId() or 0

    @property
    def changed(self) -> bool:
        """Whether a step that is stored has changed."""
        return bool(self._changed)

    def note(self, step: Any) -> None:
        """Note that a step began or ended."""
        self._changed[step.getObjId()] = step

    def store(self, steps: list[Any]) -> list[Any]:
        """Append what is new and update what changed; the steps that changed."""
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
    """Return the steps of the processes before. The list is not written safely, so after a power failure it may be no database
    any more: then a new one is started."""
    try:
        connection = sqlite3.connect(path, timeout=seconds)
        try:
            connection.execute("PRAGMA quick_check").fetchone()
        finally:
            connection.close()
    except sqlite3.OperationalError:        # locked for so long, or out of reach: pyworkflow says it
        pass
    except sqlite3.DatabaseError as error:
        warn(f"The list of steps was damaged ({error}); a new one is started. No result depends on it.")
        os.replace(path, f"{path}.damaged")
    steps = StepSet(filename=path)
    steps.setStore(False)
    return steps
