# SPDX-License-Identifier: GPL-3.0-or-later
"""The disk space that a session needs, forecast from what its items have taken so far.

It is read from the ledgers of the four protocols, which give the `bytes` of each item. A series needs its aligned tilts, its
stack and its tomogram, and its movies if they are copied. Until the first series is done, the stack is taken to be as large as
its aligned tilts, and the tomogram as the aretomo protocol predicts.
"""

from __future__ import annotations

import os
import statistics
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from tomostream.journal import entries, ledger
from tomostream.journal.status import ARETOMO, COMPOSE, IMPORT, MOTIONCOR, ProjectStatus

#: A shortage is over when this many times the space needed is free.
ENOUGH = 1.2
#: The limit in bytes is at most this share of a disk, so that a small disk is not always short.
MAX_SHARE = 0.1
#: Hours at the present pace for which there must be room, unless the number of series is given: a night.
NIGHT = 12.0
#: Seconds of tilts from which the pace is computed, and the least that suffice.
PACE_SECONDS, MIN_PACE_SECONDS = 3600.0, 120.0
#: The size of an item is the mean over this many of the latest.
LATEST = 50
#: The parts of a series, in the order in which they are reported.
PARTS = {IMPORT: "copied movies", MOTIONCOR: "aligned tilts", COMPOSE: "stack", ARETOMO: "tomogram"}


@dataclass(frozen=True)
class Limits:
    """A disk with a smaller share free, or fewer bytes, is short whatever the session needs."""

    share: float = 0.05
    bytes: int = 5_000_000_000


@dataclass(frozen=True)
class Room:
    """What is free on a disk, what is needed (None: not known) and for `what`. The only place that decides what is short.

    `expected`: the user said how many series there will be, so that a small share of a disk may be enough.
    """

    free: int
    total: int
    needed: int | None = None
    what: str = ""
    expected: bool = False

    def shortage(self, limits: Limits | None = None, was_short: bool = False) -> str:
        """Return why the disk is short, or "". One that was short needs somewhat more room before it no longer is."""
        limits, factor = limits or Limits(), ENOUGH if was_short else 1.0
        if self.needed is not None and self.free < factor * self.needed:
            return (f"disk space is running low: {human(self.free)} are free, but {self.what} need {human(self.needed)}. "
                    "Make room in time")
        least = max(limits.share * self.total, min(limits.bytes, MAX_SHARE * self.total))
        if not self.expected and self.free < factor * least:
            part = 100 * self.free / max(self.total, 1)
            return f"disk space is running low: {human(self.free)} are free, {part:.0f} % of it. Make room in time"
        return ""


@dataclass(frozen=True)
class Forecast:
    """What is known of the disk at one time. Sizes in bytes; None is unknown (`free` and `total` only together).

    `parts`: bytes of the parts of a series (`PARTS`). `pace`: series per hour. `expected`: how many series are still to come,
    according to the user.
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
        """Bytes for the expected series, or for a night at the present pace."""
        if self.per_series is None:
            return None
        if self.expected is not None:
            return self.expected * self.per_series
        return None if self.pace is None else round(NIGHT * self.pace * self.per_series)

    def text(self) -> str:
        """Return one line for people."""
        free = ("the free space on the project's disk is unknown" if self.free is None else
                f"{human(self.free)} are free on the project's disk")
        if self.per_series is None:
            return f"{free}; the space per series will be known when the first tilt is aligned"
        parts = ", ".join(f"{name} {human(size)}" for name, size in self.parts)
        whole = "" if self.expected is None else f"; the {self.expected} still expected need {human(self.needed or 0)}"
        return f"{free}; a series of {self.tilts} tilts needs {human(self.per_series)} ({parts}){self._room()}{whole}"

    def _room(self) -> str:
        """Return how much more there is room for, as the end of a sentence."""
        if self.free is None or self.per_series is None:
            return ""
        hours = f", {self.free / self.per_series / self.pace:.0f} h at the present pace" if self.pace else ""
        return f": room for {self.free // self.per_series} series{hours}"

    @property
    def room(self) -> Room | None:
        """What is free and needed; None if unknown."""
        if self.free is None or self.total is None:
            return None
        what = f"{NIGHT:.0f} h at the present pace" if self.expected is None else f"the {self.expected} series still expected"
        return Room(self.free, self.total, self.needed, what, self.expected is not None)

    def shortage(self, limits: Limits | None = None, was_short: bool = False) -> str:
        """Return why the disk is short; "" if it is not, or that is unknown. See `Room`."""
        return self.room.shortage(limits, was_short) if self.room is not None else ""


class SessionSpace:
    """Follows the ledgers of a project; `update()`, then `forecast()`. The cost of an update depends on what is new.

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
        """Take in the new entries of the ledgers."""
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
        """Return the forecast as of now. `series`: how many the whole session will have, if known."""
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
        """Return the series per hour, from the movies of the last hour; None while there are too few."""
        times = self._imported
        while times and times[-1] - times[0] > PACE_SECONDS:
            times.popleft()
        if tilts is None or len(times) < 2 or times[-1] - times[0] < MIN_PACE_SECONDS:
            return None
        return 3600.0 * (len(times) - 1) / (times[-1] - times[0]) / tilts


def disk_of(path: str) -> tuple[int, int] | None:
    """Return the free bytes on the disk of a path, and its size; None if unknown."""
    try:
        disk = os.statvfs(path)
    except OSError:
        return None
    return disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize


def bytes_of(paths: Iterable[str]) -> int:
    """Return the total size of files and folders; missing ones and links count nothing."""
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
    """Return a size for people, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
