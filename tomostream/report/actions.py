# SPDX-License-Identifier: GPL-3.0-or-later
"""What a person may change from a served page: typed requests, each with the function that carries it out."""

from __future__ import annotations

import threading
import time
from typing import Annotated

import msgspec

from tomostream.choices import exclusions
from tomostream.journal import runs, stopping
from tomostream.journal.composed import NoSeries
from tomostream.journal.status import CLASSES, ProjectStatus
from tomostream.report import acknowledged, marks
from tomostream.report.announce import read_alarms

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]


class MarkSeries(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Mark a series; `time` in seconds since the epoch."""

    series: Name
    mark: marks.MarkName
    note: marks.Note = ""
    time: float = 0.0


class Acknowledge(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Acknowledge an alarm, by its key."""

    key: Name


class Exclude(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Take tilts out of a series, or put them `back`: the names of their movies."""

    series: Name
    movies: Annotated[list[Name], msgspec.Meta(min_length=1, max_length=1000)]
    back: bool = False
    reason: marks.Note = ""


class Stop(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Stop the session in order."""


Request = MarkSeries | Acknowledge | Exclude | Stop
#: Name in the address -> type of the request in the body.
REQUESTS: dict[str, type[Request]] = {"marks": MarkSeries, "acknowledge": Acknowledge, "exclude": Exclude, "stop": Stop}


class Refused(ValueError):
    """The request cannot be carried out; says why in one sentence."""


class Session:
    """The project and the folder of its page, on which requests act, possibly from several threads."""

    def __init__(self, project: str, out: str) -> None:
        self.project, self.out = project, out
        self._status = ProjectStatus(project)       # kept, so that a mark in a long session reads only what is new
        self._lock = threading.Lock()

    def act(self, request: Request) -> str:
        """Carry out a request; returns what was done, in words.

        Raises
        ------
        Refused : it does not apply to this session.
        OSError : a file cannot be written.
        """
        if isinstance(request, MarkSeries):
            return self._mark(request)
        if isinstance(request, Acknowledge):
            return self._acknowledge(request)
        return self._exclude(request) if isinstance(request, Exclude) else self._stop()

    def _mark(self, request: MarkSeries) -> str:
        with self._lock:
            self._status.update()
            known = request.series in self._status.series
        if not known:
            raise Refused(f"the session has no series {request.series}")
        # the clock of a browser may be wrong: a mark from the future could never be changed
        mark = marks.Mark(request.mark, request.note, min(request.time, time.time()))
        try:
            marks.put(self.out, request.series, mark)
        except ValueError as error:
            raise Refused(str(error)) from error
        return f"{request.series}: {request.mark.replace('-', ' ') or 'no mark'}"

    def _acknowledge(self, request: Acknowledge) -> str:
        alarm = next((alarm for alarm in read_alarms(self.out) if alarm.key == request.key), None)
        if alarm is None:
            raise Refused("this alarm is over")
        acknowledged.acknowledge(self.out, {alarm.key}, time.time())
        return f"acknowledged: {alarm.text}"

    def _exclude(self, request: Exclude) -> str:
        try:
            series = exclusions.read_choice(self.project, request.series)
            left = exclusions.change(series, request.movies, request.reason, request.back)
        except (NoSeries, ValueError) as error:
            raise Refused(str(error)) from error
        return f"{series.series_id}: {left} of {len(series.tilts)} tilts will be used; it is made again if the session is running"

    def _stop(self) -> str:
        starting = stopping.ask(self.project, CLASSES)
        with self._lock:
            self._status.find()
            folders = dict(self._status.folders)
        running = {name: folder for name, folder in folders.items() if runs.run_state(folder) == runs.RUNNING}
        if not running and not starting:
            raise Refused("no protocol of this session is running")
        for folder in running.values():
            runs.ask_to_stop(folder, "the page")
        return f"asked to stop: {', '.join([*running, *(['what is being started'] if starting else [])])}"
