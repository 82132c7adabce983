# SPDX-License-Identifier: GPL-3.0-or-later
"""Alarms: what a person has to be told about a running session, once, and once more when it is over.

Pure: facts in, events out; no clock, no disk. Every kind of alarm is a condition of the session. The first tilt or series
that shows it raises the alarm; the next ones are added to it without a word; it is over after a run of tilts or series
without it. What is wrong with one series stays marked in its own row whatever becomes of the alarm.
"""

from __future__ import annotations

import math
from bisect import insort
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from statistics import median

from tomostream.report.facts import SeriesFacts, TiltFacts

#: Kind -> its name on the page.
KINDS = {
    "movie-failed": "Movie failed", "drift": "Drift", "series-failed": "Series failed", "tilts-lost": "Tilts lost",
    "counts": "Low counts", "defocus": "Defocus", "axis": "Tilt axis", "thickness": "Thickness", "residual": "Residual",
    "quality": "Alignment quality", "silence": "Nothing arrives", "behind": "Processing is behind",
    "disk": "Disk nearly full"}
#: How the engine begins its note on an alignment that must not be believed, whatever its quality.
DOUBT = "do not trust"
#: Items that an alarm names; the others are counted.
MOST_ITEMS = 20


@dataclass(frozen=True)
class Thresholds:
    """When an alarm is raised, and when it is over. None switches the alarm off. Lengths and angles as their names say."""

    #: A tilt drifted more than this (length of the frames' path, px of the movie) ...
    drift_px: float | None = 60.0
    #: ... or more than so many times the session's median, and more than `drift_least_px`.
    drift_factor: float | None = 6.0
    drift_least_px: float = 8.0
    #: Fewer tilts in the tomogram than this part of the expected (or acquired) ones.
    tilts_used_least: float | None = 0.85
    #: Counts of a tilt, of what its cosine lets expect: a grid bar, thick ice.
    counts_least: float | None = 0.6
    #: Target defocus, um, underfocus positive; None: that of the mdoc, else the session's median. Tolerance for a series and
    #: for a tilt.
    defocus_target_um: float | None = None
    defocus_tolerance_um: float | None = 1.5
    #: Tilt axis away from the session's median, degrees.
    axis_deg: float | None = 1.5
    #: Thickness of the specimen, A.
    thickness_least_A: float | None = 300.0
    thickness_most_A: float | None = 5000.0
    #: Residual of a tilt, and the uncertainty (sigma) of its shift, px.
    residual_px: float | None = 5.0
    #: Quality of the alignment, 0 to 1; one that is not to be trusted by its own words raises the alarm at any quality.
    quality_least: float | None = 0.3
    #: Nothing came for so many times the longest usual gap, and for `silence_least_minutes`.
    silence_factor: float | None = 3.0
    silence_least_minutes: float = 10.0
    #: Work that waits, in minutes of processing.
    behind_minutes: float | None = 15.0
    #: Free space, of the disk and in GB: whichever is reached first.
    disk_free_fraction: float | None = 0.04
    disk_free_GB: float | None = 5.0
    #: Tilts or series without it, one after the other, after which an alarm is over.
    quiet_tilts: int = 20
    quiet_series: int = 3
    #: A value has to fall to this part of its threshold (or rise accordingly) before an alarm is over.
    release: float = 0.7

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names of all thresholds."""
        return tuple(item.name for item in fields(cls))

    @classmethod
    def parse(cls, words: Iterable[str]) -> Thresholds:
        """From NAME=VALUE words; `off` is None.

        Raises
        ------
        ValueError : a name that is none, a value that is no number; says which.
        """
        known = {item.name: item for item in fields(cls)}
        values: dict[str, float | int | None] = {}
        for word in words:
            name, equals, text = word.partition("=")
            if not equals or name not in known:
                raise ValueError(f"'{word}' is no threshold: write NAME=VALUE with one of {', '.join(known)}")
            if text == "off" and "None" in str(known[name].type):
                values[name] = None
                continue
            try:
                values[name] = int(text) if known[name].type == "int" else float(text)
            except ValueError:
                raise ValueError(f"threshold {name} cannot be '{text}': write a number, or off") from None
        return replace(cls(), **values)  # type: ignore[arg-type]


@dataclass(frozen=True)
class SessionFacts:
    """The session as a whole. None is unknown. `rhythm_s`: the longest gap between movies that is usual here."""

    running: bool = True
    seconds_since_movie: float | None = None
    rhythm_s: float | None = None
    backlog_tilts: int = 0
    backlog_minutes: float | None = None
    arrivals_per_hour: float | None = None
    aligned_per_hour: float | None = None
    backlog_series: int = 0
    backlog_series_minutes: float | None = None
    disk_free_fraction: float | None = None
    disk_free_GB: float | None = None


@dataclass(frozen=True)
class Finding:
    """Something is wrong with one series: kind, a sentence, and the tilts (movies) that it is about."""

    kind: str
    text: str
    tilts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Alarm:
    """A condition that holds. `items`: the tilts or series that showed it, the newest last; `count` of them in all."""

    kind: str
    since: float
    text: str
    items: tuple[str, ...] = ()
    count: int = 1


@dataclass(frozen=True)
class Event:
    """What people are told: an alarm was raised, or is over."""

    time: float
    kind: str
    raised: bool
    text: str
    since: float


@dataclass
class _Streak:
    """How many in a row were without it, since the last one that showed it."""

    quiet: int = 0


@dataclass
class _Memory:
    """What the judgement of the next series needs of those before; bounded."""

    axes: dict[str, float] = field(default_factory=dict)
    sorted_axes: list[float] = field(default_factory=list)
    defoci: deque[float] = field(default_factory=lambda: deque(maxlen=200))
    drifts: deque[float] = field(default_factory=lambda: deque(maxlen=200))
    judged: dict[str, tuple[Finding, ...]] = field(default_factory=dict)


SERIES_KINDS = ("series-failed", "tilts-lost", "counts", "defocus", "axis", "thickness", "residual", "quality")


class Alarms:
    """Judges tilts, series and the session; `take_events()` gives what to tell, `active` what holds now."""

    def __init__(self, thresholds: Thresholds | None = None) -> None:
        self.thresholds = thresholds or Thresholds()
        self.active: dict[str, Alarm] = {}
        self.history: deque[Event] = deque(maxlen=200)
        self._streaks: dict[str, _Streak] = {}
        self._events: list[Event] = []
        self._memory = _Memory()

    def take_events(self) -> list[Event]:
        """Events since this was last asked."""
        events, self._events = self._events, []
        return events

    # ------------------------------------------------------------------ what is judged
    def tilt(self, time: float, movie: str, drift_px: float | None = None, failed: str = "") -> None:
        """One movie was aligned or failed."""
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
        """Drift (px) above which a tilt is remarkable: the absolute one, or that of this session once 20 tilts are known."""
        limits = [] if self.thresholds.drift_px is None else [self.thresholds.drift_px]
        if self.thresholds.drift_factor is not None and len(self._memory.drifts) >= 20:
            limits.append(max(self.thresholds.drift_factor * median(self._memory.drifts), self.thresholds.drift_least_px))
        return min(limits) if limits else None

    def series(self, facts: SeriesFacts, time: float) -> tuple[Finding, ...]:
        """One series ended, or ended again as a higher version. Returns what is wrong with it, for its row."""
        findings = judge_series(facts, self.thresholds, self._median_axis(), self._target_defocus(facts),
                                self.drift_limit())
        self._remember(facts)
        kinds = {finding.kind: finding for finding in findings}
        before = {finding.kind for finding in self._memory.judged.get(facts.series_id, ())}
        self._memory.judged[facts.series_id] = findings
        for kind in SERIES_KINDS:
            if kind in kinds:
                if kind not in before:
                    self._hit(kind, time, facts.series_id, f"{facts.series_id}: {kinds[kind].text}")
            elif kind in before and self._forget(kind, facts.series_id):
                self._over(kind, time, f"{facts.series_id} was made again without it")
            elif kind not in before:
                self._quiet(kind, time, self.thresholds.quiet_series)
        return findings

    def session(self, facts: SessionFacts, time: float) -> None:
        """The session as it stands now."""
        limits = self.thresholds
        if facts.seconds_since_movie is not None and limits.silence_factor is not None:
            limit = max(limits.silence_factor * (facts.rhythm_s or 0.0), 60.0 * limits.silence_least_minutes)
            self._level("silence", time, facts.running and facts.seconds_since_movie > limit,
                        not facts.running or facts.seconds_since_movie <= limit,
                        f"no movie came for {facts.seconds_since_movie / 60:.0f} minutes{_usual(facts.rhythm_s)}")
        waits = max(facts.backlog_minutes or 0.0, facts.backlog_series_minutes or 0.0)
        if limits.behind_minutes is not None:
            self._level("behind", time, facts.running and waits > limits.behind_minutes,
                        not facts.running or waits <= limits.release * limits.behind_minutes,
                        f"{facts.backlog_tilts} tilts and {facts.backlog_series} series wait, about {waits:.0f} minutes of "
                        "work")
        self._disk(facts, time)

    def _disk(self, facts: SessionFacts, time: float) -> None:
        limits = self.thresholds
        pairs = [(value, limit) for value, limit in ((facts.disk_free_fraction, limits.disk_free_fraction),
                                                     (facts.disk_free_GB, limits.disk_free_GB))
                 if value is not None and limit is not None]
        if not pairs:
            return
        free = f"{facts.disk_free_GB:.0f} GB" if facts.disk_free_GB is not None else f"{100 * pairs[0][0]:.0f} %"
        self._level("disk", time, any(value < limit for value, limit in pairs),
                    all(value >= limit / limits.release for value, limit in pairs),
                    f"only {free} free on the project's disk")

    # ------------------------------------------------------------------ the session so far
    def _median_axis(self) -> float | None:
        """Median tilt axis of the series so far; None before there are three."""
        axes = self._memory.sorted_axes
        return axes[len(axes) // 2] if len(axes) >= 3 else None

    def _target_defocus(self, facts: SeriesFacts) -> float | None:
        """The user's target, else what the microscope was set to, else the median of the series before."""
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
    def _hit(self, kind: str, time: float, item: str, text: str) -> None:
        self._streaks[kind] = _Streak()
        alarm = self.active.get(kind)
        if alarm is None:
            self.active[kind] = Alarm(kind, time, text, (item,))
            self._tell(Event(time, kind, True, text, time))
        elif item not in alarm.items:
            self.active[kind] = replace(alarm, text=text, items=(*alarm.items, item)[-MOST_ITEMS:], count=alarm.count + 1)

    def _quiet(self, kind: str, time: float, needed: int) -> None:
        if kind not in self.active:
            return
        streak = self._streaks.setdefault(kind, _Streak())
        streak.quiet += 1
        if streak.quiet >= needed:
            self._over(kind, time, f"the last {needed} were without it; {self.active[kind].count} had it")

    def _forget(self, kind: str, item: str) -> bool:
        """Take an item out of an alarm; True when none is left."""
        alarm = self.active.get(kind)
        if alarm is None or item not in alarm.items:
            return False
        self.active[kind] = replace(alarm, items=tuple(each for each in alarm.items if each != item), count=alarm.count - 1)
        return alarm.count <= 1

    def _level(self, kind: str, time: float, above: bool, below: bool, text: str) -> None:
        alarm = self.active.get(kind)
        if alarm is None and above:
            self.active[kind] = Alarm(kind, time, text)
            self._tell(Event(time, kind, True, text, time))
        elif alarm is not None and below:
            self._over(kind, time, "back to normal")
        elif alarm is not None:
            self.active[kind] = replace(alarm, text=text)

    def _over(self, kind: str, time: float, text: str) -> None:
        alarm = self.active.pop(kind)
        self._tell(Event(time, kind, False, text, alarm.since))

    def _tell(self, event: Event) -> None:
        self.history.append(event)
        self._events.append(event)


# ---------------------------------------------------------------------------------------------------- one series
def judge_series(facts: SeriesFacts, limits: Thresholds, median_axis_deg: float | None = None,
                 target_defocus_um: float | None = None, drift_limit_px: float | None = None) -> tuple[Finding, ...]:
    """Everything that is wrong with one series, the gravest first."""
    if facts.state == "failed":
        return (Finding("series-failed", facts.reason or "failed"),)
    found = [_tilts_lost(facts, limits), _low_counts(facts, limits), _axis(facts, limits, median_axis_deg),
             _residual(facts, limits), *_figures(facts, limits), _defocus(facts, limits, target_defocus_um),
             _drift(facts, drift_limit_px)]
    return tuple(finding for finding in found if finding is not None)


def _usual(rhythm_s: float | None) -> str:
    """The end of a sentence on silence: what is usual, where it is known."""
    if rhythm_s is None:
        return ""
    return f"; the longest usual gap is {f'{rhythm_s:.0f} s' if rhythm_s < 100 else f'{rhythm_s / 60:.0f} minutes'}"


def _angles(tilts: Sequence[TiltFacts]) -> str:
    shown = ", ".join(f"{tilt.angle_deg:.0f}" for tilt in tilts[:8])
    return f"{shown}{' ...' if len(tilts) > 8 else ''} degrees"


def _tilts_lost(facts: SeriesFacts, limits: Thresholds) -> Finding | None:
    wanted = facts.tilts_expected or facts.tilts_seen
    if limits.tilts_used_least is None or facts.tilts_used is None or not wanted:
        return None
    if facts.tilts_used >= limits.tilts_used_least * wanted:
        return None
    return Finding("tilts-lost", f"{facts.tilts_used} of {wanted} tilts are in the tomogram")


def _low_counts(facts: SeriesFacts, limits: Thresholds) -> Finding | None:
    if limits.counts_least is None:
        return None
    low = [tilt for tilt, part in zip(facts.tilts, counts_of_expected(facts.tilts), strict=True)
           if part is not None and part < limits.counts_least]
    if not low:
        return None
    return Finding("counts", f"less than {100 * limits.counts_least:.0f} % of the counts that the tilt lets expect at "
                   f"{_angles(low)}: a grid bar or thick ice", tuple(tilt.movie for tilt in low))


def counts_of_expected(tilts: Sequence[TiltFacts]) -> list[float | None]:
    """Mean counts of every tilt as a part of what is expected of it; None where it cannot be told.

    Counts fall as exp(-t / (L cos(tilt))) for a slab of thickness t and mean free path L. So the logarithm of counts per
    dose is fitted by a line in 1 / cos(tilt) with Theil and Sen's estimator, which up to 29 % of outliers do not move.
    """
    points: list[tuple[float, float] | None] = []
    for tilt in tilts:
        known = tilt.mean_counts is not None and tilt.mean_counts > 0 and abs(tilt.angle_deg) < 85
        dose = tilt.dose_e_A2 if tilt.dose_e_A2 is not None and tilt.dose_e_A2 > 0 else 1.0
        points.append((1 / math.cos(math.radians(tilt.angle_deg)), math.log((tilt.mean_counts or 1.0) / dose))
                      if known else None)
    known_points = [point for point in points if point is not None]
    if len(known_points) < 5:
        return [None] * len(points)
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for i, a in enumerate(known_points) for b in known_points[i + 1:]
              if abs(b[0] - a[0]) > 0.02]
    slope = median(slopes) if slopes else 0.0
    base = median(y - slope * x for x, y in known_points)
    return [None if point is None else math.exp(point[1] - base - slope * point[0]) for point in points]


def _axis(facts: SeriesFacts, limits: Thresholds, center: float | None) -> Finding | None:
    if limits.axis_deg is None or facts.tilt_axis_deg is None or center is None:
        return None
    away = abs((facts.tilt_axis_deg - center + 90.0) % 180.0 - 90.0)
    if away <= limits.axis_deg:
        return None
    return Finding("axis", f"tilt axis {facts.tilt_axis_deg:.1f} degrees, {away:.1f} from the session's {center:.1f}")


def _residual(facts: SeriesFacts, limits: Thresholds) -> Finding | None:
    limit = limits.residual_px
    if limit is None:
        return None
    away = [tilt for tilt in facts.tilts if tilt.used and tilt.residual_px is not None and tilt.residual_px > limit]
    loose = [tilt for tilt in facts.tilts if tilt.used and tilt.sigma_px is not None and tilt.sigma_px > limit]
    words = [f"{max(tilt.residual_px or 0.0 for tilt in away):.1f} px away from where the other tilts let expect it, at "
             f"{_angles(away)}"] if away else []
    words += [f"the shift is known to no better than {max(tilt.sigma_px or 0.0 for tilt in loose):.1f} px at "
              f"{_angles(loose)}"] if loose else []
    if not words:
        return None
    return Finding("residual", "; ".join(words), tuple(dict.fromkeys(tilt.movie for tilt in [*away, *loose])))


def _figures(facts: SeriesFacts, limits: Thresholds) -> list[Finding]:
    found = []
    thick = facts.thickness_A
    if thick is not None and limits.thickness_most_A is not None and thick > limits.thickness_most_A:
        found.append(Finding("thickness", f"the specimen is {thick / 10:.0f} nm thick, more than "
                             f"{limits.thickness_most_A / 10:.0f}"))
    if thick is not None and limits.thickness_least_A is not None and thick < limits.thickness_least_A:
        found.append(Finding("thickness", f"the specimen is {thick / 10:.0f} nm thick, less than "
                             f"{limits.thickness_least_A / 10:.0f}"))
    doubtful = facts.quality_note.startswith(DOUBT)
    if limits.quality_least is not None and (
            doubtful or (facts.quality is not None and facts.quality < limits.quality_least)):
        figure = "unknown" if facts.quality is None else f"{facts.quality:.2f}"
        found.append(Finding("quality", f"the alignment is not to be trusted{facts.quality_note.removeprefix(DOUBT)}" if doubtful
                             else f"alignment quality {figure}"))
    return found


def _defocus(facts: SeriesFacts, limits: Thresholds, target: float | None) -> Finding | None:
    if limits.defocus_tolerance_um is None:
        return None
    middle = facts.median_defocus_um
    if middle is not None and target is not None and abs(middle - target) > limits.defocus_tolerance_um:
        return Finding("defocus", f"defocus {middle:.1f} um, where {target:.1f} um was expected")
    bad = [tilt for tilt in facts.tilts if tilt.defocus_um is not None and middle is not None and abs(tilt.angle_deg) <= 45
           and abs(tilt.defocus_um - middle) > limits.defocus_tolerance_um]
    if not bad:
        return None
    return Finding("defocus", f"defocus far from the series' {middle:.1f} um at {_angles(bad)}",
                   tuple(tilt.movie for tilt in bad))


def _drift(facts: SeriesFacts, limit: float | None) -> Finding | None:
    bad = [tilt for tilt in facts.tilts if tilt.drift_px is not None and limit is not None and tilt.drift_px > limit]
    if not bad:
        return None
    return Finding("drift", f"more than {limit:.0f} px of drift at {_angles(bad)}", tuple(tilt.movie for tilt in bad))
