# SPDX-License-Identifier: GPL-3.0-or-later
"""Who owns which movie: movies as they come, exposures as mdocs list them, and what each exposure got. No clock, no disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tomostream.acquisition.agenda import Agenda
from tomostream.acquisition.events import Restored, Unassigned
from tomostream.acquisition.evidence import Evidence
from tomostream.acquisition.naming import match_movies, movie_key, parse_movie_name
from tomostream.acquisition.series import Exposure, Series, goes_before
from tomostream.acquisition.verdict import called


@dataclass
class Movie:
    """What is known of a movie: version of its micrograph (0: none), or why it failed; and who lists it."""

    version: int = 0
    failed: str = ""
    seen: bool = False
    listed: list[tuple[Series, Exposure]] = field(default_factory=list)


class Roster:
    """All movies of a session, and the exposures that they belong to.

    Parameters
    ----------
    agenda, evidence : of the session.
    named : gives the series of a name.
    """

    def __init__(self, agenda: Agenda, evidence: Evidence, named: Callable[[str], Sequence[Series]]) -> None:
        self._agenda = agenda
        self._evidence = evidence
        self._named = named
        self._movies: dict[str, Movie] = {}
        self._unlisted: dict[str, float] = {}
        self._told_of_movies = False
        self._restored: dict[str, Restored] = {}
        self._excluded: dict[str, Mapping[str, str]] = {}
        self._nameless: dict[str, set[str]] | None = None

    # ------------------------------------------------------------------ movies

    def knows(self, key: str) -> bool:
        """Tell whether a movie is known, by its file or by an mdoc."""
        return key in self._movies

    def movie(self, key: str) -> Movie:
        """Return what is known of a movie."""
        movie = self._movies.get(key)
        if movie is None:
            movie = self._movies[key] = Movie()
            self._unlisted[key] = self._agenda.now
            if self._nameless is not None:
                name = parse_movie_name(key).series
                self._nameless.setdefault(name, set()).add(key)
                for series in self._named(name):
                    self.match_nameless(series)
        return movie

    def see(self, key: str) -> None:
        """The import told of a movie."""
        movie = self.movie(key)
        movie.seen = self._told_of_movies = True
        for _, exposure in movie.listed:
            exposure.movie_seen = True

    def none_came(self, series: Series) -> bool:
        """Tell whether no movie of a series was seen, and none that no file lists can be one of its own under another name."""
        known = (self._movies[each.key] for each in series.exposures.values() if each.key)
        came = any(movie.seen or movie.version or movie.failed for movie in known)
        return not came and 2 * len(self._unlisted) < len(series.exposures)

    def all_listed(self) -> bool:
        """Tell whether every movie is in a series."""
        return not self._unlisted

    def unlisted(self, still: float) -> dict[str, Unassigned]:
        """Return the movies that no file lists since `still` seconds, and why."""
        return {key: self._why_unlisted(key) for key, since in self._unlisted.items() if self._agenda.now - since >= still}

    def _why_unlisted(self, key: str) -> Unassigned:
        """Say why no mdoc lists a movie: its name tells whether another exposure is used in its place."""
        name = parse_movie_name(key)
        for series in self._named(name.series) if name.angle is not None else []:
            later = next((each.key for each in series.exposures.values()
                          if parse_movie_name(each.key).angle == name.angle), None)
            if later is not None:
                return exposed_again(later)
        return Unassigned("No mdoc lists it.")

    # ------------------------------------------------------------------ what was registered before a restart

    def restore(self, restored: Restored) -> None:
        """These movies belong to a series that is registered."""
        for movie in restored.movies:
            self._restored[movie_key(movie)] = restored

    def adopted(self, restored: Restored) -> None:
        """The series was found again, and owns its movies itself."""
        for movie in restored.movies:
            self._restored.pop(movie_key(movie), None)

    # ------------------------------------------------------------------ exposures

    def enlist(self, series: Series, exposure: Exposure) -> None:
        """An exposure is listed for the first time (or again): connect it with its movie."""
        if not exposure.key:
            self.set(series, exposure, "missing")
            return
        movie = self.movie(exposure.key)
        exposure.movie_seen = movie.seen or movie.version > 0 or not self._told_of_movies
        self._unlisted.pop(exposure.key, None)
        if exposure.key in series.registered:       # after a restart: a registered movie is composed already
            series.composed[exposure.ident] = series.registered.pop(exposure.key)
        others = [(other, each) for other, each in movie.listed if each is not exposure]
        movie.listed = [*others, (series, exposure)]
        for other, each in others:
            self._share(series, exposure, other, each, movie)
        owner = self._restored.get(exposure.key)
        if owner is not None and self._evidence.on("taken") and _same_folder(owner, series):
            self.set(series, exposure, "taken", f"It is registered in the series {owner.series_name} already.")
        if exposure.state in ("missing", "failed"):
            self._match_state(series, exposure, movie)
        why = self._excluded.get(series.series_id, {}).get(exposure.key)
        if why is not None:
            self._exclude(series, exposure, why)

    def _match_state(self, series: Series, exposure: Exposure, movie: Movie) -> None:
        if movie.version >= exposure.least_version:
            self.align(series, exposure, movie)
        elif movie.failed:
            self.set(series, exposure, "failed", sentence(movie.failed))
        else:
            self.set(series, exposure, "missing")

    def _share(self, series: Series, exposure: Exposure, other: Series, each: Exposure, movie: Movie) -> None:
        """Two exposures name one movie. The same exposure belongs to the first series; a later one takes the name over.

        The images of a later exposure are in a later version of the movie than that of the earlier one.
        """
        if exposure.acquired is not None and each.acquired is not None and exposure.acquired != each.acquired:
            old_series, old = (other, each) if each.acquired < exposure.acquired else (series, exposure)
            if old is each:
                exposure.least_version = max(exposure.least_version, movie.version + 1)
            if old.ident in old_series.exposures and old.ident not in old_series.composed:
                self.set(old_series, old, "taken", f"The name of its movie, {old.key}, was used again later.")
        elif self._evidence.on("taken") and other is not series and each.ident in other.exposures:
            if goes_before(series, other):
                self._take(series, other, each)
            else:
                self._take(other, series, exposure)

    def _take(self, owner: Series, series: Series, exposure: Exposure) -> None:
        """An exposure that two series list belongs to the other one."""
        exposure.owner = owner
        self.set(series, exposure, "taken", f"It belongs to the series {called(owner, series)}, which lists it too.")
        if series.is_copy:
            self._agenda.schedule(series, self._agenda.now)

    def take_over(self, series: Series) -> None:
        """A file that lists more than the one of which it was a copy is the original."""
        for exposure in [each for each in series.exposures.values() if each.owner is not None]:
            owner = exposure.owner
            if owner is not None and goes_before(series, owner):
                exposure.owner, movie = None, self.movie(exposure.key)
                for other, each in movie.listed:
                    if other is owner and each.ident in owner.exposures:
                        self._take(series, owner, each)
                self._match_state(series, exposure, movie)
                series.given_up = ""

    def align(self, series: Series, exposure: Exposure, movie: Movie) -> None:
        """The micrograph of an exposure is there."""
        if movie.version < exposure.least_version:
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

    def release(self, series: Series) -> None:
        """A series turned out to be none: its movies are free."""
        for exposure in series.exposures.values():
            movie = self.movie(exposure.key)
            movie.listed = [(other, each) for other, each in movie.listed if other is not series]

    # ------------------------------------------------------------------ tilts that people take out

    def choose(self, series_id: str, movies: Mapping[str, str]) -> None:
        """These movies are to be left out of a series, for these reasons."""
        self._excluded[series_id] = movies

    def leave_out(self, series: Series) -> bool:
        """Leave out what was chosen and put the rest back. Tells whether anything changed."""
        chosen = self._excluded[series.series_id]
        changed = [each for each in series.exposures.values() if (each.key in chosen) != (each.state == "excluded")]
        for exposure in changed:
            self._exclude(series, exposure, chosen.get(exposure.key))
        return bool(changed)

    def _exclude(self, series: Series, exposure: Exposure, why: str | None) -> None:
        """Leave an exposure out for the user's reason ("": none was given); None puts it back."""
        if why is not None:
            self.set(series, exposure, "excluded", sentence(f"The user took it out{': ' if why else ''}{why}"))
        else:
            self.set(series, exposure, "missing")
            self._match_state(series, exposure, self.movie(exposure.key))

    # ------------------------------------------------------------------ tilts whose mdoc names no movie

    def match_nameless(self, series: Series) -> None:
        """Find the movies of tilts for which the mdoc names none, by what the movies' names carry."""
        nameless = [each for each in series.missing.values() if not each.key]
        if not nameless:
            return
        if self._nameless is None:
            self._nameless = {}
            for key in self._unlisted:
                self._nameless.setdefault(parse_movie_name(key).series, set()).add(key)
        ordered = series.in_order()
        tilts = [replace(each.tilt, order=place) for place, each in enumerate(ordered, start=1)]
        matched = match_movies(tilts, self._nameless.get(series.name.replace(" ", "_"), ()), series.name)
        for exposure, tilt in zip(ordered, matched, strict=True):
            if not exposure.key and tilt.movie is not None:
                exposure.tilt, exposure.key = replace(exposure.tilt, movie=tilt.movie), movie_key(tilt.movie)
                self.enlist(series, exposure)


def without_movie(every: Iterable[Series]) -> list[str]:
    """Return the names of the series that have tilts whose movie was never seen."""
    return [series.name for series in every
            if any((each.state == "missing" and not each.movie_seen) or not each.key for each in series.exposures.values())]


def exposed_again(by: str) -> Unassigned:
    """Return why a movie is in no series when another exposure took its place."""
    return Unassigned(f"It was exposed again: {by} is used in its place.", expected=True)


def sentence(text: str) -> str:
    """Return a reason with its full stop."""
    text = text.strip()
    return text if text.endswith((".", "!")) else f"{text}."


def _same_folder(restored: Restored, series: Series) -> bool:
    return not restored.mdocs or any(os.path.dirname(path) == series.folder for path in restored.mdocs)
