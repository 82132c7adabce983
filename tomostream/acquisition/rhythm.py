# SPDX-License-Identifier: GPL-3.0-or-later
"""The rhythm of a tilt series: how long it usually takes until its next tilt arrives."""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field

#: A series counts as over after being still for this many times its own largest gap, once the rhythm is known.
FACTOR = 1.4

#: The same while fewer than `FEW_GAPS` gaps are known: three gaps say little about the fourth.
FACTOR_FEW = 2.5
FEW_GAPS = 10

#: Fewer gaps than this are no rhythm at all.
MIN_GAPS = 3

#: Seconds. Even in a fast acquisition, a file must be still for longer than a file server takes to show a change.
MIN_STILLNESS = 10.0


@dataclass
class Rhythm:
    """The gaps between the tilts of one series, in seconds.

    Gaps are measured by the clock of the microscope (differences between mdoc times) and, for `burst`, by ours: a network
    disk that shows its files every 30 s makes tilts arrive in bursts, and nothing shorter than that is stillness.
    """

    gaps: list[float] = field(default_factory=list)
    largest_burst: float = 0.0

    def add(self, gap: float) -> None:
        """Add the gap between two successive tilts, by the microscope's clock."""
        insort(self.gaps, gap)

    def add_burst(self, gap: float) -> None:
        """Add the time between two readings that brought new tilts, by our clock."""
        self.largest_burst = max(self.largest_burst, gap)

    @property
    def median(self) -> float | None:
        """The usual gap; None before any is known."""
        return self.gaps[len(self.gaps) // 2] if self.gaps else None

    @property
    def largest(self) -> float | None:
        """The largest gap so far; None before any is known."""
        return max(self.gaps[-1], self.largest_burst) if self.gaps else None

    def stillness(self) -> float | None:
        """Return how long this series must be still to be over, by its own rhythm; None while it has none."""
        largest = self.largest
        if largest is None or len(self.gaps) < MIN_GAPS:
            return None
        factor = FACTOR if len(self.gaps) >= FEW_GAPS else FACTOR_FEW
        return max(factor * largest, MIN_STILLNESS)
