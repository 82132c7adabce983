# SPDX-License-Identifier: GPL-3.0-or-later
"""Writing the live page in a process of its own, at low priority: `tomostream report --follow`.

Nobody waits for it. It outlives the protocol that starts it, ends when the session has ended, and is the only one for its page.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence

from tomostream.files.locks import Lock
from tomostream.files.writing import write_text
from tomostream.journal.layout import REPORT
from tomostream.report.judging import Thresholds

#: The words in the command line by which the process is recognised.
WORDS = ("report", "--follow", "--background")
LOCK, LOG, THRESHOLDS = ".lock", "report.log", "thresholds.json"


def start(project: str, thresholds: Sequence[str] | None = None) -> subprocess.Popen[bytes]:
    """Start writing the page of a project in the background; returns at once. Its output goes to report/report.log.

    `thresholds` for the whole session are stored beside the page, for later writers; None keeps the stored ones.

    Raises
    ------
    OSError : the folder of the page cannot be made, or the process cannot be started.
    """
    folder = os.path.join(os.path.abspath(project), REPORT)
    os.makedirs(folder, exist_ok=True)
    if thresholds is not None:
        write_text(os.path.join(folder, THRESHOLDS), json.dumps(list(thresholds)) + "\n")
    launch = "import sys; from tomostream.cli import main; sys.exit(main())"
    with open(os.path.join(folder, LOG), "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-c", launch, *WORDS, os.path.abspath(project)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)


class SessionThresholds:
    """The thresholds of a session, from its form, overridden by those of a command line; follows changes of the form's."""

    def __init__(self, project: str, words: Sequence[str] = ()) -> None:
        self._path = os.path.join(os.path.abspath(project), REPORT, THRESHOLDS)
        self._words = list(words)
        self._stamp: int | None = None

    def read(self) -> Thresholds:
        """Return the current thresholds.

        Raises
        ------
        ValueError : a word is invalid.
        """
        try:
            self._stamp = os.stat(self._path).st_mtime_ns
            with open(self._path, encoding="utf-8") as file:
                kept = [str(word) for word in json.load(file)]
        except (OSError, ValueError, TypeError):
            kept = []
        return Thresholds.parse([*kept, *self._words])

    def changed(self) -> Thresholds | None:
        """Return the thresholds if they have changed since they were read and are valid; else None."""
        try:
            if os.stat(self._path).st_mtime_ns == self._stamp:
                return None
            return self.read()
        except (OSError, ValueError):
            return None


class OnlyOne:
    """A lock so that one process writes a page, on this machine or, where the disk supports it, on any."""

    def __init__(self, folder: str) -> None:
        self._path = os.path.join(folder, LOCK)
        self._lock: Lock | None = None

    def taken(self) -> bool:
        """Try to take the lock; False if another process has it. A disk without locks lets everybody have it."""
        self._lock = Lock(self._path)
        return self._lock.take()

    def release(self) -> None:
        if self._lock is not None:
            self._lock.close()
