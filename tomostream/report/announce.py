# SPDX-License-Identifier: GPL-3.0-or-later
"""Alarms are announced once: to whoever listens, to the notifier, in alarms.log; kept for summaries and the next writer."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

from tomostream.files.writing import write_text
from tomostream.report.alarms import KINDS, Alarms, Event
from tomostream.report.notify import Notifier, utc

LOG = "alarms.log"
#: Where the alarms that hold are kept: for summaries, and so that a second writer does not announce them again.
ALARMS = os.path.join("data", "alarms.json")


class Announcer:
    """Hands on what is new of the alarms of a page.

    Parameters
    ----------
    out : folder of the page.
    say : told of every alarm, a line each.
    notifier : sends alarms on; None sends none.
    """

    def __init__(self, out: str, say: Callable[[str], None], notifier: Notifier | None) -> None:
        self._out, self._say, self._notifier = out, say, notifier
        self._before = {str(alarm["kind"]): float(alarm["since"]) for alarm in read_alarms(out)}
        self._lines: list[str] = []
        self.begun = False

    def announce(self, alarms: Alarms, now: float) -> None:
        """Announce what is new. At the start what an earlier writer has announced is not announced again, nor what is long over.

        Raises
        ------
        OSError : it cannot be written now; everybody else knows it, and the next call writes it.
        """
        for event in self._news(alarms, now):
            line = f"{utc(event.time)} {'ALARM' if event.raised else 'over'} {KINDS.get(event.kind, event.kind)}: {event.text}"
            self._lines.append(" ".join(line.split()))
            self._say(self._lines[-1])
            if self._notifier is not None:
                self._notifier.send(event)
        if self._lines:
            held = [{"kind": alarm.kind, "since": alarm.since, "text": alarm.text} for alarm in alarms.active.values()]
            write_text(os.path.join(self._out, ALARMS), json.dumps(held))
            with open(os.path.join(self._out, LOG), "a", encoding="utf-8") as file:
                file.write("".join(f"{line}\n" for line in self._lines))
            self._lines.clear()

    def _news(self, alarms: Alarms, now: float) -> list[Event]:
        events, active = alarms.take_events(), alarms.active
        if self.begun:
            return events
        self.begun = True
        return [*(Event(alarm.since, kind, True, alarm.text, alarm.since) for kind, alarm in active.items()
                  if kind not in self._before),
                *(Event(now, kind, False, "back to normal", since) for kind, since in self._before.items()
                  if kind not in active and kind in KINDS)]


def read_alarms(out: str) -> list[dict[str, Any]]:
    """Alarms that hold, as the page in folder `out` shows them: kind, since (seconds since the epoch), text."""
    try:
        with open(os.path.join(out, ALARMS), encoding="utf-8") as file:
            alarms = json.load(file)
        return [{"kind": str(alarm["kind"]), "since": float(alarm["since"]), "text": str(alarm["text"])} for alarm in alarms]
    except (OSError, ValueError, TypeError, KeyError):
        return []
