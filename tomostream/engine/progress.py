# SPDX-License-Identifier: GPL-3.0-or-later
"""Lines of progress on standard output."""

from __future__ import annotations

import time


class Log:
    """Lines of progress on standard output, with the seconds since the start; at most one a second for one stage."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._last: tuple[str, float] = ("", 0.0)

    def say(self, line: str) -> None:
        """Print a line, with the seconds since the start."""
        print(f"[{time.perf_counter() - self._start:7.1f} s] {line}", flush=True)

    def share(self, what: str, share: float) -> None:
        """Print the progress within a stage, at most once a second.

        Parameters
        ----------
        what : str
            The stage.
        share : float
            From 0 to 1.
        """
        now = time.perf_counter()
        if what != self._last[0] or now - self._last[1] >= 1.0:
            self._last = (what, now)
            self.say(f"{what}: {round(100 * share)} %")
