# SPDX-License-Identifier: GPL-3.0-or-later
"""Which GPUs a step may use: slots within a protocol, lock files between processes."""

from __future__ import annotations

import collections
import os
import socket
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

from tomostream.files.locks import Lock
from tomostream.streaming.tickets import LOOK_SECONDS, Stopped, Ticket, folder, setting

#: How many programs one GPU may run at the same time, over all protocols of this machine.
PROGRAMS_PER_GPU = "TOMOSTREAM_PROGRAMS_PER_GPU"


class GpuSlots:
    """Which step has which GPUs. Keyed by the step object, because its id may still be None when it starts."""

    def __init__(self, lists: Iterable[Iterable[int]]) -> None:
        self._free = collections.deque(list(gpus) for gpus in lists)
        self._taken: dict[int, list[int]] = {}

    def __bool__(self) -> bool:
        return bool(self._free)

    def take(self, step: object) -> None:
        self._taken[id(step)] = self._free.popleft()

    def of(self, step: object) -> list[int]:
        return self._taken.get(id(step), [])

    def give(self, step: object) -> None:
        gpus = self._taken.pop(id(step), None)
        if gpus is not None:
            self._free.append(gpus)


class _Held(threading.local):
    """Descriptors of the lock files that this thread's program inherits."""

    descriptors: tuple[int, ...] = ()


_HELD = _Held()


def inherited() -> tuple[int, ...]:
    """Return the descriptors for a program of this thread to inherit: the locks of its GPUs or cores."""
    return _HELD.descriptors


@contextmanager
def inheriting(*descriptors: int) -> Iterator[None]:
    """Let programs of this thread inherit these locks: one that outlives its protocol keeps them."""
    before, _HELD.descriptors = _HELD.descriptors, (*_HELD.descriptors, *descriptors)
    try:
        yield
    finally:
        _HELD.descriptors = before


@contextmanager
def gpu_lock(gpus: Iterable[int], stop: threading.Event | None = None, session: str = "") -> Iterator[None]:
    """Hold the GPUs against every other tomostream protocol of this machine while a program runs.

    One lock file a GPU and slot, in the machine's temporary folder; the kernel frees it when its holders are gone. The
    program inherits it: one that outlives a killed protocol keeps its GPU. GPUs are taken in ascending order, so two
    protocols that want the same pair cannot wait for each other.

    Parameters
    ----------
    stop : set when the session is to be stopped.
    session : the project; see `tickets.Ticket`.

    Raises
    ------
    Stopped : `stop` was set while another program had the GPU.
    OSError : something other than a lock has its name; says what to do.
    ValueError : the number of programs per GPU is not a number.
    """
    stop = stop or threading.Event()
    slots = programs_per_gpu()
    with ExitStack() as held:
        locks = [_lock_one(gpu, slots, stop, session, held) for gpu in sorted(set(gpus))]
        with inheriting(*(lock.fileno() for lock in locks)):
            yield


def programs_per_gpu() -> int:
    """Return how many programs may share a GPU: one, or what the environment says.

    Raises
    ------
    ValueError : that is not a number of at least 1.
    """
    return setting(PROGRAMS_PER_GPU) or 1


def _lock_one(gpu: int, slots: int, stop: threading.Event, session: str, held: ExitStack) -> Lock:
    """Take the first free slot of a GPU; `held` gives it back. The session that has least of this GPU goes first, and of two the
    one that was served longer ago. The program inherits the slot: one that outlives its protocol keeps it, whatever the tickets
    say."""
    name = os.path.join(tempfile.gettempdir(), f"tomostream-gpu-{socket.gethostname()}-{gpu}")
    with ExitStack() as opened:
        locks = [opened.enter_context(Lock(f"{name}-{slot}.lock")) for slot in range(slots)]
        ticket = opened.enter_context(Ticket(folder(f"gpu-{gpu}"), 1, session))
        while True:
            taken = next((lock for lock in locks if lock.take()), None) if ticket.turn(slots) else None
            if taken is not None:
                for other in locks:
                    if other is not taken:
                        other.close()
                held.push(opened.pop_all())
                return taken
            if stop.wait(LOOK_SECONDS):
                raise Stopped("the session was stopped while it waited for a GPU")
