# SPDX-License-Identifier: GPL-3.0-or-later
"""A step executor that sleeps on a condition, so that a step starts when it can and not at the next tick.

One loop, in the main thread. A turn: collect the steps that ended, start what is ready, let the protocol take its own turn
(register, watch, decide), start what that made ready, store the steps. Then sleep until somebody calls `wake()` or the
protocol's next deadline comes. The executors of pyworkflow sleep 3 s after every turn in which nothing was launched.
"""

from __future__ import annotations

import collections
import fcntl
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable
from contextlib import contextmanager

from pyworkflow.protocol import constants
from pyworkflow.protocol.executor import QueueStepExecutor, StepThread, ThreadStepExecutor
from pyworkflow.protocol.launch import UNKNOWN_JOBID, _checkJobStatus, _submit
from pyworkflow.utils import process

#: Seconds between two looks at a job in the queue. Upstream's wait grows to 300 s.
QUEUE_POLL_SECONDS = 3.0
#: How many programs one GPU may run at the same time, over all protocols of this machine.
PROGRAMS_PER_GPU = "TOMOSTREAM_PROGRAMS_PER_GPU"


#: What SLURM, PBS, Grid Engine and LSF write when they end a job: time, memory, or somebody's wish.
_ENDED_BY_QUEUE = re.compile(r"TIME LIMIT|CANCELLED AT|PREEMPTION|OOM.?KILL|OUT.OF.MEMORY|walltime .*exceeded|TERM_\w+", re.I)


class JobEnded(Exception):
    """The queue ended a job before its program was done; the words are the queue's."""


class GpuSlots:
    """Which step has which GPUs. Keyed by the step object: its id may still be None when it starts."""

    def __init__(self, lists: Iterable[Iterable[int]]) -> None:
        self._free = collections.deque(list(gpus) for gpus in lists)
        self._taken: dict[int, list[int]] = {}

    def __bool__(self) -> bool:
        return bool(self._free)

    def take(self, step) -> None:
        self._taken[id(step)] = self._free.popleft()

    def of(self, step) -> list[int]:
        return self._taken.get(id(step), [])

    def give(self, step) -> None:
        gpus = self._taken.pop(id(step), None)
        if gpus is not None:
            self._free.append(gpus)


#: Descriptors of the lock files that this thread's program inherits.
_HELD = threading.local()


@contextmanager
def gpu_lock(gpus: Iterable[int], stop: threading.Event | None = None):
    """Hold the GPUs against every other tomostream protocol of this machine while a program runs.

    One lock file a GPU and slot, in the machine's temporary folder; the kernel frees it when its holders are gone. The
    program inherits it: one that outlives a killed protocol keeps its GPU. GPUs are taken in ascending order, so two
    protocols that want the same pair cannot wait for each other.
    """
    held: list = []
    try:
        for gpu in sorted(set(gpus)):
            held.append(_lock_one(gpu, stop or threading.Event()))
        _HELD.descriptors = tuple(file.fileno() for file in held)
        yield
    finally:
        _HELD.descriptors = ()
        for file in held:
            file.close()


def _lock_one(gpu: int, stop: threading.Event):
    slots = max(1, int(os.environ.get(PROGRAMS_PER_GPU, "1")))
    name = os.path.join(tempfile.gettempdir(), f"tomostream-gpu-{socket.gethostname()}-{gpu}")
    files = [_open_lock(f"{name}-{slot}.lock") for slot in range(slots)]
    try:
        while True:
            for file in files:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    continue
                files.remove(file)
                return file
            if stop.wait(0.2):
                raise InterruptedError("stopped while waiting for a GPU")
    finally:
        for file in files:
            file.close()


def _open_lock(path: str):
    """Open a lock file, also one that another user made: reading is enough to lock, and the kernel forbids more."""
    try:
        return open(path, "rb")
    except FileNotFoundError:
        descriptor = os.open(path, os.O_CREAT | os.O_RDONLY, 0o644)
        os.fchmod(descriptor, 0o644)        # whatever the umask: other users lock it too
        return os.fdopen(descriptor, "rb")


class Worker(StepThread):
    """Runs one step and tells the loop. `thId` and `needsGPU()` of the parent class stay: `runJob` relies on them."""

    def __init__(self, step, lock: threading.Lock, ended: Callable) -> None:
        super().__init__(step, lock)
        self.daemon = True
        self._ended = ended

    def run(self) -> None:
        super().run()
        self._ended(self.step)


class EventLoop:
    """Mixin over ThreadStepExecutor and QueueStepExecutor. `steps[0]` is the protocol's own turn; it takes no thread."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.slots = GpuSlots(self.gpuDict.values())
        self._use_gpus = bool(self.gpuDict)
        self._condition = threading.Condition()
        self._awake = False
        self._ended: list = []
        self.newest_first = False

    @classmethod
    def adopt(cls, old) -> EventLoop:
        """An event-driven executor with the settings of the one that pyworkflow chose."""
        workers = getattr(old, "numberOfProcs", 1)
        if isinstance(old, QueueStepExecutor):
            return EventQueueStepExecutor(old.hostConfig, old.submitDict, workers, gpuList=old.gpuList)
        return EventStepExecutor(old.hostConfig, workers, gpuList=old.gpuList)

    def wake(self) -> None:
        """From any thread: take a turn now."""
        with self._condition:
            self._awake = True
            self._condition.notify()

    def getGpuList(self):
        return self.slots.of(getattr(threading.current_thread(), "step", None))

    def _step_ended(self, step) -> None:
        with self._condition:
            self._ended.append(step)
            self._awake = True
            self._condition.notify()

    def runSteps(self, steps, stepStartedCallback, stepFinishedCallback, stepsCheckCallback, stepsCheckSecs=1):
        turn = _Turn(self, steps, stepStartedCallback, stepFinishedCallback)
        turn.begin()
        while turn.take():
            stepsCheckCallback()
            with self._condition:
                if not self._awake:
                    self._condition.wait(self.protocol.seconds_to_next_turn(stepsCheckSecs))
        turn.end()
        stepsCheckCallback()


class _Turn:
    """The state of one run of the loop."""

    def __init__(self, loop: EventLoop, steps, started, finished) -> None:
        self.loop, self.steps, self.started, self.finished = loop, steps, started, finished
        self.ready: collections.deque = collections.deque()
        self.running: dict[int, object] = {}        # by id(): a FunctionStep has __eq__ without __hash__
        self.seen, self.generator, self.go = 1, steps[0], True
        self.lock = threading.Lock()

    def begin(self) -> None:
        self.generator.setRunning()
        self.started(self.generator)

    def take(self) -> bool:
        """One turn; False when nothing is left to do."""
        loop = self.loop
        with loop._condition:
            ended, loop._ended, loop._awake = loop._ended, [], False
        for step in ended:
            loop.slots.give(step)
            self.running.pop(id(step), None)
            self.go = self.finished(step) and self.go
        if self.go:
            self.start()
            if self.generator.isRunning():
                self._generate()
            new = self.steps[self.seen:]
            self.seen = len(self.steps)
            if loop.newest_first:
                self.ready.extendleft(new)
            else:
                self.ready.extend(new)
            self.start()
        idle = not self.running and not loop._ended
        return not (idle and (not self.go or not self.generator.isRunning()))

    def _generate(self) -> None:
        try:
            if self.generator._func(*self.generator._args):
                self.generator.setFinished()
        except Exception as error:  # noqa: BLE001 - the protocol must end as failed, with the reason, whatever it was
            self.loop.protocol._log.error("The protocol stops: %s", error, exc_info=error)
            self.generator.setFailed(str(error) or type(error).__name__)

    def start(self) -> None:
        """Start what is ready, in order; a step that waits for a GPU does not hold up one that needs none."""
        skipped = []
        while self.ready and len(self.running) < self.loop.numberOfProcs:
            step = self.ready.popleft()
            if self.loop._use_gpus and step.needsGPU():
                if not self.loop.slots:
                    skipped.append(step)
                    continue
                self.loop.slots.take(step)
            step.setRunning()
            self.started(step)
            self.running[id(step)] = step
            Worker(step, self.lock, self.loop._step_ended).start()
        self.ready.extendleft(reversed(skipped))

    def end(self) -> None:
        self.finished(self.generator)


class EventStepExecutor(EventLoop, ThreadStepExecutor):
    """On this machine."""

    def runJob(self, log, programName, params, numberOfMpi=1, numberOfThreads=1, env=None, cwd=None, executable=None):
        """As upstream's, but the program inherits the GPU locks of its thread, and the log gets one line without colours.

        Raises
        ------
        subprocess.CalledProcessError : the exit status was not 0.
        """
        command = process.buildRunCommand(programName, params, numberOfMpi, self.hostConfig, env,
                                          gpuList=self._getGPUListForCommand(programName, params),
                                          context=self.protocol.getSubmitDict()).strip()
        attempt = getattr(getattr(threading.current_thread(), "step", None), "attempt", None)
        log.info("%sruns %s", "" if attempt is None else f"{attempt.task.key}: ", command)
        with subprocess.Popen(command, shell=True, stdin=subprocess.DEVNULL, stdout=sys.stdout, stderr=sys.stderr, env=env,
                              cwd=cwd, executable=executable, pass_fds=getattr(_HELD, "descriptors", ())) as child:
            status = child.wait()
        if status != 0:
            raise subprocess.CalledProcessError(status, programName)


class EventQueueStepExecutor(EventLoop, QueueStepExecutor):
    """Through Scipion's queue. `runJob` follows upstream's with a constant poll, and hands job ids to the main loop:
    upstream writes run.db from the step's thread."""

    def runJob(self, log, programName, params, numberOfMpi=1, numberOfThreads=1, env=None, cwd=None, executable=None):
        """Submit a job and wait until the queue no longer knows it.

        Raises
        ------
        JobEnded : the queue says that it ended the job before the program was done.
        RuntimeError : the queue refused the job.
        """
        job, logs = self._submit_job(programName, params, numberOfMpi, env, cwd)
        self.protocol.jobs_changed(started=job)
        wait = threading.Event()
        try:
            while _checkJobStatus(self.hostConfig, job) == constants.STATUS_RUNNING:
                wait.wait(QUEUE_POLL_SECONDS)
        finally:
            self.protocol.jobs_changed(ended=job)
        said = words_of_queue(logs)
        if said:
            raise JobEnded(f"the queue ended job {job}: {said}")

    def _submit_job(self, program, params, mpi, env, cwd):
        """Submit; return the job's number, and the path of its own logs without their endings."""
        step = threading.current_thread().thId
        submit = dict(self.hostConfig.getQueuesDefault())
        submit.update(self.submitDict)
        tail = f"-{step}-{self.getThreadJobId(step)}"
        submit["JOB_NAME"] += tail
        submit["JOB_SCRIPT"] = os.path.abspath(os.path.splitext(submit["JOB_SCRIPT"])[0] + tail + ".job")
        submit["JOB_LOGS"] = os.path.join(os.path.dirname(submit["JOB_SCRIPT"]), submit["JOB_NAME"])
        submit["JOB_COMMAND"] = process.buildRunCommand(
            program, params, mpi, self.hostConfig, env, gpuList=self._getGPUListForCommand(program, params),
            context=submit)
        job, error = _submit(self.hostConfig, submit, cwd, env)
        if job is None or job == UNKNOWN_JOBID:
            raise RuntimeError(f"The queue refused the job. {error or ''}".strip())
        return job, submit["JOB_LOGS"]


def words_of_queue(logs: str) -> str:
    """What a queue wrote into a job's own logs (path without the endings) when it ended the job; "" when it did not."""
    for ending in (".err", ".out"):
        try:
            with open(f"{logs}{ending}", encoding="utf-8", errors="replace") as file:
                said = [line.strip() for line in file if _ENDED_BY_QUEUE.search(line)]
        except OSError:
            continue
        if said:
            return said[-1][:200]
    return ""
