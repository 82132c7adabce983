# SPDX-License-Identifier: GPL-3.0-or-later
"""Places in a queue between processes: the session that has least goes first, and within it the one that asked first.

A ticket is a file whose name says when it was drawn, since when its program may run, how much it wants, and whose it is. Its lock
is held for the life of the program: a dead one loses its place. Another file for each session says how much it has had so far.
Who is next follows from these names alone, by one rule (`next_place`); tickets are drawn and granted under one lock, the gate.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from tomostream.files.locks import Lock, is_held

#: Seconds between two checks whether it is a ticket's turn, and between two tries to take the gate.
LOOK_SECONDS, GATE_SECONDS = 0.1, 0.002
#: How many sessions that have no ticket now are remembered.
MAX_REMEMBERED = 100
_TICKET = re.compile(r"(\d{20})-(\d{20})-(\d+)-([0-9a-f]+)-\d+-\d+")
_USED = re.compile(r"used-(\d+)-([0-9a-f]+)")
_NUMBERS = itertools.count()


class Stopped(Exception):
    """The session was stopped before a program could begin."""


def setting(name: str) -> int | None:
    """Return how much of something the environment says is shared; None where it says nothing.

    Raises
    ------
    ValueError : it says something else than a number of at least 1.
    """
    given = os.environ.get(name, "").strip()
    if given and not (given.isdecimal() and int(given) > 0):
        raise ValueError(f"{name} is '{given}'; write a whole number of at least 1, or leave it out")
    return int(given) if given else None


def folder(what: str) -> str:
    """Return the folder of the tickets for a resource of this machine, created for all users if necessary.

    Raises
    ------
    OSError : it cannot be created.
    """
    path = os.path.join(tempfile.gettempdir(), f"tomostream-{what}-{socket.gethostname()}")
    if not os.path.isdir(path):
        os.makedirs(path, exist_ok=True)
        with contextlib.suppress(OSError):
            os.chmod(path, 0o1777)
    return path


@dataclass(frozen=True)
class Place:
    """One ticket: its session, how much it wants, when it was drawn, since when its program may run (0: it waits). Times in
    nanoseconds."""

    session: str
    wanted: int
    drawn: int
    began: int = 0
    name: str = ""


def next_place(places: Iterable[Place], total: int, used: Mapping[str, int], one_each: bool = False) -> Place | None:
    """Return which ticket is granted next; None while there is no room for it.

    It is the oldest ticket of the session that has least now; of several such sessions, of the one that has had least so far. It
    waits until there is room for it, and nobody overtakes it.

    Parameters
    ----------
    total : how much there is.
    used : what each session has had, in any unit; see `use`. Sessions not named have had nothing.
    one_each : whether a session that has nothing may always begin, even when nothing is left.
    """
    has: Counter[str] = Counter()
    oldest: dict[str, Place] = {}
    for place in sorted(places, key=lambda each: (each.drawn, each.name)):
        if place.began:
            has[place.session] += place.wanted
        else:
            oldest.setdefault(place.session, place)
    first = min(oldest.values(), key=lambda each: (has[each.session], used.get(each.session, 0), each.drawn), default=None)
    if first is None:
        return None
    fits = sum(has.values()) + first.wanted <= total
    return first if fits or (one_each and not has[first.session]) else None


def use(places: Iterable[Place], noted: Mapping[str, int], now: int) -> dict[str, int]:
    """Return how much each session has had: what is noted of programs that ended, plus those still running."""
    used = dict(noted)
    for place in places:
        if place.began:
            used[place.session] = used.get(place.session, 0) + place.wanted * max(0, now - place.began)
    return used


def head_start(session: str, places: Iterable[Place], used: Mapping[str, int]) -> int:
    """Return what a session that begins to ask is taken to have had: no less than any other session now asking. Otherwise it
    would go before all others until it had caught up with them.
    """
    others = [used.get(place.session, 0) for place in places if place.session != session]
    return max(used.get(session, 0), min(others) if others else max(used.values(), default=0))


class Ticket:
    """A program's place among those that want to run, until it is closed.

    Parameters
    ----------
    place : folder of the tickets.
    wanted : how much of the resource.
    session : any text that is the same for all programs of a session and different from other sessions.

    Raises
    ------
    OSError : it cannot be drawn.
    """

    def __init__(self, place: str, wanted: int, session: str) -> None:
        self._folder = place
        number = next(_NUMBERS)
        hidden = os.path.join(place, f".{os.getpid()}-{number}")
        key = hashlib.sha256(session.encode(errors="surrogateescape")).hexdigest()[:16]
        with self._gate():                      # so that names appear in their own order
            self._begin_to_ask(key)
            self._lock = Lock(hidden)
            self._lock.take()
            self._tail = f"{wanted}-{key}-{os.getpid()}-{number}"
            self._place = self._named(Place(key, wanted, _now()))
            os.rename(hidden, self._path(self._place))

    def __enter__(self) -> Ticket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up the place; what the program had is counted for its session."""
        with contextlib.suppress(OSError):
            os.remove(self._path(self._place))
            if self._place.began:
                _, noted = self._read()
                self._note(self._place.session, noted, use([self._place], noted, _now())[self._place.session])
        self._lock.close()

    def fileno(self) -> int:
        """Return the descriptor for the program to inherit."""
        return self._lock.fileno()

    def turn(self, total: int, one_each: bool = False) -> bool:
        """Tell whether this program may run now, and count it as running if so. Parameters as in `next_place`.

        Raises
        ------
        OSError : the folder can no longer be read, or somebody has removed the ticket.
        """
        if not self._place.began and self._is_next(total, one_each):
            with self._gate():
                if self._is_next(total, one_each):
                    granted = self._named(replace(self._place, began=_now()))
                    os.rename(self._path(self._place), self._path(granted))
                    self._place = granted
        return self._place.began > 0

    def _is_next(self, total: int, one_each: bool) -> bool:
        """Tell whether this ticket is next; tickets of dead programs are removed on the way."""
        found, noted = self._read()
        places = [place for place in found if not place.began or self._is_alive(place)]
        used = use(places, noted, _now())
        while True:
            first = next_place(places, total, used, one_each)
            if first is None or first == self._place:
                return first is not None
            if self._is_alive(first):
                return False
            places.remove(first)

    def _is_alive(self, place: Place) -> bool:
        if is_held(self._path(place)):
            return True
        with contextlib.suppress(OSError):      # given back meanwhile, or another user's: it does not count either
            os.remove(self._path(place))
        return False

    # ------------------------------------------------------------------ the files
    def _named(self, place: Place) -> Place:
        return replace(place, name=f"{place.drawn:020d}-{place.began:020d}-{self._tail}")

    def _path(self, place: Place) -> str:
        return os.path.join(self._folder, place.name)

    def _read(self) -> tuple[list[Place], dict[str, int]]:
        """Return all tickets, and what each session had through programs that ended."""
        places: list[Place] = []
        noted: dict[str, int] = {}
        for name in os.listdir(self._folder):
            ticket, note = _TICKET.fullmatch(name), _USED.fullmatch(name)
            if ticket:
                places.append(Place(ticket[4], int(ticket[3]), int(ticket[1]), int(ticket[2]), name))
            elif note:
                noted[note[2]] = max(int(note[1]), noted.get(note[2], 0))
        return places, noted

    def _begin_to_ask(self, session: str) -> None:
        """Note the head start of a session that has no ticket now. If there are too many other idle sessions, those that have had
        least are forgotten: they would get the same head start anyway."""
        places, noted = self._read()
        asking = {place.session for place in places}
        if session not in asking:
            self._note(session, noted, head_start(session, places, use(places, noted, _now())))
        idle = sorted(noted.keys() - asking - {session}, key=lambda each: noted[each], reverse=True)
        for other in idle[MAX_REMEMBERED:]:
            with contextlib.suppress(OSError):
                os.remove(os.path.join(self._folder, _note(other, noted[other])))

    def _note(self, session: str, noted: Mapping[str, int], used: int) -> None:
        """Note what a session has had. If that fails (a full disk, another user's file), only what it has now counts."""
        new = os.path.join(self._folder, _note(session, used))
        with contextlib.suppress(OSError):
            if session in noted:
                os.rename(os.path.join(self._folder, _note(session, noted[session])), new)
            else:
                Lock(new).close()

    @contextlib.contextmanager
    def _gate(self) -> Iterator[None]:
        """Be the only one who draws or grants."""
        pause = threading.Event()
        with Lock(os.path.join(self._folder, "gate")) as gate:
            while not gate.take():
                pause.wait(GATE_SECONDS)
            yield


def _note(session: str, used: int) -> str:
    return f"used-{used}-{session}"


def _now() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)       # nobody sets it back
