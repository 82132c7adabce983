# SPDX-License-Identifier: GPL-3.0-or-later
"""One loop in the main thread: collect what ended, start what is ready, let the protocol take its turn, sleep until woken."""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable
from typing import Any

from pyworkflow.protocol.executor import StepThread

from tomostream.streaming.gpus import GpuSlots


class Worker(StepThread):
    """Runs one step and notifies the loop. `thId` and `needsGPU()` of the parent class stay: `runJob` relies on them."""

    def __init__(self, step: Any, lock: threading.Lock, ended: Callable[[Any], None]) -> None:
        super().__init__(step, lock)
        self.daemon = True
        self._ended = ended

    def run(self) -> None:
        super().run()
        self._ended(self.step)


class EventLoop:
    """Mixin for ThreadStepExecutor and QueueStepExecutor. `steps[0]` is the protocol's own turn; it takes no thread."""

    #: Whether programs run on this machine, and so on its GPUs.
    here = True
    #: Attributes of the executor that this is mixed into.
    gpuDict: dict[Any, list[int]]
    protocol: Any
    numberOfProcs: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.slots = GpuSlots(self.gpuDict.values())
        self._use_gpus = bool(self.gpuDict)
        self._condition = threading.Condition()
        self._awake = False
        self._ended: list[Any] = []
        self.newest_first = False

    def trouble(self) -> str:
        """Return what prevents programs from being run or followed now; "" when nothing does."""
        return ""

    def wake(self) -> None:
        """Make the loop take a turn now; may be called from any thread."""
        with self._condition:
            self._awake = True
            self._condition.notify()

    def getGpuList(self) -> list[int]:
        return self.slots.of(getattr(threading.current_thread(), "step", None))

    def _step_ended(self, step: Any) -> None:
        with self._condition:
            self._ended.append(step)
            self._awake = True
            self._condition.notify()

    def runSteps(self, steps: list[Any], stepStartedCallback: Callable[[Any], object],
                 stepFinishedCallback: Callable[[Any], bool], stepsCheckCallback: Callable[[], object],
                 stepsCheckSecs: float = 1) -> None:
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

    def __init__(self, loop: EventLoop, steps: list[Any], started: Callable[[Any], object],
                 finished: Callable[[Any], bool]) -> None:
        self.loop, self.steps, self.started, self.finished = loop, steps, started, finished
        #: What can be started, in order: what waits for a GPU does not hold up what needs none.
        self.for_gpu: collections.deque[Any] = collections.deque()
        self.ready: collections.deque[Any] = collections.deque()
        self.running: dict[int, object] = {}        # by id(): a FunctionStep has __eq__ without __hash__
        self.seen, self.generator, self.go = 1, steps[0], True
        self.lock = threading.Lock()

    def begin(self) -> None:
        self.generator.setRunning()
        self.started(self.generator)

    def take(self) -> bool:
        """Take one turn; False when nothing is left to do."""
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
            for step in self.steps[self.seen:]:
                queue = self.for_gpu if loop._use_gpus and step.needsGPU() else self.ready
                queue.appendleft(step) if loop.newest_first else queue.append(step)
            self.seen = len(self.steps)
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
        """Start what is ready, as far as there are threads and GPUs."""
        while len(self.running) < self.loop.numberOfProcs:
            if self.for_gpu and self.loop.slots:
                step = self.for_gpu.popleft()
                self.loop.slots.take(step)
            elif self.ready:
                step = self.ready.popleft()
            else:
                return
            step.setRunning()
            self.started(step)
            self.running[id(step)] = step
            Worker(step, self.lock, self.loop._step_ended).start()

    def end(self) -> None:
        self.finished(self.generator)
