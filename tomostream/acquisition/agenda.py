# SPDX-License-Identifier: GPL-3.0-or-later
"""Which series are open, which have changed, and when each is due. The time is that of the last event."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from itertools import count as counter

from tomostream.acquisition.events import Phase
from tomostream.acquisition.series import Series


class Agenda:
    """The phases of the series and their deadlines; the cost of a look does not grow with the number of series."""

    def __init__(self) -> None:
        self.now = -math.inf
        self.ended = False
        self.acquiring: dict[int, Series] = {}
        self.pending: dict[int, Series] = {}
        self._touched: dict[int, Series] = {}
        self._heap: list[tuple[float, int, Series]] = []
        self._tiebreak = counter()

    def enter(self, series: Series, phase: Phase) -> None:
        """Move a series to a phase. If it is open again, so is the session."""
        series.phase = phase
        self.touch(series)
        for group, inside in ((self.acquiring, phase == "acquiring"), (self.pending, series.pending)):
            if inside:
                group[id(series)] = series
            else:
                group.pop(id(series), None)
        if not series.pending:
            series.wake = None
        else:
            self.ended = False

    def touch(self, series: Series) -> None:
        """Note that something people should see has changed about a series."""
        self._touched[id(series)] = series

    def forget(self, series: Series) -> None:
        """Report nothing about this series."""
        self._touched.pop(id(series), None)

    def take_touched(self) -> list[Series]:
        """Return the series that have changed since the last call."""
        touched, self._touched = self._touched, {}
        return list(touched.values())

    def schedule(self, series: Series, when: float) -> None:
        """Look at this series again at a given time. If its deadline moves later, that is noticed when the old one comes."""
        series.deadline = when
        if series.pending and when < math.inf and (series.wake is None or when < series.wake):
            series.wake = when
            heapq.heappush(self._heap, (when, next(self._tiebreak), series))

    def next(self) -> float | None:
        """Return when the next series is due; None when none is."""
        while self._heap and self._heap[0][2].wake != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def due(self) -> Iterator[Series]:
        """Yield the series that are due now, each once."""
        while self._heap and self._heap[0][0] <= self.now:
            when, _, series = heapq.heappop(self._heap)
            if series.wake == when:
                series.wake = None
                yield series
