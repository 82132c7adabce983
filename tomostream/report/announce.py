# SPDX-License-Identifier: GPL-3.0-or-later
"""Announcing each alarm once: to the terminal, the notifier and alarms.log; they are stored for summaries and the next writer."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace

from tomostream.files.writing import write_text
from tomostream.report import acknowledged
from tomostream.report.alarms import KINDS, Alarm, Alarms, Change, Event
from tomostream.report.notify import Notifier, one_line, utc

LOG = "alarms.log"
#: The alarms that are on: for summaries, and so that the next writer does not announce them again.
ALARMS = os.path.join("data", "alarms.json")


class Announcer:
    """Announces new alarms of a page.

    Parameters
    ----------
    out : folder of the page.
    say : called with a line for every alarm.
    notifier : sends alarms; None sends none.
    """

    def __init__(self, out: str, say: Callable[[str], None], notifier: Notifier | None) -> None:
        self._out, self._say, self._notifier = out, say, notifier
        self._before = {alarm.key: alarm for alarm in read_alarms(out)}
        self._lines: list[str] = []
        self.begun = False

    def announce(self, alarms: Alarms, now: float) -> None:
        """Announce what is new; at the start, only what an earlier writer has not announced and is still on.

        Raises
        ------
        OSError : it cannot be written now. It was announced all the same, and the next call writes it.
        """
        for event in self._news(alarms, now):
            word = "ALARM" if event.raised else event.change.value
            self._lines.append(one_line(f"{utc(event.time)} {word} {KINDS.get(event.kind, event.kind)}: {event.text}"))
            self._say(self._lines[-1])
            if self._notifier is not None and event.change is not Change.ACKNOWLEDGED:     # whoever did it knows
                self._notifier.send(event)
        if self._lines:
            held = [{"kind": alarm.kind, "of": alarm.of, "since": alarm.since, "text": alarm.text,
                     "acknowledged": alarm.acknowledged} for alarm in alarms.active.values()]
            write_text(os.path.join(self._out, ALARMS), json.dumps(held, allow_nan=False))
            with open(os.path.join(self._out, LOG), "a", encoding="utf-8") as file:
                file.write("".join(f"{line}\n" for line in self._lines))
            self._lines.clear()

    def _news(self, alarms: Alarms, now: float) -> list[Event]:
        events, active = alarms.take_events(), alarms.active
        if self.begun:
            return events
        self.begun = True
        return [*(Event(alarm.since, alarm.kind, Change.RAISED, alarm.text, alarm.since, alarm.of)
                  for key, alarm in active.items() if key not in self._before and alarm.acknowledged is None),
                *(Event(now, alarm.kind, Change.OVER, "back to normal", alarm.since, alarm.of)
                  for key, alarm in self._before.items() if key not in active and alarm.kind in KINDS)]

    def since(self) -> dict[str, float]:
        """Return key -> when an alarm began, as stored by an earlier writer."""
        return {key: alarm.since for key, alarm in self._before.items()}


def read_alarms(out: str) -> list[Alarm]:
    """Return the alarms that are on for the page in folder `out`, with those acknowledged marked as such."""
    try:
        with open(os.path.join(out, ALARMS), encoding="utf-8") as file:
            kept = json.load(file)
        alarms = [Alarm(str(each["kind"]), float(each["since"]), str(each["text"]), of=str(each.get("of", ""))) for each in kept]
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return []
    seen = acknowledged.read(out)
    return [replace(alarm, acknowledged=seen[alarm.key]) if seen.get(alarm.key, -1.0) >= alarm.since else alarm
            for alarm in alarms]
