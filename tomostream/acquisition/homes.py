# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a movie with the right name is that of a tilt, if folders alone do not tell: by the folders of its sisters' movies,
and by when it was written. Pure.

A series that was stopped while movies were still to come lacks files whose names another folder may have, from an acquisition
that was replaced. A microscope writes a movie some seconds after its exposure, so one that is older belongs to another exposure.
Clocks and transfers affect all movies of a session alike, so only differences count, and these only
if the movies assigned so far show that file times were preserved.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from statistics import median

from tomostream.acquisition import matching
from tomostream.acquisition.matching import Found, Wanted, parts
from tomostream.acquisition.naming import folder_of

#: Pairs that must be known before times say anything, and how many are kept.
MIN_PAIRS, MAX_PAIRS = 5, 200
#: File times follow exposure times if their difference varies by less than this share of the variation of the exposure times.
FOLLOWS = 0.25
#: Seconds by which a movie may always be off, deviations by which it may be, and seconds within which its time is right.
TOLERANCE, DEVIATIONS, RIGHT = 60.0, 6.0, 300.0
#: Seconds. Clocks are put forward, and time zones differ, by whole hours.
HOUR = 3600.0
#: Pairs kept of the first and of the last movies of a folder.
KEPT = 4

#: What determines the folder of a tilt's movie: the parts of the folder that its mdoc names, and of the mdoc's own.
Key = tuple[tuple[str, ...], tuple[str, ...]]
#: When a tilt was exposed, and when its movie was written, in seconds.
Pair = tuple[float, float]


class Kin(str, Enum):
    """Whether a movie is that of a tilt."""

    OWN = "own"
    UNKNOWN = "unknown"
    TOO_OLD = "too old"
    ELSEWHERE = "elsewhere"

    @property
    def foreign(self) -> bool:
        """Whether there is evidence that it is not."""
        return self in WHY_FOREIGN


#: Why a movie is not taken for that of a tilt.
WHY_FOREIGN = {
    Kin.TOO_OLD: "it was written before this tilt was exposed",
    Kin.ELSEWHERE: "its folder is that of other movies",
}


@dataclass(frozen=True, slots=True)
class Lag:
    """By how many seconds movies are written after their exposures, by the clocks of both: the median, and how it varies."""

    middle: float
    deviation: float

    def fits(self, pair: Pair) -> bool | None:
        """Tell whether a movie can belong to an exposure. True: written when it should be; False: before; None: unknown."""
        difference = pair[1] - pair[0] - self.middle
        tolerance = max(TOLERANCE, DEVIATIONS * self.deviation)
        if abs(difference) <= min(tolerance, RIGHT):
            return True
        hours = round(difference / HOUR)
        clock = hours != 0 and abs(difference - hours * HOUR) <= TOLERANCE
        return False if difference < -tolerance and not clock else None


def lag_of(pairs: Sequence[Pair]) -> Lag | None:
    """Return the delay between exposures and their movies; None if file times were not preserved, or too few are known.

    Medians, so that a few movies assigned to the wrong tilts, or written again later, change nothing.
    """
    if len(pairs) < MIN_PAIRS:
        return None
    middle, deviation = _spread([written - exposed for exposed, written in pairs])
    _, of_exposures = _spread([exposed for exposed, _ in pairs])
    return Lag(middle, deviation) if deviation <= FOLLOWS * of_exposures else None


def _spread(values: Sequence[float]) -> tuple[float, float]:
    """Return the median of values, and the median of their distances from it."""
    middle = median(values)
    return middle, median(abs(value - middle) for value in values)


class Homes:
    """The folders that hold the movies of tilts whose mdocs share a folder and name one folder of the microscope's computer."""

    def __init__(self) -> None:
        self._keys: dict[Key, None] = {}
        self._owners: dict[str, Key | None] = {}
        self._given: dict[str, dict[Key, list[Pair]]] = {}
        self._folders: dict[Key, dict[str, None]] = {}
        self._pairs: deque[Pair] = deque(maxlen=MAX_PAIRS)
        self._lag: Lag | None = None
        self._lag_is_old = False

    def note(self, wanted: Wanted) -> None:
        """Note that an mdoc lists a tilt."""
        key = _key(wanted)
        if key not in self._keys:
            self._keys[key] = None
            self._owners.clear()

    def give(self, wanted: Wanted, found: Found) -> None:
        """Note that a tilt got a movie."""
        key, folder = _key(wanted), folder_of(found.path)
        self._folders.setdefault(key, {})[folder] = None
        pairs = self._given.setdefault(folder, {}).setdefault(key, [])
        if wanted.time is not None and found.written is not None:
            pairs[KEPT:] = [*pairs[KEPT:][1 - KEPT:], (wanted.time, found.written)]
            self._pairs.append((wanted.time, found.written))
            self._lag_is_old = True

    def judge(self, wanted: Wanted, found: Found) -> Kin:
        """Tell whether a movie with the right name is that of a tilt, by its folder, its file time, and its sisters' folders."""
        key, folder = _key(wanted), folder_of(found.path)
        if not wanted.name or not folder or self._owner(folder) == key:
            return Kin.OWN
        homes = [each for each in self._folders.get(key, ()) if self._is_sure(key, each)]
        best = max((matching.agreement(wanted, each) for each in homes), default=None)
        near = matching.agreement(wanted, folder)
        if (folder in homes and near == best) or self._is_common(folder):
            return Kin.OWN
        lag = self._current_lag()
        fits = None if lag is None or wanted.time is None or found.written is None else lag.fits((wanted.time, found.written))
        if fits is not None:
            return Kin.OWN if fits else Kin.TOO_OLD
        return Kin.ELSEWHERE if best is not None and best > near else Kin.UNKNOWN

    def is_later(self, time: float | None, found: Found, by: float) -> bool:
        """Tell whether a movie was written so long after an exposure that it belongs neither to it nor to its neighbours."""
        lag = self._current_lag()
        return (lag is not None and time is not None and found.written is not None
                and found.written - lag.middle - time > by)

    def _owner(self, folder: str) -> Key | None:
        """Return the tilts to which a folder belongs by its name alone; None if there may be several."""
        if folder not in self._owners:
            fits = {key: _fit(key, folder) for key in self._keys}
            best = [key for key, fit in fits.items() if fit == max(fits.values())]
            self._owners[folder] = best[0] if len(best) == 1 else None
        return self._owners[folder]

    def _is_sure(self, key: Key, folder: str) -> bool:
        """Tell whether some movie in a folder was assigned to tilts of a key with certainty."""
        pairs, lag = self._given.get(folder, {}).get(key), self._current_lag()
        return pairs is not None and (self._owner(folder) == key or (lag is not None and any(map(lag.fits, pairs))))

    def _is_common(self, folder: str) -> bool:
        """Tell whether a transfer merged the movies of several folders into this one."""
        sure = (key for key in self._given.get(folder, ()) if self._is_sure(key, folder))
        return len(list(islice(sure, 2))) == 2

    def _current_lag(self) -> Lag | None:
        if self._lag_is_old:
            self._lag, self._lag_is_old = lag_of(self._pairs), False
        return self._lag


def beside_named(series: str, sisters: Collection[str], folder: str) -> bool:
    """Tell whether all movies of a series are in folders that bear its name, and this folder is not one of them.

    Examples
    --------
    >>> beside_named("TS_1", {"/d/ts_1", "/e/TS_1/raw"}, "/d/TS_2"), beside_named("TS_1", {"/d/TS_1", "/d"}, "/d/TS_2")
    (True, False)
    """
    return bool(folder and sisters) and not _bears(series, folder) and all(_bears(series, each) for each in sisters)


def _bears(series: str, folder: str) -> bool:
    return matching.folded(series) in map(matching.folded, parts(folder))


def _key(wanted: Wanted) -> Key:
    return parts(wanted.folder), parts(wanted.mdoc_folder)


def _fit(key: Key, folder: str) -> tuple[int, int]:
    """Return how many of the last parts of a folder match those that mdocs name, and how many of the first the mdocs' own."""
    there = parts(folder)
    return matching.common(key[0][::-1], there[::-1]), matching.common(key[1], there)
