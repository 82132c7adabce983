# SPDX-License-Identifier: GPL-3.0-or-later
"""Which GPUs a step may use: slots within a protocol, lock files between processes."""

from __future__ import annotations

import collections
import fcntl
import os
import socket
import tempfile
import threading
from collections.abc import Iterable
from contextlib import contextmanager

#: How many programs one GPU may run at the same time, over all protocols of this machine.
PROGRAMS_PER_GPU = "TOMOSTREAM_PROGRAMS_PER_GPU"


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
