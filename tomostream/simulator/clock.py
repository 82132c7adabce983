# SPDX-License-Identifier: GPL-3.0-or-later
"""The clock of an acquisition: a real one, or one that whoever waits moves forward."""

from __future__ import annotations

import threading
import time
from typing import Protocol


class Clock(Protocol):
    """Seconds since the start of the acquisition."""

    def start(self) -> None:
        """Start at 0."""

    def now(self) -> float:
        """Return seconds since the start."""

    def wait_until(self, moment: float) -> None:
        """Return at `moment`; immediately if it has passed."""


class RealClock:
    """A real clock. Ctrl-C ends a wait."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._never = threading.Event()

    def start(self) -> None:
        self._start = time.monotonic()

    def now(self) -> float:
        return time.monotonic() - self._start

    def wait_until(self, moment: float) -> None:
        while (left := moment - self.now()) > 0:
            self._never.wait(left)


class VirtualClock:
    """A clock that whoever waits moves forward: hours of acquisition in no time."""

    def __init__(self) -> None:
        self._now = 0.0

    def start(self) -> None:
        self._now = 0.0

    def now(self) -> float:
        return self._now

    def wait_until(self, moment: float) -> None:
        self._now = max(self._now, moment)
