# SPDX-License-Identifier: GPL-3.0-or-later
"""The shape of every protocol: watch, decide, run, register.

The main thread does everything but the programs, and it is the only one that touches SQLite. It takes a turn when
something happened (a step ended, a file or a row came, a deadline passed): register what ended, look at what is new,
decide, hand out work. A Scipion step is one item's work: a program and files, never a set.

A subclass fills in `open_outputs`, `watch`, `decide`, `work` and `register`.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import shlex
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterable

from pyworkflow.config import Config
from pyworkflow.object import Set
from pyworkflow.protocol import (
    MODE_RESTART,
    STATUS_ABORTED,
    STATUS_FAILED,
    STATUS_FINISHED,
    STATUS_RUNNING,
    FloatParam,
    ProtStreamingBase,
    params,
)
from pyworkflow.protocol.protocol import FunctionStep, StepSet

from tomostream.files import locks
from tomostream.files.clock import steady
from tomostream.files.logs import last_words, one_sentence
from tomostream.journal import ledger, runs, versions
from tomostream.journal.space import disk_of, human
from tomostream.streaming import rows, watch
from tomostream.streaming.executor import JobEnded, adopt
from tomostream.streaming.gpus import gpu_lock, programs_per_gpu
from tomostream.streaming.loop import EventLoop
from tomostream.streaming.obstacles import is_full, is_short, out_of_reach
from tomostream.streaming.orphans import end_orphans
from tomostream.streaming.programs import WORK_FOLDER, gpu_command
from tomostream.streaming.sets import REPLACED, NotCommitted, OutputSet
from tomostream.streaming.steps import _Finished
from tomostream.streaming.values import convert
from tomostream.streaming.work import DISK_SECONDS, HELD_A_TURN, MAX_DISK_SECONDS, Attempt, ProgramFailed, Task

STOP_FILE = "STOP_STREAMING.TXT"
#: Held by the process that is at work on a run; how long another waits for it (one that was killed may take a moment).
LOCK_FILE, LOCK_SECONDS = ".lock", 5.0
#: Seconds between two writings of what only the eye needs: run.db and steps.sqlite.
GUI_SECONDS = 1.0
#: Seconds without any event after which a turn is taken all the same.
IDLE_SECONDS = 2.0
#: Seconds for which the outputs may be locked or unreadable at the start.
OPEN_SECONDS = 600.0


class StreamingProtocol(ProtStreamingBase):
    """Base of the four protocols. Public names are ours, camelCase ones belong to pyworkflow."""

    _stepsCheckSecs = IDLE_SECONDS
    #: The event with which an item ends well in the ledger of this protocol.
    done_event = ledger.ALIGNED

    # ------------------------------------------------------------------ the parts that a protocol fills in
    def open_outputs(self) -> None:
        """Open the outputs with `self.open_output(...)`; fill `self.done` (key -> version) from them."""

    def watch(self) -> bool:
        """Take in what is new; True when no more will ever come."""
        raise NotImplementedError

    def decide(self) -> Iterable[Task]:
        """What is ready now. What is not yielded, because a database cannot be read now, is given again the next time."""
        raise NotImplementedError

    def undecided(self) -> bool:
        """Whether something that came is not handed out yet."""
        return bool(getattr(self, "_new", None))

    def inputs_of(self, task: Task) -> Iterable[str]:
        """Files that the work on a task reads."""
        return ()

    def work(self, task: Task) -> object:
        """In a thread: the program and its files. Returns plain values for `register`."""

    def register(self, task: Task, result: object) -> None:
        """Main thread: put the rows of a finished task with `self.outputs[name].put(...)`."""
        raise NotImplementedError

    def next_deadline(self) -> float | None:
        """Seconds since the epoch at which a turn is due although nothing happens."""
        return None

    def on_failed(self, task: Task, reason: str) -> None:
        """An item failed for good; its line is in the ledger already."""

    def on_registered(self, task: Task, result: object) -> None:
        """The rows of a task are on disk: say so in the ledger."""

    def found_evidence(self, key: str, version: int) -> dict:
        """For the ledger: what is known of an item that was registered by a run that was killed before it could tell."""
        return {}

    def on_end(self) -> None:
        """Everything is done, the outputs are about to be closed."""

    # ------------------------------------------------------------------ form
    @staticmethod
    def define_streaming_params(form, section: bool = True) -> None:
        """The fields that every protocol has in its Streaming section."""
        if section:
            form.addSection(label="Streaming")
        form.addParam("pollSeconds", FloatParam, default=5.0, expertLevel=params.LEVEL_ADVANCED,
                      label="Interval on network disks (s)",
                      help="On a local disk new files and rows are noticed at once. On a network disk (NFS, Lustre, "
                           "GPFS, CIFS...) another machine writes and this one hears nothing: there the folder is "
                           "looked at every so many seconds. 1 to 10 s are reasonable.")

    def getActions(self):
        """STOP STREAMING, where pwem's own import protocols have it: right click on the box."""
        return [("STOP STREAMING", self.stop_streaming)] if self.isRunning() else []

    def stop_streaming(self, event: object = None) -> None:
        """Ask the running protocol to finish what is in flight, register what is decided, and close its outputs.

        Parameters
        ----------
        event : what Scipion's canvas hands to an action; its tree view hands nothing.
        """
        with open(self._getExtraPath(STOP_FILE), "w", encoding="utf-8") as file:
            file.write("Written by STOP STREAMING: the protocol finishes what is in flight and ends.\n")

    def stop_asked(self) -> bool:
        return os.path.exists(self._getExtraPath(STOP_FILE))

    def processImportDict(self, importDict, importDir):
        """A workflow file as it comes in. Values given as text (templates have no other) become what the parameter wants,
        an empty number is none, and folders stay as they are: pwem looks for relative ones beside the file, and fails on
        a folder without a slash that is not there yet."""
        return {name: self._imported(name, value) for name, value in importDict.items()}

    def _imported(self, name: str, value: object) -> object:
        param = self.getParam(name)
        points = isinstance(value, str) and re.fullmatch(r"\d+\.[A-Za-z_].*", value.strip())
        if param is None or points:         # "2.outputMovies" is another protocol's output
            return value
        try:
            return convert(param, value)
        except ValueError as error:
            raise ValueError(f"{self._label}: '{param.label.get() or name}' cannot be '{value}': {error}.") from error

    def threads_problem(self) -> list[str]:
        """For `_validate`: one thread would leave none for the programs, and how many share a GPU must be a number."""
        try:
            programs_per_gpu()
        except ValueError as error:
            return [f"{error}."]
        threads = self.numberOfThreads.get()
        if threads is not None and threads < 2:
            return ["Threads must be 2 or more: by Scipion's convention one is the protocol itself, the others run the "
                    "programs, so with 1 nothing would be processed."]
        return []

    def getBinThreads(self):
        """pyworkflow prints it at the start; the programs get their threads by item, see `engines`."""
        return 1

    # ------------------------------------------------------------------ start
    def run(self):
        """Two processes at one run would write the same sets: the second one (Continue was pressed twice, a resume beside
        the GUI) ends without a word in the outputs."""
        path = self._getExtraPath(LOCK_FILE)
        lock = locks.hold(path, LOCK_SECONDS)
        if lock is None:
            pid = locks.holder(path)
            self.error(f"Another process ({pid or 'number unknown'}) is at work on this run; this one ends and changes nothing.")
            self.setPid(pid or 0)
            self.setStatus(STATUS_RUNNING)
            self._store(self.status, self._pid)     # whoever launched us wrote ours over those of the other
            return
        with lock:
            _tell_times()
            super().run()

    def setStepsExecutor(self, executor=None):
        if executor is not None and not isinstance(executor, EventLoop):
            executor = adopt(executor)
        super().setStepsExecutor(executor)

    def _insertAllSteps(self):
        self.done: dict[str, int] = {}
        self.outputs: dict[str, OutputSet] = {}
        self.attempts: dict[str, Attempt] = {}
        self._ended_steps: list = []
        self._to_confirm: list[tuple[Task, object]] = []
        self._to_register: list[tuple[Task, object]] = []
        self._failed: list[tuple[Task, str]] = []
        self._superseded: dict[str, Task] = {}
        self._held: dict[str, tuple[Task, float]] = {}
        self._pauses: dict[str, float] = {}
        self._watch_ended = self._complete = self._dirty = self._said_end = False
        self._gui_at, self._jobs, self._jobs_lock = 0.0, [], threading.Lock()
        self._troubles: dict[str, str] = {}
        self.stop_event = threading.Event()
        self._start_over_if_stopped()
        orphans = end_orphans(self.work_root())
        shutil.rmtree(self.work_root(), ignore_errors=True)
        self.ledger = ledger.Ledger(self._getExtraPath(ledger.NAME))
        self.watcher = watch.Watcher(self._stepsExecutor.wake)
        self.watcher.add(self._getExtraPath(), only=frozenset([STOP_FILE]))
        self._open()
        self.say_start()
        if orphans:
            self.tell("", ledger.SESSION, f"stopped {orphans} programs left over from the previous run")
        self._mend_ledger()
        self._insertFunctionStep(self.turn, repr(steady()), prerequisites=[], needsGPU=False)

    def _open(self) -> None:
        """Open the outputs and the list of steps, however long they are locked or out of reach (within reason)."""
        end = time.monotonic() + OPEN_SECONDS
        while True:
            try:
                self.open_outputs()
                self._steps_before()
                self.trouble("opening", "")
                return
            except rows.database_errors() as error:
                folders = (self._getPath(), self._getExtraPath(), self._getLogsPath())
                reached = all(os.access(folder, os.W_OK | os.X_OK) for folder in folders)
                if (isinstance(error, OSError) and reached) or time.monotonic() > end:
                    raise
                self.outputs.clear()
                self.done.clear()
                self.trouble("opening", f"the outputs cannot be opened now ({rows.words_of(error)}); it is tried again")
                self.stop_event.wait(IDLE_SECONDS)

    def _start_over_if_stopped(self) -> None:
        """Continuing after STOP means going on."""
        if self.stop_asked():
            os.remove(self._getExtraPath(STOP_FILE))

    def say_start(self) -> None:
        """What was found when the protocol began."""
        found = len(self.done)
        text = f"continues with {found} items done" if found else "starts"
        self.tell("", ledger.SESSION, f"{self.getRunName() or self._label} {text}", {"versions": versions.packages()})

    def _mend_ledger(self) -> None:
        """A run that was killed between the output and the ledger left items untold: tell them."""
        told: dict[str, int] = {}
        for entry in ledger.read(self.ledger.path):
            if entry.event == self.done_event:
                told[entry.item] = int(entry.evidence.get("version", 1))
        for key, version in self.done.items():
            if told.get(key, 0) < version:
                self.ledger.write(key, self.done_event, "registered before the protocol was continued",
                                  {"version": version, **self.found_evidence(key, version)})

    def tell(self, item: str, event: str, reason: str, evidence: dict | None = None, warn: bool = False) -> None:
        """One line in the log and one in the ledger."""
        line = f"{item}: {reason}" if item else reason
        (self.warning if warn else self.info)(line)
        self.ledger.write(item, event, reason, evidence)

    # ------------------------------------------------------------------ a turn
    def seconds_to_next_turn(self, default: float) -> float:
        deadline = self.next_deadline()
        if deadline is None:
            return default
        return min(default, max(0.01, deadline - steady()))

    def turn(self, stamp: str) -> bool:
        """Register, watch, decide, hand out. True when there is nothing left to come or to do."""
        if self.stop_asked():
            self.stop_event.set()       # who waits for a GPU in a thread waits no longer
        self._collect()
        try:
            if not self._watch_ended:
                self._watch_ended = self.watch()
            self._hand_out(self.decide())
            self._record_failures()
            if not self._to_register:
                self.trouble("reading", "")
        except rows.database_errors() as error:
            self.trouble("reading", f"the input cannot be read now ({rows.words_of(error)}); it is tried again")
        silent = self._stepsExecutor.trouble()
        self.trouble("queue", silent and f"the queue does not answer ({silent}); its jobs count as running")
        self._release()
        self._commit()
        self._complete = (self._watch_ended and not self.undecided() and not self.attempts and not self._to_confirm
                          and not self._held and not self._to_register and not self._failed
                          and not any(output.dirty for output in self.outputs.values()))
        if self._complete and self._close():
            return True
        self._complete = False
        return False

    def _collect(self) -> None:
        """What the threads have finished since the last turn."""
        again, self._to_register = self._to_register, []
        for task, result in again:
            self._register(task, result)
        ended, self._ended_steps = self._ended_steps, []
        for step in ended:
            attempt = step.attempt
            if step.isFailed() and attempt.error is None:
                attempt.error = RuntimeError(step.getErrorMessage())
            self.attempts.pop(attempt.task.key, None)
            if attempt.error is None:
                self._register(attempt.task, attempt.result)
            else:
                self._one_failed(attempt)
            later = self._superseded.pop(attempt.task.key, None)
            if later is not None:
                self._hand_out([later])

    def _one_failed(self, attempt: Attempt) -> None:
        task, reason = attempt.task, one_sentence(attempt.error)
        if self._is_held_up(task, attempt.obstacle, attempt.disk_full):
            return
        if isinstance(attempt.error, ProgramFailed) and attempt.tries == 1:
            self.tell(task.key, ledger.RETRIED, f"{reason}; it is tried once more", warn=True)
            self._submit(task, tries=2)
            return
        if attempt.tries > 1:
            reason += " (twice)"
        self.fail(task, reason)

    def _is_held_up(self, task: Task, obstacle: str, disk_full: bool) -> bool:
        """Whether a task failed by no fault of its own: the disk is full, a folder is out of reach. Then it waits and is
        tried again when that is over; where that cannot be seen, each time later."""
        if not obstacle and not disk_full:
            return False
        pause = 0.0
        if disk_full and not self._obstacle(task):
            pause = self._pauses[task.key] = min(2 * self._pauses.get(task.key, DISK_SECONDS / 2), MAX_DISK_SECONDS)
        self._held[task.key] = (task, steady() + pause)
        self.trouble("disk", f"{obstacle or self._full()}; what needs it waits and is tried again")
        return True

    def _full(self) -> str:
        disk = disk_of(self._getPath())
        free = "" if disk is None else f" ({human(disk[0])} are free)"
        return f"the disk of the project is full{free}, make room"

    def _obstacle(self, task: Task) -> str:
        """What keeps any program from working on a task now, in words."""
        if is_short(self._getPath()):
            return self._full()
        if not os.access(self._getExtraPath(), os.W_OK | os.X_OK):
            return f"nothing can be written in {self._getExtraPath()}"
        return next(filter(None, map(out_of_reach, self.inputs_of(task))), "")

    def _release(self) -> None:
        """Try again what was held up; whoever stops the session does not want to wait."""
        if not self._held:
            return
        now, stopped = steady(), self.stop_asked()
        for key in list(self._held)[:HELD_A_TURN]:
            task, due = self._held.pop(key)
            obstacle = self._obstacle(task)
            if stopped:
                self.fail(task, f"{obstacle or 'it was held up'}, and the session was stopped")
            elif obstacle or due > now:
                self._held[key] = (task, due)       # behind the others
            else:
                self._hand_out([task])
        if not self._held:
            self.trouble("disk", "")

    def fail(self, task: Task, reason: str) -> None:
        """This item has failed for good."""
        self.done[task.key] = task.version
        self.tell(task.key, ledger.FAILED, reason, {"version": task.version}, warn=True)
        self._failed.append((task, reason))
        self._dirty = True

    def _record_failures(self) -> None:
        """What failed goes to the outputs; the input from which it is copied may be locked now."""
        while self._failed:
            self.on_failed(*self._failed[0])
            del self._failed[0]

    def _hand_out(self, tasks: Iterable[Task]) -> None:
        for task in tasks:
            if self.done.get(task.key, 0) >= task.version:
                continue
            if task.key in self._held:
                if self._held[task.key][0].version < task.version:
                    self._held[task.key] = (task, self._held[task.key][1])
                continue
            running = self.attempts.get(task.key)
            if running is not None:
                if running.task.version < task.version:      # its result is outdated before it is there
                    self._superseded[task.key] = task
                continue
            if task.run:
                self._submit(task)
            else:
                self._register(task, None)

    def _register(self, task: Task, result: object) -> None:
        marks = {name: output.mark() for name, output in self.outputs.items()}
        try:
            self.register(task, result)
        except Exception as error:  # noqa: BLE001 - whatever it was, it is this item's, and must not end the protocol
            for name, mark in marks.items():
                self.outputs[name].take_back(mark)
            if isinstance(error, rows.database_errors()) and not isinstance(error, OSError):
                self._to_register.append((task, result))
                self.trouble("reading", f"the input cannot be read now ({rows.words_of(error)}); it is tried again")
            elif not self._is_held_up(task, self._obstacle(task), is_full(error, self._getPath())):
                self.fail(task, one_sentence(error))
            return
        self.done[task.key] = task.version
        self._to_confirm.append((task, result))

    def _commit(self) -> None:
        """Secondary outputs first, the one that others read last: what is in the last is in all of them."""
        self.ledger.flush()
        dirty = [output for output in self.outputs.values() if output.dirty]
        try:
            for output in reversed(dirty):
                output.commit()
        except NotCommitted as error:
            self.trouble("output", f"the results cannot be written now ({error}); they are kept and tried again")
            return
        self.trouble("output", "")
        self.trouble("ledger", f"the ledger cannot be written now ({self.ledger.trouble}); its lines are kept"
                     if self.ledger.trouble else "")
        if dirty:
            self._dirty = True
        confirmed, self._to_confirm = self._to_confirm, []
        for task, result in confirmed:
            self.on_registered(task, result)

    def trouble(self, topic: str, text: str) -> None:
        """Something of this topic keeps the protocol from going on ("": no longer). Told when it begins and when it ends."""
        before = self._troubles.pop(topic, "")
        if text:
            self._troubles[topic] = text
            if not before:
                self.warning(text[0].upper() + text[1:])
                self.ledger.write("", ledger.WAITING, text)
        elif before:
            self.info(f"Over: {before}")
            self.ledger.write("", ledger.SESSION, f"over: {before}")
            for other in self._troubles.values():
                self.ledger.write("", ledger.WAITING, other)

    def _close(self) -> bool:
        """Close the outputs; False when they cannot be written now."""
        if not self._said_end:
            self._said_end = True
            self.on_end()
        try:
            for output in self.outputs.values():
                output.set_stream_state(Set.STREAM_CLOSED)
        except NotCommitted as error:
            self.trouble("output", f"the outputs cannot be closed now ({error})")
            return False
        self._dirty = True
        self.watcher.stop()
        return True

    # ------------------------------------------------------------------ work in threads
    def _submit(self, task: Task, tries: int = 1) -> None:
        attempt = Attempt(task, tries)

        @functools.wraps(self.work)
        def run(*_: object) -> None:
            """Errors and results travel beside the step: a Step takes what is returned for file names to check."""
            try:
                attempt.result = self.work(task)
            except Exception as error:  # noqa: BLE001 - whatever it was, it is this item's and becomes its reason
                attempt.error = error
                attempt.disk_full = is_full(error, self._getPath())
                attempt.obstacle = self._obstacle(task)

        self._insertFunctionStep(run, task.key, *task.arguments[:1], prerequisites=[], needsGPU=task.needs_gpu)
        self._steps[-1].attempt = attempt
        self.attempts[task.key] = attempt

    def work_root(self) -> str:
        """The folder of all work in progress of this run."""
        return self._getExtraPath(WORK_FOLDER)

    def hold_gpus(self) -> contextlib.AbstractContextManager[None]:
        """Hold the GPUs of this thread's step while its program runs. A job of the queue has those of its own node."""
        if not self._stepsExecutor.here:
            return contextlib.nullcontext()
        return gpu_lock(self._stepsExecutor.getGpuList(), self.stop_event)

    def work_folder(self, name: str) -> str:
        """An empty folder for one run of a program, on the same disk as extra/."""
        folder = os.path.join(self.work_root(), str(os.getpid()), name)     # no other run's program writes here
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        return folder

    @staticmethod
    def discard(folder: str) -> None:
        """Remove a work folder."""
        shutil.rmtree(folder, ignore_errors=True)

    def run_program(self, program: str, arguments: str, log: str, env=None) -> str:
        """Run a command line (here or through the queue), its words going to `log`; return the end of that log.

        An exit status proves nothing in either direction, so it is told but not judged: the caller looks at the files.
        """
        status = ""
        try:
            self.runJob(program, gpu_command(f"{arguments} > {shlex.quote(log)} 2>&1"), env=env)
        except JobEnded as error:
            return str(error)
        except Exception as error:  # noqa: BLE001 - runJob raises whatever its executor does
            status = f"the program ended with an error ({one_sentence(error)[:200]})"
        return last_words(log) or status

    # ------------------------------------------------------------------ outputs
    def open_output(self, name: str, cls, template, key_attribute: str, file_name: str, setup=None,
                    source: str | None = None) -> OutputSet:
        """Open an output: the one of the run before when there is one, else an empty one with its tables, so that its
        stream state is on disk from the first moment. `setup(set)` gives what is known of the whole set."""
        path = self._getPath(file_name)
        items = getattr(self, name, None)
        known = items is not None
        if not known:
            # The file may be there although the project never heard of it: killed before any refresh.
            items = cls(filename=path)
        if not items._getMapper().doCreateTables:
            items.loadAllProperties()       # the project may know the set as it was before its first item
        items.load()
        output = OutputSet(items, template, key_attribute)
        if setup is not None:
            setup(items)
        output.set_stream_state(Set.STREAM_OPEN)
        if not known:
            self._defineOutputs(**{name: items})
            if source is not None:
                self._defineSourceRelation(getattr(self, source), items)
        self._store(items)
        self.outputs[name] = output
        return output

    def _closeOutputSet(self):
        """Called by pyworkflow at the end, but also by another process (a refresh finds this one dead; STOP). Only the
        process that saw the end of the stream closes: else the sets stay open and their readers wait."""
        if getattr(self, "_complete", False):
            super()._closeOutputSet()

    def isInStreaming(self):
        """pyworkflow asks this only to allow a relaunch while other protocols depend on this one."""
        continuing = (self.getRunMode() != MODE_RESTART
                      and self.getStatus() in (STATUS_FAILED, STATUS_ABORTED, STATUS_FINISHED))
        return super().isInStreaming() or continuing

    # ------------------------------------------------------------------ inputs
    def row_reader(self, pointer) -> rows.RowReader:
        """The incremental reader of an input set; its folder and its producer's are watched."""
        items = pointer.get()
        folder = os.path.dirname(items.getFileName())
        self.watcher.add(folder, only=frozenset())
        self.watcher.add(os.path.join(folder, "extra"), only=frozenset([ledger.NAME]))
        self.watcher.add(os.path.join(folder, "logs"), only=frozenset())
        return rows.RowReader(items, REPLACED)

    @staticmethod
    def producer_state(pointer) -> str:
        """State of the run that makes a pointed set; see `runs.producer_state`."""
        producer = pointer.getObjValue()
        folder = os.path.dirname(pointer.get().getFileName())
        return runs.producer_state(folder, producer.getObjId())

    # ------------------------------------------------------------------ steps.sqlite: append new rows, update changed ones
    def _insertFunctionStep(self, *args, **kwargs):
        index = super()._insertFunctionStep(*args, **kwargs)
        self._steps[-1].setObjId(index + self._steps_before())      # an id from the start, and for good
        return index

    def _steps_before(self) -> int:
        """Rows of earlier runs stay: ids go on after them."""
        if getattr(self, "_stepsSet", None) is None:
            steps = self._open_steps()
            mapper = steps._getMapper()
            columns = FunctionStep(None, "turn").getObjDict(includeClass=True)
            if mapper.doCreateTables:
                mapper.db.createTables(columns)
                mapper.doCreateTables = False
            else:
                mapper.db.setupCommands(columns)
                column = mapper.db._getRealCol("status")
                mapper.db.executeCommand(f"UPDATE Objects SET {column}='{STATUS_ABORTED}' WHERE {column}='running'")
                mapper.commit()
            mapper.db.executeCommand("PRAGMA synchronous=OFF")      # a log for the eye: nothing is decided from it
            self._stepsSet, self._stored, self._changed_steps = steps, 0, {}
            self._before = mapper.maxId() or 0
        return self._before

    def _open_steps(self) -> StepSet:
        """The steps of the runs before. It is not written safely, so after a power failure it may be no database any more:
        then it begins anew."""
        path = self.getStepsFile()
        try:
            connection = sqlite3.connect(path, timeout=OPEN_SECONDS)
            try:
                connection.execute("PRAGMA quick_check").fetchone()
            finally:
                connection.close()
        except sqlite3.OperationalError:        # locked for so long, or out of reach: pyworkflow says it
            pass
        except sqlite3.DatabaseError as error:
            self.warning(f"The list of steps was damaged ({error}); it begins anew. No result depends on it.")
            os.replace(path, f"{path}.damaged")
        steps = StepSet(filename=path)
        steps.setStore(False)
        return steps

    def loadSteps(self):
        """During the run nobody needs the old steps: what is done is read from the outputs."""
        return [] if self._stepsExecutor is not None else super().loadSteps()

    def _storeSteps(self):
        self._steps_before()
        mapper = self._stepsSet._getMapper()
        for step in self._steps[self._stored:]:
            mapper.insert(step)
            self._changed_steps.pop(step.getObjId(), None)
        first, self._stored = self._stored, len(self._steps)
        for step in self._changed_steps.values():
            mapper.updateTo(step)
        self._changed_steps.clear()
        mapper.commit()
        if first == 0:
            self._stepsSet.write()

    def _stepStarted(self, step):
        self._changed_steps[step.getObjId()] = step

    def _stepFinished(self, step):
        """One bad item never ends the protocol; the end of `turn` does."""
        self._changed_steps[step.getObjId()] = step
        self._stepsDone.increment()
        self._dirty = True
        if step is self._steps[0]:
            self.lastStatus = step.getStatus()
            if step.isFailed():
                self.setFailed(f"Protocol failed: {step.getErrorMessage()}")
            return step.isFinished()
        self._ended_steps.append(step)
        return True

    def _stepsCheck(self):
        """End of a turn: what the GUI reads follows at most once a second. (Having this is `worksInStreaming`.)"""
        now = time.monotonic()
        if now - self._gui_at < GUI_SECONDS and not self._complete:
            return
        self._gui_at = now
        try:
            self._store_for_gui()
            self.trouble("databases", "")
        except Exception as error:  # noqa: BLE001 - sqlite3's errors come wrapped in several ways; all mean "not now"
            self.trouble("databases", f"Scipion's own databases cannot be written now ({one_sentence(error)})")

    def _store_for_gui(self) -> None:
        if self._newSteps or self._changed_steps:
            changed = list(self._changed_steps.values())
            self._storeSteps()
            self._newSteps = False
            for step in changed:
                if step is not self._steps[0] and step.isFinished():
                    self._steps[step.getIndex() - 1] = _Finished
        if self._dirty:
            self._dirty = False
            self._numberOfSteps.set(len(self._steps))
            with self._jobs_lock:
                self._jobId.set(",".join(self._jobs)) if self._jobs else self._jobId.clear()
            self._store(self._numberOfSteps, self._stepsDone, self._jobId,
                        *(output.items for output in self.outputs.values()))

    def jobs_changed(self, started=None, ended=None) -> None:
        """From a step's thread: a queue job began or ended."""
        with self._jobs_lock:
            if started is not None:
                self._jobs.append(str(started))
            if ended is not None and str(ended) in self._jobs:
                self._jobs.remove(str(ended))
        self._dirty = True
        self._stepsExecutor.wake()


def _tell_times() -> None:
    """Put the time before every line of the logs of this run; Scipion's own format, if somebody set one, stays. A line that
    finds the disk full is lost: Python would write where in the code that was."""
    logging.raiseExceptions = False
    if Config.SCIPION_LOG_FORMAT == "%(message)s":
        for handler in logging.getLogger().handlers:
            handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%Y-%m-%d %H:%M:%S"))


