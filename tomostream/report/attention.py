# SPDX-License-Identifier: GPL-3.0-or-later
"""What in a session needs a person, and the state of the whole session: for `tomostream status`, `list` and the index."""

from __future__ import annotations

import os
import shlex
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from tomostream.files import locks
from tomostream.journal import runs
from tomostream.journal.layout import REPORT, page_of, starting_file
from tomostream.journal.runs import NEVER_STARTED, Process
from tomostream.journal.status import CLASSES, ProjectStatus
from tomostream.report.alarms import KINDS, Alarm, key_of
from tomostream.report.announce import read_alarms
from tomostream.report.notify import one_line

SessionState = Literal["never-started", "starting", "running", "stopped", "dead", "finished"]
#: Alarms whose causes are read here directly, and must not be reported twice.
_OF_THEIR_OWN = ("series-failed", "protocol-died")


def processes(status: ProjectStatus) -> dict[str, Process]:
    """Return the state of each of the four protocols, in the order of the chain.

    Parameters
    ----------
    status : of the project, updated.
    """
    found = {name: runs.process(status.folders[name], status.waiting.get(name, "")) if name in status.folders else NEVER_STARTED
             for name in CLASSES}
    if is_starting(status.project) or (not status.folders and runs.is_just_made(status.project)):
        return found
    made = runs.made_classes(status.project, CLASSES.values())
    resume = f"It was never started; start it with: tomostream resume {shlex.quote(status.project)}"
    return {name: replace(each, reason=resume) if each.state == "never-started" and CLASSES[name] in made else each
            for name, each in found.items()}


def is_starting(project: str) -> bool:
    """Tell whether a command is starting protocols of a project."""
    return locks.is_held(starting_file(project))


def needs_attention(status: ProjectStatus, found: Mapping[str, Process], alarms: Sequence[Alarm]) -> list[str]:
    """Return a sentence for each thing that needs a person and is not acknowledged, the most serious first.

    Parameters
    ----------
    status : of the project, updated.
    found : its protocols, see `processes`.
    alarms : that are on, see `announce.read_alarms`.
    """
    known = {alarm.key for alarm in alarms if alarm.acknowledged is not None}
    needs = [f"{name} is dead (since {local(each.since)}): {each.reason}" for name, each in found.items()
            if each.state == "dead" and key_of("protocol-died", name) not in known]
    needs += [f"{name}: {each.reason}" for name, each in found.items() if each.state == "never-started" and each.reason]
    needs += [f"{series.id} failed: {series.reason}" for series in status.series.values()
             if series.state == "failed" and key_of("series-failed", series.id) not in known]
    if status.shortage and any(each.state in ("starting", "running") for each in found.values()):
        needs.append(status.shortage[:1].upper() + status.shortage[1:])
    needs += [f"{KINDS.get(alarm.kind, alarm.kind)}: {alarm.text}" for alarm in alarms
             if alarm.acknowledged is None and alarm.kind not in _OF_THEIR_OWN]
    return [one_line(text) for text in needs]


def lines(needs: Sequence[str]) -> list[str]:
    """Return what needs a person as lines for a terminal; none if nothing does."""
    return ["needs attention:", *(f"- {text}" for text in needs)] if needs else []


@dataclass(frozen=True)
class Overview:
    """A session in a line. `series`: state -> how many; `last_event`: seconds since the epoch, None if there was none; `page`:
    the file to open, or ""."""

    project: str
    state: SessionState
    processes: Mapping[str, Process]
    attention: Sequence[str]
    movies: Mapping[str, int]
    series: Mapping[str, int]
    last_event: float | None
    page: str

    def as_json(self) -> dict[str, Any]:
        """Return what `tomostream list --json` prints for a session."""
        return {"project": self.project, "state": self.state, "protocols": as_json(self.processes),
                "needs_attention": list(self.attention), "counts": {"movies": dict(self.movies), "series": dict(self.series)},
                "last_event": self.last_event, "page": self.page}


def overview(project: str) -> Overview | None:
    """Return the session of a project; None if it has none of our protocols.

    Parameters
    ----------
    project : its folder.
    """
    status = ProjectStatus(project)
    status.update()
    if not status.folders and not is_starting(project) and not runs.made_classes(project, CLASSES.values()):
        return None
    found = processes(status)
    attention = needs_attention(status, found, read_alarms(os.path.join(project, REPORT)))
    page = page_of(project)
    return Overview(project, session_state(found), found, attention, status.movie_counts(),
                    Counter(series.state for series in status.series.values()), status.last_event,
                    page if os.path.exists(page) else "")


def session_state(found: Mapping[str, Process]) -> SessionState:
    """Return the state of the whole session: dead if one protocol is, else running as long as one is."""
    states = {each.state for each in found.values()}
    order: tuple[SessionState, ...] = ("dead", "running", "starting", "stopped")
    return next((state for state in order if state in states),
                "finished" if "finished" in states else "never-started")


def as_json(found: Mapping[str, Process]) -> dict[str, dict[str, object]]:
    """Return the protocols for JSON."""
    return {name: {"state": each.state, "since": each.since, "reason": each.reason} for name, each in found.items()}


def local(seconds: float) -> str:
    """Return a time in this machine's time zone; "?" if unknown."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds)) if seconds > 0 else "?"
