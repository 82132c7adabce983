# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a series can be decided now, and the decision about it: composed, given up, or looked at again later."""

from __future__ import annotations

from dataclasses import replace

from tomostream.acquisition import verdict
from tomostream.acquisition.agenda import Agenda
from tomostream.acquisition.directory import Directory
from tomostream.acquisition.events import Decision, Late, Phase, Policy
from tomostream.acquisition.evidence import SETTLE, Evidence
from tomostream.acquisition.series import Series

#: Seconds by which a series must be older than the session: the clock of the microscope may be wrong, and if its file arrived
#: later, as with slow transfers and Tomo5, even its time zone.
OLD, OLD_AND_LATE = 3600.0, 86400.0

#: Seconds; no series is looked at twice at the same time.
_SOON = 0.01


class Decider:
    """Decides about the series of a session.

    Parameters
    ----------
    policy, agenda, evidence, directory : of the session.
    """

    def __init__(self, policy: Policy, agenda: Agenda, evidence: Evidence, directory: Directory) -> None:
        self._policy = policy
        self._agenda = agenda
        self._evidence = evidence
        self._directory = directory
        self._roster = directory.roster
        #: Whether the end of the session decides, rather than what is known about the series.
        self.forcing = False
        #: Protocols of other plugins that read the tilt series; series whose tilts people have changed since they were composed.
        self.readers: tuple[str, ...] = ()
        self.chosen: set[str] = set()
        self._kept: dict[str, tuple[str, ...]] = {}

    def evaluate(self, series: Series, decisions: list[Decision]) -> None:
        """Decide about a series if it can be decided now, else note when to look again."""
        if series.is_copy:
            self.decide(series, decisions, "")
            self._evidence.forget(series)
            return
        if series.phase == "acquiring":
            evidence, again = self._evidence.acquisition_over(series, self._agenda.now)
            if not evidence:
                self._agenda.schedule(series, max(again, self._agenda.now + _SOON))
                return
            self.finish_sections(series)
            series.evidence = evidence
            series.finished_at = self._agenda.now
            self._agenda.enter(series, "aligning")
        if series.phase != "aligning":
            return
        if self._evidence.at_rest(series, self._agenda.now):
            self.finish_sections(series)        # e.g. composed before a restart: its files have been read since
        self._roster.reconsider(series)
        if (not series.missing and not self._waits_for_versions(series)) or self._is_old(series):
            self.decide(series, decisions, "")
            return
        why, again = self._evidence.micrographs_over(series, self._agenda.now)
        if series.version and series.wrong_since is not None:       # what is registered is wrong: do not wait long
            again = min(again, series.wrong_since + SETTLE)
            why = why or ("" if self._agenda.now < again else "the series was composed again without movies that are not its own")
        if why:
            self.decide(series, decisions, why)
        else:
            self._agenda.schedule(series, max(again, self._agenda.now + _SOON))

    def _is_old(self, series: Series) -> bool:
        """Tell whether a series is from an earlier session and its movies are gone."""
        began, older = self._evidence.began, OLD_AND_LATE if self._evidence.written_at_once(series) else OLD
        return (began is not None and not series.version
                and series.last_acquired is not None and all(each.acquired is not None for each in series.exposures.values())
                and series.last_acquired < began - older and self._roster.none_arrived(series))

    def _waits_for_versions(self, series: Series) -> bool:
        """Tell whether more micrographs of a composed series are being replaced: compose it once, after all of them."""
        versions = {each.version for each in series.exposures.values() if each.state == "aligned"}
        bumped = any(series.composed.get(each.ident, each.version) < each.version for each in series.exposures.values())
        return bumped and len(versions) > 1 and self._evidence.closed_at is None

    def finish_sections(self, series: Series) -> None:
        """Count a last section of which only the end is missing: the files have certainly stopped growing."""
        for file in list(series.files.values()):
            facts = file.facts
            if facts.last_section_open and len(facts.tilts_if_ended) > len(facts.tilts):
                last_new, change = series.last_new, series.read(replace(
                    facts, tilts=facts.tilts_if_ended, last_section_open=False), self._agenda.now)
                series.last_new = last_new
                for exposure in change.new:
                    self._roster.enlist(series, exposure)
                if series.missing:
                    self._roster.search(series)

    def decide(self, series: Series, decisions: list[Decision], why_missing: str) -> None:
        """Compose the series or give it up, unless that has been reported before."""
        against = (verdict.of_earlier_session(series) if self._is_old(series)
                   else verdict.obstacle(series, self._policy, why_missing, self._directory.series))
        if against is not None:
            self._give_up(series, against, decisions)
            return
        if self.has_news(series):
            decision = verdict.compose(series, self._policy, why_missing)
            series.version = decision.version
            series.reason = series.composed_reason = decision.reason
            series.composed = {each.ident: each.version for each in verdict.aligned(series)}
            series.registered, series.given_up, series.started_over, series.wrong_since = {}, "", False, None
            decisions.append(decision)
            self.chosen.discard(series.series_id)
            self._learn(series)
        self.report_kept(series, decisions)
        series.why_again = []
        self._agenda.enter(series, "composed" if series.version else "failed")

    def _learn(self, series: Series) -> None:
        """Remember the angles of a series, unless it was the end of the session that decided it."""
        if not self.forcing:
            self._evidence.schemes.learn(series.series_id, series.angles(),
                                         [each.series_id for each in series.companions.values()])

    def _give_up(self, series: Series, against: verdict.Obstacle, decisions: list[Decision]) -> None:
        series.why_again = []
        if series.version:
            series.reason = f"{series.composed_reason} What has arrived since cannot be used: {against.reason}."
            self._agenda.enter(series, "composed")
            wrong = series.started_over or series.wrong_since is not None
            if wrong and against.failed and series.given_up != against.category:
                series.given_up = against.category
                decisions.append(verdict.give_up_again(series, against))
            return
        self._agenda.enter(series, "failed" if against.failed else "ignored")
        if series.given_up not in (against.category, "restored"):
            decision = verdict.give_up(series, against)
            series.reason = decision.reason
            decisions.append(decision)
        series.given_up = against.category

    def has_news(self, series: Series) -> bool:
        """Tell whether what can be composed now differs from what was, and should replace it."""
        stays = series.version and (not self._evidence.on("late") or self._stays(series))
        return not stays and self._differs(series)

    def _stays(self, series: Series) -> bool:
        """Tell whether a composed series stays as it is although tilts arrived late: others may be reading it right now."""
        late = self._policy.late
        return (series.version > 0 and (late is Late.NEVER or (late is Late.UNLESS_READ and bool(self.readers)))
                and series.wrong_since is None and series.series_id not in self.chosen)

    def report_kept(self, series: Series, decisions: list[Decision]) -> None:
        """Report, once, which tilts arrived late for a series that stays as it is."""
        if not self._stays(series):
            return
        late = verdict.not_composed(series)
        if late and self._kept.get(series.series_id) != late:
            self._kept[series.series_id] = late
            decisions.append(verdict.keep(series, late, self.readers, self._policy.project))

    def _differs(self, series: Series) -> bool:
        """Tell whether what can be composed now differs from what was: more, newer, or without a replaced exposure."""
        done = series.composed
        if series.wrong_since is not None or any(ident in series.replaced for ident in done):
            return True
        if any(each.state == "excluded" and each.ident in done for each in series.exposures.values()):
            return True
        return any(each.state == "aligned" and done.get(each.ident, -1) < each.version
                   for each in series.exposures.values())

    def reopen(self, series: Series, why: str, phase: Phase = "acquiring") -> None:
        if why:
            series.why_again.append(why)
        self._agenda.enter(series, phase)

    def decide_changed(self, decisions: list[Decision]) -> None:
        """Decide (again) the series whose movies have changed although no new mdoc was read."""
        for series in self._roster.take_changed():
            if not series.pending and self.has_news(series):
                self.reopen(series, "" if series.why_again else "more of its movies were found", phase="aligning")
            if series.pending:
                self.evaluate(series, decisions)
