# SPDX-License-Identifier: GPL-3.0-or-later
"""Alarms: conditions of a running session that people are told about once, and once more when they are over.

Facts in, events out; no clock, no disk. The first tilt or series that shows a condition raises its alarm; later ones are added
silently; the alarm is over after a number of tilts or series in a row without it. What is wrong with one series stays marked in
its row whatever happens to the alarm. Every failed series has an alarm of its own, which stays until the series is made or a
person acknowledges it.
"""

from __future__ import annotations

import math
from bisect import insort
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from statistics import median

from tomostream.journal.space import Room
from tomostream.report.facts import SeriesFacts
from tomostream.report.judging import SERIES_KINDS, Finding, Thresholds, judge_series

#: Kind -> its name on the page.
KINDS = {
    "movie-failed": "Movie failed", "drift": "Drift", "series-failed": "Series failed", "tilts-lost": "Tilts lost",
    "counts": "Low counts", "defocus": "Defocus", "axis": "Tilt axis", "thickness": "Thickness", "residual": "Residual",
    "quality": "Alignment quality", "silence": "Nothing arrives", "behind": "Processing is behind",
    "disk": "Disk nearly full", "protocol-died": "Protocol died", "standstill": "Session stands still", "held-up": "Held up",
    "queue": "Queue does not answer", "unreadable": "Entries cannot be read"}
#: How many items an alarm names; more are counted.
MAX_ITEMS = 20


@dataclass(frozen=True)
class SessionFacts:
    """The session as a whole. None is unknown. `rhythm_s`: the longest usual gap between movies.

    `seconds_since_result`: since the last tilt was aligned or tomogram made. `series_s`: the time that a tomogram takes. `dead`:
    protocols whose process is gone. `project`: quoted for a command line. `held_up`: protocol -> what keeps it from going on.
    `queues`: protocol -> why its queue does not answer. `unreadable`: protocol -> what in its ledger cannot be read. `disk`: the
    space on the disk of the project. `shortage`: why this is too little for the session, according to the compose protocol.
    """

    running: bool = True
    seconds_since_movie: float | None = None
    rhythm_s: float | None = None
    backlog_tilts: int = 0
    backlog_minutes: float | None = None
    arrivals_per_hour: float | None = None
    aligned_per_hour: float | None = None
    backlog_series: int = 0
    backlog_series_minutes: float | None = None
    seconds_since_result: float | None = None
    series_s: float | None = None
    dead: tuple[str, ...] = ()
    project: str = "PROJECT"
    held_up: Mapping[str, str] = field(default_factory=dict)
    queues: Mapping[str, str] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)
    disk: Room | None = None
    shortage: str = ""


class Change(str, Enum):
    """What happened to an alarm. Over: the condition is gone. Acknowledged: a person knows about it."""

    RAISED = "raised"
    OVER = "over"
    ACKNOWLEDGED = "acknowledged"


@dataclass(frozen=True)
class Alarm:
    """An alarm that is on. `items`: the tilts or series that showed it, the newest last; `count`: how many there are in all.

    `of`: the series or protocol that it is about, "" for the whole session. `acknowledged`: when a person acknowledged it, or
    None.
    """

    kind: str
    since: float
    text: str
    items: tuple[str, ...] = ()
    count: int = 1
    of: str = ""
    acknowledged: float | None = None

    @property
    def key(self) -> str:
        """Identifies it among all alarms of a session."""
        return key_of(self.kind, self.of)


def key_of(kind: str, of: str = "") -> str:
    """Return the key of an alarm: its kind and, for kinds with an alarm for each series or protocol, what it is about."""
    return f"{kind}/{of}" if of else kind


@dataclass(frozen=True)
class Event:
    """An alarm was raised, is over, or was acknowledged."""

    time: float
    kind: str
    change: Change
    text: str
    since: float
    of: str = ""

    @property
    def raised(self) -> bool:
        return self.change is Change.RAISED


@dataclass
class _Streak:
    """How many items in a row did not show a condition."""

    quiet: int = 0


@dataclass
class _Memory:
    """What judging the next series needs of earlier ones; bounded."""

    axes: dict[str, float] = field(default_factory=dict)
    sorted_axes: list[float] = field(default_factory=list)
    defoci: deque[float] = field(default_factory=lambda: deque(maxlen=200))
    drifts: deque[float] = field(default_factory=lambda: deque(maxlen=200))
    judged: dict[str, tuple[Finding, ...]] = field(default_factory=dict)


class Alarms:
    """Judges tilts, series and the session; `take_events()` returns what to announce, `active` holds the alarms that are on.

    Parameters
    ----------
    thresholds : when alarms are raised and over.
    since : key -> when an alarm known to an earlier writer began, which this one cannot know.
    """

    def __init__(self, thresholds: Thresholds | None = None, since: Mapping[str, float] | None = None) -> None:
        self.thresholds = thresholds or Thresholds()
        self._since = dict(since or {})
        self.active: dict[str, Alarm] = {}
        self.history: deque[Event] = deque(maxlen=200)
        self._streaks: dict[str, _Streak] = {}
        self._held_since: dict[tuple[str, str], float] = {}
        self._work_since: float | None = None
        self._events: list[Event] = []
        self._memory = _Memory()

    def take_events(self) -> list[Event]:
        """Return the events since the last call."""
        events, self._events = self._events, []
        return events

    @property
    def open(self) -> list[Alarm]:
        """Alarms that are on and not acknowledged."""
        return [alarm for alarm in self.active.values() if alarm.acknowledged is None]

    def acknowledge(self, seen: Mapping[str, float], time: float) -> None:
        """Take in acknowledgements: key -> when. Alarms that began later are not acknowledged by them."""
        for alarm in self.open:
            when = seen.get(alarm.key)
            if when is not None and alarm.since <= when:
                self.active[alarm.key] = replace(alarm, acknowledged=when)
                self._say(Event(time, alarm.kind, Change.ACKNOWLEDGED, alarm.text, alarm.since, alarm.of))

    # ------------------------------------------------------------------ what is judged
    def tilt(self, time: float, movie: str, drift_px: float | None = None, failed: str = "") -> None:
        """Judge a movie that was aligned or failed."""
        if failed:
            self._hit("movie-failed", time, movie, f"the movie {movie} failed: {failed}")
            return
        self._quiet("movie-failed", time, self.thresholds.quiet_tilts)
        if drift_px is None or not math.isfinite(drift_px):
            return
        limit = self.drift_limit()
        self._memory.drifts.append(drift_px)
        if limit is not None and drift_px > limit:
            self._hit("drift", time, movie, f"{movie} drifted {drift_px:.1f} px, more than {limit:.1f} px")
        elif limit is None or drift_px <= limit * self.thresholds.release:
            self._quiet("drift", time, self.thresholds.quiet_tilts)

    def drift_limit(self) -> float | None:
        """Return the drift (px) that raises the alarm: the absolute limit, or that of this session once 20 tilts are known."""
        limits = [] if self.thresholds.drift_px is None else [self.thresholds.drift_px]
        if self.thresholds.drift_factor is not None and len(self._memory.drifts) >= 20:
            limits.append(max(self.thresholds.drift_factor * median(self._memory.drifts), self.thresholds.drift_min_px))
        return min(limits) if limits else None

    def series(self, facts: SeriesFacts, time: float) -> tuple[Finding, ...]:
        """Judge a series that ended, possibly again as a higher version; return what is wrong with it, for its row."""
        findings = judge_series(facts, self.thresholds, self._median_axis(), self._target_defocus(facts),
                                self.drift_limit())
        self._remember(facts)
        kinds = {finding.kind: finding for finding in findings}
        before = {finding.kind for finding in self._memory.judged.get(facts.series_id, ())}
        self._memory.judged[facts.series_id] = findings
        failed = kinds.get("series-failed")
        self._level("series-failed", time, failed is not None, failed is None,
                    f"{facts.series_id}: {failed.text if failed else 'was made'}", facts.series_id,
                    f"{facts.series_id} was made")
        for kind in SERIES_KINDS[1:]:
            if kind in kinds:
                if kind not in before:
                    self._hit(kind, time, facts.series_id, f"{facts.series_id}: {kinds[kind].text}")
            elif kind in before and self._forget(kind, facts.series_id):
                self._over(kind, time, f"{facts.series_id} was made again without it")
            elif kind not in before:
                self._quiet(kind, time, self.thresholds.quiet_series)
        return findings

    def gone(self, series_id: str, time: float) -> None:
        """Note that something taken for a series is not one, so nothing is wrong with it."""
        self._level("series-failed", time, False, True, "", series_id, f"{series_id} is not a tilt series")

    def session(self, facts: SessionFacts, time: float) -> None:
        """Judge the session as it is now."""
        self._protocols(facts, time)
        self._standstill(facts, time)
        limits = self.thresholds
        if facts.seconds_since_movie is not None and limits.silence_factor is not None:
            limit = max(limits.silence_factor * (facts.rhythm_s or 0.0), 60.0 * limits.silence_min_minutes)
            self._level("silence", time, facts.running and facts.seconds_since_movie > limit,
                        not facts.running or facts.seconds_since_movie <= limit,
                        f"no movie has arrived for {facts.seconds_since_movie / 60:.0f} minutes{_usual(facts.rhythm_s)}")
        waits = max(facts.backlog_minutes or 0.0, facts.backlog_series_minutes or 0.0)
        if limits.behind_minutes is not None:
            self._level("behind", time, facts.running and waits > limits.behind_minutes,
                        not facts.running or waits <= limits.release * limits.behind_minutes,
                        f"{facts.backlog_tilts} tilts and {facts.backlog_series} series are waiting, about {waits:.0f} "
                        "minutes of work")
        self._disk(facts, time)

    def _protocols(self, facts: SessionFacts, time: float) -> None:
        """Give each protocol that died, or is kept from going on, an alarm of its own."""
        self._each("protocol-died", time, {
            name: f"{name} died or ended with an error; bring it back with: tomostream resume {facts.project}, or continue it "
                  "in Scipion"
            for name in facts.dead})
        alive = {kind: {name: f"{name}: {text}" for name, text in held.items() if facts.running and name not in facts.dead}
                 for kind, held in (("held-up", facts.held_up), ("queue", facts.queues))}
        self._held_since = {(kind, name): self._held_since.get((kind, name), time)
                            for kind, held in alive.items() for name in held}
        limit = self.thresholds.held_up_minutes
        for kind, held in alive.items():
            self._each(kind, time, {name: text for name, text in held.items()
                                    if limit is not None and time - self._held_since[kind, name] >= 60.0 * limit})
        self._each("unreadable", time, {name: f"{name}: {text}" for name, text in facts.unreadable.items()})

    def _each(self, kind: str, time: float, texts: Mapping[str, str]) -> None:
        """Have an alarm of this kind for each of these protocols, and for no other."""
        for name, text in texts.items():
            self._level(kind, time, True, False, text, name)
        for alarm in list(self.active.values()):
            if alarm.kind == kind and alarm.of not in texts:
                self._level(kind, time, False, True, "", alarm.of)

    def _standstill(self, facts: SessionFacts, time: float) -> None:
        """Judge whether work is waiting and nothing comes of it, though every process seems to be running."""
        limit = self.thresholds.standstill_minutes
        work = facts.running and facts.backlog_tilts + facts.backlog_series > 0
        if self._work_since is None or not work:
            self._work_since = time if work else None       # a pause without work is no standstill
        if limit is None:
            return
        seconds = min(facts.seconds_since_result or 0.0, 0.0 if self._work_since is None else time - self._work_since)
        stands = seconds > max(60.0 * limit, 4.0 * (facts.series_s or 0.0))
        self._level("standstill", time, stands, not stands,
                    f"{facts.backlog_tilts} tilts and {facts.backlog_series} series are waiting, and none has been finished for "
                    f"{seconds / 60:.0f} minutes")

    def _disk(self, facts: SessionFacts, time: float) -> None:
        was_short = "disk" in self.active
        short = facts.shortage or (facts.disk.shortage(self.thresholds.room, was_short) if facts.disk is not None else "")
        if short or facts.disk is not None:
            self._level("disk", time, bool(short), not short, short)

    # ------------------------------------------------------------------ the session so far
    def _median_axis(self) -> float | None:
        """Return the median tilt axis of the series so far; None if there are fewer than three."""
        axes = self._memory.sorted_axes
        return axes[len(axes) // 2] if len(axes) >= 3 else None

    def _target_defocus(self, facts: SeriesFacts) -> float | None:
        """Return the user's target, else that of the microscope, else the median of the earlier series."""
        for target in (self.thresholds.defocus_target_um, facts.target_defocus_um):
            if target is not None:
                return target
        return median(self._memory.defoci) if len(self._memory.defoci) >= 3 else None

    def _remember(self, facts: SeriesFacts) -> None:
        memory = self._memory
        if facts.tilt_axis_deg is not None and facts.state == "done":
            old = memory.axes.get(facts.series_id)
            if old is not None:
                memory.sorted_axes.remove(old)
            memory.axes[facts.series_id] = facts.tilt_axis_deg
            insort(memory.sorted_axes, facts.tilt_axis_deg)
        defocus = facts.median_defocus_um
        if defocus is not None:
            memory.defoci.append(defocus)

    # ------------------------------------------------------------------ raise once, tell when over
    def _raise(self, alarm: Alarm) -> None:
        alarm = replace(alarm, since=min(alarm.since, self._since.pop(alarm.key, alarm.since)))
        self.active[alarm.key] = alarm
        self._say(Event(alarm.since, alarm.kind, Change.RAISED, alarm.text, alarm.since, alarm.of))

    def _hit(self, kind: str, time: float, item: str, text: str) -> None:
        self._streaks[kind] = _Streak()
        alarm = self.active.get(kind)
        if alarm is None or (alarm.acknowledged is not None and item not in alarm.items):   # one that people do not know about
            self._raise(Alarm(kind, time, text, (item,)))
        elif item not in alarm.items:
            self.active[kind] = replace(alarm, text=text, items=(*alarm.items, item)[-MAX_ITEMS:], count=alarm.count + 1)

    def _quiet(self, kind: str, time: float, needed: int) -> None:
        if kind not in self.active:
            return
        streak = self._streaks.setdefault(kind, _Streak())
        streak.quiet += 1
        if streak.quiet >= needed:
            self._over(kind, time, f"the last {needed} were without it; {self.active[kind].count} had it")

    def _forget(self, kind: str, item: str) -> bool:
        """Remove an item from an alarm; return whether none is left."""
        alarm = self.active.get(kind)
        if alarm is None or item not in alarm.items:
            return False
        self.active[kind] = replace(alarm, items=tuple(each for each in alarm.items if each != item), count=alarm.count - 1)
        return alarm.count <= 1

    def _level(self, kind: str, time: float, above: bool, below: bool, text: str, of: str = "",
               over: str = "back to normal") -> None:
        key = key_of(kind, of)
        alarm = self.active.get(key)
        if alarm is None and above:
            self._raise(Alarm(kind, time, text, (of,) if of else (), of=of))
        elif alarm is not None and below:
            self._over(key, time, over)
        elif alarm is not None:
            self.active[key] = replace(alarm, text=text)

    def _over(self, key: str, time: float, text: str) -> None:
        alarm = self.active.pop(key)
        self._say(Event(time, alarm.kind, Change.OVER, text, alarm.since, alarm.of))

    def _say(self, event: Event) -> None:
        self.history.append(event)
        self._events.append(event)


def _usual(rhythm_s: float | None) -> str:
    """Return the usual gap as the end of a sentence; "" if unknown."""
    if rhythm_s is None:
        return ""
    return f"; the longest usual gap is {f'{rhythm_s:.0f} s' if rhythm_s < 100 else f'{rhythm_s / 60:.0f} minutes'}"
