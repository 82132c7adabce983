# SPDX-License-Identifier: GPL-3.0-or-later
"""The message sent once when a session has ended: its results, what needs attention, and where the page is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tomostream.journal.runs import DEAD, FAILED, FINISHED, RUNNING
from tomostream.journal.until import words
from tomostream.report.alarms import KINDS, Alarm
from tomostream.report.notify import FORMAT, Message, one_line, utc

#: How many alarms are named; more are counted.
MAX_ALARMS = 20


@dataclass(frozen=True)
class Summary:
    """A session that has ended. Rates over the whole session, per hour; None is unknown. `page`: the file to open."""

    session: str
    protocols: Mapping[str, str]
    series: Mapping[str, int]
    movies: int
    aligned: int
    began: float | None
    ended: float | None
    alarms: Sequence[Alarm]
    page: str
    tilts_per_hour: float | None = None
    tomograms_per_hour: float | None = None
    disk_free_GB: float | None = None
    #: When the import was to end.
    until: float | None = None

    @property
    def title(self) -> str:
        """How it ended; by itself only if all four protocols finished."""
        if any(state == RUNNING for state in self.protocols.values()):
            return "session" if self.until is None else f"session at {words(self.until)}"
        dead = [name for name, state in self.protocols.items() if state in (DEAD, FAILED)]
        if dead:
            return f"session died ({', '.join(dead)})"
        if self.protocols and all(state == FINISHED for state in self.protocols.values()):
            return "session ended"
        return "session stopped"

    def lines(self) -> list[str]:
        """Return the text, a line for each fact."""
        total, done = sum(self.series.values()), self.series.get("done", 0)
        others = ", ".join(f"{count} {state}" for state, count in self.series.items() if count and state != "done")
        rates = [f"{value:.{digits}f} {what} per hour" for value, digits, what in (
            (self.tilts_per_hour, 0, "tilts"), (self.tomograms_per_hour, 1, "tomograms")) if value is not None]
        waiting = [alarm for alarm in self.alarms if alarm.acknowledged is None]
        known = len(self.alarms) - len(waiting)
        lines = [f"{done} of {total} series have tomograms{f'; {others}' if others else ''}.",
                 f"{'; '.join([f'{self.aligned} of {self.movies} movies aligned', *rates])}."]
        if self.disk_free_GB is not None:
            lines.append(f"{self.disk_free_GB:.0f} GB free on the project's disk.")
        if waiting:
            lines.append("Needs attention:")
            lines += [one_line(f"- {KINDS.get(alarm.kind, alarm.kind)}: {alarm.text}") for alarm in waiting[:MAX_ALARMS]]
            lines += [f"- and {len(waiting) - MAX_ALARMS} more"] if len(waiting) > MAX_ALARMS else []
        else:
            lines.append("Nothing needs attention.")
        lines += [f"{known} acknowledged alarms are still on."] if known else []
        return [*lines, f"The page: {self.page}"]

    def message(self) -> Message:
        """Return the message for mail and webhook."""
        name, lines = one_line(self.session), self.lines()
        when = f", {utc(self.began)} to {utc(self.ended)}" if self.began is not None and self.ended is not None else ""
        body: dict[str, object] = {
            "format": FORMAT, "session": name, "kind": "summary", "state": self.title, "series": dict(self.series),
            "movies": self.movies, "aligned": self.aligned,
            "alarms": [one_line(alarm.text) for alarm in self.alarms if alarm.acknowledged is None],
            "tilts_per_hour": self.tilts_per_hour, "tomograms_per_hour": self.tomograms_per_hour,
            "disk_free_GB": self.disk_free_GB, "page": self.page, "last_event": self.ended, "until": self.until,
            "message": " ".join(lines),
            "text": f"{name} – {self.title}: {lines[0]} {self.page}"}
        return Message(f"[tomostream] {name}: {self.title}", "\n".join([f"Session {name}{when}.", "", *lines, ""]), body)
