# SPDX-License-Identifier: GPL-3.0-or-later
"""Who owns which movie: movies as they come, exposures as mdocs list them, and what each exposure got. No clock, no disk.

A movie is its file. Where several folders hold files of one name, `matching` tells which is whose, and tells it anew when another
file or another exposure of that name comes: what was given to the wrong one is taken back.
"""

from __future__ import annotations

import builtins
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tomostream.acquisition import matching
from tomostream.acquisition.agenda import Agenda
from tomostream.acquisition.candidates import at_home, by_folder, nearest_folder, wanted
from tomostream.acquisition.events import Restored, Unassigned
from tomostream.acquisition.evidence import Evidence
from tomostream.acquisition.loose import Loose, Movie
from tomostream.acquisition.matching import CHANGED_NAMES, Signature, Step, said_by
from tomostream.acquisition.naming import basename, match_movies, movie_key
from tomostream.acquisition.series import Exposure, Series, goes_before
from tomostream.acquisition.verdict import called


@dataclass
class _Group:
    """Files and exposures of one name."""

    movies: list[Movie] = field(default_factory=list)
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
        self._groups: dict[str, _Group] = {}
        self._loose = Loose()
        self._wanting: dict[Signature, dict[int, Series]] = {}
        self._changed: dict[int, Series] = {}
        self._told_of_movies = False
        self._restored: dict[str, Restored] = {}
        self._excluded: dict[str, Mapping[str, str]] = {}

    # ------------------------------------------------------------------ movies

    def knows(self, key: str) -> bool:
        """Tell whether a movie is known, by its file or by an mdoc."""
        return key in self._movies or bool(self._group(key).listed)

    def movie(self, key: str, path: str = "", written: float | None = None) -> Movie:
        """Return what is known of a movie. One that is new, or whose file is, looks for its exposure."""
        movie = self._movies.get(key)
        if movie is None:
            movie = self._movies[key] = Movie(key, movie_key(path or key), path, written, self._agenda.now)
            self._join(movie)
        elif path and (path != movie.path or written not in (None, movie.written)):
            for series, exposure in list(movie.listed):
                if exposure.step in CHANGED_NAMES:      # its name was not that of its file
                    self._unbind(series, exposure)
            self._loose.remove(movie)
            self._group(movie.name).movies.remove(movie)
            movie.name, movie.path, movie.written = movie_key(path), path, written
            self._join(movie)
        return movie

    def _join(self, movie: Movie) -> None:
        """A file takes its place among those of its name."""
        group = self._group(movie.name)
        group.movies.append(movie)
        self._assign(group)
        if not movie.listed:
            self._loose.add(movie)
            for series in self._who_wants(movie):
                self._let_go(series, movie)
                self.search(series)

    def _let_go(self, series: Series, movie: Movie) -> None:
        """A movie has come that fits better by its folder than what a tilt was given while it was not there."""
        for each in [each for each in series.exposures.values() if each.bound and each.name and each.step in CHANGED_NAMES]:
            want = wanted(series, each)
            if (matching.change(each.step, want, movie.found.path) is not None
                    and matching.agreement(want, movie.folder) > matching.agreement(want, self._movies[each.key].folder)):
                self._unbind(series, each)

    def _who_wants(self, movie: Movie) -> list[Series]:
        """Return the series that lack a movie and may mean this one."""
        found: dict[int, Series] = {}
        for signature in movie.signatures:
            found.update(self._wanting.get(signature, {}))
        return list(found.values())

    def see(self, key: str, path: str = "", written: float | None = None) -> None:
        """The import told of a movie."""
        self._told_of_movies = True
        movie = self.movie(key, path, written)
        movie.seen = True
        for _, exposure in movie.listed:
            exposure.movie_seen = True

    def none_came(self, series: Series) -> bool:
        """Tell whether no movie of a series was seen, and none that no file lists can be one of its own under another name."""
        return (not any(each.bound for each in series.exposures.values())
                and 2 * sum(not self._why_unlisted(movie).expected for movie in self._loose.all()) < len(series.exposures))

    def all_listed(self) -> bool:
        """Tell whether every movie is in a series."""
        return not self._loose

    def unlisted(self, still: float) -> dict[str, Unassigned]:
        """Return the movies that no file lists since `still` seconds, and why."""
        return {each.key: self._why_unlisted(each) for each in self._loose.all() if self._agenda.now - each.since >= still}

    def _why_unlisted(self, movie: Movie) -> Unassigned:
        """Say why no mdoc lists a movie: its name tells whether another exposure in its folder is used in its place."""
        name = said_by(movie.name)
        for series in self._named(name.series) if name.angle is not None else []:
            for each in series.exposures.values():
                if said_by(each.name or each.key).angle == name.angle and (
                        not each.bound or self._movies[each.key].folder == movie.folder) and each.name != movie.name:
                    return exposed_again(each.key)
        if len(self._group(movie.name).movies) > 1:
            return Unassigned("No mdoc lists it: another folder has a movie of this name, which is used.")
        return Unassigned("No mdoc lists it.")

    def take_changed(self) -> list[Series]:
        """Return the series that got other movies, or lost some, without having been read."""
        changed, self._changed = self._changed, {}
        return list(changed.values())

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
        if exposure.bound:
            self._claim(series, exposure, self._movies[exposure.key])
        elif not exposure.name:
            self.set(series, exposure, "missing")
        else:
            group = self._group(exposure.name)
            if not any(each is exposure for _, each in group.listed):
                group.listed.append((series, exposure))
            self._wait(series, exposure)
            self._assign(group)
            for other, twin in group.listed if not exposure.bound else ():
                if twin.bound and twin.step in CHANGED_NAMES and self._mean_one(series, exposure, other, twin, twin.key):
                    self._bind(series, exposure, self._movies[twin.key], twin.step)
                    break
        if not exposure.bound:
            self._want(series, exposure)
        self._changed.pop(id(series), None)

    def _want(self, series: Series, exposure: Exposure) -> None:
        """A tilt lacks its movie: it is looked for among those that come."""
        for signature in matching.wanted_signatures(wanted(series, exposure)):
            self._wanting.setdefault(signature, {})[id(series)] = series

    def _group(self, name: str) -> _Group:
        return self._groups.setdefault(name, _Group())

    def _assign(self, group: _Group) -> None:
        """Give the exposures of one name their movies."""
        if not group.movies:
            return
        live = [(series, each) for series, each in group.listed if each.ident in series.exposures]
        kept = [next((place for place, movie in enumerate(group.movies) if each.bound and movie.key == each.key), None)
                for _, each in live]
        given = matching.assign([wanted(series, each) for series, each in live], [each.found for each in group.movies], kept)
        for (series, exposure), choice in zip(live, given, strict=True):
            if choice is None and exposure.bound and exposure.step not in CHANGED_NAMES:
                self._unbind(series, exposure)
        for (series, exposure), choice in zip(live, given, strict=True):
            if choice is not None:
                self._bind(series, exposure, group.movies[choice[0]], choice[1])

    def _bind(self, series: Series, exposure: Exposure, movie: Movie, step: Step) -> None:
        exposure.step = step
        if exposure.bound and exposure.key == movie.key:
            return
        if exposure.bound:
            self._unbind(series, exposure)
        if step not in CHANGED_NAMES:
            for other, each in list(movie.listed):
                if each.step in CHANGED_NAMES:      # the name alone was not enough: here is whose it is
                    self._unbind(other, each)
        exposure.key, exposure.bound, exposure.step = movie.key, True, step
        self._changed[id(series)] = series
        self._claim(series, exposure, movie)
        for other, twin in self._group(exposure.name).listed if step in CHANGED_NAMES and exposure.name else ():
            if not twin.bound and twin.ident in other.exposures and self._mean_one(series, exposure, other, twin, movie.key):
                self._bind(other, twin, movie, step)

    def _mean_one(self, series: Series, exposure: Exposure, other: Series, each: Exposure, key: str) -> bool:
        """Tell whether two files list one exposure, whose movie was found: one is a copy of the other."""
        folder = self._movies[key].folder
        fits = [matching.agreement(wanted(*one), folder)[:2] for one in ((series, exposure), (other, each))]
        return bool(folder) and each.ident == exposure.ident and fits[0] == fits[1]

    def _unbind(self, series: Series, exposure: Exposure) -> None:
        """A movie is not that of this exposure after all."""
        movie = self._movies[exposure.key]
        movie.listed = [(other, each) for other, each in movie.listed if each is not exposure]
        exposure.key, exposure.bound, exposure.step = exposure.name, False, Step.EXACT
        exposure.version, exposure.least_version, exposure.owner = 0, 1, None
        if series.composed.pop(exposure.ident, None) is not None:
            series.why_again.append(f"{movie.key} belongs to another tilt")
            series.wrong_movies = True
        self._changed[id(series)] = series
        self._want(series, exposure)
        if exposure.state != "excluded":
            self._wait(series, exposure)
        if not movie.listed:
            self._loose.add(movie)
        for other, each in movie.listed:
            if each.state == "taken" and each.ident in other.exposures:
                self._match_state(other, each, movie)
                self._changed[id(other)] = other

    def _wait(self, series: Series, exposure: Exposure) -> None:
        exposure.movie_seen = not self._told_of_movies
        self.set(series, exposure, "missing")

    def _claim(self, series: Series, exposure: Exposure, movie: Movie) -> None:
        """An exposure has its movie: see whether another has it too, and what has become of it."""
        exposure.movie_seen = movie.seen or movie.version > 0 or not self._told_of_movies
        self._loose.remove(movie)
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
            if any(one.owner is series for one in other.exposures.values()):
                self._take(series, other, each)
            elif goes_before(series, other) and not any(one.owner is other for one in series.exposures.values()):
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
        """A file that lists more than the one of which it was a copy is the original. All that both list belongs to one."""
        for owner in {id(each.owner): each.owner for each in series.exposures.values()}.values():
            if owner is None:
                continue
            each_of_other = any(each.owner is series for each in owner.exposures.values())
            if goes_before(series, owner) or (each_of_other and not goes_before(owner, series) and series.number < owner.number):
                self._move(owner, series)
            elif each_of_other:
                self._move(series, owner)

    def _move(self, loser: Series, winner: Series) -> None:
        """What a series holds that another one lists too becomes the other's."""
        for exposure in [each for each in winner.exposures.values() if each.owner is loser and each.bound]:
            exposure.owner, movie = None, self._movies[exposure.key]
            for other, each in movie.listed:
                if other is loser and each.ident in loser.exposures:
                    self._take(winner, loser, each)
            self._match_state(winner, exposure, movie)
            winner.given_up = ""
            self._changed[id(winner)] = winner

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
            group = self._group(exposure.name)
            group.listed = [(other, each) for other, each in group.listed if other is not series]
            if exposure.bound:
                self._unbind(series, exposure)
        for each in self._wanting.values():
            each.pop(id(series), None)
        self._changed.pop(id(series), None)

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
        elif exposure.bound:
            self.set(series, exposure, "missing")
            self._match_state(series, exposure, self._movies[exposure.key])
        else:
            self._wait(series, exposure)

    # ------------------------------------------------------------------ tilts of which no movie has the name

    def search(self, series: Series) -> None:
        """Look among the movies of nobody for those of a series: its mdoc names none, or a transfer changed the names."""
        lacking = [each for each in series.missing.values() if not each.bound] if self._loose else []
        if any(not each.name for each in lacking):
            self._match_nameless(series)
        for named in by_folder([each for each in lacking if each.name]):
            like = self._loose.like({each for one in named for each in matching.wanted_signatures(wanted(series, one))})
            like = at_home(wanted(series, named[0]), self._homes(series, named[0].tilt.movie_folder), like)
            if like:
                self._match_changed(series, named, like)

    def _homes(self, series: Series, folder: str | None = None) -> builtins.set[str]:
        """Return the folders of the movies that tilts of a series have, of those only that name a folder where one is given."""
        return {self._movies[each.key].folder for each in series.exposures.values()
                if each.bound and (folder is None or (each.name and each.tilt.movie_folder == folder))}

    def _match_changed(self, series: Series, lacking: Sequence[Exposure], like: Sequence[Movie]) -> None:
        """Try the names that a transfer may have changed, for all tilts of a series at once."""
        got = [each.step for each in series.exposures.values() if each.bound]
        exact = any(step not in CHANGED_NAMES for step in got)
        result = matching.search([wanted(series, each) for each in lacking], [each.found for each in like],
                                 matching.FOR_SINGLE_TILTS if exact else CHANGED_NAMES, len(got))
        series.unsure = tuple(like[place].key for place in result.ambiguous)
        step, pairs = result.step, result.pairs or {}
        if step is None or any(self._wanted_elsewhere(series, lacking[tilt], like[movie], step) for tilt, movie in pairs.items()):
            return
        for tilt, movie in pairs.items():
            self._bind(series, lacking[tilt], like[movie], step)

    def _wanted_elsewhere(self, series: Series, exposure: Exposure, movie: Movie, step: Step) -> bool:
        """Tell whether a movie can be that of a tilt of another series too, by the same step and in as good a folder."""
        mine = matching.agreement(wanted(series, exposure), movie.folder)
        for other in self._who_wants(movie):
            for each in other.missing.values() if other is not series else ():
                what = wanted(other, each)
                copy = each.ident == exposure.ident         # of the same file: it means the same movie
                if (not each.bound and each.name and matching.change(step, what, movie.found.path) is not None
                        and (its := matching.agreement(what, movie.folder)) >= mine and not (copy and its == mine)):
                    return True
        return False

    def _match_nameless(self, series: Series) -> None:
        """Find the movies of tilts for which the mdoc names none, by what the movies' names carry."""
        others = [each for each in self._named(series.name) if each is not series]
        for other in others:
            self._as_in(series, other)
        ordered = series.in_order()
        movies = nearest_folder(series, self._loose.of_series(series.name), self._homes(series), self._named(series.name))
        files = {basename(movie.found.path): movie for movie in movies}
        tilts = [replace(each.tilt, order=place) for place, each in enumerate(ordered, start=1)]
        matched = match_movies(tilts, files, series.name)
        for exposure, tilt in zip(ordered, matched, strict=True):
            if not exposure.bound and not exposure.name and tilt.movie is not None:
                exposure.tilt = replace(exposure.tilt, movie=tilt.movie)
                self._bind(series, exposure, files[tilt.movie], Step.PLACE)
        for other in others:
            self._as_in(other, series)

    def _as_in(self, series: Series, other: Series) -> None:
        """Let tilts without a name have the movies that the same exposures have in another file, of which one is a copy."""
        for each in [each for each in series.missing.values() if not each.bound and not each.name]:
            twin = other.exposures.get(each.ident)
            if twin is not None and twin.bound and not twin.name:
                movie = self._movies[twin.key]
                each.tilt = replace(each.tilt, movie=basename(movie.found.path))
                self._bind(series, each, movie, twin.step)

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
