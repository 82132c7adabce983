# SPDX-License-Identifier: GPL-3.0-or-later
"""What a scheduler says about the jobs of a protocol, and what its silence means.

A job is over when it has left its own mark (written after its program ended), or when the scheduler says so, be it in the job's
log. A scheduler that cannot be asked, does not answer, or has nothing to say about a job does not mean that the job has ended:
the controller may be restarting, and the program may go on writing.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from enum import Enum

from tomostream.streaming.work import Postponed

#: Seconds between two questions to the scheduler (about all jobs at once), and between two looks for a job's own mark.
QUEUE_POLL_SECONDS, MARK_SECONDS = 10.0, 1.0
#: Seconds to wait for an answer of the scheduler.
ANSWER_SECONDS = 30.0
#: A job counts as over when a scheduler that answers has had nothing to say about it for so many seconds: far longer than a
#: controller takes to start, and than SLURM remembers a job (MinJobAge, 300 s).
SILENT_SECONDS = 900.0

#: Seconds to wait for a submission.
SUBMIT_SECONDS = 120.0
#: A job that the scheduler does not know: SLURM, PBS, Grid Engine, LSF.
_NO_SUCH_JOB = re.compile(r"invalid job id|unknown job|job has finished|jobs? do(?:es)? not exist|job <?\d+\S* is not found|"
                          r"not a valid job", re.I)
#: What a scheduler's command says when the answer to its question was lost: the job may have been taken.
_ANSWER_LOST = re.compile(r"tim(?:ed|e)[ -]?out|send/recv|zero bytes|reset by peer|broken pipe|end of message", re.I)
#: States in which a job has ended, as a whole word.
_OVER = re.compile(r"\b(?:COMPLETED|CANCELLED|TIMEOUT|NODE_FAIL|OUT_OF_MEMORY|BOOT_FAIL|DEADLINE|EXIT|DONE)\b")
#: What SLURM, PBS, Grid Engine and LSF write when they end a job: time, memory, or somebody's wish.
_ENDED_BY_QUEUE = re.compile(r"TIME LIMIT|CANCELLED AT|PREEMPTION|OOM.?KILL|OUT.OF.MEMORY|walltime .*exceeded|TERM_\w+", re.I)


class JobState(str, Enum):
    """What is known of a job."""

    RUNNING = "running"
    OVER = "over"
    UNKNOWN = "not known"


class NotTaken(Postponed):
    """The queue takes no jobs now; the message says why. Nothing is wrong with the item.

    Parameters
    ----------
    unclear : no clear answer was given, so the job may run after all.
    """

    def __init__(self, why: str, unclear: bool = False) -> None:
        super().__init__(why)
        self.unclear = unclear


class NoAnswer(Exception):
    """The scheduler could not be asked; the message says why."""


def submit_job(command: str, cwd: str | None = None, env: Mapping[str, str] | None = None,
               seconds: float = SUBMIT_SECONDS) -> str:
    """Submit a job; return its number.

    Whatever prevents it (no such command, a controller that does not answer, a limit, an unknown queue) concerns the queue and
    not the job: all jobs wait until somebody has fixed it.

    Raises
    ------
    NotTaken : the scheduler did not take it, or gave no number; quotes what it said.
    """
    try:
        status, said = ask(command, seconds, cwd, env)
    except NoAnswer as error:
        raise NotTaken(str(error), unclear=True) from error
    number = _number(said)
    if status == 0 and number:
        return number
    words = " ".join(said.split())[-200:]
    raise NotTaken(f"'{command.split()[0]}' says: {words}" if words else
                   f"'{command.split()[0]}' ended with status {status} and gave no job number",
                   unclear=status == 0 or _ANSWER_LOST.search(said) is not None)


def _number(said: str) -> str:
    """Return the number of the job in a scheduler's answer; "" where it gives none. Warnings may hold numbers too, which would be
    somebody else's job: it is the number after "job" (SLURM, Grid Engine, LSF), else one at the beginning of a line (PBS,
    `sbatch --parsable`)."""
    found = re.search(r"\bjob(?:-array)?\s+<?(\d+)", said, re.I) or re.search(r"^\s*(\d+)", said, re.M)
    return found[1] if found else ""


def ask(command: str, seconds: float = ANSWER_SECONDS, cwd: str | None = None,
        env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run a command of the scheduler; return its exit status and output.

    Raises
    ------
    NoAnswer : it hangs, or cannot be run.
    """
    try:
        child = subprocess.Popen(command, shell=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                 stderr=subprocess.STDOUT, start_new_session=True, cwd=cwd, env=env)
    except OSError as error:
        raise NoAnswer(f"'{command}' cannot be run: {error}") from error
    with child:
        try:
            said, _ = child.communicate(timeout=seconds)
        except subprocess.TimeoutExpired as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            raise NoAnswer(f"'{command}' did not answer within {seconds:g} s") from error
    return child.returncode, said.decode(errors="replace")


class Jobs:
    """The jobs of one protocol. Threads ask about their own; the scheduler is asked about all of them at once.

    Parameters
    ----------
    command : Scipion's CHECK_COMMAND, with `%(JOB_ID)s`.
    done : Scipion's JOB_DONE_REGEX; "" or None where there is none.
    asking : runs a command of the scheduler; see `ask`.
    clock : steady seconds.
    """

    def __init__(self, command: str, done: str | None = None, asking: Callable[[str], tuple[int, str]] = ask,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self._command, self._asking, self._clock = command, asking, clock
        self._done = re.compile(done) if done else None
        self._lock = threading.Lock()
        self._states: dict[str, JobState] = {}
        self._silent_since: dict[str, float] = {}
        self._known_over: set[str] = set()
        self._next = 0.0
        self._trouble = ""
        #: Why the queue did not take the latest job; "" if it did.
        self.refusal = ""

    @property
    def trouble(self) -> str:
        """What is wrong with the scheduler; "" when nothing is, or there are no jobs."""
        if self.refusal:
            return f"the queue takes no jobs ({self.refusal}); they wait and are retried"
        return self._trouble and f"the queue does not answer ({self._trouble}); its jobs count as running"

    def add(self, job: str) -> None:
        with self._lock:
            if not self._states:
                self._next = self._clock() + QUEUE_POLL_SECONDS     # it was submitted just now: no need to ask yet
            self._states[job] = JobState.UNKNOWN

    def remove(self, job: str) -> None:
        with self._lock:
            self._states.pop(job, None)
            self._silent_since.pop(job, None)
            self._known_over.discard(job)
            if not self._states:
                self._trouble = ""

    def state(self, job: str) -> JobState:
        """Return what is known of a job; the first caller after the interval asks the scheduler about all."""
        with self._lock:
            if self._clock() >= self._next:
                self._look()
                self._next = self._clock() + QUEUE_POLL_SECONDS
            return self._states.get(job, JobState.UNKNOWN)

    def is_silent(self, job: str) -> bool:
        """Tell whether the scheduler, when last asked, answered and had nothing to say about a job."""
        with self._lock:
            return job in self._silent_since

    def _look(self) -> None:
        trouble = ""
        pending = [job for job, state in self._states.items() if state is not JobState.OVER]
        for group in self._questions(pending):
            try:
                found = self._answer(group)
            except NoAnswer as error:
                trouble = str(error)
                found = dict.fromkeys(group, JobState.UNKNOWN)
                for job in group:
                    self._silent_since.pop(job, None)
            self._states.update({job: self._confirmed(job, state) for job, state in found.items()})
        self._trouble = trouble

    def _confirmed(self, job: str, state: JobState) -> JobState:
        """Count a job as over only when that is reported twice: a controller that just started may not know its jobs yet."""
        if state is not JobState.OVER:
            self._known_over.discard(job)
            if state is JobState.RUNNING:
                self._silent_since.pop(job, None)
            return state
        if job in self._known_over:
            return state
        self._known_over.add(job)
        return JobState.UNKNOWN

    def _questions(self, jobs: list[str]) -> Iterable[list[str]]:
        """Group jobs into questions: SLURM takes many at once, others one at a time."""
        together = bool(re.match(r"\s*(?:\S*/)?squeue\b", self._command))
        return ([jobs] if jobs else []) if together else [[job] for job in jobs]

    def _answer(self, jobs: list[str]) -> dict[str, JobState]:
        status, said = self._asking(self._command % {"JOB_ID": ",".join(jobs)})
        if len(jobs) == 1:
            return {jobs[0]: self._alone(jobs[0], status, said)}
        found = {job: self._judge(line) for job in jobs for line in said.splitlines() if _names(line, job)}
        for job in jobs:        # not mentioned in the answer: ask about it alone
            if job not in found:
                found[job] = self._alone(job, *self._asking(self._command % {"JOB_ID": job}))
        return found

    def _alone(self, job: str, status: int, said: str) -> JobState:
        """Return the answer to a question about one job."""
        words = said.strip()
        if is_unknown(words):
            return JobState.OVER
        if status != 0:
            raise NoAnswer(f"the scheduler cannot be asked now: {' '.join(words.split())[-200:] or f'exit status {status}'}")
        if words:
            self._silent_since.pop(job, None)
            return self._judge(words)
        since = self._silent_since.setdefault(job, self._clock())
        return JobState.OVER if self._clock() - since >= SILENT_SECONDS else JobState.UNKNOWN

    def _judge(self, words: str) -> JobState:
        over = _OVER.search(words) if self._done is None else self._done.search(words)
        return JobState.OVER if over else JobState.RUNNING


def is_unknown(said: str) -> bool:
    """Tell whether a scheduler says that it does not know a job, which has then ended and been forgotten."""
    return _NO_SUCH_JOB.search(said) is not None


def _names(line: str, job: str) -> bool:
    return re.search(rf"(?<!\d){re.escape(job)}(?!\d)", line) is not None


def with_mark(command: str, mark: str) -> str:
    """Return a job's command extended so that it leaves a mark, holding the exit status, when the program has ended."""
    target, part = shlex.quote(mark), shlex.quote(f"{mark}.part")
    return f"{command}\necho $? > {part} && mv -f {part} {target}"


def is_marked(mark: str) -> bool:
    """Tell whether a job has left its mark. Opening the folder first makes the client ask the file server again."""
    try:
        os.close(os.open(os.path.dirname(mark) or ".", os.O_RDONLY | os.O_DIRECTORY))
    except OSError:
        return False
    return os.path.exists(mark)


def words_of_queue(logs: str) -> str:
    """Return what the queue wrote into a job's logs (path without extension) when it ended the job; "" if it did not."""
    for ending in (".err", ".out"):
        try:
            with open(f"{logs}{ending}", encoding="utf-8", errors="replace") as file:
                said = [line.strip() for line in file if _ENDED_BY_QUEUE.search(line)]
        except OSError:
            continue
        if said:
            return said[-1][:200]
    return ""
