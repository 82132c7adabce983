# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the programs of a run work: their folders, the GPUs and cores they hold, their command lines and logs."""

from __future__ import annotations

import contextlib
import itertools
import os
import shlex
import shutil
import threading
from collections.abc import Mapping
from typing import Any, Protocol

from tomostream.files.logs import last_words, one_sentence
from tomostream.streaming.cores import hold_cores
from tomostream.streaming.executor import JobEnded
from tomostream.streaming.gpus import gpu_lock
from tomostream.streaming.tickets import Stopped
from tomostream.streaming.work import Postponed

#: Programs write here first; what is complete is renamed into extra/.
WORK_FOLDER = ".work"
#: Numbers the work folders of this process.
_NUMBERS = itertools.count(1)


class Host(Protocol):
    """What is needed of the protocol."""

    stop_event: threading.Event
    _stepsExecutor: Any

    def runJob(self, program: str, arguments: str, env: Mapping[str, str] | None = None) -> None:
        """Run a command line, here or as a job of the queue."""


class Workplace:
    """Runs programs in work folders below `root`, which is on the same disk as the results of the run."""

    def __init__(self, host: Host, root: str) -> None:
        self._host = host
        self.root = root
        self._session = os.path.realpath(os.curdir)         # Scipion works in the folder of the project

    def clear(self) -> None:
        """Remove what earlier processes of this run left behind."""
        shutil.rmtree(self.root, ignore_errors=True)

    def folder(self, name: str) -> str:
        """Return an empty folder for one run of a program, never used again: a job whose submission seemed to fail may run after
        all."""
        folder = os.path.join(self.root, str(os.getpid()), str(next(_NUMBERS)), name)
        os.makedirs(folder)
        return folder

    @staticmethod
    def discard(folder: str) -> None:
        """Remove a work folder."""
        shutil.rmtree(os.path.dirname(folder), ignore_errors=True)

    def hold_gpus(self) -> contextlib.AbstractContextManager[None]:
        """Hold the GPUs of this thread's step while its program runs. Jobs of a queue use those of their nodes."""
        executor = self._host._stepsExecutor
        if not executor.here:
            return contextlib.nullcontext()
        return gpu_lock(executor.getGpuList(), self._host.stop_event, self._session)

    def hold_cores(self, wanted: int) -> contextlib.AbstractContextManager[None]:
        """Hold cores of this machine while a CPU program runs. Jobs of a queue use those that the queue gives them."""
        if not self._host._stepsExecutor.here:
            return contextlib.nullcontext()
        return hold_cores(wanted, self._host.stop_event, self._session)

    def run(self, program: str, arguments: str, log: str, env: Mapping[str, str] | None = None) -> str:
        """Run a command line (here or through the queue) with its output in `log`; return the end of that log.

        An exit status proves nothing either way, so it is reported but not judged: the caller checks the files.

        Raises
        ------
        Postponed : the queue takes no jobs now.
        Stopped : the session was stopped while the job waited for the queue to take it.
        """
        status = ""
        try:
            self._host.runJob(program, gpu_command(f"{arguments} > {shlex.quote(log)} 2>&1"), env=env)
        except JobEnded as error:
            return str(error)
        except (Postponed, Stopped):
            raise
        except Exception as error:  # noqa: BLE001 - runJob raises whatever its executor does
            status = f"the program ended with an error ({one_sentence(error)[:200]})"
        return last_words(log) or status


def gpu_command(line: str) -> str:
    """Return a command line in which pyworkflow will fill in the GPUs (`%(GPU)s`) by formatting, with any other % doubled."""
    return line.replace("%", "%%").replace("%%(GPU)s", "%(GPU)s") if "%(GPU)s" in line else line
