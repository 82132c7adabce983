# SPDX-License-Identifier: GPL-3.0-or-later
"""What the page needs to know about a running session, kept up to date at a cost that does not grow with it.

Adds to `ProjectStatus` the counts, rates and list of changes, so that nobody has to go through all movies to count them.
"""

from __future__ import annotations

import shlex
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

from tomostream.acquisition.naming import movie_key
from tomostream.engine.ctf.spectra import Optics
from tomostream.journal import entries
from tomostream.journal.entries import Topic
from tomostream.journal.runs import DEAD, FAILED, RUNNING
from tomostream.journal.space import Room
from tomostream.journal.status import COMPOSE, MovieStatus, ProjectStatus
from tomostream.report.alarms import SessionFacts
from tomostream.report.facts import drift_A
from tomostream.report.latest import LatestTilt

#: Seconds over which rates are measured.
WINDOW = 3600.0
#: Seconds of one bar of the activity chart, and how many bars are kept.
BAR, BARS = 600, 144
#: How many times are kept for rates and rhythm.
KEPT = 4000


@dataclass(frozen=True)
class Movies:
    """Counts of movies: all, and those that have reached a stage."""

    found: int = 0
    imported: int = 0
    aligned: int = 0
    failed: int = 0


@dataclass(frozen=True)
class TiltNews:
    """One movie that was aligned (`drift_px` known or not) or failed (`failed` says why), for the alarms."""

    time: float
    movie: str
    drift_px: float | None = None
    failed: str = ""


class Follower(ProjectStatus):
    """Follows a project; `take_changed()` and `take_tilts()` return what is new since the last call."""

    def forget(self) -> None:
        super().forget()
        self.counts = Movies()
        self.lost = 0
        self.latest_tilt: LatestTilt | None = None
        self.last_text, self.last_time = "", 0.0
        self.first_event: float | None = None
        self.imports: deque[float] = deque(maxlen=KEPT)
        self.aligns: deque[float] = deque(maxlen=KEPT)
        self.finished: deque[float] = deque(maxlen=KEPT)
        self.work_seconds: deque[float] = deque(maxlen=50)
        self.defoci: deque[float] = deque(maxlen=50)
        self.activity: dict[int, list[int]] = {}
        self.states: Counter[str] = Counter()
        self._state_of: dict[str, str] = {}
        self._changed: dict[str, None] = {}
        self._tilts: list[TiltNews] = []

    def take_changed(self) -> list[str]:
        """Return the ids of the series that changed, in order of change."""
        changed, self._changed = list(self._changed), {}
        return changed

    def take_tilts(self) -> list[TiltNews]:
        """Return movies that were aligned or failed."""
        tilts, self._tilts = self._tilts, []
        return tilts

    # ------------------------------------------------------------------ the four protocols
    def _import(self, entry: entries.AnyEntry) -> None:
        before = self._before(entry.item)
        super()._import(entry)
        after = self._count(entry, before)
        if before.imported is None and after.imported is not None:
            self.imports.append(entry.time)
            self._bar(entry.time, 0)

    def _motioncor(self, entry: entries.AnyEntry) -> None:
        before = self._before(entry.item)
        super()._motioncor(entry)
        after = self._count(entry, before)
        if isinstance(entry, entries.Aligned):
            self._tilts.append(TiltNews(entry.time, entry.item, after.drift_px))
            optics = None if entry.voltage_kV is None or entry.cs_mm is None or entry.amplitude_contrast is None else Optics(
                entry.voltage_kV, entry.cs_mm, entry.amplitude_contrast)
            self.latest_tilt = LatestTilt(entry.item, entry.file, entry.time, after.drift_px, drift_A(after), optics,
                                          tuple(self.defoci))
            if before.aligned is None:
                self.aligns.append(entry.time)
                self._bar(entry.time, 1)

    def _compose(self, entry: entries.AnyEntry) -> None:
        super()._compose(entry)
        self._note(entry)

    def _aretomo(self, entry: entries.AnyEntry) -> None:
        super()._aretomo(entry)
        self._note(entry)
        if isinstance(entry, entries.Reconstructed):
            self.finished.append(entry.time)
            if entry.seconds is not None:
                self.work_seconds.append(entry.seconds)
            if entry.defocus_um is not None:
                self.defoci.append(entry.defocus_um)
            self._bar(entry.time, 2)

    # ------------------------------------------------------------------ counting
    def _before(self, item: str) -> MovieStatus:
        movie = self.movies.get(movie_key(item))
        return MovieStatus() if movie is None else replace(movie)

    def _count(self, entry: entries.AnyEntry, before: MovieStatus) -> MovieStatus:
        after = self.movies[movie_key(entry.item)]
        known = self.counts
        self.counts = Movies(
            len(self.movies), known.imported + (after.imported is not None) - (before.imported is not None),
            known.aligned + (after.aligned is not None) - (before.aligned is not None),
            known.failed + bool(after.failed) - bool(before.failed))
        self.lost += _lost(after) - _lost(before)
        self._say(entry)
        if after.failed and not before.failed:
            self._tilts.append(TiltNews(entry.time, entry.item, failed=after.failed))
        return after

    def _note(self, entry: entries.AnyEntry) -> None:
        series = self.series.get(entry.item)
        old = self._state_of.pop(entry.item, None)
        if old is not None:
            self.states[old] -= 1
        if series is not None:
            self._state_of[entry.item] = series.state
            self.states[series.state] += 1
        self._changed[entry.item] = None
        self._say(entry)

    def _say(self, entry: entries.AnyEntry) -> None:
        self.first_event = entry.time if self.first_event is None else min(self.first_event, entry.time)
        if entry.time >= self.last_time and not isinstance(entry, entries.Waiting):     # a growing file is no news
            self.last_time = entry.time
            self.last_text = f"{entry.item}: {entry.reason or entry.kind}"

    def _bar(self, time: float, place: int) -> None:
        bar = int(time) // BAR
        self.activity.setdefault(bar, [0, 0, 0])[place] += 1
        if len(self.activity) > BARS:
            del self.activity[min(self.activity)]

    # ------------------------------------------------------------------ rates
    def per_hour(self, times: deque[float], now: float) -> float | None:
        """Return events per hour over the last hour, or since the first one if that is less; None if there are too few.

        Measured over at least a minute, because movies that were there before the session arrive all at once.
        """
        recent = [time for time in times if now - WINDOW < time <= now]
        if len(recent) < 2:
            return None
        span = max(now - recent[0] if len(recent) < len(times) else recent[-1] - recent[0], 60.0)
        return (len(recent) - 1) * 3600.0 / span

    def rhythm(self) -> float | None:
        """Return the longest usual gap between movies in this session, s: 95 % are shorter. None before 20 movies."""
        times = list(self.imports)[-200:]
        if len(times) < 20:
            return None
        gaps = sorted(b - a for a, b in pairwise(times))
        return gaps[int(0.95 * (len(gaps) - 1))]

    @property
    def backlog(self) -> int:
        """How many movies are imported and still to be aligned."""
        return max(0, self.counts.imported - self.counts.aligned - self.lost)

    @property
    def final_work(self) -> int:
        """How many series are being composed or reconstructed, or are waiting for it."""
        return self.states["composing"] + self.states["reconstructing"]

    def _since_result(self, now: float) -> float | None:
        """Return seconds since a tilt was aligned or a tomogram made; before the first one, since the first movie."""
        made = [times[-1] for times in (self.aligns, self.finished) if times]
        if made:
            return now - max(made)
        return now - self.imports[0] if self.imports else None

    def session_facts(self, now: float, running: bool, disk: Room | None,
                      states: Mapping[str, str] | None = None) -> SessionFacts:
        """Return the facts for the alarms of the session. `states`: of the protocols."""
        backlog = self.backlog
        rate = self.per_hour(self.aligns, now)
        arrivals = self.per_hour(self.imports, now)
        series = self.states["reconstructing"]
        seconds = sorted(self.work_seconds)[len(self.work_seconds) // 2] if self.work_seconds else None
        return SessionFacts(
            running=running, seconds_since_movie=now - self.imports[-1] if self.imports else None, rhythm_s=self.rhythm(),
            backlog_tilts=backlog, backlog_minutes=60.0 * backlog / rate if rate else None, arrivals_per_hour=arrivals,
            aligned_per_hour=rate, backlog_series=series,
            backlog_series_minutes=None if seconds is None else series * seconds / 60.0,
            disk=disk, shortage=self.shortage if (states or {}).get(COMPOSE, RUNNING) == RUNNING else "",
            seconds_since_result=self._since_result(now), series_s=seconds,
            project=shlex.quote(self.project),
            dead=tuple(name for name, state in (states or {}).items() if state in (DEAD, FAILED)), unreadable=self.unreadable,
            held_up={name: list(others.values())[-1] for name, troubles in self.troubles.items()
                     if (others := {topic: text for topic, text in troubles.items() if topic is not Topic.QUEUE})},
            queues={name: troubles[Topic.QUEUE] for name, troubles in self.troubles.items() if Topic.QUEUE in troubles})


def _lost(movie: MovieStatus) -> bool:
    """Tell whether a movie was imported but could not be aligned."""
    return movie.imported is not None and movie.aligned is None and bool(movie.failed)
