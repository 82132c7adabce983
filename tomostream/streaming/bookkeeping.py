# SPDX-License-Identifier: GPL-3.0-or-later
"""What Scipion stores about a running protocol, for its windows: the list of steps, how many are done, the jobs of a queue.

pyworkflow writes all of it whenever a step begins or ends. Here it is written at most once a second, and nothing is decided by
it.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from tomostream.files.logs import one_sentence
from tomostream.journal import entries
from tomostream.streaming.form import StreamingForm
from tomostream.streaming.sets import OutputSets
from tomostream.streaming.steps import Finished, StepLog
from tomostream.streaming.work import Work

#: Seconds between two writings of run.db and steps.sqlite, which are only displayed.
GUI_SECONDS = 1.0
#: Seconds without any event after which a turn is taken anyway.
IDLE_SECONDS = 2.0
#: Seconds for which outputs and the list of steps may be locked or unreadable at the start.
OPEN_SECONDS = 600.0


class Bookkeeping(StreamingForm):
    """The part of a running protocol that pyworkflow stores. Rows of steps are appended, or updated when they change."""

    _stepsCheckSecs = IDLE_SECONDS
    in_flight: Work
    outputs: OutputSets
    #: Set when the protocol runs; pyworkflow also creates protocols that never run.
    _complete = False
    _step_log: StepLog | None = None
    _newSteps = False

    def begin_bookkeeping(self) -> None:
        """Start with nothing of this process written."""
        self._dirty = False
        self._gui_at, self._jobs_lock = 0.0, threading.Lock()
        self._jobs: list[str] = []

    def trouble(self, topic: entries.Topic, text: str) -> None:
        """Report what keeps the protocol from going on, by topic; "" when it is over. See `Troubles`."""
        raise NotImplementedError

    def _insertFunctionStep(self, *args: Any, **kwargs: Any) -> int:
        index: int = super()._insertFunctionStep(*args, **kwargs)
        self._steps[-1].setObjId(index + self._log_of_steps().before)       # its final id, before it is stored
        return index

    def _log_of_steps(self) -> StepLog:
        """Return the list of steps, opened on first use. Rows of earlier processes stay."""
        if self._step_log is None:
            self._step_log = StepLog(self.getStepsFile(), self.warning, OPEN_SECONDS)
        return self._step_log

    def loadSteps(self) -> list[Any]:
        """Load none during the run: what is done is read from the outputs."""
        return [] if self._stepsExecutor is not None else super().loadSteps()

    def _storeSteps(self) -> None:
        for step in self._log_of_steps().store(self._steps):
            if step is not self._steps[0] and step.isFinished():
                self._steps[step.getIndex() - 1] = Finished

    def _stepStarted(self, step: Any) -> None:
        self._log_of_steps().note(step)

    def _stepFinished(self, step: Any) -> bool:
        """Take in a step that ended. A failed item never ends the protocol; only the step of `turn` does."""
        self._log_of_steps().note(step)
        self._stepsDone.increment()
        self._dirty = True
        if step is self._steps[0]:
            self.lastStatus = step.getStatus()
            if step.isFailed():
                self.setFailed(f"Protocol failed: {step.getErrorMessage()}")
            return step.isFinished()
        if step.isFailed() and step.attempt.error is None:
            step.attempt.error = RuntimeError(step.getErrorMessage())
        self.in_flight.ended(step.attempt)
        return True

    def _stepsCheck(self) -> None:
        """At the end of a turn, write what the GUI reads, at most once a second. (By this method `worksInStreaming` is true.)"""
        now = time.monotonic()
        if now - self._gui_at < GUI_SECONDS and not self._complete:
            return
        self._gui_at = now
        try:
            self._store_for_gui()
            self.trouble(entries.Topic.DATABASES, "")
        except Exception as error:  # noqa: BLE001 - sqlite3's errors come wrapped in several ways; all mean "not now"
            self.trouble(entries.Topic.DATABASES, f"Scipion's own databases cannot be written now ({one_sentence(error)})")

    def _store_for_gui(self) -> None:
        if self._newSteps or self._log_of_steps().changed:
            self._storeSteps()
            self._newSteps = False
        if self._dirty:
            self._dirty = False
            self._numberOfSteps.set(len(self._steps))
            with self._jobs_lock:
                self._jobId.set(",".join(self._jobs)) if self._jobs else self._jobId.clear()
            seen = [output.items for name, output in self.outputs.items() if getattr(self, name, None) is not None]
            self._store(self._numberOfSteps, self._stepsDone, self._jobId, *seen)

    def jobs_changed(self, started: str | None = None, ended: str | None = None) -> None:
        """Note, from a step's thread, that a queue job began or ended."""
        with self._jobs_lock:
            if started is not None:
                self._jobs.append(started)
            if ended is not None and ended in self._jobs:
                self._jobs.remove(ended)
        self._dirty = True
        self._stepsExecutor.wake()
