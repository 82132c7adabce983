# SPDX-License-Identifier: GPL-3.0-or-later
"""The cores of this machine, shared by the CPU programs of all sessions: the session that has fewest goes first.

Each program draws a ticket for the cores that it wants, and inherits the ticket's lock. A session with no program running never
waits: programs run for minutes, and the kernel shares the cores meanwhile. So there may be one program per session more than
there are cores for, until others end.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator

from tomostream.engine import limits
from tomostream.streaming.gpus import inheriting
from tomostream.streaming.tickets import LOOK_SECONDS, Stopped, Ticket, folder, setting

#: How many cores the CPU programs of all sessions of this machine may use together.
CORES = "TOMOSTREAM_CORES"
DESCRIPTION = ("How many cores the CPU programs of all tomostream sessions on this machine may use together. Empty: all. A "
               "session with no program running may always start one.")
_LOG = logging.getLogger(__name__)


def cores() -> int:
    """Return how many cores the programs of all sessions share.

    Raises
    ------
    ValueError : the setting is not a number of at least 1.
    """
    return setting(CORES) or limits.cpus()


@contextlib.contextmanager
def hold_cores(wanted: int, stop: threading.Event | None = None, session: str = "") -> Iterator[None]:
    """Hold cores (at most all) against the CPU programs of every other session while a program runs.

    If the folder of the tickets cannot be used, that is logged and the program runs anyway.

    Parameters
    ----------
    stop : set when the session is to be stopped.
    session : the project; see `tickets.Ticket`.

    Raises
    ------
    Stopped : `stop` was set before the turn came.
    ValueError : the setting is not a number.
    """
    with contextlib.ExitStack() as held:
        try:
            ticket = _granted(wanted, stop or threading.Event(), session, held)
        except OSError as error:
            held.close()
            _LOG.warning("Cores are not shared with other sessions: %s", error)
        else:
            held.enter_context(inheriting(ticket.fileno()))
        yield


def _granted(wanted: int, stop: threading.Event, session: str, held: contextlib.ExitStack) -> Ticket:
    """Wait for a ticket's turn; `held` gives the ticket back.

    Raises
    ------
    Stopped, ValueError : see `hold_cores`.
    OSError : the folder of the tickets cannot be used.
    """
    total = cores()
    ticket = held.enter_context(Ticket(folder("cores"), min(wanted, total), session))
    while not ticket.turn(total, one_each=True):
        if stop.wait(LOOK_SECONDS):
            raise Stopped("the session was stopped while it waited for a core")
    return ticket
