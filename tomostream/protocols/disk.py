# SPDX-License-Identifier: GPL-3.0-or-later
"""The disk space of a session: what it will need, and what may be removed."""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any

from pyworkflow.protocol import params

from tomostream.journal import entries, ledger
from tomostream.journal.composed import SeriesRecord
from tomostream.journal.space import PARTS, SessionSpace
from tomostream.journal.status import ARETOMO
from tomostream.protocols import alarms

#: Seconds between two looks at the disk; more often until it is known what a whole series takes.
LOOK_SECONDS, FIRST_SECONDS = 20.0, 2.0


def define_params(form: Any) -> None:
    """Add the fields of the compose form, in its Streaming section."""
    form.addParam("expectedSeries", params.IntParam, allowsNull=True, default=None, expertLevel=params.LEVEL_ADVANCED,
                  label="Series in this session",
                  help="How many series there will be, if you know. Used only to warn in time if the disk has no room for "
                       "them. Empty: there must be room for a night at the present pace.")
    form.addParam("removeAligned", params.BooleanParam, default=False, expertLevel=params.LEVEL_ADVANCED,
                  label="Remove aligned tilts that are in a stack?",
                  help="Yes saves about a third of the disk space: the individual aligned tilts (and their even and odd sums, "
                       "if those are stacked too) are deleted as soon as their series is registered. The motioncor output "
                       "still lists these micrographs, but they cannot be used for anything else afterwards. Late and repeated "
                       "tilts are still accepted: the other tilts are taken from the stack.")


class DiskKeeper:
    """Reports what the session needs once that is known, and when disk space is running low; removes what is not needed."""

    def __init__(self, protocol: Any) -> None:
        self._protocol = protocol
        self._space = SessionSpace(os.path.dirname(os.path.dirname(os.path.abspath(protocol.getWorkingDir()))))
        self._limits = alarms.thresholds_of(protocol).room
        self._reported: tuple[str, ...] | None = None
        self._short = False
        self._next = 0.0

    def look(self, now: float) -> None:
        """Call in every turn; looks every `LOOK_SECONDS`. The size of a tomogram is the last part to become known."""
        if now < self._next:
            return
        self._next = now + (LOOK_SECONDS if PARTS[ARETOMO] in (self._reported or ()) else FIRST_SECONDS)
        self._space.update()
        forecast = self._space.forecast(self._protocol.expectedSeries.get())
        known = tuple(name for name, _ in forecast.parts)
        if known != self._reported:
            self._reported = known
            self._say(forecast.text())
        shortage = forecast.shortage(self._limits, self._short)
        if bool(shortage) != self._short:
            self._short = bool(shortage)
            self._say(shortage or f"disk space is sufficient again: {forecast.text()}", warn=self._short)

    def _say(self, text: str, warn: bool = False) -> None:
        self._protocol.report(entries.Space("", text, short=self._short), warn=warn)

    def remove_aligned(self, record: SeriesRecord) -> None:
        """Remove the single images of a series that is registered, where the form asks for it."""
        if not self._protocol.removeAligned.get():
            return
        for tilt in record.tilts:
            halves = (tilt.even, tilt.odd) if self._protocol.doEvenOdd.get() else ()
            for path in filter(None, (tilt.micrograph, *halves)):
                with contextlib.suppress(FileNotFoundError):
                    os.remove(path)


def summary(protocol: Any) -> list[str]:
    """Return the latest report on disk space."""
    said = [entry for entry in ledger.read(protocol._getExtraPath(ledger.NAME)) if isinstance(entry, entries.Space)]
    if not said:
        return []
    at = time.strftime("%H:%M", time.localtime(said[-1].time))
    return [f"{'*Disk*' if said[-1].short else 'Disk'} at {at}: {said[-1].reason}."]
