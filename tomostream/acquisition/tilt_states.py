# SPDX-License-Identifier: GPL-3.0-or-later
"""What has become of each tilt: its movie is missing, failed or aligned, another series has it, or a person left it out."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tomostream.acquisition.agenda import Agenda
from tomostream.acquisition.evidence import Evidence
from tomostream.acquisition.loose import Movie
from tomostream.acquisition.series import Exposure, Series


class TiltStates:
    """Gives the exposures of a session their states.

    Parameters
    ----------
    agenda, evidence : of the session.
    movie_of : returns the movie of an exposure that has one.
    """

    def __init__(self, agenda: Agenda, evidence: Evidence, movie_of: Callable[[Exposure], Movie]) -> None:
        self._agenda = agenda
        self._evidence = evidence
        self._movie_of = movie_of
        self._movies_reported = False
        self._excluded: dict[str, Mapping[str, str]] = {}

    # ------------------------------------------------------------------ movies and their micrographs

    def see(self, movie: Movie) -> None:
        """Note that the import reported a movie."""
        self._movies_reported = movie.seen = True
        for _, exposure in movie.listed:
            exposure.movie_seen = True

    def is_seen(self, movie: Movie) -> bool:
        """Tell whether the file of a movie is there, as far as is known: an import that reports nothing does not tell."""
        return movie.seen or not self._movies_reported

    def wait(self, series: Series, exposure: Exposure) -> None:
        """Note that an exposure has no movie yet."""
        exposure.movie_seen = not self._movies_reported
        self.set(series, exposure, "missing")

    def match(self, series: Series, exposure: Exposure, movie: Movie) -> None:
        """Give an exposure the state of its movie."""
        if movie.version >= exposure.min_version:
            self.align(series, exposure, movie)
        elif movie.failed:
            self.set(series, exposure, "failed", _sentence(movie.failed))
        else:
            self.set(series, exposure, "missing")

    def align(self, series: Series, exposure: Exposure, movie: Movie) -> None:
        """Note that the micrograph of an exposure is there."""
        if movie.version < exposure.min_version:
            return
        if exposure.state == "missing" or exposure.version == 0:
            self._evidence.production.passing(exposure, self._agenda.now)
        exposure.version = movie.version
        if series.composed.get(exposure.ident) == 0:
            series.composed[exposure.ident] = movie.version
        self.set(series, exposure, "aligned")

    def set(self, series: Series, exposure: Exposure, state: str, reason: str = "") -> None:
        """Give an exposure another state."""
        self._agenda.touch(series)
        exposure.state, exposure.reason = state, reason
        if state == "missing" and exposure.ident in series.exposures:
            series.missing[exposure.ident] = exposure
        else:
            series.missing.pop(exposure.ident, None)

    # ------------------------------------------------------------------ tilts that people take out

    def choose(self, series_id: str, movies: Mapping[str, str]) -> None:
        """Note that these movies are to be left out of a series, for these reasons."""
        self._excluded[series_id] = movies

    def leave_out(self, series: Series) -> bool:
        """Leave out the chosen tilts and put the others back; return whether anything changed."""
        chosen = self._excluded[series.series_id]
        changed = [each for each in series.exposures.values() if (each.key in chosen) != (each.state == "excluded")]
        for exposure in changed:
            if exposure.key in chosen:
                self._exclude(series, exposure, chosen[exposure.key])
            else:
                self._put_back(series, exposure)
        return bool(changed)

    def exclude_chosen(self, series: Series, exposure: Exposure) -> None:
        """Leave out an exposure that has just got its movie, if that movie was chosen before."""
        why = self._excluded.get(series.series_id, {}).get(exposure.key)
        if why is not None:
            self._exclude(series, exposure, why)

    def _exclude(self, series: Series, exposure: Exposure, why: str) -> None:
        """Leave an exposure out for the user's reason; "": none was given."""
        self.set(series, exposure, "excluded", _sentence(f"The user took it out{': ' if why else ''}{why}"))

    def _put_back(self, series: Series, exposure: Exposure) -> None:
        if exposure.bound:
            self.set(series, exposure, "missing")
            self.match(series, exposure, self._movie_of(exposure))
        else:
            self.wait(series, exposure)


def _sentence(text: str) -> str:
    """Return a reason with a full stop."""
    text = text.strip()
    return text if text.endswith((".", "!")) else f"{text}."
