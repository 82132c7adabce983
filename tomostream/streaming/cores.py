# SPDX-License-Identifier: GPL-3.0-or-later
"""The cores of this machine, shared by the CPU programs of all sessions: who asked first goes first.

Each program that wants to run draws a ticket for so many cores, whose lock passes on to the program itself. Its turn has come
when those before it leave enough cores; nobody overtakes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator

from tomostream.engine import limits
from tomostream.streaming.gpus import inheriting
from tomostream.streaming.tickets import LOOK_SECONDS, Stopped, Ticket, folder

#: How many cores the CPU programs of all sessions of this machine may use together.
CORES = "TOMOSTREAM_CORES"
DESCRIPTION = ("How many cores the CPU programs of all tomostream sessions of this machine use together. Empty: all that it has.")
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
        ticket: Ticket | None = Ticket(folder("cores"), min(wanted, total))
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
