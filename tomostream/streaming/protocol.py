# SPDX-License-Identifier: GPL-3.0-or-later
"""The shape of every protocol: watch, decide, run, register.

The main thread does everything but run the programs, and it alone touches SQLite. It takes a turn when something has happened (a
step ended, a file or a row arrived, a deadline passed): register what ended, look at what is new, decide, hand out work. A
Scipion step is the work on one item: a program and files, never a set.

A subclass fills in `open_outputs`, `watch`, `decide`, `work` and `register`.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Any, TextIO, TypeVar, cast

from pyworkflow.config import Config
from pyworkflow.object import Set
from pyworkflow.protocol import STATUS_RUNNING

from tomostream.files import locks
from tomostream.files.clock import steady
from tomostream.files.logs import Lenient, counted, one_sentence
from tomostream.journal import entries, ledger, runs, until, versions
from tomostream.journal.layout import STOP_FILE, stop_file
from tomostream.streaming import inputs, rows, watch
from tomostream.streaming.bookkeeping import IDLE_SECONDS, OPEN_SECONDS, Bookkeeping
from tomostream.streaming.executor import adopt
from tomostream.streaming.loop import EventLoop
from tomostream.streaming.obstacles import Obstacles
from tomostream.streaming.orphans import end_orphans
from tomostream.streaming.sets import REPLACED, NotCommitted, OutputSet, OutputSets
from tomostream.streaming.submitted import cancel_left
from tomostream.streaming.troubles import Troubles
from tomostream.streaming.work import Attempt, NotNow, Task, Work
from tomostream.streaming.workplace import WORK_FOLDER, Workplace

T = TypeVar("T")
#: Held by the process of a run; and how long another waits for it (one that was killed may take a moment to go).
LOCK_FILE, LOCK_SECONDS = ".lock", 5.0
#: Seconds for which an unexpected error may recur in every turn before it ends the protocol.
FAILING_SECONDS = 600.0
#: Seconds between two looks at the state of the run that makes the input.
PRODUCER_SECONDS = 1.0


class StreamingProtocol(Bookkeeping):
    """Base of the four protocols. snake_case names are ours, camelCase ones belong to pyworkflow."""

    #: The ledger entry of an item that ended well in this protocol.
    done_event: type[entries.Done] = entries.Aligned
    #: The field that points to the input; "" for the first of a chain.
    input_field = ""
    #: Output -> its file in the folder of the run.
    output_files: Mapping[str, str] = MappingProxyType({})
    _failing_since: float | None = None
    _producer_state: runs.RunState = runs.UNKNOWN
    _producer_looked = -math.inf
    #: Input not yet handed out, in protocols that keep it here.
    _new: Collection[Any] = ()

    # ------------------------------------------------------------------ the parts that a protocol fills in
    def open_outputs(self) -> None:
        """Open the outputs with `self.open_output(...)`; fill `self.done` (key -> version) from them."""

    def watch(self) -> bool:
        """Take in what is new; True when no more will ever come."""
        raise NotImplementedError

    def decide(self) -> Iterable[Task]:
        """Yield what is ready now. What cannot be yielded, because a database cannot be read now, is yielded the next time."""
        raise NotImplementedError

    def undecided(self) -> bool:
        """Tell whether some input is not handed out yet."""
        return bool(self._new)

    def inputs_of(self, task: Task) -> Iterable[str]:
        """Return the files that the work on a task reads."""
        return ()

    def work(self, task: Task) -> Any:
        """Run the program, in a thread, and check its files. Return plain values for `register`."""

    def register(self, task: Task, result: Any) -> None:
        """Main thread: put the rows of a finished task with `self.outputs[name].put(...)`."""
        raise NotImplementedError

    def next_deadline(self) -> float | None:
        """Return when (`steady` seconds) a turn is due even if nothing happens."""
        return None

    def on_failed(self, task: Task, reason: str) -> None:
        """Called when an item has failed for good; its ledger entry is written already."""

    def on_registered(self, task: Task, result: Any) -> None:
        """Report in the ledger that the rows of a task are on disk."""

    def found_entry(self, key: str, version: int, reason: str) -> entries.Done:
        """Return the ledger entry of an item that was registered by a process that was killed before it reported it."""
        raise NotImplementedError

    def on_end(self) -> None:
        """Called when everything is done and the outputs are about to be closed."""

    # ------------------------------------------------------------------ start
    def run(self) -> None:
        """Run the protocol, unless another process is already doing so (Continue was pressed twice, or a resume was started
        beside the GUI): two processes would write the same sets."""
        path = self._getExtraPath(LOCK_FILE)
        lock = locks.hold(path, LOCK_SECONDS)
        if lock is None:
            pid = locks.holder(path)
            self.error(f"Another process ({pid or 'number unknown'}) is at work on this run; this one ends and changes nothing.")
            self.setPid(pid or 0)
            self.setStatus(STATUS_RUNNING)
            self._store(self.status, self._pid)     # our launcher has overwritten those of the other process
            return
        with lock:
            _log_with_times()
            super().run()

    def setStepsExecutor(self, executor: Any = None) -> None:
        if executor is not None and not isinstance(executor, EventLoop):
            executor = adopt(executor)
        super().setStepsExecutor(executor)

    def _insertAllSteps(self) -> None:
        hindrances = Obstacles(self._getPath(), self._getExtraPath(), self.inputs_of)
        self.in_flight = Work(self, hindrances)
        self.done, self.attempts = self.in_flight.done, self.in_flight.attempts
        self.hindrances = hindrances
        self.outputs = OutputSets()
        self._to_confirm: list[tuple[Task, object]] = []
        self._watch_ended = self._reported_end = False
        self.begin_bookkeeping()
        self.stop_event = threading.Event()
        self.workplace = Workplace(self, self._getExtraPath(WORK_FOLDER))
        orphans, jobs = end_orphans(self.workplace.root), cancel_left(self._getPath())
        self.workplace.clear()
        self.ledger = ledger.Ledger(self._getExtraPath(ledger.NAME))
        self._troubles = Troubles(self)
        self.watcher = watch.Watcher(self._stepsExecutor.wake)
        self.watcher.add(self._getExtraPath(), only=frozenset([STOP_FILE, until.NAME]))
        self._open()
        self.report_start()
        if orphans:
            self.report(entries.Session("", f"stopped {counted(orphans, 'program')} left over from the previous run"))
        if words := jobs.in_words():
            self.report(entries.Session("", f"left over from the previous run: {words}"), warn=bool(jobs.left))
        self._complete_ledger()
        gc.freeze()         # what is loaded by now stays: no collection of garbage (`rows.let_go` asks for one) looks at it again
        self._insertFunctionStep(self.turn, repr(steady()), prerequisites=[], needsGPU=False)

    def _open(self) -> None:
        """Open input, outputs and the list of steps; wait while they are locked or out of reach (within reason)."""
        end = time.monotonic() + OPEN_SECONDS
        while True:
            try:
                if self.input_field:
                    inputs.attach(getattr(self, self.input_field))
                self.open_outputs()
                self._log_of_steps()
                self.trouble(entries.Topic.OPENING, "")
                return
            except rows.database_errors() as error:
                folders = (self._getPath(), self._getExtraPath(), self._getLogsPath())
                reached = all(os.access(folder, os.W_OK | os.X_OK) for folder in folders)
                full = self.hindrances.is_full(error)       # somebody will make room, sooner or later
                if not full and ((isinstance(error, OSError) and reached) or time.monotonic() > end):
                    raise
                self.outputs.clear()
                self.done.clear()
                self.trouble(entries.Topic.OPENING, f"input or outputs cannot be opened now ({rows.words_of(error)}); retrying")
                self.stop_event.wait(IDLE_SECONDS)

    def makePathsAndClean(self) -> None:
        """Forget an earlier STOP, because whoever launches a run wants it to go on. Called by the launcher. A STOP given later,
        while the process is coming up, stays; so does one for a process that is running."""
        super().makePathsAndClean()
        if self.stop_asked():
            lock = locks.hold(self._getExtraPath(LOCK_FILE), 0.0)
            if lock is not None:
                with lock, contextlib.suppress(FileNotFoundError):
                    os.remove(stop_file(self._getPath()))

    def report_start(self) -> None:
        """Report what was there when the protocol started."""
        found = len(self.done)
        text = f"continues with {found} items done" if found else "starts"
        self.report(entries.Session("", f"{self.getRunName() or self._label} {text}", versions=versions.packages(),
                                     input_run=self._input_run()))

    def _input_run(self) -> str:
        """Return the name of the folder of the input's run; "" for the first of a chain."""
        items = getattr(self, self.input_field).get() if self.input_field else None
        return "" if items is None else os.path.basename(os.path.dirname(items.getFileName()))

    def _complete_ledger(self) -> None:
        """Report items that are registered but not in the ledger, because the process was killed in between."""
        reported: dict[str, int] = {}
        for entry in ledger.each(self.ledger.path):
            if isinstance(entry, self.done_event):
                reported[entry.item] = entry.version
        for key, version in self.done.items():
            if reported.get(key, 0) < version:
                self.ledger.write(self.found_entry(key, version, "registered before the protocol was continued"))

    def report(self, entry: entries.Entry, warn: bool = False) -> None:
        """Write a line in the log and an entry in the ledger."""
        line = f"{entry.item}: {entry.reason}" if entry.item else entry.reason
        (self.warning if warn else self.info)(line)
        self.ledger.write(entry)

    # ------------------------------------------------------------------ a turn
    def seconds_to_next_turn(self, default: float) -> float:
        deadline = None if self._failing_since is not None else self.next_deadline()
        if deadline is None:
            return default
        return min(default, max(0.01, deadline - steady()))

    def turn(self, stamp: str) -> bool:
        """Register, watch, decide, hand out. True when there is nothing left to come or to do.

        Whatever goes wrong is reported and retried, because a session runs unattended for a night. Errors of a disk or a database
        are waited out; anything else ends the protocol if it does not go away.
        """
        try:
            ended = self._take_turn()
        except Exception as error:  # noqa: BLE001 - the next turn starts over with what this one did not end
            self._turn_failed(error)
            return False
        self._failing_since = None
        self.trouble(entries.Topic.TURN, "")
        return ended

    def _turn_failed(self, error: Exception) -> None:
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now
            self._log.error("A turn failed: %s", one_sentence(error), exc_info=error)
        if not isinstance(error, rows.database_errors()) and now - self._failing_since > FAILING_SECONDS:
            raise error
        self.trouble(entries.Topic.TURN, f"the work is interrupted ({one_sentence(error)}); retrying")

    def _take_turn(self) -> bool:
        if self.stop_asked():
            self.stop_event.set()       # threads no longer wait for a GPU
        self.in_flight.collect()
        try:
            if not self._watch_ended:
                self._watch_ended = self.watch()
            self.in_flight.hand_out(self.decide())
            self.in_flight.record_failures(self.on_failed)
            if not self.in_flight.waits_for_reading:
                self.trouble(entries.Topic.READING, "")
        except rows.database_errors() as error:
            self.trouble(entries.Topic.READING, f"the input cannot be read now ({rows.words_of(error)}); retrying")
        self.trouble(entries.Topic.QUEUE, self._stepsExecutor.trouble())
        self.in_flight.release()
        self._commit()
        self._complete = (self._watch_ended and not self.undecided() and self.in_flight.idle and not self._to_confirm
                          and not self.outputs.dirty)
        if self._complete and self._close():
            return True
        self._complete = False
        return False

    def fail(self, task: Task, reason: str) -> None:
        """Note that an item has failed for good."""
        self.in_flight.fail(task, reason)
        self._dirty = True

    def register_task(self, task: Task, result: object) -> None:
        """Put the rows of a finished task, all or none; see `Host`."""
        try:
            with self.outputs.all_or_none():
                self.register(task, result)
        except Exception as error:
            if isinstance(error, rows.database_errors()) and not isinstance(error, OSError):
                raise NotNow(rows.words_of(error)) from error
            raise
        self._to_confirm.append((task, result))

    def _commit(self) -> None:
        """Write the rows of what was registered, then report them to the ledger and the project."""
        self.ledger.flush()
        try:
            written = self.outputs.commit()
        except NotCommitted as error:
            self.trouble(entries.Topic.OUTPUT, f"the results cannot be written now ({error}); they are kept, retrying")
            return
        self.trouble(entries.Topic.OUTPUT, "")
        self.trouble(entries.Topic.LEDGER, f"the ledger cannot be written now ({self.ledger.trouble}); its lines are kept"
                     if self.ledger.trouble else "")
        self._dirty = self._dirty or written
        while self._to_confirm:
            self.on_registered(*self._to_confirm[0])
            del self._to_confirm[0]
        self.show_outputs()

    def trouble(self, topic: entries.Topic, text: str) -> None:
        """Report what keeps the protocol from going on, by topic; "" when it is over. See `Troubles`."""
        self._troubles.report(topic, text)

    def _close(self) -> bool:
        """Close the outputs; return False when they cannot be written now."""
        if not self._reported_end:
            self._reported_end = True
            self.on_end()
        try:
            self.outputs.close()
        except NotCommitted as error:
            self.trouble(entries.Topic.OUTPUT, f"the outputs cannot be closed now ({error})")
            return False
        self._dirty = True
        self.watcher.stop()
        return True

    # ------------------------------------------------------------------ work in threads
    def start_step(self, attempt: Attempt) -> None:
        """Have an attempt carried out in a thread, as a Scipion step; see `Host`."""
        @functools.wraps(self.work)
        def run(*_: object) -> None:
            """Run without returning the result: a Step would take it for file names to check."""
            attempt.carry_out(self.work, self.hindrances)

        task = attempt.task
        self._insertFunctionStep(run, task.key, *task.arguments[:1], prerequisites=[], needsGPU=task.needs_gpu)
        self._steps[-1].attempt = attempt

    # ------------------------------------------------------------------ outputs
    def open_output(self, name: str, template: Any, key_attribute: str,
                    setup: Callable[[Any], None] | None = None) -> OutputSet:
        """Open an output: that of an earlier process if there is one, else an empty one with its tables, so that its stream state
        is on disk from the first moment. `setup(set)` sets what is known of the whole set. The project sees it with its first
        rows."""
        path = self._getPath(self.output_files[name])
        items: Any = getattr(self, name, None)
        known = items is not None
        if not known:
            # A process that was killed may have left a file that the project does not know.
            items = self._possibleOutputs[name](filename=path)
        if not items._getMapper().doCreateTables:
            items.loadAllProperties()       # the project may know the set as it was before its first item
        items.load()
        output = OutputSet(items, template, key_attribute)
        if setup is not None:
            setup(items)
        output.set_stream_state(Set.STREAM_OPEN)
        if known:
            self._store(items)
        self.outputs[name] = output
        return output

    def show_outputs(self) -> None:
        """Let the project see the outputs that have rows, and so hold all that other protocols read when they start; see
        `inputs`."""
        for name, output in self.outputs.items():
            if output.ids and getattr(self, name, None) is None:
                self._defineOutputs(**{name: output.items})
                if self.input_field:
                    self._defineSourceRelation(getattr(self, self.input_field), output.items)
                self._store(output.items)
                self._dirty = True

    def _closeOutputSet(self) -> None:
        """Close the outputs only in the process that saw the end of the stream. pyworkflow also calls this in other processes (on
        STOP, or when a refresh finds this one dead): then the sets stay open and their readers wait."""
        if self._complete:
            super()._closeOutputSet()

    # ------------------------------------------------------------------ inputs
    def row_reader(self, pointer: Any, take: Callable[[Any], T]) -> rows.RowReader[T]:
        """Return the incremental reader of an input set, whose folders are watched from now on. `take`: of `RowReader`."""
        items = pointer.get()
        folder = os.path.dirname(items.getFileName())
        self.watcher.add(folder, only=frozenset())
        self.watcher.add(os.path.join(folder, "extra"), only=frozenset([ledger.NAME]))
        self.watcher.add(os.path.join(folder, "logs"), only=frozenset())
        return rows.RowReader(items, REPLACED, take)

    def producer_state(self, pointer: Any, closed: bool) -> runs.RunState:
        """Return the state of the run that makes an input; see `runs.producer_state`.

        It is looked at once in `PRODUCER_SECONDS`, for it costs as much as all the rest of a turn; but every time once the set is
        `closed`: then it decides whether more will come.
        """
        now = steady()
        if closed or now - self._producer_looked >= PRODUCER_SECONDS:
            self._producer_looked = now
            folder = os.path.dirname(inputs.file_of(pointer))
            self._producer_state = runs.producer_state(folder, pointer.getObjValue().getObjId())
        return self._producer_state


def _log_with_times() -> None:
    """Put the time in front of every log line of this run, unless another format was configured. On a full disk lines are lost:
    Python would print a traceback for each, and a `print` in any library would end the process."""
    logging.raiseExceptions = False
    if not isinstance(sys.stdout, Lenient):
        sys.stdout, sys.stderr = cast(TextIO, Lenient(sys.stdout)), cast(TextIO, Lenient(sys.stderr))
    if Config.SCIPION_LOG_FORMAT == "%(message)s":
        for handler in logging.getLogger().handlers:
            handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%Y-%m-%d %H:%M:%S"))


