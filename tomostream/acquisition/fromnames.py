# SPDX-License-Identifier: GPL-3.0-or-later
"""Series of which there is no mdoc, from the names of their movies alone: series, order and angle."""

from __future__ import annotations

import os

from tomostream.acquisition.facts import Known, MdocFacts, Tilt
from tomostream.acquisition.naming import basename, folder_of, movie_key, parse_movie_name, undated

#: What stands in the place of the extension of a file that does not exist.
NAMES_ONLY = " [names of the movies]"

_UNKNOWN = Known[float](None, "there is no mdoc, and names do not tell it")
_WARNING = "There is no mdoc: angles and order are those in the names of the movies, doses are unknown."


class NamedSeries:
    """Puts movies together by their folder and by the series in their names, as they come."""

    def __init__(self) -> None:
        self._tilts: dict[tuple[str, str], dict[str, Tilt]] = {}

    def add(self, path: str) -> MdocFacts | None:
        """Take in a movie; return its series as an mdoc would give it now. Doses and tilt axis stay unknown.

        None where the name does not tell series, order and angle.
        """
        fields, folder = parse_movie_name(path), folder_of(path)
        if fields.angle is None or fields.order is None:
            return None
        series = undated(fields.series)
        tilts = self._tilts.setdefault((folder, series), {})
        tilts[movie_key(path)] = Tilt(basename(path), fields.angle, fields.order, dose=_UNKNOWN, prior_dose=_UNKNOWN,
                                      movie_folder=folder)
        ordered = tuple(sorted(tilts.values(), key=lambda tilt: tilt.order))
        return MdocFacts(os.path.join(folder, f"{series}{NAMES_ONLY}"), "tilt-series", series_name=series,
                         tilts=ordered, tilts_if_ended=ordered, tilt_axis=_UNKNOWN, pixel_size=_UNKNOWN,
                         movie_pixel_size=_UNKNOWN, voltage=_UNKNOWN, magnification=_UNKNOWN, warnings=(_WARNING,))
