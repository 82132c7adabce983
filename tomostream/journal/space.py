# SPDX-License-Identifier: GPL-3.0-or-later
"""What a session needs on the disk of its project, forecast from what its items have taken so far.

Pure: read from the ledgers of the four protocols, where each item tells its `bytes`. A series needs its aligned tilts, its
stack and its tomogram, and its movies where they are copied. Until the first series is done, the stack is as large as its
aligned tilts, and the tomogram is what the aretomo protocol said it will be.
"""

from __future__ import annotations

import os
import statistics
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from tomostream.journal import entries, ledger
from tomostream.journal.status import ARETOMO, COMPOSE, IMPORT, MOTIONCOR, ProjectStatus

#: A shortage is over when this much more is free than is needed.
ENOUGH = 1.2
#: The limit in bytes is at most this share of a disk: a small one is not always short.
MAX_SHARE = 0.1
#: Hours at the present pace for which there must be room, where nobody says how many series will come: a night.
NIGHT = 12.0
#: Seconds of tilts that make the pace, and the least for which it is told.
PACE_SECONDS, MIN_PACE_SECONDS = 3600.0, 120.0
#: How many of the latest items say what one takes.
LATEST = 50
#: What a series consists of, in the order in which it is told.
PARTS = {IMPORT: "copied movies", MOTIONCOR: "aligned tilts", COMPOSE: "stack", ARETOMO: "tomogram"}


@dataclass(frozen=True)
class Limits:
    """A disk of which a smaller share is free, or fewer bytes, is short whatever is known of the session."""

    share: float = 0.05
    bytes: int = 5_000_000_000


@dataclass(frozen=True)
class Room:
    """What is free on a disk, and what is needed (None: not known) for what (in words). The one place that says what is short.

    `expected`: the user said how much will come, so that a small share of a disk may be enough.
    """

    free: int
    total: int
    needed: int | None = None
    what: str = ""
    expected: bool = False

    def shortage(self, limits: Limits | None = None, was_short: bool = False) -> str:
        """Return why the disk is short, "" when it is not. One that was short must have more room before it no longer is."""
        limits, factor = limits or Limits(), ENOUGH if was_short else 1.0
        if self.needed is not None and self.free < factor * self.needed:
            return (f"disk space is running low: {human(self.free)} are free, {self.what} need {human(self.needed)}. "
                    "Make room in time")
        least = max(limits.share * self.total, min(limits.bytes, MAX_SHARE * self.total))
        if not self.expected and self.free < factor * least:
            part = 100 * self.free / max(self.total, 1)
            return f"disk space is running low: {human(self.free)} are free, {part:.0f} % of it. Make room in time"
        return ""


@dataclass(frozen=True)
class Forecast:
    """What is known of the disk at one time. Sizes in bytes; None is unknown, `free` and `total` both or none.

    `parts`: bytes of a series by its parts (`PARTS`). `pace`: series an hour. `expected`: series that are still to come, as the
    user says.
    """

    free: int | None
    total: int | None
    tilts: int | None = None
    parts: tuple[tuple[str, int], ...] = ()
    pace: float | None = None
    expected: int | None = None

    @property
    def per_series(self) -> int | None:
        return sum(size for _, size in self.parts) or None

    @property
    def needed(self) -> int | None:
        """Bytes for the series that are expected, or for a night at the present pace."""
        if self.per_series is None:
            return None
        if self.expected is not None:
            return self.expected * self.per_series
        return None if self.pace is None else round(NIGHT * self.pace * self.per_series)

    def text(self) -> str:
        """Return one line for people."""
        free = ("how much is free on the project's disk is unknown" if self.free is None else
                f"{human(self.free)} are free on the project's disk")
        if self.per_series is None:
            return f"{free}; what a series needs is said when its first tilt is aligned"
        parts = ", ".join(f"{name} {human(size)}" for name, size in self.parts)
        whole = "" if self.expected is None else f"; the {self.expected} that are expected need {human(self.needed or 0)}"
        return f"{free}; a series of {self.tilts} tilts needs {human(self.per_series)} ({parts}){self._room()}{whole}"

    def _room(self) -> str:
        """For how much more there is room, as the end of a sentence."""
        if self.free is None or self.per_series is None:
            return ""
        hours = f", {self.free / self.per_series / self.pace:.0f} h at the present pace" if self.pace else ""
        return f": room for {self.free // self.per_series} series{hours}"

    @property
    def room(self) -> Room | None:
        """What is free and needed; None where that cannot be told."""
        if self.free is None or self.total is None:
            return None
        what = f"{NIGHT:.0f} h at the present pace" if self.expected is None else f"the {self.expected} series that are expected"
        return Room(self.free, self.total, self.needed, what, self.expected is not None)

    def shortage(self, limits: Limits | None = None, was_short: bool = False) -> str:
        """Return why the disk is short, "" when it is not or nobody can tell; see `Room`."""
        return self.room.shortage(limits, was_short) if self.room is not None else ""


class SessionSpace:
    """Follows the ledgers of a project; `update()`, then `forecast()`. What an update costs is what is new.

    Parameters
    ----------
    project : folder of the project.
    """

    def __init__(self, project: str) -> None:
        self.project = project
        self._status = ProjectStatus(project)
        self._readers: dict[str, ledger.LedgerReader] = {}
        self._bytes: dict[str, deque[int]] = {name: deque(maxlen=LATEST) for name in PARTS}
        self._tilts: deque[int] = deque(maxlen=LATEST)
        self._expected_tilts: int | None = None
        self._max_tilts = 0
        self._tomogram: int | None = None
        self._imported: deque[float] = deque()
        self._composed: set[str] = set()

    def update(self) -> None:
        """Take in what the ledgers tell since the last time."""
        self._status.find()
        for name, folder in self._status.folders.items():
            path = ledger.path_in(folder)
            reader = self._readers.get(name)
            if reader is None or reader.path != path:
                reader = self._readers[name] = ledger.LedgerReader(path)
            for entry in reader.new():
                self._take(name, entry)

    def _take(self, name: str, entry: entries.AnyEntry) -> None:
        if isinstance(entry, entries.Imported):
            self._imported.append(entry.time)
        elif isinstance(entry, entries.Series):
            self._expected_tilts = self._expected_tilts if entry.expected is None else entry.expected
            self._max_tilts = max(self._max_tilts, entry.seen)
        elif isinstance(entry, entries.Composed):
            self._composed.add(entry.item)
            self._tilts.append(entry.tilts)
        elif isinstance(entry, entries.Started) and name == ARETOMO and entry.bytes is not None:
            self._tomogram = entry.bytes
        if isinstance(entry, entries.Done) and entry.bytes is not None:
            self._bytes[name].append(entry.bytes)

    def forecast(self, series: int | None = None) -> Forecast:
        """Return the forecast now. `series`: how many the whole session will have, where that is known."""
        free, total = disk_of(self.project) or (None, None)
        tilts = self._expected_tilts or (round(statistics.median(self._tilts)) if self._tilts else self._max_tilts) or None
        expected = None if series is None else max(0, series - len(self._composed))
        return Forecast(free, total, tilts, self._parts(tilts), self._pace(tilts), expected)

    def _parts(self, tilts: int | None) -> tuple[tuple[str, int], ...]:
        aligned = self._mean(MOTIONCOR)
        if tilts is None or aligned is None:
            return ()
        sizes = {IMPORT: tilts * (self._mean(IMPORT) or 0), MOTIONCOR: tilts * aligned,
                 COMPOSE: self._mean(COMPOSE) or tilts * aligned, ARETOMO: self._mean(ARETOMO) or self._tomogram or 0}
        return tuple((PARTS[name], size) for name, size in sizes.items() if size > 0)

    def _mean(self, name: str) -> int | None:
        return round(statistics.mean(self._bytes[name])) if self._bytes[name] else None

    def _pace(self, tilts: int | None) -> float | None:
        """Return series an hour, by the movies of the last hour; None before there are enough."""
        times = self._imported
        while times and times[-1] - times[0] > PACE_SECONDS:
            times.popleft()
        if tilts is None or len(times) < 2 or times[-1] - times[0] < MIN_PACE_SECONDS:
            return None
        return 3600.0 * (len(times) - 1) / (times[-1] - times[0]) / tilts


def disk_of(path: str) -> tuple[int, int] | None:
    """Return the bytes that may still be written to the disk of a path, and its size; None where that is not known."""
    try:
        disk = os.statvfs(path)
    except OSError:
        return None
    return disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize


def bytes_of(paths: Iterable[str]) -> int:
    """Return bytes of some files and folders together; what is not there, or is a link, counts nothing."""
    total = 0
    for path in paths:
        if os.path.islink(path) or not os.path.exists(path):
            continue
        if os.path.isdir(path):
            total += bytes_of(os.path.join(path, name) for name in os.listdir(path))
        else:
            total += os.path.getsize(path)
    return total


def human(size: float) -> str:
    """Return bytes as people say them, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
