# SPDX-License-Identifier: GPL-3.0-or-later
"""Step executors that sleep on a condition, so that a step starts as soon as it can and not at the next tick.

One loop, in the main thread. A turn: collect the steps that ended, start what is ready, let the protocol take its own turn
(register, watch, decide), start what that made ready, store the steps. Then sleep until somebody calls `wake()` or the
protocol's next deadline comes. pyworkflow's own executors sleep for 3 s after every turn in which nothing was launched.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any

from pyworkflow.protocol.executor import QueueStepExecutor, ThreadStepExecutor
from pyworkflow.protocol.launch import analyzeFormattingTypeError
from pyworkflow.utils import process

from tomostream.files.logs import counted, one_sentence
from tomostream.streaming.gpus import GpuSlots, inherited
from tomostream.streaming.loop import EventLoop
from tomostream.streaming.orphans import marked
from tomostream.streaming.queue import MARK_SECONDS, Jobs, JobState, NotTaken, is_marked, submit_job, with_mark, words_of_queue
from tomostream.streaming.submitted import NAME, Submitted
from tomostream.streaming.tickets import Stopped
from tomostream.streaming.work import MAX_POSTPONED_SECONDS, Attempt, next_pause


class JobEnded(Exception):
    """The queue ended a job before its program was done; the message is the queue's."""


class EventStepExecutor(EventLoop, ThreadStepExecutor):
    """On this machine."""

    def runJob(self, log: Any, programName: str, params: str, numberOfMpi: int = 1, numberOfThreads: int = 1,
               env: Any = None, cwd: str | None = None, executable: str | None = None) -> None:
        """As upstream, but the program inherits the GPU locks of its thread, and the log gets one line without colours.

        Raises
        ------
        subprocess.CalledProcessError : the exit status was not 0.
        """
        command = process.buildRunCommand(programName, params, numberOfMpi, self.hostConfig, env,
                                          gpuList=self._getGPUListForCommand(programName, params),
                                          context=self.protocol.getSubmitDict()).strip()
        attempt = _attempt()
        log.info("%sruns %s", "" if attempt is None else f"{attempt.task.key}: ", command)
        env = marked(env, self.protocol.workplace.root)
        with subprocess.Popen(command, shell=True, stdin=subprocess.DEVNULL, stdout=sys.stdout, stderr=sys.stderr, env=env,
                              cwd=cwd, executable=executable, pass_fds=inherited()) as child:
            status = child.wait()
        if status != 0:
            raise subprocess.CalledProcessError(status, programName)


class EventQueueStepExecutor(EventLoop, QueueStepExecutor):
    """Through Scipion's queue. `runJob` follows upstream's with a constant poll, and hands job ids to the main loop:
    upstream writes run.db from the step's thread."""

    here = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.jobs = Jobs(self.hostConfig.getCheckCommand(), self.hostConfig.getJobDoneRegex())
        gpus = list(self.gpuDict.values())
        if len(gpus) == 1:      # every job has a GPU of this number on its own node
            self.slots = GpuSlots(gpus * self.numberOfProcs)
        self._submitted: Submitted | None = None

    def trouble(self) -> str:
        return self.jobs.trouble

    def runJob(self, log: Any, programName: str, params: str, numberOfMpi: int = 1, numberOfThreads: int = 1,
               env: Any = None, cwd: str | None = None, executable: str | None = None) -> None:
        """Submit a job and wait until it has left its mark, or the scheduler says that it is over.

        Raises
        ------
        JobEnded : the queue ended the job before the program was done.
        NotTaken : the queue takes no jobs now; nothing is wrong with the item.
        Stopped : the session was stopped while an item that had begun waited for the queue to take its next job.
        """
        job, logs, mark = self._submit_in_turn(log, programName, params, numberOfMpi, env, cwd)
        self.jobs.add(job)
        submitted = self._noted()
        if cancelled := submitted.add(job):
            log.info("%s left over from an earlier process cancelled", counted(cancelled, "job"))
        self.protocol.jobs_changed(started=job)
        wait = threading.Event()
        try:
            while not is_marked(mark) and not self._is_over(job, logs):
                wait.wait(MARK_SECONDS)
        finally:
            self.jobs.remove(job)
            submitted.remove(job)
            self.protocol.jobs_changed(ended=job)
            with contextlib.suppress(OSError):
                os.remove(mark)
        said = words_of_queue(logs)
        if said:
            raise JobEnded(f"the queue ended job {job}: {said}")

    def _submit_in_turn(self, log: Any, *command: Any) -> tuple[str, str, str]:
        """Submit as `_submit_job` does. An item whose first job is refused is postponed; once it has begun, its next job waits
        here, for postponed it would start over. But a job that may run after all would write into the same files, and the rest
        of an outdated item is not needed: these are postponed."""
        attempt, pause = _attempt(), 0.0
        while True:
            try:
                submitted = self._submit_job(*command)
            except NotTaken as error:
                self.jobs.refusal = str(error)
                if attempt is None or not attempt.begun or attempt.outdated or error.unclear:
                    raise
                if not pause:
                    log.warning("%s: waits for the queue to take its next job", attempt.task.key)
                pause = next_pause(pause, MAX_POSTPONED_SECONDS)
                if self.protocol.stop_event.wait(pause):
                    raise Stopped("the session was stopped while it waited for the queue to take its next job") from error
            else:
                self.jobs.refusal = ""
                if attempt is not None:
                    attempt.begun = True
                return submitted

    def _noted(self) -> Submitted:
        """Return the list of this run's jobs that is kept on disk."""
        if self._submitted is None:
            extra = os.path.dirname(self.protocol.workplace.root)
            self._submitted = Submitted(os.path.join(extra, NAME), self.hostConfig.getCancelCommand())
        return self._submitted

    def _is_over(self, job: str, logs: str) -> bool:
        """Tell whether the scheduler says that a job is over, or no longer knows it and has written into its log that it ended
        it: SLURM forgets a cancelled job at once, and reports that it is unknown only after MinJobAge."""
        return self.jobs.state(job) is JobState.OVER or (self.jobs.is_silent(job) and bool(words_of_queue(logs)))

    def _submit_job(self, program: str, params: str, mpi: int, env: Any, cwd: str | None) -> tuple[str, str, str]:
        """Submit; return the job's number, the path of its logs without extension, and the path of its mark."""
        step = threading.current_thread().thId  # type: ignore[attr-defined]      # a thread of pyworkflow's
        submit = dict(self.hostConfig.getQueuesDefault())
        submit.update(self.submitDict)
        tail = f"-{step}-{self.getThreadJobId(step)}"
        submit["JOB_NAME"] += tail
        submit["JOB_SCRIPT"] = os.path.abspath(os.path.splitext(submit["JOB_SCRIPT"])[0] + tail + ".job")
        submit["JOB_LOGS"] = os.path.join(os.path.dirname(submit["JOB_SCRIPT"]), submit["JOB_NAME"])
        mark = f"{submit['JOB_LOGS']}.ended"
        with contextlib.suppress(FileNotFoundError):
            os.remove(mark)
        submit["JOB_COMMAND"] = with_mark(process.buildRunCommand(
            program, params, mpi, self.hostConfig, env, gpuList=self._getGPUListForCommand(program, params),
            context=submit), mark)
        self._write_script(submit)
        return submit_job(self.hostConfig.getSubmitCommand() % submit, cwd, env), submit["JOB_LOGS"], mark

    def _write_script(self, submit: Mapping[str, Any]) -> None:
        """Write the script of a job from Scipion's template.

        Raises
        ------
        NotTaken : the template cannot be filled in.
        """
        template = self.hostConfig.getSubmitTemplate()
        try:
            script = template % submit
        except (KeyError, TypeError, ValueError) as error:
            why = analyzeFormattingTypeError(template, submit) or error
            raise NotTaken(f"the template of the job in hosts.conf cannot be filled in: {one_sentence(why)}") from error
        with open(submit["JOB_SCRIPT"], "w", encoding="utf-8") as file:
            file.write(f"{script}\n\n")


def _attempt() -> Attempt | None:
    """Return the attempt whose step this thread runs; None in a thread that runs none."""
    return getattr(getattr(threading.current_thread(), "step", None), "attempt", None)


def adopt(old: Any) -> EventLoop:
    """Return an event-driven executor with the settings of the one that pyworkflow chose."""
    workers = getattr(old, "numberOfProcs", 1)
    if isinstance(old, QueueStepExecutor):
        return EventQueueStepExecutor(old.hostConfig, old.submitDict, workers, gpuList=old.gpuList)
    return EventStepExecutor(old.hostConfig, workers, gpuList=old.gpuList)
