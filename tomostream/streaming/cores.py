# SPDX-License-Identifier: GPL-3.0-or-later
"""The cores of this machine, shared by the CPU programs of all sessions: who asked first goes first.

Each program that wants to run draws a ticket, a file that says when it was drawn and for how many cores; its lock is held as
long as the program lives, and passes on to the program itself. A ticket's turn has come when those before it leave enough
cores. Nobody overtakes, and a protocol has no more tickets than workers: a session with a thousand movies that wait cannot keep
another one from its share.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import re
import socket
import tempfile
import threading
import time
from collections.abc import Iterator

from tomostream.engine import limits
from tomostream.files.locks import Lock
from tomostream.streaming.gpus import Stopped, inheriting

#: How many cores the CPU programs of all sessions of this machine may use together.
CORES = "TOMOSTREAM_CORES"
DESCRIPTION = ("How many cores the CPU programs of all tomostream sessions of this machine use together. Empty: all that it has.")
#: Seconds between two looks whether the turn has come, and between two tries to draw a ticket.
LOOK_SECONDS, DRAW_SECONDS = 0.1, 0.002
_TICKET = re.compile(r"\d{20}-(\d+)-\d+-\d+")
_NUMBERS = itertools.count()
_LOG = logging.getLogger(__name__)


def cores() -> int:
    """Return how many cores the programs of all sessions share.

    Raises
    ------
    ValueError : the setting is not a number of at least 1.
    """
    given = os.environ.get(CORES, "").strip()
    if given and not (given.isdecimal() and int(given) > 0):
        raise ValueError(f"{CORES} is '{given}'; write a whole number of at least 1, or leave it out")
    return int(given) if given else limits.cpus()


@contextlib.contextmanager
def hold_cores(wanted: int, stop: threading.Event | None = None) -> Iterator[None]:
    """Hold so many cores (at most all) against the CPU programs of every other session while a program runs.

    Where the folder of the tickets cannot be used the program runs all the same; that is logged.

    Raises
    ------
    Stopped : `stop` was set before the turn came.
    ValueError : the setting is not a number.
    """
    stop, total = stop or threading.Event(), cores()
    try:
        ticket: Ticket | None = Ticket(folder(), min(wanted, total))
    except OSError as error:
        _LOG.warning("Cores are not shared with other sessions: %s", error)
        ticket = None
    if ticket is None:
        yield
        return
    with ticket:
        while not ticket.turn(total):
            if stop.wait(LOOK_SECONDS):
                raise Stopped("the session was stopped while it waited for a core")
        with inheriting(ticket.fileno()):
            yield


def folder() -> str:
    """Return where the tickets of this machine lie; made if it is not there, for all users.

    Raises
    ------
    OSError : it cannot be made.
    """
    path = os.path.join(tempfile.gettempdir(), f"tomostream-cores-{socket.gethostname()}")
    if not os.path.isdir(path):
        os.makedirs(path, exist_ok=True)
        with contextlib.suppress(OSError):
            os.chmod(path, 0o1777)
    return path


class Ticket:
    """One program's place among those that want to run, until it is closed.

    Parameters
    ----------
    place : folder of the tickets.
    wanted : cores.

    Raises
    ------
    OSError : it cannot be drawn.
    """

    def __init__(self, place: str, wanted: int) -> None:
        self._place, self._wanted = place, wanted
        number = next(_NUMBERS)
        hidden = os.path.join(place, f".{os.getpid()}-{number}")
        pause = threading.Event()
        with Lock(os.path.join(place, "gate")) as gate:         # so that the order of names is that of their appearance
            while not gate.take():
                pause.wait(DRAW_SECONDS)
            self._lock = Lock(hidden)
            self._lock.take()
            drawn = time.clock_gettime_ns(time.CLOCK_BOOTTIME)  # nobody sets it back
            self._name = f"{drawn:020d}-{wanted}-{os.getpid()}-{number}"
            os.rename(hidden, os.path.join(place, self._name))

    def __enter__(self) -> Ticket:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            os.remove(os.path.join(self._place, self._name))
        self._lock.close()

    def fileno(self) -> int:
        """Return the descriptor that the program is to inherit."""
        return self._lock.fileno()

    def turn(self, total: int) -> bool:
        """Tell whether the tickets before this one leave enough of `total` cores."""
        left = total - self._wanted
        for name in sorted(os.listdir(self._place)):
            if name >= self._name:
                break
            match = _TICKET.fullmatch(name)
            if match and _held(os.path.join(self._place, name)):
                left -= int(match[1])
                if left < 0:
                    return False
        return True


def _held(path: str) -> bool:
    """Tell whether somebody holds a ticket; one whose program is gone is removed."""
    try:
        with Lock(path) as lock:
            if not lock.take():
                return True
    except OSError:         # given back meanwhile, or nothing that we wrote
        return False
    with contextlib.suppress(OSError):      # another user's: it does not count either
        os.remove(path)
    return False
