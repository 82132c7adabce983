# SPDX-License-Identifier: GPL-3.0-or-later
"""The jobs that a run has in the queue, noted in its folder, so that `stop --now`, or whoever continues a run whose process is
gone, can cancel them: nobody uses their results any more, and they would hold GPUs. Jobs that the scheduler does not cancel,
because it does not answer, stay noted and are cancelled when it takes jobs again.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from tomostream.files.logs import counted
from tomostream.files.writing import write_text
from tomostream.streaming.queue import NoAnswer, ask, is_unknown

#: In `extra` of a run: a JSON object with `cancel`, the command with JOB_ID in it, and `jobs`, their numbers.
NAME = "queue-jobs.json"


@dataclass(frozen=True)
class Cancelled:
    """How many jobs were cancelled, and which were not, with the scheduler's message."""

    number: int = 0
    left: tuple[str, ...] = ()
    why: str = ""

    def in_words(self) -> str:
        """Return both in words, to be added to a sentence; "" if there were no jobs."""
        done = f"{counted(self.number, 'job')} in the queue cancelled" if self.number else ""
        left = f"{counted(len(self.left), 'job')} not ({', '.join(self.left)}: {self.why})" if self.left else ""
        return f"{done}, {left}" if done and left else done or (left and f"cancelled {left}")


class Submitted:
    """Notes the jobs of a process while they run. Thread-safe.

    Parameters
    ----------
    path : the file. Jobs already in it were left by an earlier process.
    cancel : the command that cancels a job, with %(JOB_ID)s in it.
    """

    def __init__(self, path: str, cancel: str) -> None:
        self._path, self._cancel = path, cancel
        self._left = _read(path)[1]
        self._jobs: list[str] = []
        self._cancelling = False
        self._lock = threading.Lock()

    def add(self, job: str) -> int:
        """Note a job that was submitted. The scheduler evidently answers, so leftover jobs are cancelled; returns how many."""
        with self._lock:
            self._jobs.append(job)
            self._write()
            if self._cancelling or not self._left:
                return 0
            self._cancelling = True
        cancelled = cancel_jobs(self._cancel, self._left)
        with self._lock:
            self._left, self._cancelling = list(cancelled.left), False
            self._write()
        return cancelled.number

    def remove(self, job: str) -> None:
        """Note that a job is over."""
        with self._lock:
            self._jobs.remove(job)
            self._write()

    def _write(self) -> None:
        _note(self._path, self._cancel, [*self._left, *self._jobs])


def _read(path: str) -> tuple[str, list[str]]:
    """Return the command that cancels a job, and the jobs noted; none if the file is missing or invalid."""
    try:
        with open(path, encoding="utf-8") as file:
            kept = json.load(file)
        return str(kept["cancel"]), [str(job) for job in kept["jobs"]]
    except (OSError, ValueError, KeyError, TypeError):
        return "", []


def _note(path: str, cancel: str, jobs: Sequence[str]) -> None:
    with contextlib.suppress(OSError):      # on a full disk: the job would run to its end
        write_text(path, json.dumps({"cancel": cancel, "jobs": jobs}) + "\n")


def cancel_jobs(command: str, jobs: Sequence[str]) -> Cancelled:
    """Cancel jobs; one that the scheduler does not know has ended.

    Parameters
    ----------
    command : with %(JOB_ID)s in it.
    """
    left: list[str] = []
    number, why = 0, ""
    for place, job in enumerate(jobs):
        try:
            status, said = ask(command % {"JOB_ID": job})
        except NoAnswer as error:           # asking about the others would be useless too
            return Cancelled(number, (*left, *jobs[place:]), str(error))
        except (KeyError, TypeError, ValueError):       # the command cannot be filled in
            return Cancelled(number)
        if status == 0:
            number += 1
        elif not is_unknown(said):
            left.append(job)
            why = " ".join(said.split())[-200:] or f"exit status {status}"
    return Cancelled(number, tuple(left), why)


def cancel_left(run: str) -> Cancelled:
    """Cancel the jobs that a dead process left in the queue.

    Parameters
    ----------
    run : folder of the run, which no process may be running.
    """
    path = os.path.join(run, "extra", NAME)
    command, jobs = _read(path)
    cancelled = cancel_jobs(command, jobs)
    if cancelled.left:
        _note(path, command, cancelled.left)
    else:
        with contextlib.suppress(OSError):
            os.remove(path)
    return cancelled
