# SPDX-License-Identifier: GPL-3.0-or-later
"""Places in a queue between processes: who drew a ticket first goes first, whichever session it is of.

A ticket is a file that says when it was drawn and how much is wanted; its lock is held as long as the program lives that it is
for. Whoever is gone has no place any more. A session with a thousand movies that wait has no more tickets than workers, and each
new one stands behind those of the others.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import socket
import tempfile
import threading
import time

from tomostream.files.locks import Lock

#: Seconds between two looks whether the turn has come, and between two tries to draw a ticket.
LOOK_SECONDS, DRAW_SECONDS = 0.1, 0.002
_TICKET = re.compile(r"\d{20}-(\d+)-\d+-\d+")
_NUMBERS = itertools.count()


class Stopped(Exception):
    """The session was stopped before a program could begin."""


def folder(what: str) -> str:
    """Return where the tickets for something of this machine lie; made if it is not there, for all users.

    Raises
    ------
    OSError : it cannot be made.
    """
    path = os.path.join(tempfile.gettempdir(), f"tomostream-{what}-{socket.gethostname()}")
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
        self.close()

    def close(self) -> None:
        """Give the place up."""
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
