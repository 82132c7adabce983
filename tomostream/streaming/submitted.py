# SPDX-License-Identifier: GPL-3.0-or-later
"""The jobs that a run has in the queue, kept in its folder: whoever ends the run at once, or continues one whose process is gone,
cancels them. What they make is of no use any more, and they would hold a GPU for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading

from tomostream.files.writing import write_text
from tomostream.streaming.queue import NoAnswer, ask

#: In `extra` of a run: a JSON object with `cancel`, the command with JOB_ID in it, and `jobs`, their numbers.
NAME = "queue-jobs.json"


class Submitted:
    """Notes the jobs of a process while they run; its threads may do so at the same time.

    Parameters
    ----------
    path : the file.
    cancel : the command that cancels a job, with %(JOB_ID)s in it.
    """

    def __init__(self, path: str, cancel: str) -> None:
        self._path, self._cancel = path, cancel
        self._jobs: list[str] = []
        self._lock = threading.Lock()

    def add(self, job: str) -> None:
        """Note a job that was submitted."""
        with self._lock:
            self._jobs.append(job)
            self._write()

    def remove(self, job: str) -> None:
        """Note that a job is over."""
        with self._lock:
            self._jobs.remove(job)
            self._write()

    def _write(self) -> None:
        with contextlib.suppress(OSError):      # a full disk: the job would run to its end
            write_text(self._path, json.dumps({"cancel": self._cancel, "jobs": self._jobs}) + "\n")


def cancel_left(run: str) -> int:
    """Cancel the jobs that a process that is gone has left in the queue; returns how many were cancelled.

    Parameters
    ----------
    run : folder of the run. No process may be at work on it.
    """
    path = os.path.join(run, "extra", NAME)
    try:
        with open(path, encoding="utf-8") as file:
            kept = json.load(file)
        command, jobs = str(kept["cancel"]), [str(job) for job in kept["jobs"]]
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    cancelled = 0
    for job in jobs:
        try:
            cancelled += ask(command % {"JOB_ID": job})[0] == 0
        except (NoAnswer, KeyError, TypeError, ValueError):     # the others would not be answered either
            break
    with contextlib.suppress(OSError):
        os.remove(path)
    return cancelled
