# SPDX-License-Identifier: GPL-3.0-or-later
"""Work in flight: which task runs, which waits for what, which is retried, which is superseded before it has ended.

Knows neither Scipion nor threads. Everything here is called from the main thread, except `Attempt.carry_out`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from tomostream.files.clock import steady
from tomostream.files.logs import one_sentence
from tomostream.journal import entries
from tomostream.streaming.tickets import Stopped

#: Seconds after which an item that found the disk full is retried: at first, and at most.
DISK_SECONDS, MAX_DISK_SECONDS = 5.0, 600.0
#: Seconds after which an item that was postponed is retried, at most.
MAX_POSTPONED_SECONDS = 60.0
#: How many of the held items are checked in a turn: a file server may be slow to answer.
HELD_A_TURN = 20


class BadInput(Exception):
    """The input itself is wrong; retrying would not help."""


class ProgramFailed(Exception):
    """A program ended without its output; worth retrying once."""


class Postponed(Exception):
    """No program could be run now; nothing is wrong with the item, and it is retried."""


class NotNow(Exception):
    """A database cannot be read now; what needs it is repeated in the next turn."""


@dataclass(frozen=True)
class Task:
    """Work for one item. `arguments` are plain values (names, numbers), never sets or rows.

    With `run` False there is nothing to run: the item is registered at once.
    """

    key: str
    arguments: tuple[Any, ...] = ()
    version: int = 1
    run: bool = True
    needs_gpu: bool = False


class Hindrances(Protocol):
    """What prevents work although nothing is wrong with it; see `obstacles.Obstacles`."""

    def of(self, task: Task) -> str:
        """Return what would prevent any program from working on a task now, or ""."""

    def is_full(self, error: BaseException) -> bool:
        """Tell whether something failed because the disk is full."""

    def full(self) -> str:
        """Say that the disk is full."""


@dataclass
class Attempt:
    """A task in flight: what it returned or why it failed, how often it was tried."""

    task: Task
    tries: int = 1
    result: object = None
    error: Exception | None = None
    disk_full: bool = False
    obstacle: str = ""
    postponed: bool = False
    #: Set in the thread when the queue has taken a job of it: to do the task anew would run that program again.
    begun: bool = False
    #: Set in the main thread when a newer version of the task has come.
    outdated: bool = False

    def carry_out(self, work: Callable[[Task], object], hindrances: Hindrances) -> None:
        """Do the work, in a thread; keep its result, or its error with what was in its way."""
        try:
            self.result = work(self.task)
        except Exception as error:  # noqa: BLE001 - whatever it was, it is this item's and becomes its reason
            self.error = error
            self.postponed = isinstance(error, Postponed)
            self.disk_full = hindrances.is_full(error)
            self.obstacle = hindrances.of(self.task)


def next_pause(before: float, longest: float) -> float:
    """Return for how many seconds to wait after a wait of so many (0: none yet), at most `longest`."""
    return min(2 * before or DISK_SECONDS, longest)


@dataclass(frozen=True)
class Held:
    """A task that waits at least until `due` (`steady` seconds), and why."""

    task: Task
    due: float
    why: str


class Host(Protocol):
    """What work in flight needs of its protocol."""

    def start_step(self, attempt: Attempt) -> None:
        """Carry out an attempt in a thread, then call `Work.ended`."""

    def register_task(self, task: Task, result: object) -> None:
        """Put the rows of a finished task, all or none. Raises NotNow when the input cannot be read now."""

    def report(self, entry: entries.Entry, warn: bool = False) -> None:
        """One line in the log and one in the ledger."""

    def trouble(self, topic: entries.Topic, text: str) -> None:
        """Report what keeps the protocol from going on, by topic; "" when it is over."""

    def stop_asked(self) -> bool:
        """Tell whether the session is to be stopped."""


class Work:
    """The tasks of a protocol that are not done yet, and the versions of those that are.

    Parameters
    ----------
    host : starts steps, registers, reports.
    hindrances : what prevents work on tasks.
    clock : seconds that only go forward.
    """

    def __init__(self, host: Host, hindrances: Hindrances, clock: Callable[[], float] = steady) -> None:
        self.done: dict[str, int] = {}
        self.attempts: dict[str, Attempt] = {}
        self._host, self._hindrances, self._clock = host, hindrances, clock
        self._ended: list[Attempt] = []
        self._to_register: list[tuple[Task, object]] = []
        self._failed: list[tuple[Task, str]] = []
        self._superseded: dict[str, Task] = {}
        self._held: dict[str, Held] = {}
        self._pauses: dict[str, float] = {}

    @property
    def idle(self) -> bool:
        """Whether nothing runs, waits, or is still to be registered or reported."""
        return not (self.attempts or self._ended or self._held or self._to_register or self._failed)

    @property
    def waits_for_reading(self) -> bool:
        """Whether something finished cannot be registered because its input cannot be read."""
        return bool(self._to_register)

    # ------------------------------------------------------------------ handing out
    def hand_out(self, tasks: Iterable[Task]) -> None:
        """Start tasks that are not done, in flight or held; a newer version replaces one that waits."""
        for task in tasks:
            if self.done.get(task.key, 0) >= task.version:
                continue
            running = self.attempts.get(task.key)
            if task.key in self._held:
                held = self._held[task.key]
                if held.task.version < task.version:
                    self._held[task.key] = replace(held, task=task)
            elif running is not None:
                if running.task.version < task.version:      # its result is out of date before it exists
                    self._superseded[task.key] = task
                    running.outdated = True
            elif task.run:
                self._start(task)
            else:
                self._register(task, None)

    def _start(self, task: Task, tries: int = 1) -> None:
        attempt = Attempt(task, tries)
        self._host.start_step(attempt)
        self.attempts[task.key] = attempt

    # ------------------------------------------------------------------ what ended
    def ended(self, attempt: Attempt) -> None:
        """Note that an attempt has ended, for the next `collect`."""
        self._ended.append(attempt)

    def collect(self) -> None:
        """Register, retry, hold or fail what ended since the last turn."""
        again, self._to_register = self._to_register, []
        for task, result in again:
            self._register(task, result)
        ended, self._ended = self._ended, []
        for attempt in ended:
            self.attempts.pop(attempt.task.key, None)
            if attempt.error is None:
                self._register(attempt.task, attempt.result)
            else:
                self._one_failed(attempt)
            later = self._superseded.pop(attempt.task.key, None)
            if later is not None:
                self.hand_out([later])

    def _register(self, task: Task, result: object) -> None:
        try:
            self._host.register_task(task, result)
        except NotNow as error:
            self._to_register.append((task, result))
            self._host.trouble(entries.Topic.READING, f"the input cannot be read now ({error}); retrying")
        except Exception as error:  # noqa: BLE001 - whatever it was, it is this item's, and must not end the protocol
            if not self._is_held_up(task, self._hindrances.of(task), self._hindrances.is_full(error)):
                self.fail(task, one_sentence(error))
        else:
            self.done[task.key] = task.version
            self._pauses.pop(task.key, None)

    def _one_failed(self, attempt: Attempt) -> None:
        task, reason = attempt.task, one_sentence(attempt.error or RuntimeError("it failed without a reason"))
        if isinstance(attempt.error, Stopped):
            self._leave(task, reason)
            return
        if attempt.postponed:
            self._hold(task, reason, MAX_POSTPONED_SECONDS)
            return
        if self._is_held_up(task, attempt.obstacle, attempt.disk_full):
            return
        if isinstance(attempt.error, ProgramFailed) and attempt.tries == 1:
            self._host.report(entries.Retried(task.key, f"{reason}; retrying once", version=task.version), warn=True)
            self._start(task, tries=2)
            return
        self.fail(task, f"{reason} (failed twice)" if attempt.tries > 1 else reason)

    def fail(self, task: Task, reason: str) -> None:
        """Note that an item has failed for good."""
        self.done[task.key] = task.version
        self._host.report(entries.Failed(task.key, reason, version=task.version), warn=True)
        self._failed.append((task, reason))

    def record_failures(self, on_failed: Callable[[Task, str], None]) -> None:
        """Put what failed into the outputs. It stays for the next turn if the input, from which it is copied, is locked."""
        while self._failed:
            on_failed(*self._failed[0])
            del self._failed[0]

    # ------------------------------------------------------------------ what is held up
    def _is_held_up(self, task: Task, obstacle: str, disk_full: bool) -> bool:
        """Hold a task that failed through no fault of its own (a full disk, a folder out of reach), and tell whether it did. It
        is retried when that is over or, where that cannot be seen, at growing intervals."""
        if not obstacle and not disk_full:
            return False
        text = obstacle or self._hindrances.full()
        self._hold(task, text, MAX_DISK_SECONDS if disk_full and not self._hindrances.of(task) else 0.0)
        self._host.trouble(entries.Topic.DISK, f"{text}; what needs it waits and is retried")
        return True

    def _hold(self, task: Task, why: str, longest: float) -> None:
        """Keep a task for later, each time for longer, up to `longest` seconds; 0: until nothing is in its way."""
        pause = 0.0
        if longest:
            pause = self._pauses[task.key] = next_pause(self._pauses.get(task.key, 0.0), longest)
        self._held[task.key] = Held(task, self._clock() + pause, why)

    def _leave(self, task: Task, why: str) -> None:
        """Leave a task undone, because the session was stopped before its program could run."""
        self._host.report(entries.Waiting(task.key, f"{why}; it is done when the protocol is continued"), warn=True)

    def release(self) -> None:
        """Retry what was held; if the session was stopped, leave it instead."""
        if not self._held:
            return
        now, stopped = self._clock(), self._host.stop_asked()
        for key in list(self._held)[:HELD_A_TURN]:
            held = self._held.pop(key)
            obstacle = self._hindrances.of(held.task)
            if stopped:
                self._leave(held.task, f"{obstacle or held.why}, and the session was stopped")
            elif obstacle or held.due > now:
                self._held[key] = held              # behind the others
            else:
                self.hand_out([held.task])
        if not self._held:
            self._host.trouble(entries.Topic.DISK, "")
