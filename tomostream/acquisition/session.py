# SPDX-License-Identifier: GPL-3.0-or-later
"""When is which tilt series complete? A state machine: events in, decisions out.

It holds no clock and touches no disk: a session of twelve hours runs in a moment in a test. What an event costs does
not grow with the number of series or movies: deadlines are in a heap, everything else is looked up by name.

    session = Session(Policy(expected_tilts=41))
    for decision in session.handle(MicrographReady("TS_01_012_18.0", time)):
        ...
    wake me at session.next_deadline()
"""

from __future__ import annotations

import heapq
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import count as counter

from tomostream.acquisition import verdict
from tomostream.acquisition.events import (
    Compose,
    Decision,
    EndSession,
    Event,
    Excluded,
    InputClosed,
    MdocGone,
    MdocRead,
    MicrographReady,
    MovieFailed,
    MovieSeen,
    Policy,
    ProducerState,
    Restored,
    SeriesState,
    Stop,
    Tick,
    Unassigned,
)
from tomostream.acquisition.evidence import RULES, Evidence, follows
from tomostream.acquisition.facts import MdocFacts
from tomostream.acquisition.frames import Targets, apart
from tomostream.acquisition.naming import SeriesIds, basename, match_movies, movie_key, parse_movie_name, series_name
from tomostream.acquisition.series import SERIES_KINDS, Change, Exposure, Series

#: Kinds of mdoc that are unlikely to become a tilt series: said at once. (An image can be a series' first tilt.)
_NO_SERIES = ("montage", "fast-tilt")

#: Seconds. No series is looked at twice at one time.
_SOON = 0.01


@dataclass
class _Movie:
    """What is known of a movie: version of its micrograph (0: none), or why it failed; and who lists it."""

    version: int = 0
    failed: str = ""
    seen: bool = False
    listed: list[tuple[Series, Exposure]] = field(default_factory=list)


class Session:
    """An acquisition session. See the module's docstring; `Policy.rules_off` takes the names in `evidence.RULES`.

    Raises
    ------
    ValueError : if `policy.rules_off` names a rule that does not exist.
    """

    def __init__(self, policy: Policy) -> None:
        unknown = policy.rules_off - RULES.keys()
        if unknown:
            raise ValueError(f"There is no rule {', '.join(sorted(unknown))}. The rules are: {', '.join(RULES)}.")
        self._policy = policy
        self._evidence = Evidence(policy)
        self._now = -math.inf
        self._ids = SeriesIds()
        self._series: dict[tuple[str, str], Series] = {}
        self._by_path: dict[str, Series] = {}
        self._by_name: dict[str, list[Series]] = {}
        self._restored: dict[str, list[Restored]] = {}
        self._restored_movies: dict[str, Restored] = {}
        self._ignored: dict[str, str] = {}
        self._movies: dict[str, _Movie] = {}
        self._told_of_movies = False
        self._excluded: dict[str, Mapping[str, str]] = {}
        self._targets: dict[tuple[str, str], Targets] = {}
        self._unlisted: dict[str, float] = {}
        self._evidence.all_listed = lambda: not self._unlisted
        self._nameless: dict[str, set[str]] | None = None
        self._acquiring: dict[int, Series] = {}
        self._pending: dict[int, Series] = {}
        self._heap: list[tuple[float, int, Series]] = []
        self._tiebreak = counter()
        self._closed_at: float | None = None
        self._stopped = False
        self._ended = False
        self._forcing = False
        self._touched: dict[int, Series] = {}
        self._last_news: float | None = None
        self._last_mdoc = -math.inf

    # ------------------------------------------------------------------ what callers use

    def handle(self, event: Event) -> list[Decision]:
        """Take in what happened, return what was decided because of it, or because of the time that has passed."""
        self._now = max(self._now, event.time)
        if self._stopped and not isinstance(event, Stop):
            return []
        if self._last_news is None:
            self._last_news = self._evidence.started = self._now
        decisions: list[Decision] = []
        _HANDLERS[type(event)](self, event, decisions)
        self._run_deadlines(decisions)
        self._maybe_end(decisions)
        return decisions

    def next_deadline(self) -> float | None:
        """Return the time at which a `Tick` can change something; None if nothing is pending."""
        if self._stopped:
            return None
        while self._heap and self._heap[0][2].wake != self._heap[0][0]:
            heapq.heappop(self._heap)
        times = [self._heap[0][0]] if self._heap else []
        end = self._end_time()
        if end is not None and not self._ended:
            times.append(end)
        return min((each for each in times if each < math.inf), default=None)

    def states(self) -> list[SeriesState]:
        """Return where every series stands, for people."""
        return [*(self._state(series) for series in self._series.values()),
                *(SeriesState("", basename(path), "ignored", reason, 0, 0, 0, None, 0)
                  for path, reason in self._ignored.items())]

    def changed_states(self) -> list[SeriesState]:
        """Return where the series stand of which something changed since this was last asked."""
        touched, self._touched = self._touched, {}
        return [self._state(series) for series in touched.values()]

    def as_it_stands(self, series_id: str) -> Compose | None:
        """Return what a series would be composed of if it were decided now; None where it could not be. Decides nothing."""
        series = next((each for each in self._series.values() if each.series_id == series_id), None)
        if series is None or not verdict.aligned(series) or verdict.tilt_axis(series, self._policy).value is None:
            return None
        return verdict.compose(series, self._policy, "")

    def unassigned(self, still: float = 0.0) -> dict[str, Unassigned]:
        """Return the movies that are in no series since `still` seconds, and why. Some are normal: repeated exposures."""
        loose = {key: self._why_unlisted(key) for key, since in self._unlisted.items() if self._now - since >= still}
        for series in self._series.values():
            for old, new in series.replaced.values():
                if old.key and old.key != new.key:
                    loose[old.key] = _exposed_again(new.key)
        return loose

    def without_movie(self) -> list[str]:
        """Return the names of the series that have tilts whose movie was never seen."""
        return [series.name for series in self._series.values()
                if any((each.state == "missing" and not each.movie_seen) or not each.key for each in series.exposures.values())]

    def _why_unlisted(self, key: str) -> Unassigned:
        """Say why no mdoc lists a movie: its name tells whether another exposure is used in its place."""
        name = parse_movie_name(key)
        for series in self._by_name.get(name.series, []) if name.angle is not None else []:
            later = next((each.key for each in series.exposures.values()
                          if parse_movie_name(each.key).angle == name.angle), None)
            if later is not None:
                return _exposed_again(later)
        return Unassigned("No mdoc lists it.")

    # ------------------------------------------------------------------ events

    def _on_tick(self, event: Tick, decisions: list[Decision]) -> None:
        pass

    def _on_restored(self, event: Restored, decisions: list[Decision]) -> None:
        same = self._restored.setdefault(event.series_name, [])
        older = next((each for each in same if each.series_id == event.series_id), None)
        if older is not None:
            if older.version >= event.version:
                return
            same.remove(older)
        same.append(event)
        for movie in event.movies:
            self._restored_movies[movie_key(movie)] = event
        try:
            self._ids.restore(event.series_name, event.series_id)
        except ValueError:
            # One name in two folders: the identifier is kept from being given again.
            self._ids.restore(event.series_name, event.series_id, folder=event.series_id)

    def _on_mdoc(self, event: MdocRead, decisions: list[Decision]) -> None:
        facts = event.facts
        self._last_mdoc = self._now
        word = next((word for word in self._policy.excluded_words if word and word in basename(facts.path)), None)
        if word is not None:
            self._ignored[facts.path] = f"The name of the mdoc contains the excluded word '{word}'."
            return
        for part in apart(facts):
            if part.path in self._by_path and part.path != facts.path:
                continue                # a frame set is written once
            series = self._series_of(part)
            if not series.files and not series.trouble:
                self._last_news = self._now
            self._read(series, part, decisions)

    def _read(self, series: Series, facts: MdocFacts, decisions: list[Decision]) -> None:
        """Take a reading into its series, then see what follows from it."""
        self._touched[id(series)] = series
        before, was_open = len(series.exposures), series.open_section
        change = series.read(facts, self._now)
        if change.retired:
            self._retire(series, change, facts)
        for exposure in change.replaced:
            self._drop(series, exposure)
        for exposure in [*change.new, *change.restored]:
            self._list(series, exposure)
        if series.missing:
            self._match_nameless(series)
        if change.new or change.restored:
            self._news_of(series, change, before, decisions)
        elif _is_no_series(facts) and not series.exposures:
            self._decide(series, decisions, "")
        elif change.replaced or series.open_section != was_open or not series.exposures:
            series.changed = self._now
            self._evaluate(series, decisions)
        elif series.given_up == "axis" and verdict.tilt_axis(series, self._policy).value is not None:
            self._reopen(series, "its tilt axis is known now")
            self._evaluate(series, decisions)
        elif series.pending:
            self._evaluate(series, decisions)

    def _news_of(self, series: Series, change: Change, before: int, decisions: list[Decision]) -> None:
        """A series got new tilts: it goes on, and others may be over because of it."""
        self._last_news = self._now
        if series.composed and before and series.phase == "composed" and not change.replaced:
            self._evidence.schemes.refute([each.tilt.angle for each in series.in_order()[:before]])
        if series.phase != "acquiring" and any(each.ident not in series.composed
                                                for each in [*change.new, *change.restored]):
            late = f"{verdict.names(change.new or change.restored)} came after it was decided"
            self._reopen(series, late if series.version or series.given_up else "")
        series.over_since = None
        self._evidence.active(series)
        self._successors(series, before)
        self._evaluate(series, decisions)

    def _successors(self, series: Series, before: int) -> None:
        """See whether the start of this series says that others are over, or this one is by one that was read first."""
        if before <= 4:
            for other in list(self._acquiring.values()):
                if other is not series and other.over_since is None and follows(series, other):
                    other.over_since, other.successor = self._now, series.name
                    self._schedule(other, self._now)
        if before == 0:
            for other in self._evidence.earlier(series):
                if follows(other, series):
                    series.over_since, series.successor = self._now, other.name
                    return

    def _on_gone(self, event: MdocGone, decisions: list[Decision]) -> None:
        self._ignored.pop(event.path, None)

    def _on_seen(self, event: MovieSeen, decisions: list[Decision]) -> None:
        if event.movie not in self._movies:
            self._last_news = self._now
        movie = self._movie(event.movie)
        movie.seen = self._told_of_movies = True
        for _, exposure in movie.listed:
            exposure.movie_seen = True

    def _on_failed(self, event: MovieFailed, decisions: list[Decision]) -> None:
        movie = self._movie(event.movie)
        if movie.failed or movie.version:
            return
        movie.failed = event.reason or "its movie could not be aligned"
        self._last_news = self._now
        for series, exposure in movie.listed:
            if exposure.state == "missing" and exposure.ident in series.exposures:
                self._set(series, exposure, "failed", _sentence(movie.failed))
                self._evaluate(series, decisions)

    def _on_micrograph(self, event: MicrographReady, decisions: list[Decision]) -> None:
        movie = self._movie(event.movie)
        if event.version <= movie.version:
            return
        movie.version, movie.failed = event.version, ""
        self._last_news = self._now
        self._evidence.production.last = self._now
        for series, exposure in list(movie.listed):
            if exposure.ident in series.exposures and exposure.state not in ("taken", "excluded"):
                if exposure.state == "missing":
                    self._evidence.production.deliver(exposure, self._now)
                self._align(series, exposure, movie)
                series.last_micrograph = self._now
                self._micrograph_news(series, exposure, decisions)

    def _micrograph_news(self, series: Series, exposure: Exposure, decisions: list[Decision]) -> None:
        """An exposure of this series has a (new) micrograph: decide, if it was waited for or changes something."""
        if series.pending:
            if not series.missing:
                self._evaluate(series, decisions)
            return
        if exposure.state != "aligned" or not self._has_news(series):
            return
        known = series.composed.get(exposure.ident)
        why = (f"the micrograph of {exposure.key} came late" if known is None
               else f"the micrograph of {exposure.key} was replaced by version {exposure.version}")
        self._reopen(series, why if series.version or series.given_up else "", phase="aligning")
        self._evaluate(series, decisions)

    def _on_producer(self, event: ProducerState, decisions: list[Decision]) -> None:
        production = self._evidence.production
        if event.alive and not production.alive:
            production.alive_since = self._now
        if (event.alive, event.running) != (production.alive, production.running):
            self._last_news = self._now
        production.alive, production.running, production.why_dead = event.alive, event.running, event.reason
        self._touched.update(self._pending)
        if event.alive:
            for series in list(self._pending.values()):
                self._schedule(series, self._now)

    def _on_excluded(self, event: Excluded, decisions: list[Decision]) -> None:
        self._excluded[event.series_id] = event.movies
        series = next((each for each in self._series.values() if each.series_id == event.series_id), None)
        if series is None:
            return
        changed = [each for each in series.exposures.values() if (each.key in event.movies) != (each.state == "excluded")]
        for exposure in changed:
            self._exclude(series, exposure, event.movies.get(exposure.key))
        if changed and not series.pending:
            self._reopen(series, "the user changed which tilts are left out", phase="aligning")
            self._decide(series, decisions, "")

    def _exclude(self, series: Series, exposure: Exposure, why: str | None) -> None:
        """Leave an exposure out for the user's reason ("": none was given); None puts it back."""
        if why is not None:
            self._set(series, exposure, "excluded", _sentence(f"The user took it out{': ' if why else ''}{why}"))
        else:
            self._set(series, exposure, "missing")
            self._match_state(series, exposure, self._movie(exposure.key))

    def _on_closed(self, event: InputClosed, decisions: list[Decision]) -> None:
        if self._closed_at is None:
            self._closed_at = self._evidence.closed_at = self._now
            for series in list(self._pending.values()):
                self._schedule(series, self._now)

    def _on_stop(self, event: Stop, decisions: list[Decision]) -> None:
        if not self._stopped:
            self._force("the session was stopped by the user", decisions)
            self._stopped = self._ended = True
            decisions.append(EndSession("The user stopped the session; what was there was decided."))

    # ------------------------------------------------------------------ who is who

    def _series_of(self, facts: MdocFacts) -> Series:
        """Return the series to which an mdoc belongs. Names are told apart by their folder."""
        known = self._by_path.get(facts.path)
        name = (facts.frame_series if facts.kind == "frame" else "") or facts.series_name or series_name(facts.path)
        folder = os.path.dirname(facts.path)
        if known is not None and (known.name == name or facts.kind not in SERIES_KINDS
                                  or (facts.kind == "frame" and known.name.startswith(f"{name}_"))):
            return known
        if facts.kind == "frame" and facts.tilts:
            name = self._part_of_frames(folder, name, facts)
        series = self._series.get((folder, name))
        if series is None:
            series = self._new_series(name, folder, facts)
        self._by_path[facts.path] = series
        return series

    def _part_of_frames(self, folder: str, name: str, frame: MdocFacts) -> str:
        """Name of the series of a frame mdoc: one name can go on through several series, told apart by `frames`."""
        targets = self._targets.setdefault((folder, name), Targets(name))
        if targets.add(frame):
            self._regroup(targets, frame)
        return targets.name_of(frame)

    def _regroup(self, targets: Targets, but: MdocFacts) -> None:
        """Frames read before belong to other series than it seemed: these are taken back, unless they are composed."""
        frames = [each for each in targets.frames if each.path != but.path]
        for series in {id(each): each for each in map(self._by_path.get, (one.path for one in frames)) if each}.values():
            if series.version == 0:
                self._take_back(series)
        for frame in frames:
            if frame.path not in self._by_path:
                self._read(self._series_of(frame), frame, [])

    def _take_back(self, series: Series) -> None:
        """Forget a series of frames that is none: its movies are free."""
        for exposure in series.exposures.values():
            movie = self._movie(exposure.key)
            movie.listed = [(other, each) for other, each in movie.listed if other is not series]
        self._by_path = {path: each for path, each in self._by_path.items() if each is not series}
        self._series = {place: each for place, each in self._series.items() if each is not series}
        self._by_name[series.name].remove(series)
        self._enter(series, "ignored")
        self._touched.pop(id(series), None)
        self._evidence.forget(series)

    def _new_series(self, name: str, folder: str, facts: MdocFacts) -> Series:
        restored = self._restored_for(name, facts)
        if restored is not None:
            series_id = restored.series_id
        else:
            first = not self._by_name.get(name) and name not in self._restored
            series_id = self._ids.id_for(name, "" if first else folder)
        series = Series(name, folder, series_id, self._now, changed=self._now, last_new=self._now,
                        replace_rule=self._evidence.on("replaced"), reacquire_rule=self._evidence.on("reacquired"))
        self._series[folder, name] = series
        self._by_name.setdefault(name, []).append(series)
        self._pending[id(series)] = self._acquiring[id(series)] = series
        if restored is not None:
            self._adopt(series, restored)
        return series

    def _restored_for(self, name: str, facts: MdocFacts) -> Restored | None:
        """Find what was registered before the restart under the name of an mdoc: by its path, else its movies.

        The name alone is enough where nothing contradicts it: nothing was composed, or nothing is listed yet.
        """
        same_name = self._restored.get(name, [])
        keys = {movie_key(tilt.movie) for tilt in facts.tilts if tilt.movie is not None}
        tests: tuple[Callable[[Restored], bool], ...] = (
            lambda each: facts.path in each.mdocs,
            lambda each: any(movie_key(movie) in keys for movie in each.movies),
            lambda each: not each.mdocs and (not each.movies or not keys))
        found = next((each for test in tests for each in same_name if test(each)), None)
        if found is not None:
            same_name.remove(found)
            for movie in found.movies:
                self._restored_movies.pop(movie_key(movie), None)
        return found

    def _adopt(self, series: Series, restored: Restored) -> None:
        """Let a series go on from what is registered of it."""
        versions = restored.micrograph_versions or (0,) * len(restored.movies)
        series.registered = {movie_key(movie): version for movie, version
                             in zip(restored.movies, versions, strict=False)}
        series.version = restored.version
        series.reason = series.composed_reason = restored.reason or "Decided before the restart."
        if restored.movies:
            self._enter(series, "composed")
        else:
            series.given_up = "restored"
            self._enter(series, "failed" if restored.failed else "ignored")

    # ------------------------------------------------------------------ movies and exposures

    def _movie(self, key: str) -> _Movie:
        movie = self._movies.get(key)
        if movie is None:
            movie = self._movies[key] = _Movie()
            self._unlisted[key] = self._now
            if self._nameless is not None:
                name = parse_movie_name(key).series
                self._nameless.setdefault(name, set()).add(key)
                for series in self._by_name.get(name, []):
                    self._match_nameless(series)
        return movie

    def _list(self, series: Series, exposure: Exposure) -> None:
        """An exposure is listed for the first time (or again): connect it with its movie."""
        if not exposure.key:
            self._set(series, exposure, "missing")
            return
        movie = self._movie(exposure.key)
        exposure.movie_seen = movie.seen or movie.version > 0 or not self._told_of_movies
        self._unlisted.pop(exposure.key, None)
        self._adopt_exposure(series, exposure, movie)
        others = [(other, each) for other, each in movie.listed if each is not exposure]
        movie.listed = [*others, (series, exposure)]
        for other, each in others:
            self._share(series, exposure, other, each, movie)
        owner = self._restored_movies.get(exposure.key)
        if owner is not None and self._evidence.on("taken") and _same_folder(owner, series):
            self._set(series, exposure, "taken", f"It is registered in the series {owner.series_name} already.")
        if exposure.state in ("missing", "failed"):
            self._match_state(series, exposure, movie)
        why = self._excluded.get(series.series_id, {}).get(exposure.key)
        if why is not None:
            self._exclude(series, exposure, why)

    def _match_state(self, series: Series, exposure: Exposure, movie: _Movie) -> None:
        if movie.version >= exposure.least_version:
            self._align(series, exposure, movie)
        elif movie.failed:
            self._set(series, exposure, "failed", _sentence(movie.failed))
        else:
            self._set(series, exposure, "missing")

    def _share(self, series: Series, exposure: Exposure, other: Series, each: Exposure, movie: _Movie) -> None:
        """Two exposures name one movie. The same exposure belongs to the first series; a later one takes the name over.

        A micrograph that was there when the later one was listed is that of the earlier one. Frame mdocs give way to a
        tilt-series mdoc: theirs is the name of a movie, not of a series.
        """
        if exposure.acquired is not None and each.acquired is not None and exposure.acquired != each.acquired:
            old_series, old = (other, each) if each.acquired < exposure.acquired else (series, exposure)
            if old is each:
                exposure.least_version = max(exposure.least_version, movie.version + 1)
            if old.ident in old_series.exposures and old.ident not in old_series.composed:
                self._set(old_series, old, "taken", f"The name of its movie, {old.key}, was used again later.")
        elif self._evidence.on("taken") and other is not series and each.ident in other.exposures:
            winner, loser = (other, series), (series, exposure)
            if other.only_frames and not series.only_frames:
                winner, loser = (series, other), (other, each)
            self._set(loser[0], loser[1], "taken", f"It belongs to the series {winner[0].name}, which lists it too.")

    def _adopt_exposure(self, series: Series, exposure: Exposure, movie: _Movie) -> None:
        """After a restart: an exposure of which the movie is registered is composed already."""
        if exposure.key in series.registered:
            series.composed[exposure.ident] = series.registered.pop(exposure.key)

    def _align(self, series: Series, exposure: Exposure, movie: _Movie) -> None:
        if movie.version < exposure.least_version:
            return
        if exposure.state == "missing" or exposure.version == 0:
            self._evidence.production.passing(exposure, self._now)
        exposure.version = movie.version
        if series.composed.get(exposure.ident) == 0:
            series.composed[exposure.ident] = movie.version
        self._set(series, exposure, "aligned")

    def _set(self, series: Series, exposure: Exposure, state: str, reason: str = "") -> None:
        self._touched[id(series)] = series
        exposure.state, exposure.reason = state, reason
        if state == "missing" and exposure.ident in series.exposures:
            series.missing[exposure.ident] = exposure
        else:
            series.missing.pop(exposure.ident, None)

    def _drop(self, series: Series, exposure: Exposure) -> None:
        """An exposure was replaced by a later one."""
        series.missing.pop(exposure.ident, None)
        if exposure.ident in series.composed:
            series.why_again.append(f"{exposure.key} was exposed again")

    def _retire(self, series: Series, change: Change, facts: MdocFacts) -> None:
        """The series was acquired again under the same name: the newest wins, and this is told."""
        old = verdict.count(len(change.retired), "tilt")
        series.warnings.append(f"{facts.path} was begun anew: the {old} of the first acquisition are not used.")
        series.missing = {}
        series.began_anew = True
        if series.version:
            series.why_again.append("it was acquired again under the same name")

    def _match_nameless(self, series: Series) -> None:
        """Find the movies of tilts for which the mdoc names none, by what the movies' names carry."""
        nameless = [each for each in series.missing.values() if not each.key]
        if not nameless:
            return
        if self._nameless is None:
            self._nameless = {}
            for key in self._unlisted:
                self._nameless.setdefault(parse_movie_name(key).series, set()).add(key)
        ordered = series.in_order()
        tilts = [replace(each.tilt, order=place) for place, each in enumerate(ordered, start=1)]
        matched = match_movies(tilts, self._nameless.get(series.name.replace(" ", "_"), ()), series.name)
        for exposure, tilt in zip(ordered, matched, strict=True):
            if not exposure.key and tilt.movie is not None:
                exposure.tilt, exposure.key = replace(exposure.tilt, movie=tilt.movie), movie_key(tilt.movie)
                self._list(series, exposure)

    # ------------------------------------------------------------------ deciding

    def _evaluate(self, series: Series, decisions: list[Decision]) -> None:
        """Decide about a series if it can be decided now, else note when to look again."""
        if series.phase == "acquiring":
            evidence, again = self._evidence.acquisition_over(series, self._now)
            if not evidence:
                self._schedule(series, max(again, self._now + _SOON))
                return
            self._finish_sections(series)
            series.evidence = evidence
            series.finished_at = self._now
            self._enter(series, "aligning")
        if series.phase != "aligning":
            return
        if not series.missing and not self._waits_for_versions(series):
            self._decide(series, decisions, "")
            return
        why, again = self._evidence.micrographs_over(series, self._now, self._closed_at is not None)
        if why:
            self._decide(series, decisions, why)
        else:
            self._schedule(series, max(again, self._now + _SOON))

    def _waits_for_versions(self, series: Series) -> bool:
        """Tell whether more micrographs of a composed series are being replaced: it is composed once, after all."""
        versions = {each.version for each in series.exposures.values() if each.state == "aligned"}
        bumped = any(series.composed.get(each.ident, each.version) < each.version for each in series.exposures.values())
        return bumped and len(versions) > 1 and self._closed_at is None

    def _finish_sections(self, series: Series) -> None:
        """The files have stopped growing beyond doubt: a last section that lacks only its end counts."""
        for file in list(series.files.values()):
            facts = file.facts
            if facts.last_section_open and len(facts.tilts_if_ended) > len(facts.tilts):
                last_new, change = series.last_new, series.read(replace(
                    facts, tilts=facts.tilts_if_ended, last_section_open=False), self._now)
                series.last_new = last_new
                for exposure in change.new:
                    self._list(series, exposure)

    def _decide(self, series: Series, decisions: list[Decision], why_missing: str) -> None:
        """Compose the series or give it up, unless that was said before."""
        against = verdict.obstacle(series, self._policy, why_missing)
        if against is not None:
            self._give_up(series, against, decisions)
            return
        if self._has_news(series):
            decision = verdict.compose(series, self._policy, why_missing)
            series.version = decision.version
            series.reason = series.composed_reason = decision.reason
            series.composed = {each.ident: each.version for each in verdict.aligned(series)}
            series.registered, series.given_up, series.began_anew = {}, "", False
            decisions.append(decision)
            self._learn(series)
        series.why_again = []
        self._enter(series, "composed" if series.version else "failed")

    def _learn(self, series: Series) -> None:
        """Remember the angles of a series, unless it was the end of the session that decided it."""
        if not self._forcing:
            self._evidence.schemes.learn(series.series_id, series.angles(),
                                         [each.series_id for each in series.companions.values()])

    def _give_up(self, series: Series, against: verdict.Obstacle, decisions: list[Decision]) -> None:
        series.why_again = []
        if series.version:
            series.reason = f"{series.composed_reason} What came since cannot be used: {against.reason}."
            self._enter(series, "composed")
            if series.began_anew and against.failed and series.given_up != against.category:
                series.given_up = against.category
                decisions.append(verdict.give_up_again(series, against))
            return
        self._enter(series, "failed" if against.failed else "ignored")
        if series.given_up not in (against.category, "restored"):
            decision = verdict.give_up(series, against)
            series.reason = decision.reason
            decisions.append(decision)
        series.given_up = against.category

    def _has_news(self, series: Series) -> bool:
        """Tell whether what can be composed differs from what was: more, newer, or without a replaced exposure."""
        if not self._evidence.on("late") and series.version:
            return False
        done = series.composed
        if any(ident in series.replaced for ident in done):
            return True
        if any(each.state == "excluded" and each.ident in done for each in series.exposures.values()):
            return True
        return any(each.state == "aligned" and done.get(each.ident, -1) < each.version
                   for each in series.exposures.values())

    def _reopen(self, series: Series, why: str, phase: str = "acquiring") -> None:
        if why:
            series.why_again.append(why)
        self._enter(series, phase)

    def _enter(self, series: Series, phase: str) -> None:
        series.phase = phase
        self._touched[id(series)] = series
        for group, inside in ((self._acquiring, phase == "acquiring"), (self._pending, series.pending)):
            if inside:
                group[id(series)] = series
            else:
                group.pop(id(series), None)
        if not series.pending:
            series.wake = None
        else:
            self._ended = False

    # ------------------------------------------------------------------ time

    def _schedule(self, series: Series, when: float) -> None:
        """Look at this series again at a time. A deadline that moved away is found out when the old one comes."""
        series.deadline = when
        if series.pending and when < math.inf and (series.wake is None or when < series.wake):
            series.wake = when
            heapq.heappush(self._heap, (when, next(self._tiebreak), series))

    def _run_deadlines(self, decisions: list[Decision]) -> None:
        while self._heap and self._heap[0][0] <= self._now:
            when, _, series = heapq.heappop(self._heap)
            if series.wake == when:
                series.wake = None
                self._evaluate(series, decisions)

    def _end_time(self) -> float | None:
        """Return when the session is over, if nothing happens until then."""
        if self._last_news is None:
            return None
        production = self._evidence.production
        waiting = (production.running or not production.alive) and self._evidence.on("producer")
        times = [math.inf if waiting else self._last_news + self._policy.time_for_next_series]
        if self._closed_at is not None and not self._pending:
            later = self._policy.time_for_next_tilt if self._unlisted else 0.0
            times.append(max(self._closed_at, self._last_mdoc if self._unlisted else self._closed_at) + later)
        return min(times)

    def _maybe_end(self, decisions: list[Decision]) -> None:
        end = self._end_time()
        if self._ended or end is None or self._now < end:
            return
        if self._closed_at is not None and not self._pending:
            reason = "The input was closed, and every series is decided."
        else:
            reason = f"Nothing new came for {self._policy.time_for_next_series:.0f} s, the time for the next series."
        self._force("nothing new came until the session ended", decisions)
        self._ended = True
        decisions.append(EndSession(reason))

    def _force(self, why: str, decisions: list[Decision]) -> None:
        """Decide everything now, with what is there."""
        self._forcing = True
        for series in list(self._pending.values()):
            if series.phase == "acquiring":
                self._finish_sections(series)
                series.evidence = [why]
            self._decide(series, decisions, why)
        self._forcing = False

    # ------------------------------------------------------------------ for people

    def _state(self, series: Series) -> SeriesState:
        by_state = [each.state for each in series.exposures.values()]
        state, reason = self._say(series)
        return SeriesState(series.series_id, series.name, state, reason, len(by_state), by_state.count("aligned"),
                           by_state.count("failed"), self._policy.expected_tilts, series.version,
                           series.deadline if series.pending and series.deadline != math.inf else None)

    def _say(self, series: Series) -> tuple[str, str]:
        missing, seen = list(series.missing.values()), len(series.exposures)
        waits = f"the micrograph of {len(missing)} of {verdict.count(seen, 'tilt')}: {verdict.names(missing)}"
        if series.phase == "acquiring":
            if not series.exposures:
                files = list(series.trouble.values())
                return "waiting", f"Waiting for the mdoc: {files[-1].reason if files else 'it lists no tilt yet.'}"
            ahead = self._evidence.unfinished(series)
            return "acquiring", (f"{verdict.count(seen, 'tilt')} so far, waiting for the next"
                                 + (f": {ahead}" if ahead else "") + ".")
        if series.phase == "aligning":
            dead = "" if self._evidence.production.alive else (
                f" Nothing comes: the producer is not running ({self._evidence.production.why_dead}).")
            return ("waiting" if dead else "aligning"), f"Waiting for {waits}.{dead}"
        return series.phase, series.reason


def _is_no_series(facts: MdocFacts) -> bool:
    """Tell whether this is no tilt series, for sure: an image with a movie can be the first tilt of one."""
    if facts.kind == "image":
        return not any(tilt.movie is not None for tilt in (*facts.tilts, *facts.tilts_if_ended))
    return facts.kind in _NO_SERIES


def _exposed_again(by: str) -> Unassigned:
    return Unassigned(f"It was exposed again: {by} is used in its place.", expected=True)


def _same_folder(restored: Restored, series: Series) -> bool:
    return not restored.mdocs or any(os.path.dirname(path) == series.folder for path in restored.mdocs)


def _sentence(text: str) -> str:
    text = text.strip()
    return text if text.endswith((".", "!")) else f"{text}."


_HANDLERS: dict[type, Callable[..., None]] = {
    Tick: Session._on_tick, Restored: Session._on_restored, MdocRead: Session._on_mdoc, MdocGone: Session._on_gone,
    MovieSeen: Session._on_seen, MovieFailed: Session._on_failed, MicrographReady: Session._on_micrograph,
    ProducerState: Session._on_producer, InputClosed: Session._on_closed, Stop: Session._on_stop,
    Excluded: Session._on_excluded,
}
