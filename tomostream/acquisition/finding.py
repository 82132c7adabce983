# SPDX-License-Identifier: GPL-3.0-or-later
"""Finds the movies of tilts for which no movie has the right name: a transfer changed it, or the mdoc gives none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Protocol

from tomostream.acquisition import matching
from tomostream.acquisition.candidates import at_home, by_folder, nearest_folder, nearness, wanted
from tomostream.acquisition.facts import Tilt
from tomostream.acquisition.loose import Loose, Movie
from tomostream.acquisition.matching import CHANGED_NAMES, Step, Wanted, folded
from tomostream.acquisition.naming import ANGLE_TOLERANCE, basename, match_movies, movie_key, parse_movie_name
from tomostream.acquisition.series import Exposure, Series, seconds


class Owners(Protocol):
    """What a `Finder` needs of a `Roster`."""

    loose: Loose

    def named(self, name: str, /) -> Sequence[Series]:
        """Return the series with a name."""

    def of_name(self, name: str) -> Sequence[Movie]:
        """Return the movies whose files have a name."""

    def movie_of(self, exposure: Exposure) -> Movie:
        """Return the movie of an exposure that has one."""

    def who_wants(self, movie: Movie) -> Iterable[Series]:
        """Return the series that may be looking for a movie."""

    def refuses(self, series: Series, exposure: Exposure, movie: Movie) -> bool:
        """Tell whether a movie with the right name is not that of a tilt, and note why."""

    def bind(self, series: Series, exposure: Exposure, movie: Movie, step: Step) -> None:
        """Assign a movie to an exposure."""

    def unbind(self, series: Series, exposure: Exposure) -> None:
        """Take its movie away from an exposure."""


class Finder:
    """Looks among the unassigned movies, and assigns to tilts what it finds through the roster."""

    def __init__(self, roster: Owners) -> None:
        self._roster = roster
        self._written_folders: dict[str, None] = {}
        self._best_fits: dict[str, int] = {}
        self._by_likeness: dict[str, list[tuple[Series, Exposure]]] = {}

    def note_folder(self, folder: str) -> None:
        """Note that an mdoc names this folder of movies, as the microscope's computer calls it."""
        if folder and folder not in self._written_folders:
            self._written_folders[folder] = None
            self._best_fits.clear()

    def is_of_another(self, want: Wanted, folder: str) -> bool:
        """Tell whether a folder is that of other movies: its last parts match another folder that mdocs name better."""
        if folder not in self._best_fits:
            self._best_fits[folder] = max((matching.same_end(each, folder) for each in self._written_folders), default=0)
        return bool(want.folder) and matching.same_end(want.folder, folder) < self._best_fits[folder]

    def meant(self, series: str, folder: str, tilt: Tilt) -> set[str]:
        """Return the movies among which it is unclear which one a new tilt means; its own name if there are none.

        Parameters
        ----------
        series, folder : name of the series, and folder of its mdoc.
        """
        want = Wanted(tilt.movie or "", tilt.movie_folder, folder, series, tilt.angle, seconds(tilt.time))
        like = list(self._roster.of_name(movie_key(want.name))) if want.name else []
        for step in (Step.FOLDED, Step.ANGLE, Step.PREFIX) if want.name and not like else ():
            like = [movie for movie in self._roster.loose.like(matching.wanted_signatures(want))
                    if matching.change(step, want, movie.found.path) is not None]
            if like:
                break
        if not want.name:
            like = [movie for movie in self._roster.loose.like(matching.wanted_signatures(want))
                    if (angle := parse_movie_name(movie.name).angle) is not None and abs(angle - tilt.angle) <= ANGLE_TOLERANCE]
        best = max((matching.agreement(want, movie.folder) for movie in like), default=None)
        return {movie.key for movie in like if matching.agreement(want, movie.folder) == best} or (
            {movie_key(want.name)} if want.name else set())

    def search(self, series: Series) -> None:
        """Look among the unassigned movies for those of a series: its mdoc names none, or a transfer changed the names."""
        if not self._roster.loose and folded(series.name) not in self._by_likeness and len(self._roster.named(series.name)) < 2:
            return
        lacking = [each for each in series.missing.values() if not each.bound]
        if any(not each.name for each in lacking):
            self._match_nameless(series)
        for named in by_folder([each for each in lacking if each.name]):
            like = self._roster.loose.like({each for one in named for each in matching.wanted_signatures(wanted(series, one))})
            want = wanted(series, named[0])
            like = at_home(want, self.homes(series, named[0].tilt.movie_folder),
                           [movie for movie in like if not self.is_of_another(want, movie.folder)])
            if like:
                self._match_changed(series, named, like)

    def homes(self, series: Series, folder: str | None = None, but: Exposure | None = None) -> set[str]:
        """Return the folders of the movies that tilts of a series have; if a folder is given, of the tilts that name it."""
        return {self._roster.movie_of(each).folder for each in series.exposures.values()
                if each.bound and each is not but and (folder is None or (each.name and each.tilt.movie_folder == folder))}

    def _match_changed(self, series: Series, lacking: Sequence[Exposure], like: Sequence[Movie]) -> None:
        """Try the names that a transfer may have changed, for all tilts of a series at once."""
        got = [each.step for each in series.exposures.values() if each.bound]
        exact = any(step not in CHANGED_NAMES for step in got)
        result = matching.search([wanted(series, each) for each in lacking], [each.found for each in like],
                                 matching.FOR_SINGLE_TILTS if exact else matching.SEARCHED, len(got))
        series.unsure = tuple(like[place].key for place in result.ambiguous)
        step = result.step
        pairs = {tilt: movie for tilt, movie in (result.pairs or {}).items()
                 if not self._roster.refuses(series, lacking[tilt], like[movie])}
        if step is None or any(self._wanted_elsewhere(series, lacking[tilt], like[movie], step) for tilt, movie in pairs.items()):
            return
        for tilt, movie in pairs.items():
            self._roster.bind(series, lacking[tilt], like[movie], step)

    def _wanted_elsewhere(self, series: Series, exposure: Exposure, movie: Movie, step: Step) -> bool:
        """Tell whether a movie may also be that of a tilt of another series, by the same step and in an equally good folder."""
        mine = matching.agreement(wanted(series, exposure), movie.folder)
        for other in self._roster.who_wants(movie):
            for each in other.missing.values() if other is not series else ():
                what = wanted(other, each)
                copy = each.ident == exposure.ident         # of the same file, so it means the same movie
                if (not each.bound and each.name and matching.change(step, what, movie.found.path) is not None
                        and (its := matching.agreement(what, movie.folder)) >= mine and not (copy and its == mine)):
                    return True
        return False

    def _match_nameless(self, series: Series) -> None:
        """Find the movies of tilts for which the mdoc names none, by what the names of movies say."""
        others = [each for each in self._roster.named(series.name) if each is not series]
        for other, each in self._by_likeness.pop(folded(series.name), []):
            if other is not series and each.bound and not each.name and each.step in (Step.PREFIX, Step.HOME):
                self._roster.unbind(other, each)        # this is the series in the name
        nearer = [other for other in others if self._leave_to(series, other)]
        for other in others:
            self._as_in(series, other)
        self._match_places(series)
        for other in others:
            self._as_in(other, series)
        for other in nearer:
            self._match_places(other)

    def _leave_to(self, series: Series, other: Series) -> bool:
        """Take the movies of another series of this name if the mdoc of this one is closer to them; tell whether it has any."""
        far = {folder for folder in self.homes(other) if nearness(series, folder) > nearness(other, folder)}
        found = [each for each in other.exposures.values() if each.bound and not each.name
                 and self._roster.movie_of(each).folder in far] if far else []
        for each in found:
            self._roster.unbind(other, each)
        return bool(found)

    def _match_places(self, series: Series) -> None:
        """Assign to unnamed tilts the movies in the series' own folder whose names give series, order and angle.

        The name of the series may have a prefix, or be that of the folder.
        """
        for how, step in (("series", Step.PLACE), ("tail", Step.PREFIX), ("folder", Step.HOME)):
            movies = nearest_folder(series, self._roster.loose.of_series(series.name, how), self.homes(series),
                                    self._roster.named(series.name))
            label = self._label(series.name, movies, step)
            if label:
                self._match_labelled(series, movies, label, step)
                return

    def _label(self, name: str, movies: Sequence[Movie], step: Step) -> str:
        """Return what names of movies have in the place of the name of a series; "" if they disagree or mean another one."""
        mine, found = folded(name), set[str]()
        for movie in movies:
            names = matching.labels(basename(movie.found.path))
            fits = [text for label, text in names.items()
                    if (step is Step.HOME or (label == mine if step is Step.PLACE else label.endswith(f"_{mine}")))]
            found.add(fits[-1] if fits else "")
        if step is Step.PLACE:
            return min(found, default="")
        label = found.pop() if len(found) == 1 else ""
        longer = [label[place:] for place in range(len(label)) if not place or label[place - 1] in "_-. "]
        return "" if any(self._roster.named(each) for each in longer if len(each) > len(name) or step is Step.HOME) else label

    def _match_labelled(self, series: Series, movies: Sequence[Movie], label: str, step: Step) -> None:
        """Assign to unnamed tilts the movies whose names give this label, order and angle."""
        ordered = series.in_order()
        files = {basename(movie.found.path): movie for movie in movies}
        tilts = [replace(each.tilt, order=place) for place, each in enumerate(ordered, start=1)]
        matched = match_movies(tilts, files, label)
        for exposure, tilt in zip(ordered, matched, strict=True):
            if not exposure.bound and not exposure.name and exposure.owner is None and tilt.movie is not None:
                exposure.tilt = replace(exposure.tilt, movie=tilt.movie)
                self._roster.bind(series, exposure, files[tilt.movie], step)
                if step is not Step.PLACE:
                    self._by_likeness.setdefault(folded(label), []).append((series, exposure))

    def _as_in(self, series: Series, other: Series) -> None:
        """Assign to unnamed tilts the movies that the same exposures have in another file; one of the files is a copy."""
        for each in [each for each in series.missing.values() if not each.bound and not each.name]:
            twin = other.exposures.get(each.ident)
            if twin is not None and twin.bound and not twin.name:
                movie = self._roster.movie_of(twin)
                each.tilt = replace(each.tilt, movie=basename(movie.found.path))
                self._roster.bind(series, each, movie, twin.step)
