# SPDX-License-Identifier: GPL-3.0-or-later
"""The live page written by a process of its own, which nobody waits for: `tomostream report --follow`, at low priority.

It outlives the protocol that starts it, ends when the session has ended, and there is never more than one for a page.
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

#: By which the process that writes a page is known.
WORDS = ("report", "--follow", "--background")
LOCK, LOG, THRESHOLDS = ".lock", "report.log", "thresholds.json"


def start(project: str, thresholds: Sequence[str] | None = None) -> subprocess.Popen[bytes]:
    """Start writing the page of a project in the background; returns at once. What it says goes to report/report.log.

    `thresholds` are those of the whole session, kept beside the page for whoever goes on with it; None: as they were.

    Raises
    ------
    OSError : the folder of the page cannot be made, or the process not be started.
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
    """The thresholds of a session, as its form gave them, with those of a command line on top; follows the file."""

    def __init__(self, project: str, words: Sequence[str] = ()) -> None:
        self._path = os.path.join(os.path.abspath(project), REPORT, THRESHOLDS)
        self._words = list(words)
        self._stamp: int | None = None

    def read(self) -> Thresholds:
        """Return the thresholds as they are now.

        Raises
        ------
        ValueError : a word that is none.
        """
        try:
            self._stamp = os.stat(self._path).st_mtime_ns
            with open(self._path, encoding="utf-8") as file:
                kept = [str(word) for word in json.load(file)]
        except (OSError, ValueError, TypeError):
            kept = []
        return Thresholds.parse([*kept, *self._words])

    def changed(self) -> Thresholds | None:
        """Return the thresholds when somebody gave others since they were read; None when nobody did, or they make no sense."""
        try:
            if os.stat(self._path).st_mtime_ns == self._stamp:
                return None
            return self.read()
        except (OSError, ValueError):
            return None


class OnlyOne:
    """While this holds, no other process of this machine (or, where the disk can, of any) writes the same page."""

    def __init__(self, folder: str) -> None:
        self._path = os.path.join(folder, LOCK)
        self._lock: Lock | None = None

    def taken(self) -> bool:
        """Try to be the one; False when another is. A disk that knows no locks lets everybody."""
        self._lock = Lock(self._path)
        return self._lock.take()

    def release(self) -> None:
        if self._lock is not None:
            self._lock.close()
