# SPDX-License-Identifier: GPL-3.0-or-later
"""Is a tilt series complete? The evidence, as rules that say from when, and why.

Nothing that an instrument writes marks the end of a series. Each rule below gives a time from which the series counts
as complete; the earliest applies. Each can be switched off by its name in `Policy.rules_off`, to measure its worth
(`benchmarks/completeness.py --ablation`).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice

from tomostream.acquisition.events import Policy
from tomostream.acquisition.schemes import Schemes, step_of
from tomostream.acquisition.series import Exposure, Series, seconds

#: The rules by the names that `Policy.rules_off` takes.
RULES = {
    "expected": "as many tilts as the user gave",
    "learned": "the same angles as two earlier series of the session that were not interleaved",
    "ends": "the rhythm alone does not end a series that has not reached both ends of its tilt range",
    "short": "the rhythm alone does not end a series with fewer tilts than expected or than its learned scheme",
    "rhythm": "still for longer than its own largest gap allows",
    "successor": "another series has started since, and is not interleaved with this one",
    "left_behind": "the series interleaved with this one have been exposed twice since, and it has not",
    "whole": "the file was written in one go, after the last tilt, as Tomo5 does",
    "closed": "no more micrographs will come, and files list all of them",
    "open_section": "a file caught half-written is not complete",
    "interleaved": "the time for the next tilt counts from the last tilt of any series interleaved with this one",
    "queue": "a micrograph is late only if later ones have overtaken it, or the producer has fallen silent",
    "producer": "nothing is decided about missing micrographs while the producer is dead",
    "replaced": "of two exposures at one angle, the one that no file lists any longer is not used",
    "reacquired": "a file that starts over under an old name is another acquisition",
    "taken": "an exposure that two series list belongs to the first",
    "late": "a late tilt or micrograph recomposes the series",
}

#: Seconds after a successor started, the input was closed, or a file was written in one go: what a file server may take to show
#: a change.
SETTLE = 20.0
SETTLE_WHOLE = 10.0

#: With fewer tilts, or fewer steps of range, the ends of a series say nothing.
MIN_TILTS_FOR_ENDS = 7
MIN_STEPS_FOR_ENDS = 6
#: Steps by which angles read back from the stage may fall short of the range that was asked for.
READ_BACK = 0.1

#: The lateness of micrographs fades by this factor with each one that arrives.
FORGETTING = 0.95

#: At most this many series are checked for being interleaved: PACEtomo has some 30 targets at once.
MAX_COMPANIONS = 64


@dataclass
class Production:
    """How micrographs arrive. `passed` and `passed_listed` are frontiers: (acquired or listed, when aligned).

    `lateness`: by how many seconds micrographs have lately come after that of a later tilt.
    """

    alive: bool = True
    running: bool = False
    why_dead: str = ""
    alive_since: float = -math.inf
    last: float | None = None
    lateness: float = 0.0
    passed: list[tuple[float, float]] = field(default_factory=list)
    passed_listed: list[tuple[float, float]] = field(default_factory=list)

    def deliver(self, exposure: Exposure, time: float) -> None:
        """Note that the micrograph of a listed exposure has arrived."""
        overtaken = self.overtaken(exposure)
        self.lateness = max(FORGETTING * self.lateness, 0.0 if overtaken is None else time - overtaken)

    def passing(self, exposure: Exposure, time: float) -> None:
        """Note that a micrograph of this listed exposure is there."""
        line, place = self._line(exposure)
        if not line or line[-1][0] < place:
            line.append((place, time))

    def overtaken(self, exposure: Exposure) -> float | None:
        """Return when the first micrograph of a later exposure arrived; None if none has."""
        line, place = self._line(exposure)
        index = bisect_right(line, (place, math.inf))
        return line[index][1] if index < len(line) else None

    def _line(self, exposure: Exposure) -> tuple[list[tuple[float, float]], float]:
        if exposure.acquired is None:
            return self.passed_listed, exposure.listed_at
        return self.passed, exposure.acquired


class Evidence:
    """The rules, applied to a series. Holds what all series of a session have in common."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.schemes = Schemes()
        self.production = Production()
        self.recent: dict[int, Series] = {}
        self.started = math.inf
        self.closed_at: float | None = None
        self.all_listed: Callable[[], bool] = lambda: False

    @property
    def began(self) -> float | None:
        """When the session began, as a microscope next to this machine would write it into an mdoc; None before that."""
        return seconds(datetime.fromtimestamp(self.started)) if math.isfinite(self.started) and self.started > 0 else None

    def on(self, rule: str) -> bool:
        """Tell whether a rule is switched on."""
        return rule not in self.policy.rules_off

    def expected_tilts(self, series: Series) -> int | None:
        """Return how many tilts a series should have: as given by the user, else as learned; None if unknown."""
        if self.policy.expected_tilts is not None or not self.on("learned") or not series.exposures:
            return self.policy.expected_tilts
        return self.schemes.expected(series.angles())

    # ------------------------------------------------------------------ is the acquisition over?

    def acquisition_over(self, series: Series, now: float) -> tuple[list[str], float]:
        """Return why the acquisition of a series is over; or nothing, and when to ask again."""
        open_path = series.open_section if self.on("open_section") else None
        if open_path is None and series.exposures:
            reached = self._count_reached(series)
            if reached:
                return reached, now
        bound, why = self._bound(series), self._bound_reason(series, open_path)
        if open_path is None and series.exposures:
            for when, text in self._early(series, now):
                if when < bound:
                    bound, why = when, text
        return ([why], now) if now >= bound else ([], bound)

    def _count_reached(self, series: Series) -> list[str]:
        count, expected = len(series.exposures), self.policy.expected_tilts
        if expected is not None and self.on("expected") and count == expected:
            return [f"it has all {expected} tilts that were expected"]
        if self.on("learned") and expected is None:
            scheme = self.schemes.complete(series.angles())
            if scheme is not None:
                return [f"it has the {count} tilt angles of {len(scheme.seen)} complete series before it"]
        return []

    def _early(self, series: Series, now: float) -> Iterator[tuple[float, str]]:
        """Yield the times, before the upper bound, from which the series counts as complete, and why."""
        last = series.last_new
        if series.over_since is not None and self.on("successor"):
            yield (max(series.over_since, last) + SETTLE,
                   f"another series ({series.successor}) was started after its last tilt")
        if self.closed_at is not None and self.on("closed") and self.all_listed():
            yield max(self.closed_at, last) + SETTLE, "no more micrographs will come, and the mdoc files list all of them"
        if self.on("left_behind") and self._left_behind(series):
            yield now, "the series interleaved with it went on without it"
        if series.came_whole and self.on("whole"):
            when = last + SETTLE_WHOLE
            if now < when or (not self.unfinished(series) and self.written_at_once(series)):
                yield when, "its file was written in one go, after the last tilt"
        stillness = series.rhythm.stillness()
        if stillness is not None and self.on("rhythm"):
            when = last + stillness
            if now < when or not self.unfinished(series):
                largest = series.rhythm.largest or 0.0
                yield when, f"nothing new for {stillness:.0f} s; its largest gap between tilts was {largest:.0f} s"

    def _left_behind(self, series: Series) -> bool:
        """Tell whether most series that are interleaved with this one and still going have had two tilts since its last one."""
        going_on = [each for each in series.companions.values() if each.last_new > series.last_new]
        twice = sum(each.last_but_one > series.last_new for each in going_on)
        return bool(going_on) and 2 * twice > len(going_on)

    def written_at_once(self, series: Series) -> bool:
        """Tell whether the file arrived whole while the session was running: it was not there at the start."""
        return series.created - self.started > SETTLE_WHOLE

    def unfinished(self, series: Series) -> str:
        """Say what is still missing of a series, as far as known; "" if nothing is."""
        count, expected = len(series.exposures), self.policy.expected_tilts
        if self.on("short") and expected is not None and count < expected:
            return f"{count} of {expected} expected tilts"
        if self.on("short") and self.on("learned") and expected is None:
            scheme = self.schemes.unfinished(series.angles())
            if scheme is not None:
                return f"{count} tilts where the series before had {len(scheme.angles)}"
        angles = series.angles()
        if self.on("ends") and not both_ends_reached(angles) and not self.schemes.seen(angles):
            low, high = series.angle_range()
            return f"only the range from {low:.1f} to {high:.1f} degrees"
        return ""

    def at_rest(self, series: Series, now: float) -> bool:
        """Tell whether a series got nothing new, and none of its files changed, for the time for the next tilt."""
        return now >= self._bound(series)

    def _bound(self, series: Series) -> float:
        last = max(series.last_new, series.changed)
        if self.on("interleaved"):
            last = max(last, self._last_of_companions(series))
        return last + self.policy.time_for_next_tilt

    def _bound_reason(self, series: Series, open_path: str | None) -> str:
        text = f"nothing new for {self.policy.time_for_next_tilt:.0f} s, the time for the next tilt"
        if open_path is None:
            return text
        file = series.files.get(open_path)
        whole = file is not None and len(file.facts.tilts_if_ended) > len(file.facts.tilts)
        return f"{text}, though {open_path} ends {'without a line break' if whole else 'in the middle of a tilt'}"

    def _last_of_companions(self, series: Series) -> float:
        """Return the last time that a series that is interleaved with this one, or may be, got a tilt."""
        last = max((each.last_new for each in series.companions.values()), default=-math.inf)
        if series.rhythm.stillness() is None:
            count = len(series.exposures)
            for other in self.recently(series):
                if abs(len(other.exposures) - count) <= 1:
                    last = max(last, other.last_new)
        return last

    # ------------------------------------------------------------------ which series are interleaved?

    def active(self, series: Series) -> None:
        """Note that a series got a tilt; find those that are interleaved with it."""
        for other in self.recently(series):
            if overlap(series, other):
                series.companions[id(other)] = other
                other.companions[id(series)] = series
        self.recent.pop(id(series), None)
        self.recent[id(series)] = series

    def forget(self, series: Series) -> None:
        """Note that a series turned out not to be one."""
        self.recent.pop(id(series), None)
        for other in series.companions.values():
            other.companions.pop(id(series), None)

    def recently(self, series: Series) -> Iterator[Series]:
        """Yield the series that have had a tilt since this one, the latest first."""
        for other in islice(reversed(self.recent.values()), MAX_COMPANIONS):
            if other is series:
                return
            yield other

    def earlier(self, series: Series) -> Iterator[Series]:
        """Yield other series that have had a tilt lately, the latest first."""
        for other in islice(reversed(self.recent.values()), MAX_COMPANIONS):
            if other is not series:
                yield other

    # ------------------------------------------------------------------ is a micrograph still to come?

    def micrographs_over(self, series: Series, now: float) -> tuple[str, float]:
        """Return why a series no longer waits for its missing micrographs; or nothing, and when to ask again."""
        if self.closed_at is not None:
            return "no more micrographs will come", now
        production, patience = self.production, self.policy.time_for_next_tilt
        if not production.alive and self.on("producer"):
            return "", math.inf
        since = max(series.last_new, series.last_micrograph, series.finished_at or 0.0, production.alive_since)
        if self.on("queue"):
            since, patience = self._queue(series, since)
        if now >= since + patience:
            return f"it did not come within {patience:.0f} s", now
        # The queue may clear sooner than it seems now: look again at the pace of the tilts.
        return "", min(since + patience, max(now, since) + self.policy.time_for_next_tilt)

    def _queue(self, series: Series, since: float) -> tuple[float, float]:
        """Return from when the last of the missing micrographs is late, and how late it may be."""
        production, policy = self.production, self.policy
        if production.last is None:
            return since, policy.time_for_next_series
        times = [production.overtaken(each) for each in series.missing.values()]
        if any(each is None for each in times):
            since = max(since, production.last)
        since = max([since, *(each for each in times if each is not None)])
        patience = max(policy.time_for_next_tilt, 1.5 * production.lateness)
        return since, min(patience, max(policy.time_for_next_tilt, policy.time_for_next_series))


def overlap(one: Series, other: Series) -> bool:
    """Tell whether two series were acquired in turns, by the microscope's clock, or by ours if it gave no times."""
    a, b = span(one, other), span(other, one)
    return a is not None and b is not None and a[0] < b[1] and b[0] < a[1]


def span(series: Series, other: Series) -> tuple[float, float] | None:
    """Return the times of the first and the last tilt of a series, by a clock that both series have."""
    if series.last_acquired is not None and other.last_acquired is not None and series.first_acquired is not None:
        return series.first_acquired, series.last_acquired
    return None if series.first_new is None else (series.first_new, series.last_new)


def follows(series: Series, other: Series) -> bool:
    """Tell whether `series` started after the last tilt of `other` and is not the next target of its round.

    Interleaved targets are never more than one tilt apart, so a series that starts when another has three is not a
    target of the same round; nor is one that has three while the other stays at one.
    """
    mine, its = span(series, other), span(other, series)
    if mine is None or its is None or mine[0] <= its[1]:
        return False
    return abs(len(series.exposures) - len(other.exposures)) >= 2


def both_ends_reached(angles: list[float]) -> bool:
    """Tell whether angles (degrees, in acquisition order) reach as far to one side as to the other.

    "Side" is relative to the first angle (dose-symmetric and bidirectional schemes, pre-tilted lamellae) or to 0
    (unidirectional ones), to within two steps.
    """
    if len(angles) < MIN_TILTS_FOR_ENDS:
        return False
    ordered = sorted(angles)
    low, high, step = ordered[0], ordered[-1], step_of(ordered)
    if step is None or high - low < (MIN_STEPS_FOR_ENDS - READ_BACK) * step:
        return False
    return any(abs((high - centre) - (centre - low)) <= 2.1 * step for centre in (angles[0], 0.0))
