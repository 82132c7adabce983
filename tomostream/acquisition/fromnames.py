# SPDX-License-Identifier: GPL-3.0-or-later
"""Series without an mdoc, from the names of their movies: series, order and angle.

If the stack of a series has an angle file beside it (`TS_01.rawtlt`), its angles are used: those in names are rounded.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace

from tomostream.acquisition.facts import Known, MdocFacts, Tilt
from tomostream.acquisition.grammar import number
from tomostream.acquisition.naming import ANGLE_TOLERANCE, basename, folder_of, movie_key, parse_movie_name, undated

#: Stands in place of the extension of a file that does not exist.
NAMES_ONLY = " [names of the movies]"
#: Endings of the angle files of a stack, after the name of its series.
ANGLE_FILES = (".rawtlt", ".mrc.rawtlt", ".st.rawtlt")
#: At most this many lines of an angle file are read.
MAX_ANGLES = 1000

_UNKNOWN: Known[float] = Known(None, "there is no mdoc, and names do not give it")
_WARNING = "There is no mdoc: angles and order are those in the names of the movies, doses are unknown."


class NamedSeries:
    """Groups movies by their folder and by the series in their names, as they arrive.

    Parameters
    ----------
    folder : where angle files may be, besides the folders of the movies; "" for nowhere else.
    """

    def __init__(self, folder: str = "") -> None:
        self._folder = folder
        self._tilts: dict[tuple[str, str], dict[str, Tilt]] = {}
        self._angle_files: dict[tuple[str, str], str] = {}
        self._refused: dict[str, str] = {}

    def add(self, path: str) -> MdocFacts | None:
        """Take in a movie; return its series as an mdoc would describe it now. Doses and tilt axis stay unknown.

        None if the name does not give series, order and angle.
        """
        fields, folder = parse_movie_name(path), folder_of(path)
        series = undated(fields.series)
        if fields.angle is None or fields.order is None:
            self._refused[movie_key(path)] = path
            return None
        tilts = self._tilts.setdefault((folder, series), {})
        tilts[movie_key(path)] = Tilt(basename(path), fields.angle, fields.order, dose=_UNKNOWN, prior_dose=_UNKNOWN,
                                      movie_folder=folder)
        return self._facts(folder, series)

    def with_new_angles(self) -> list[MdocFacts]:
        """Return the series that have a new angle file beside their movies."""
        found = [(place, path) for place in self._tilts if place not in self._angle_files and (path := self._find(*place))]
        self._angle_files.update(found)
        return [self._facts(*place) for place, _ in found]

    def _find(self, folder: str, series: str) -> str:
        """Return the angle file of a series; "" if there is none."""
        places = [each for each in (folder, self._folder) if each]
        paths = (os.path.join(place, f"{series}{ending}") for place in places for ending in ANGLE_FILES)
        return next((path for path in paths if os.path.isfile(path)), "")

    def why_refused(self, movie: str) -> str:
        """Say why a movie (`movie_key`) is in no series; "" if its name gives its series."""
        path = self._refused.get(movie, "")
        fields = parse_movie_name(path)
        if not path:
            return ""
        if fields.angle is not None:
            return "Its name gives no order of acquisition: without mdoc files names must be NAME_ORDER_ANGLE."
        file = self._find(folder_of(path), undated(fields.series))
        if not file:
            return "Its name gives no tilt angle: without mdoc files names must be NAME_ORDER_ANGLE."
        return (f"Its name gives no tilt angle, and {os.path.basename(file)} does not say which angle belongs to which "
                "movie: it lists them in the order of the stack, which may be sorted. Name the movies NAME_ORDER_ANGLE.")

    def _facts(self, folder: str, series: str) -> MdocFacts:
        ordered = tuple(sorted(self._tilts[folder, series].values(), key=lambda tilt: tilt.order))
        path, warnings = self._angle_files.get((folder, series), ""), [_WARNING]
        if path:
            name = os.path.basename(path)
            exact = with_angles(ordered, read_angles(path))
            warnings.append(f"{name} is not used: its angles are not those in the names of the movies." if exact is None else
                            f"The tilt angles are those of {name}.")
            ordered = exact or ordered
        return MdocFacts(os.path.join(folder, f"{series}{NAMES_ONLY}"), "tilt-series", series_name=series,
                         tilts=ordered, tilts_if_ended=ordered, tilt_axis=_UNKNOWN, pixel_size=_UNKNOWN,
                         movie_pixel_size=_UNKNOWN, voltage=_UNKNOWN, magnification=_UNKNOWN, warnings=tuple(warnings))


def read_angles(path: str) -> list[float]:
    """Return the tilt angles in degrees from a file with one per line; none if it cannot be read as such."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = [line for line in file.read(100 * MAX_ANGLES).splitlines() if line.strip()]
    except OSError:
        return []
    angles = [number(line.split()[0]) for line in lines]
    return [angle for angle in angles if angle is not None] if None not in angles else []


def with_angles(tilts: Sequence[Tilt], angles: Iterable[float]) -> tuple[Tilt, ...] | None:
    """Return tilts with the exact angles of a stack instead of rounded ones; None if the two do not match one to one."""
    left, found = sorted(angles), []
    for tilt in sorted(tilts, key=lambda each: each.angle):
        near = min(left, key=lambda angle: abs(angle - tilt.angle), default=math.inf)
        if abs(near - tilt.angle) > ANGLE_TOLERANCE:
            return None
        left.remove(near)
        found.append(replace(tilt, angle=near))
    return tuple(sorted(found, key=lambda tilt: tilt.order))
