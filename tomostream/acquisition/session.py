# SPDX-License-Identifier: GPL-3.0-or-later
"""When is a tilt series complete? A state machine: events in, decisions out.

It has no clock and touches no disk, so a session of twelve hours runs in a moment in a test. The cost of an event does
not grow with the number of series or movies: deadlines are in a heap, everything else is looked up by name.

    session = Session(Policy(expected_tilts=41))
    for decision in session.handle(MicrographReady("TS_01_012_18.0", time)):
        ...
    wake me at session.next_deadline()
"""

from __future__ import annotations

import math
from collections.abc import Callable

from tomostream.acquisition import verdict
from tomostream.acquisition.agenda import Agenda
from tomostream.acquisition.deciding import Decider
from tomostream.acquisition.directory import Directory
from tomostream.acquisition.events import (
    Compose,
    Decision,
    EndSession,
    Event,
    Excluded,
    GiveUp,
    InputClosed,
    MdocGone,
    MdocRead,
    MicrographReady,
    MovieFailed,
    MovieSeen,
    OtherReaders,
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
from tomostream.acquisition.frames import apart
from tomostream.acquisition.naming import basename
from tomostream.acquisition.series import Change, Exposure, Series
from tomostream.acquisition.states import ignored, state_of
from tomostream.acquisition.unassigned import exposed_again, of_no_series, without_movie
from tomostream.files.logs import counted

#: Kinds of mdoc that are unlikely to become a tilt series, reported at once. (An image can be a series' first tilt.)
_NO_SERIES = ("montage", "fast-tilt", "overwritten")


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
        self._agenda = Agenda()
        self._directory = Directory(self._agenda, self._evidence)
        self._roster = self._directory.roster
        self._states = self._roster.states
        self._evidence.all_listed = self._roster.all_listed
        self._decider = Decider(policy, self._agenda, self._evidence, self._directory)
        self._ignored: dict[str, str] = {}
        self._copies_reported: set[str] = set()
        self._stopped = False
        self._last_news: float | None = None
        self._last_mdoc = -math.inf

    # ------------------------------------------------------------------ what callers use

    def handle(self, event: Event) -> list[Decision]:
        """Take in what happened; return what was decided because of it, or because time has passed."""
        self._agenda.now = max(self._agenda.now, event.time)
        if self._stopped and not isinstance(event, Stop):
            return []
        if self._last_news is None:
            self._last_news = self._evidence.started = self._agenda.now
        decisions: list[Decision] = []
        _HANDLERS[type(event)](self, event, decisions)
        self._decider.decide_changed(decisions)
        self._run_deadlines(decisions)
        self._maybe_end(decisions)
        return decisions

    def next_deadline(self) -> float | None:
        """Return the time at which a `Tick` can change something; None if nothing is pending."""
        if self._stopped:
            return None
        due = self._agenda.next()
        times = [] if due is None else [due]
        end = self._end_time()
        if end is not None and not self._agenda.ended:
            times.append(end)
        return min((each for each in times if each < math.inf), default=None)

    @property
    def series(self) -> list[Series]:
        """All series, for inspection."""
        return list(self._directory.series)

    def states(self) -> list[SeriesState]:
        """Return the state of every series, for people."""
        return [*(state_of(series, self._evidence) for series in self._directory.series),
                *(ignored(basename(path), reason) for path, reason in self._ignored.items())]

    def changed_states(self) -> list[SeriesState]:
        """Return the states of the series that have changed since the last call."""
        return [state_of(series, self._evidence) for series in self._agenda.take_touched()]

    def as_it_stands(self, series_id: str) -> Compose | None:
        """Return what a series would be composed of if it were decided now; None if it could not be. Decides nothing."""
        series = self._directory.with_id(series_id)
        if series is None or not verdict.aligned(series) or verdict.tilt_axis(series, self._policy).value is None:
            return None
        return verdict.compose(series, self._policy, "")

    def unassigned(self, still: float = 0.0) -> dict[str, Unassigned]:
        """Return the movies that have been in no series for `still` seconds, and why. Some are normal: repeated exposures."""
        loose = {**self._roster.unlisted(still)}
        for key, path in self._directory.held_movies().items():
            if key in loose:
                loose[key] = Unassigned(f"Only {basename(path)} lists it, which describes the movies of a whole session: it "
                                        "waits for the mdoc of its series until the session ends.")
        for series in self._directory.series:
            for old, new in series.replaced.values():
                if old.key and old.key != new.key:
                    loose[old.key] = exposed_again(new.key)
        return {**loose, **of_no_series(self._directory.series, self._policy.min_tilts)}

    def without_movie(self) -> list[str]:
        """Return the names of the series that have tilts whose movie was never seen."""
        return without_movie(self._directory.series)

    # ------------------------------------------------------------------ events

    def _on_tick(self, event: Tick, decisions: list[Decision]) -> None:
        pass

    def _on_restored(self, event: Restored, decisions: list[Decision]) -> None:
        self._directory.restore(event)

    def _on_mdoc(self, event: MdocRead, decisions: list[Decision]) -> None:
        facts = event.facts
        self._last_mdoc = self._agenda.now
        word = next((word for word in self._policy.excluded_words if word and word in basename(facts.path)), None)
        if word is not None:
            self._ignored[facts.path] = f"The name of the mdoc contains the excluded word '{word}'."
            return
        for part in apart(facts):
            if part.path != facts.path and self._directory.knows_file(part.path):
                continue                # a frame set is written once
            if self._directory.hold(part):
                continue
            for frame in self._directory.regroup(part):
                self._read(self._directory.series_of(frame), frame, [])
            series = self._directory.series_of(part)
            if not series.files and not series.trouble:
                self._last_news = self._agenda.now
            self._read(series, part, decisions)
            self._report_copies(series, decisions)

    def _read(self, series: Series, facts: MdocFacts, decisions: list[Decision]) -> None:
        """Take a reading into its series, then act on the consequences."""
        self._agenda.touch(series)
        before, was_open = len(series.exposures), series.open_section
        change = series.read(facts, self._agenda.now)
        if change.retired:
            self._retire(series, change, facts)
        for exposure in change.replaced:
            self._drop(series, exposure)
        for exposure in [*change.new, *change.restored]:
            self._roster.enlist(series, exposure)
        if series.missing:
            self._roster.search(series)
        if change.new:
            self._roster.take_over(series)
        if change.new or change.restored:
            self._news_of(series, change, before, decisions)
        elif _is_no_series(facts) and not series.exposures:
            self._decider.decide(series, decisions, "")
        elif change.replaced or series.open_section != was_open or not series.exposures:
            series.changed = self._agenda.now
            self._decider.evaluate(series, decisions)
        elif series.given_up == "axis" and verdict.tilt_axis(series, self._policy).value is not None:
            self._decider.reopen(series, "its tilt axis is known now")
            self._decider.evaluate(series, decisions)
        elif series.pending:
            self._decider.evaluate(series, decisions)
        if series.phase == "composed" and series.ends_with_new_tilt(facts):
            self._decider.reopen(series, "")
            self._decider.evaluate(series, decisions)

    def _news_of(self, series: Series, change: Change, before: int, decisions: list[Decision]) -> None:
        """Handle new tilts of a series: it continues, and others may be over because of it."""
        self._last_news = self._agenda.now
        if series.composed and before and series.phase == "composed" and not change.replaced:
            self._evidence.schemes.refute([each.tilt.angle for each in series.in_order()[:before]])
        if series.phase != "acquiring" and any(each.ident not in series.composed
                                                for each in [*change.new, *change.restored]):
            late = f"{verdict.names(change.new or change.restored)} arrived after it was decided"
            self._decider.reopen(series, late if series.version or series.given_up else "")
        series.over_since = None
        self._evidence.active(series)
        self._successors(series, before)
        self._decider.evaluate(series, decisions)

    def _report_copies(self, series: Series, decisions: list[Decision]) -> None:
        """Name, once, each file of a series that is a copy of another of its files."""
        originals = [path for path, file in series.files.items() if not file.facts.copy]
        for path, file in series.files.items() if originals else ():
            if file.facts.copy and path not in self._copies_reported:
                self._copies_reported.add(path)
                reason = (f"It is a copy of {basename(originals[0])}, and lists the same tilts." if file.listed else
                          f"It is a copy of {basename(originals[0])} as it was before the series was acquired again.")
                decisions.append(GiveUp("", basename(path), reason, False, (), (path,)))

    def _successors(self, series: Series, before: int) -> None:
        """See whether the start of this series shows that others are over, or that it is over by one that was read first."""
        if before <= 4:
            for other in list(self._agenda.acquiring.values()):
                if other is not series and other.over_since is None and follows(series, other):
                    other.over_since, other.successor = self._agenda.now, series.name
                    self._agenda.schedule(other, self._agenda.now)
        if before == 0:
            for other in self._evidence.earlier(series):
                if follows(other, series):
                    series.over_since, series.successor = self._agenda.now, other.name
                    return

    def _on_gone(self, event: MdocGone, decisions: list[Decision]) -> None:
        self._ignored.pop(event.path, None)
        self._directory.lose(event.path)

    def _on_seen(self, event: MovieSeen, decisions: list[Decision]) -> None:
        if not self._roster.knows(event.movie):
            self._last_news = self._agenda.now
        self._roster.see(event.movie, event.path, event.written)

    def _on_failed(self, event: MovieFailed, decisions: list[Decision]) -> None:
        movie = self._roster.movie(event.movie, event.path)
        if movie.failed or movie.version:
            return
        movie.failed = event.reason or "its movie could not be aligned"
        self._last_news = self._agenda.now
        for series, exposure in movie.listed:
            if exposure.state == "missing" and exposure.ident in series.exposures:
                self._states.match(series, exposure, movie)
                self._decider.evaluate(series, decisions)

    def _on_micrograph(self, event: MicrographReady, decisions: list[Decision]) -> None:
        movie = self._roster.movie(event.movie)
        if event.version <= movie.version:
            return
        movie.version, movie.failed = event.version, ""
        self._last_news = self._agenda.now
        self._evidence.production.last = self._agenda.now
        for series, exposure in list(movie.listed):
            if exposure.ident in series.exposures and exposure.state not in ("taken", "excluded"):
                if exposure.state == "missing":
                    self._evidence.production.deliver(exposure, self._agenda.now)
                self._states.align(series, exposure, movie)
                series.last_micrograph = self._agenda.now
                self._micrograph_news(series, exposure, decisions)

    def _micrograph_news(self, series: Series, exposure: Exposure, decisions: list[Decision]) -> None:
        """Handle a (new) micrograph of an exposure: decide, if it was waited for or changes something."""
        if series.pending:
            if not series.missing:
                self._decider.evaluate(series, decisions)
            return
        if exposure.state != "aligned" or not self._decider.has_news(series):
            self._decider.report_kept(series, decisions)
            return
        known = series.composed.get(exposure.ident)
        why = (f"the micrograph of {exposure.key} arrived late" if known is None
               else f"the micrograph of {exposure.key} was replaced by version {exposure.version}")
        self._decider.reopen(series, why if series.version or series.given_up else "", phase="aligning")
        self._decider.evaluate(series, decisions)

    def _on_producer(self, event: ProducerState, decisions: list[Decision]) -> None:
        production = self._evidence.production
        if event.alive and not production.alive:
            production.alive_since = self._agenda.now
        if (event.alive, event.running) != (production.alive, production.running):
            self._last_news = self._agenda.now
        production.alive, production.running, production.why_dead = event.alive, event.running, event.reason
        for series in self._agenda.pending.values():
            self._agenda.touch(series)
        if event.alive:
            for series in list(self._agenda.pending.values()):
                self._agenda.schedule(series, self._agenda.now)

    def _on_excluded(self, event: Excluded, decisions: list[Decision]) -> None:
        self._states.choose(event.series_id, event.movies)
        series = self._directory.with_id(event.series_id)
        if series is None:
            return
        changed = self._states.leave_out(series)
        if changed and series.version:
            self._decider.chosen.add(series.series_id)
        if changed and not series.pending:
            self._decider.reopen(series, "the user changed which tilts are left out", phase="aligning")
            self._decider.decide(series, decisions, "")

    def _on_readers(self, event: OtherReaders, decisions: list[Decision]) -> None:
        self._decider.readers = event.labels

    def _on_closed(self, event: InputClosed, decisions: list[Decision]) -> None:
        if self._evidence.closed_at is None:
            self._evidence.closed_at = self._agenda.now
            for series in list(self._agenda.pending.values()):
                self._agenda.schedule(series, self._agenda.now)

    def _on_stop(self, event: Stop, decisions: list[Decision]) -> None:
        if not self._stopped:
            self._force("the session was stopped by the user", decisions)
            self._stopped = self._agenda.ended = True
            decisions.append(EndSession("The user stopped the session; what was there was decided."))

    def _drop(self, series: Series, exposure: Exposure) -> None:
        """Handle an exposure that was replaced by a later one."""
        series.missing.pop(exposure.ident, None)
        if exposure.ident in series.composed:
            series.why_again.append(f"{exposure.key} was exposed again")

    def _retire(self, series: Series, change: Change, facts: MdocFacts) -> None:
        """Handle a series acquired again under the same name: the newest wins, and this is reported."""
        old = counted(len(change.retired), "tilt")
        series.warnings.append(f"{facts.path} was started over: the {old} of the first acquisition are not used.")
        series.missing = {}
        series.started_over = True
        if series.version:
            series.why_again.append("it was acquired again under the same name")

    # ------------------------------------------------------------------ time

    def _run_deadlines(self, decisions: list[Decision]) -> None:
        for series in self._agenda.due():
            self._decider.evaluate(series, decisions)

    def _end_time(self) -> float | None:
        """Return when the session is over if nothing happens until then."""
        if self._last_news is None:
            return None
        production = self._evidence.production
        waiting = (production.running or not production.alive) and self._evidence.on("producer")
        times = [math.inf if waiting else self._last_news + self._policy.time_for_next_series]
        closed_at = self._evidence.closed_at
        if closed_at is not None and not self._agenda.pending:
            all_listed = self._roster.all_listed()
            times.append(closed_at if all_listed else max(closed_at, self._last_mdoc) + self._policy.time_for_next_tilt)
        return min(times)

    def _maybe_end(self, decisions: list[Decision]) -> None:
        end = self._end_time()
        if self._agenda.ended or end is None or self._agenda.now < end:
            return
        if self._evidence.closed_at is not None and not self._agenda.pending:
            reason = "The input was closed, and every series is decided."
        else:
            reason = f"Nothing new came for {self._policy.time_for_next_series:.0f} s, the time for the next series."
        self._force("nothing new came until the session ended", decisions)
        self._agenda.ended = True
        decisions.append(EndSession(reason))

    def _force(self, why: str, decisions: list[Decision]) -> None:
        """Decide everything now, with what is there."""
        self._decider.forcing = True
        for frame in self._directory.take_held():
            self._directory.regroup(frame)
            self._read(self._directory.series_of(frame), frame, decisions)
        for series in list(self._agenda.pending.values()):
            if series.phase == "acquiring":
                self._decider.finish_sections(series)
                series.evidence = [why]
            self._roster.reconsider(series)
            self._decider.decide(series, decisions, why)
        self._decider.forcing = False


def _is_no_series(facts: MdocFacts) -> bool:
    """Tell whether this is certainly not a tilt series: an image with a movie may be the first tilt of one."""
    if facts.kind == "image":
        return not any(tilt.movie is not None for tilt in (*facts.tilts, *facts.tilts_if_ended))
    return facts.kind in _NO_SERIES


_HANDLERS: dict[type, Callable[..., None]] = {
    Tick: Session._on_tick, Restored: Session._on_restored, MdocRead: Session._on_mdoc, MdocGone: Session._on_gone,
    MovieSeen: Session._on_seen, MovieFailed: Session._on_failed, MicrographReady: Session._on_micrograph,
    ProducerState: Session._on_producer, InputClosed: Session._on_closed, Stop: Session._on_stop,
    Excluded: Session._on_excluded, OtherReaders: Session._on_readers,
}
