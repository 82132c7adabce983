# SPDX-License-Identifier: GPL-3.0-or-later
"""Plays what happens in a virtual session to the state machine, and keeps what the protocol would keep over a restart."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator

from tomostream.acquisition.events import (
    Compose,
    Decision,
    EndSession,
    Event,
    GiveUp,
    InputClosed,
    MdocGone,
    MdocRead,
    MicrographReady,
    MovieFailed,
    Policy,
    ProducerState,
    Restored,
    Stop,
    Tick,
)
from tomostream.acquisition.session import Session

FAILED = "MotionCor failed twice"


class Player(ABC):
    """The machine with its protocol.

    Parameters
    ----------
    policy : of the session.
    events : time, what happens, and its object, in order of time.
    show : print everything.
    """

    def __init__(self, policy: Policy, events: Iterable[tuple[float, str, object]], show: bool = False) -> None:
        self.policy, self.events, self.show = policy, list(events), show
        self.session = Session(policy)
        self.ledger: dict[str, Compose | GiveUp] = {}
        self.micrographs: dict[str, int] = {}
        self.failed: set[str] = set()
        self.end = math.inf
        self._alive, self._closed, self._down, self._over = True, False, False, False

    @abstractmethod
    def happens(self, when: float, what: str, data: object) -> Event | None:
        """Note what happens to files, movies and micrographs, also while nothing runs, and put it as an event."""

    @abstractmethod
    def gone(self, path: str) -> None:
        """Note that a file was deleted."""

    @abstractmethod
    def decided(self, when: float, decision: Compose | GiveUp) -> None:
        """Keep a decision."""

    @abstractmethod
    def on_disk(self, when: float) -> Iterator[Event]:
        """Yield what lies on disk, as it is found after a restart."""

    def play_all(self) -> None:
        """Play the session to its end."""
        for when, what, data in self.events:
            if not self._down:
                self._ticks(when)
            self._event(when, what, data)
        if not self._down:
            self._ticks(math.inf)

    def _ticks(self, until: float) -> None:
        for _ in range(100_000):
            due = self.session.next_deadline()
            if self._over or due is None or due >= until:
                return
            self._feed(Tick(due))
        raise RuntimeError("The machine asks to be woken for ever.")

    def _feed(self, event: Event) -> None:
        decisions = self.session.handle(event)
        if self.show and (decisions or not isinstance(event, Tick)):
            print(f"{event.time - self.events[0][0]:10.1f} {_short(event)}")
        for decision in decisions:
            self._keep(event.time, decision)

    def _keep(self, when: float, decision: Decision) -> None:
        if self.show:
            print(f"{'':12}-> {type(decision).__name__} {getattr(decision, 'series_id', '')} {decision.reason}")
        if isinstance(decision, EndSession):
            self._over, self.end = True, when
        elif isinstance(decision, Compose | GiveUp):
            self.decided(when, decision)

    def _event(self, when: float, what: str, data: object) -> None:
        if what == "killed":
            self._down = True
        elif what == "continued":
            self._down, self._over = False, False
            self._continue(when, bool(data))
        elif (event := self._world(when, what, data)) is not None and not self._down and not self._over:
            self._feed(event)

    def _world(self, when: float, what: str, data: object) -> Event | None:
        if what == "gone":
            self.gone(str(data))
            return MdocGone(str(data), when)
        if what == "producer":
            self._alive = bool(data)
            return ProducerState(self._alive, "the run was killed", when)
        if what in ("closed", "stop"):
            self._closed = self._closed or what == "closed"
            return Stop(when) if what == "stop" else InputClosed(when)
        return self.happens(when, what, data)

    def aligned(self, movie: str, version: int, when: float) -> Event:
        """Note the micrograph of a movie."""
        self.micrographs[movie] = version
        return MicrographReady(movie, when, version)

    def fails(self, movie: str, when: float) -> Event:
        """Note a movie that cannot be aligned."""
        self.failed.add(movie)
        return MovieFailed(movie, FAILED, when)

    def _continue(self, when: float, full: bool) -> None:
        """Start again: all that is known is what was registered and what lies on disk."""
        self.session = Session(self.policy)
        for series_id, decision in self.ledger.items():
            self._feed(restored(series_id, decision, when, full))
        for event in self.on_disk(when):
            self._feed(event)
        for movie, version in self.micrographs.items():
            self._feed(MicrographReady(movie, when + 0.2, version))
        for movie in self.failed:
            self._feed(MovieFailed(movie, FAILED, when + 0.3))
        self._feed(ProducerState(self._alive, "the run was killed", when + 0.4))
        if self._closed:
            self._feed(InputClosed(when + 0.5))


def restored(series_id: str, decision: Compose | GiveUp, when: float, full: bool) -> Restored:
    """Put a decision as a later run reads it: in full, or as versions that kept less wrote it."""
    mdocs = decision.mdocs if full else ()
    if isinstance(decision, GiveUp):
        return Restored(series_id, decision.series_name, (), 0, when, decision.failed, decision.reason, mdocs)
    return Restored(series_id, decision.series_name, tuple(str(tilt.movie) for tilt in decision.tilts), decision.version, when,
                    mdocs=mdocs, micrograph_versions=decision.micrograph_versions if full else ())


def _short(event: Event) -> str:
    if isinstance(event, MdocRead):
        facts = event.facts
        return f"mdoc {facts.path} {facts.kind} {len(facts.tilts)}{' open' if facts.last_section_open else ''}"
    return str(event)[:150]
